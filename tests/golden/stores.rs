//! The golden stores: what is in each, step by step.
//!
//! Ids and keys are drawn when a store is created, so that its bytes differ each time it is made; what it holds does
//! not. Invariant: each store is asked for the same things whenever it is made.

use super::listing::Listing;
use super::maker::{Maker, small};
use super::seal;
use super::told::{Ask, Op};
use crate::reader::Files;
use crate::sim::Rng;

/// A store that was made.
pub struct Golden {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    /// Its bytes.
    pub files: Files,
    /// What it holds.
    pub listing: Listing,
}

const ALICE: &str = "users/alice/contacts";
const NOTES: &str = "users/alice/notes";
const BOB: &str = "users/bob/contacts";
const SHARED: &str = "shared";

/// All of them, made anew.
#[must_use]
pub fn all() -> Vec<Golden> {
    let made = |name, what, maker: Maker| Golden { name, what, files: maker.files(), listing: maker.listing() };
    vec![
        made("empty", "created, and never opened", Maker::new(small())),
        made("journal", "nothing is flushed; a process was killed, and all it wrote is proved", journal()),
        made("flushed", "everything is in one segment; closed cleanly", flushed()),
        made("segments", "three segments and a journal behind them; closed cleanly", segments()),
        made("killed", "processes were killed, one with a frame half written, which was cut and is kept", killed()),
        made(
            "torn",
            "a process was killed with its last frame half written, and nobody opened the store since",
            torn(),
        ),
        made("history", "forks, deletions, creations anew, trims, tags and producers over several segments", history()),
        made(
            "reclaimed",
            "merged, after the grace: trimmed, gone, created anew, and deleted with a fork that goes on",
            reclaimed(),
        ),
        made("large", "a record of several blocks, chunks that are compressed and some that are not", large()),
        made("many", "more logs than one block of the index, of names and of states has room for", many()),
    ]
}

/// Bytes that do not compress.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.draw() as u8).collect()
}

fn text(n: u64, times: usize) -> Vec<u8> {
    format!("BEGIN:VCARD;N:{n};END:VCARD;").repeat(times).into_bytes()
}

fn record(bytes: impl Into<Vec<u8>>) -> Op {
    Op::Record(bytes.into())
}

fn create(metadata: &str) -> Op {
    Op::Create(metadata.as_bytes().to_vec())
}

/// Three logs, each with a few records that do not compress, so that their bytes are found in the files.
fn begin(maker: &mut Maker) {
    maker.append(&[
        Ask::of(ALICE, [create("contacts"), record(noise(60, 1)), record(noise(60, 2)), record(noise(60, 3))]),
        Ask::of(BOB, [create(""), record(noise(60, 4))]),
    ]);
    maker.append(&[Ask::of(NOTES, [create("notes"), record(noise(60, 5)), record(text(6, 2))])]);
}

fn journal() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    begin(&mut maker);
    maker.append(&[Ask::records(ALICE, [&noise(60, 7)[..]])]);
    maker.idle();
    maker.kill();
    maker
}

fn flushed() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    begin(&mut maker);
    maker.flush();
    maker.close();
    maker
}

fn segments() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    begin(&mut maker);
    maker.flush();
    maker.append(&[Ask::records(ALICE, [&noise(60, 11)[..], b""]), Ask::of(SHARED, [create("of all"), record("1")])]);
    maker.flush();
    maker.append(&[Ask::records(BOB, [&noise(60, 12)[..]])]);
    maker.append(&[Ask::of(NOTES, [record(text(13, 9)), Op::Metadata(b"notes, again".to_vec())])]);
    maker.flush();
    maker.append(&[Ask::records(ALICE, [&noise(60, 14)[..]]).by("phone", 3, 0).tagged("2026-11-01")]);
    maker.append(&[Ask::of(SHARED, [record("2"), Op::Close])]);
    maker.append(&[Ask::of("users/carol/photos", [create("in the journal alone"), record(noise(5000, 15))])]);
    maker.close();
    maker
}

/// Half of the last frame that stands in the journal, and its header, are there; the rest is as it was before.
fn tear(files: &mut Files) {
    let last = seal::frames(files).pop().expect("a frame");
    let bytes = files.get_mut(&last.file).expect("it was just there");
    bytes[last.at + last.len / 2..last.at + last.len].fill(0);
}

fn torn() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    begin(&mut maker);
    maker.flush();
    maker.append(&[Ask::records(ALICE, [&noise(60, 21)[..]])]);
    maker.idle();
    maker.append_unheard(&[Ask::records(ALICE, [&noise(6000, 22)[..]])]);
    maker.kill();
    maker.change(tear);
    maker
}

fn killed() -> Maker {
    let mut maker = torn();
    maker.open();
    maker.append(&[Ask::records(ALICE, [&noise(60, 31)[..]]), Ask::records(BOB, [&noise(60, 32)[..]])]);
    maker.kill();
    maker.open();
    maker.append(&[Ask::records(ALICE, [&noise(60, 33)[..]])]);
    maker.idle();
    maker.kill();
    maker
}

fn history() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    maker.append(&[Ask::of(ALICE, [create("first"), record("0"), record("1"), record("2")]).by("phone", 0, 0)]);
    maker.append(&[Ask::of(BOB, [create("to be deleted"), record("b0")]).by("phone", 1, 0).tagged("a")]);
    maker.flush();
    maker.append(&[Ask::of(NOTES, [Op::Fork(ALICE.to_owned(), 2), record("2 of the fork")])]);
    maker.append(&[Ask::of(ALICE, [record("3"), Op::Trim(1)]).by("phone", 0, 1).tagged("t1")]);
    maker.append(&[Ask::of(BOB, [Op::Delete])]);
    maker.kill();
    maker.open();
    maker.append(&[Ask::records(ALICE, [&b"4"[..]]).by("tablet", 7, 0)]);
    maker.flush();
    maker.append(&[Ask::of(BOB, [create("created anew"), record("b2")]).by("phone", 0, 0)]);
    maker.append(&[Ask::of("users/alice/drafts", [Op::Fork(NOTES.to_owned(), 3), record("3 of the fork's fork")])]);
    maker.append(&[Ask::records(ALICE, [&b"5"[..]]).by("phone", 0, 2).tagged("t2")]);
    maker.close();
    maker.open();
    maker.append(&[Ask::of(NOTES, [Op::Metadata(b"the fork's own".to_vec())])]);
    maker.append(&[Ask::of(SHARED, [create(""), record("s0"), Op::Close])]);
    maker.append(&[Ask::of("users/dave/gone", [create(""), record("d0"), Op::Delete])]);
    maker.flush();
    maker.append(&[Ask::of("users/dave/gone", [Op::Undelete, record("d1")])]);
    maker.append(&[Ask::of("users/alice/drafts", [Op::Delete])]);
    for number in 3..80 {
        maker.append(&[Ask::records(ALICE, [format!("{number}").as_bytes()]).by("phone", 0, number)]);
        // The numbers that a producer's last batches have are spread over several segments.
        if number % 25 == 0 {
            maker.flush();
        }
    }
    maker.flush();
    maker.append(&[Ask::of(ALICE, [record("of a new epoch"), Op::Trim(40)]).by("phone", 1, 0)]);
    maker.append(&[Ask::of("users/alice/drafts", [create("again")])]);
    maker.idle();
    maker.kill();
    maker
}

fn reclaimed() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    for log in [ALICE, BOB, NOTES, SHARED] {
        maker.append(&[Ask::of(log, [create("old"), record(noise(900, 1)), record(noise(900, 2))]).by("phone", 0, 0)]);
    }
    maker.flush();
    maker.append(&[Ask::of("users/bob/copy", [Op::Fork(BOB.to_owned(), 2), record("behind the fork")])]);
    maker.append(&[Ask::of(ALICE, [record(noise(900, 3)), Op::Trim(2)]).by("phone", 0, 1).tagged("t")]);
    maker.append(&[Ask::of(BOB, [Op::Delete]), Ask::of(NOTES, [Op::Delete]), Ask::of(SHARED, [Op::Delete])]);
    for log in ["users/alice/sessions/1", "users/alice/sessions/2"] {
        let expire = Op::Expire(Some(std::time::Duration::from_secs(3600)));
        maker.append(&[Ask::of(log, [create(""), record(noise(900, 4)), expire])]);
    }
    maker.close();
    maker.open();
    maker.outwait();
    // What expired meanwhile goes with the next grace.
    maker.append(&[Ask::of(ALICE, [record("between")])]);
    maker.flush();
    maker.append(&[Ask::of(ALICE, [record("between, too")])]);
    maker.outwait();
    maker.append(&[Ask::of(NOTES, [create("created anew"), record("behind what is gone")]).by("phone", 0, 0)]);
    maker.append(&[Ask::of(ALICE, [record("3")])]);
    maker.append(&[Ask::of("users/alice/sessions/2", [create(""), record("of another session")])]);
    maker.flush();
    let expire = Op::Expire(Some(std::time::Duration::from_secs(3600)));
    maker.append(&[Ask::of(NOTES, [Op::Trim(4)]), Ask::of(ALICE, [expire])]);
    maker.idle();
    maker.kill();
    maker
}

fn large() -> Maker {
    let config =
        everlog::Config { journal_file_bytes: 1 << 20, memory_pool_bytes: 4 << 20, flush_bytes: 2 << 20, ..small() };
    let mut maker = Maker::new(config);
    maker.open();
    maker.append(&[Ask::of(ALICE, [create(""), record(text(1, 8000)), record("short")])]);
    maker.append(&[Ask::of(BOB, [create(""), record(noise(90_000, 2)), record(noise(10, 3))])]);
    for n in 0..40 {
        maker.append(&[Ask::records(ALICE, [&text(n, 100)[..], &text(n, 50)[..]])]);
    }
    maker.flush();
    maker.append(&[Ask::records(ALICE, [&text(5, 900)[..]])]);
    maker.close();
    maker
}

fn many() -> Maker {
    let mut maker = Maker::new(small());
    maker.open();
    let name = |n: usize| format!("users/user-{:03}/collection-{n}", n / 2);
    for n in (0..300).step_by(50) {
        let one = |n| Ask::of(&name(n), [create("some metadata"), record(format!("record of {n}"))]);
        maker.append(&(n..n + 50).map(one).collect::<Vec<_>>());
    }
    maker.flush();
    for n in (0..300).step_by(30) {
        let names: Vec<String> = (n..n + 30).step_by(3).map(name).collect();
        maker.append(&names.iter().map(|name| Ask::records(name, [&b"another"[..]])).collect::<Vec<_>>());
    }
    maker.flush();
    maker.close();
    maker
}
