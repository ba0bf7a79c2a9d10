//! Entries and what they hold, chunks of them, names and cursors.
//!
//! Invariant: what is accepted is written again as the very same bytes, but for a cipher that is named and is none.

use crate::base::{base, entries};
use crate::{in_modes, mode};
use everlog::format::bytes::{Reader, Sink};
use everlog::format::chunk::ChunkEntries;
use everlog::format::entry::{self, Create, Entry, ForkOf, Kind};
use everlog::names;
use everlog::types::{Cursor, LogId, Seq, Timeline};

const LOG: LogId = LogId(*b"the log's own id");

/// An entry's body, and a control operation's payload.
pub fn entry(data: &[u8]) {
    let (mode, rest) = mode(data);
    match mode % 6 {
        0 => body(rest),
        1 => {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&LOG.0);
            crc.update(rest);
            body(&[rest, &crc.finalize().to_le_bytes()].concat());
        }
        2 => same(Create::decode(rest).map(|create| create.encode()), rest),
        3 => same(ForkOf::decode(rest).map(|fork| fork.encode()), rest),
        4 => same(entry::decode_first_kept(rest).map(entry::first_kept_payload), rest),
        _ => {
            let mut reader = Reader::new(rest);
            let Ok(list) = entry::get_timelines(&mut reader) else { return };
            let mut again = Vec::new();
            entry::put_timelines(&mut again, &list);
            assert_eq!(again, rest[..reader.at()], "a list of timelines comes back as it was");
        }
    }
}

fn same(again: Result<Vec<u8>, everlog::format::Malformed>, bytes: &[u8]) {
    if let Ok(again) = again {
        assert_eq!(again, bytes, "what was accepted comes back as it was");
    }
}

fn body(body: &[u8]) {
    let trusted = Entry::decode_trusted(body);
    let Ok(entry) = Entry::decode(LOG, body) else { return };
    assert_eq!(trusted, Ok(entry), "a checksum changes nothing else");
    assert!(Entry::decode(LogId([1; 16]), body).is_err(), "another log's entry");
    let mut again = Vec::new();
    let at = entry.encode(LOG, &mut again);
    if body[1] & 1 == 0 || entry.cipher != 0 {
        assert_eq!(again[at..], *body, "an entry comes back as it was");
        assert_eq!((entry.body_len(), entry.encoded_len()), (body.len(), again.len()));
    }
}

pub fn entry_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (_, body) in entries(base()) {
        let content = &body[..body.len() - 4];
        seeds.push([&[1], content].concat());
        let Ok(entry) = Entry::decode_trusted(&body) else { continue };
        let mode = match entry.kind {
            Kind::Create => 2,
            Kind::Fork => 3,
            Kind::Trim => 4,
            _ => continue,
        };
        seeds.push([&[mode], entry.payload].concat());
    }
    let list = [(Timeline { counter: 1, random: 2 }, Seq(0)), (Timeline { counter: 3, random: 4 }, Seq(300))];
    let mut bytes = vec![5];
    entry::put_timelines(&mut bytes, &list);
    seeds.push(bytes);
    seeds
}

/// A decompressed chunk.
pub fn chunk(data: &[u8]) {
    let mut again = Vec::new();
    let mut previous = None;
    for entry in ChunkEntries::new(data) {
        let Ok(entry) = entry else { return };
        let (lsn, time) = previous.unwrap_or_else(|| {
            again.put_varint(entry.lsn.0);
            again.put_varint(entry.time.0);
            (entry.lsn.0, entry.time.0)
        });
        assert!(entry.lsn.0 >= lsn && entry.time.0 >= time, "LSNs and times do not go back");
        again.put_varint(entry.lsn.0 - lsn);
        again.put_varint(entry.time.0 - time);
        again.put_bytes(entry.body);
        previous = Some((entry.lsn.0, entry.time.0));
    }
    // A base and a first difference can be split in more than one way; everything after them cannot.
    let split: Vec<_> = ChunkEntries::new(&again).collect();
    assert!(split == ChunkEntries::new(data).collect::<Vec<_>>(), "a chunk comes back with what it held");
}

pub fn chunk_seeds() -> Vec<Vec<u8>> {
    let all = entries(base());
    let chunk = |count: usize| {
        let mut out = Vec::new();
        out.put_varint(1000);
        out.put_varint(1_795_000_000_000_000);
        for (n, (_, body)) in all.iter().take(count).enumerate() {
            out.put_varint(n as u64);
            out.put_varint(n as u64 * 300);
            out.put_bytes(body);
        }
        out
    };
    [1, 2, 5, 20].map(chunk).to_vec()
}

/// Log names, and cursors as text.
pub fn names(data: &[u8]) {
    let (mode, rest) = mode(data);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if mode & 1 == 1 {
        if let Ok(cursor) = text.parse::<Cursor>() {
            assert_eq!(cursor.to_string(), text, "a cursor comes back as it was");
        }
        if let Some((counter, more)) = rest.split_first_chunk::<4>()
            && let Some((random, more)) = more.split_first_chunk::<4>()
            && let Some((seq, _)) = more.split_first_chunk::<8>()
        {
            let timeline = Timeline { counter: u32::from_le_bytes(*counter), random: u32::from_le_bytes(*random) };
            let cursor = Cursor { timeline, seq: u64::from_le_bytes(*seq) };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        return;
    }
    let segment = |s: &str| !matches!(s, "" | "." | "..") && !s.chars().any(|c| c.is_control());
    let allowed = (1..=1024).contains(&text.len()) && text.split('/').all(segment);
    assert_eq!(names::check(text).is_ok(), allowed, "a name is taken by the rules");
    let owner = names::owner(text);
    assert!(text.starts_with(owner) && owner.split('/').count() <= 2);
    let key = [7; 32];
    assert_eq!(names::log_id(&key, text).0[..8], names::log_id(&key, owner).0[..8], "an owner's logs lie together");
}

pub fn names_seeds() -> Vec<Vec<u8>> {
    let texts = ["users/alice/contacts", "a", "a/../b", "ü/…/🙂", "0000000100000002_000000000000000a"];
    in_modes(2, texts.map(|text| text.as_bytes().to_vec()))
}
