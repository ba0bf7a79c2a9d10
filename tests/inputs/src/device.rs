//! A device's parsers: its state file, and the change messages that it hears from the server.
//!
//! They are part of the program `everlog`, which is no library; their files are taken in as they stand. Invariant: what
//! is read is written again as the same, and a name that the device would use for a file leads nowhere else.

#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/collection.rs"]
mod collection;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/digest.rs"]
mod digest;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/disk.rs"]
mod disk;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/heal.rs"]
mod heal;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/item.rs"]
mod item;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/merge.rs"]
mod merge;
#[allow(dead_code)]
#[path = "../../../tools/src/everlog/device/state.rs"]
mod state;

use self::collection::{ALL, conflict_name};
use self::digest::Digest;
use self::item::{Change, Content, Element, Operation, Stamp, decode, encode};
use self::state::{Batch, Intent, State, Wanted, parse, render};
use crate::{in_modes, mode};
use std::path::{Component, Path};

const STAMP: Stamp<'_> = Stamp { txid: "d-1", timestamp: "2009-10-10T00:00:00Z" };

/// A state file: as it is (0), or behind the hash that makes it right (1).
pub fn state_file(data: &[u8]) {
    let (mode, rest) = mode(data);
    let bytes = match mode & 1 {
        0 => rest.to_vec(),
        _ => [format!("{{\"blake3\":\"{}\"}}\n", Digest::of(rest)).as_bytes(), rest].concat(),
    };
    let Ok(mut state) = parse(&bytes) else { return };
    assert_eq!(parse(&render(&state)), Ok(state.clone()), "a state comes back");
    // What a sync does with what stands in it.
    let offsets: Vec<String> = state.marks.iter().chain(&state.cursor).cloned().collect();
    for offset in offsets {
        state.hear(&offset);
        state.mark(&offset);
        let before = heal::offset_before(&offset, 3);
        let _ = heal::offset_after(&before, 3);
        let _ = heal::is_same_timeline(&before, &offset);
    }
    assert_eq!(parse(&render(&state)), Ok(state), "a state comes back");
}

pub fn state_seeds() -> Vec<Vec<u8>> {
    let mut state = State::new("d1".into());
    state.store = Some("s".into());
    state.cursor = Some("0000000100000002_0000000000000007".into());
    state.mark("0000000100000002_0000000000000007");
    state.agree("a.vcf", Some(Digest::of(b"a")), "0_1");
    state.agree("b.vcf", None, "0_2");
    let wanted = Wanted { hash: Some(Digest::of(b"c")), size: Some(1), offset: "0_3".into(), page: "-1".into() };
    state.wanted.insert("c.jpg".into(), wanted);
    state.merging.insert("d.vcf".into(), Intent { hash: None, offset: "0_4".into() });
    let changes = vec![("a.vcf".into(), None)];
    state.outbox.push(Batch { number: 0, expect: "0_7".into(), body: "[]".into(), changes });
    let whole = render(&state);
    let body = whole.iter().position(|byte| *byte == b'\n').map_or(0, |line| line + 1);
    vec![[&[0], &whole[..]].concat(), [&[1], &whole[body..]].concat()]
}

/// An element of a collection's stream (0), or a file that is to become one (1).
pub fn change(data: &[u8]) {
    let (mode, rest) = mode(data);
    let collection = ALL[usize::from(mode >> 1) % ALL.len()];
    if mode & 1 == 1 {
        let content = Content::File(rest.to_vec());
        let key = String::from_utf8_lossy(&rest[..rest.len().min(20)]).into_owned();
        if !collection.is_photos() {
            let json = encode(collection, &key, &content, Operation::Upsert, &STAMP);
            assert_eq!(decode(collection, &json), Element::Change(Change { key, content }), "any bytes come back");
        }
        return;
    }
    let Ok(json) = std::str::from_utf8(rest) else { return };
    match decode(collection, json) {
        Element::Change(Change { key, content }) => {
            takes(collection, &key);
            let operation = if content == Content::Deleted { Operation::Delete } else { Operation::Update };
            let again = encode(collection, &key, &content, operation, &STAMP);
            assert_eq!(decode(collection, &again), Element::Change(Change { key, content }), "a change comes back");
        }
        Element::Unreadable(Some(key), _) => takes(collection, &key),
        Element::Unreadable(None, _) | Element::Control | Element::Reset => {}
    }
}

/// A name that is taken for a file, or for the loser of a conflict, is one plain name.
fn takes(collection: collection::Collection, key: &str) {
    if collection.refuses(key).is_some() {
        return;
    }
    let hash = Digest::of(key.as_bytes()).to_string();
    for name in [key.to_owned(), conflict_name(key, &hash, 8), conflict_name(key, &hash, 64)] {
        let parts: Vec<_> = Path::new(&name).components().collect();
        assert!(matches!(parts[..], [Component::Normal(one)] if one == &*name), "{name:?} leads elsewhere");
        assert!(name.len() <= 255 && !name.contains('\0') && !name.starts_with('.'), "{name:?} is no file's name");
    }
}

pub fn change_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (n, collection) in ALL.into_iter().enumerate() {
        let contents = [
            Content::Deleted,
            Content::File(b"text".to_vec()),
            Content::File(vec![0xff, 0]),
            Content::Photo { hash: Digest::of(b"x"), size: 7 },
        ];
        for content in contents {
            let operation = if content == Content::Deleted { Operation::Delete } else { Operation::Insert };
            for key in ["a name.vcf", "x/../../a.vcf"] {
                let json = encode(collection, key, &content, operation, &STAMP);
                seeds.push([&[(n as u8) << 1], json.as_bytes()].concat());
            }
        }
    }
    seeds.extend(in_modes(2, [br#"{"headers":{"control":"snapshot-start"}}"#.to_vec(), vec![0xff, 0xd8, 0, 1]]));
    seeds
}
