//! What a device knows of one collection, and keeps through every crash: which versions both sides agreed on, how far
//! it has read, and what it has sent without knowing yet that it arrived.
//!
//! It decides nothing. The file is replaced as a whole, and its first line is the hash of the rest. Invariant: a state
//! that cannot be proved intact is refused; it is never taken for an empty one, because a device without a memory would
//! take the user's files for news and the server's deletions for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::collection::Collection;
use super::digest::Digest;
use super::disk;
use super::heal::{is_same_timeline, position};
use everlog_server::failure::Failure;

const VERSION: u32 = 1;
/// Timelines that are remembered. Each unclean end of a server starts one.
const MARKS_MAX: usize = 64;

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct State {
    version: u32,
    /// The store that all the rest is about.
    pub store: Option<String>,
    /// Which of the streams that had the collection's name it is about: one that was deleted and created again is another.
    #[serde(default)]
    pub stream: Option<String>,
    /// Up to where the stream has been read and merged; None: nothing yet.
    pub cursor: Option<String>,
    /// With no cursor: up to where a snapshot of the stream has been merged.
    #[serde(default)]
    pub snapshot: Option<Taken>,
    /// The last cursor in each timeline that the stream was read in, the newest at the end. They tell how much of its
    /// history a server still has that does not know the newest of them.
    #[serde(default)]
    pub marks: Vec<String>,
    /// The furthest place in the stream that anything here speaks of. It may lie past the cursor, and a server that no
    /// longer leads to it has lost something that this device relied on, whether or not the cursor is still valid.
    #[serde(default)]
    pub heard: Option<String>,
    /// With no cursor: the whole stream is to be read again, as one of which the server has lost all past this place.
    #[serde(default)]
    pub cut: Option<String>,
    /// And it was taken back to there on purpose: what is newer here is set aside.
    #[serde(default)]
    pub is_rewind: bool,
    /// Keys of files that are newer than what the server was taken back to, and could not be set aside yet.
    #[serde(default)]
    pub newer: BTreeSet<String>,
    /// Everything in the stream before this offset is in a cold store, as the server last said. None: it offers none.
    #[serde(default)]
    pub cold: Option<String>,
    /// Under which name this device writes to the stream, and the number of its next batch.
    pub producer: String,
    pub epoch: u64,
    pub number: u64,
    /// How safe the server said the last batch to be (`local`, `cold`).
    pub level: Option<String>,
    /// When the last sync of the collection ended.
    pub synced: Option<String>,
    /// What both sides agreed on, by key.
    pub items: BTreeMap<String, Item>,
    /// The deletions that both sides agreed on: key and offset.
    pub deleted: BTreeMap<String, String>,
    /// What a merge was about to make of these files. After a crash a file that is what it was to become was made so by
    /// the merge, and not by the user.
    pub merging: BTreeMap<String, Intent>,
    /// Versions that the server has and this device could not take yet.
    pub wanted: BTreeMap<String, Wanted>,
    /// Keys whose last word on the server nobody can read, and why, until a readable one comes.
    #[serde(default)]
    pub unreadable: BTreeMap<String, String>,
    /// Sent, or about to be sent, and not known to have arrived.
    pub outbox: Vec<Batch>,
}

/// How far a snapshot was taken.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The offset of its next page.
    pub next: String,
    /// The last key that it spoke of; it speaks of them in their order.
    pub after: Option<String>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub hash: Digest,
    /// The offset after its change, as nearly as it is known, never less.
    pub offset: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// None: it was to be deleted.
    pub hash: Option<Digest>,
    pub offset: String,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// None: its deletion.
    pub hash: Option<Digest>,
    /// A photo's size; a file's is not known.
    pub size: Option<u64>,
    pub offset: String,
    /// Reading from here finds the change again.
    pub page: String,
}

/// One request, kept word for word so that it can be repeated word for word.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub number: u64,
    /// The request holds only if the stream ends here.
    pub expect: String,
    pub body: String,
    /// What the items are once it has arrived; None: deleted. In the order of the body.
    pub changes: Vec<(String, Option<Digest>)>,
}

impl State {
    pub fn new(producer: String) -> Self {
        Self {
            version: VERSION,
            store: None,
            stream: None,
            cursor: None,
            snapshot: None,
            marks: Vec::new(),
            heard: None,
            cut: None,
            is_rewind: false,
            newer: BTreeSet::new(),
            cold: None,
            producer,
            epoch: 0,
            number: 0,
            level: None,
            synced: None,
            items: BTreeMap::new(),
            deleted: BTreeMap::new(),
            merging: BTreeMap::new(),
            wanted: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            outbox: Vec::new(),
        }
    }

    /// What is agreed on for the key.
    pub fn base(&self, key: &str) -> Option<Digest> {
        self.items.get(key).map(|item| item.hash)
    }

    /// From now on this is what both sides agree on for the key.
    pub fn agree(&mut self, key: &str, version: Option<Digest>, offset: &str) {
        self.wanted.remove(key);
        self.unreadable.remove(key);
        self.newer.remove(key);
        match version {
            Some(hash) => {
                self.deleted.remove(key);
                self.items.insert(key.to_owned(), Item { hash, offset: offset.to_owned() });
            }
            None => {
                self.items.remove(key);
                self.deleted.insert(key.to_owned(), offset.to_owned());
            }
        }
    }

    /// The stream was read up to there.
    pub fn mark(&mut self, cursor: &str) {
        if self.marks.last().is_some_and(|mark| is_same_timeline(mark, cursor)) {
            self.marks.pop();
        }
        self.marks.push(cursor.to_owned());
        let surplus = self.marks.len().saturating_sub(MARKS_MAX);
        self.marks.drain(..surplus);
    }

    /// Something that is about to be kept speaks of this place in the stream.
    pub fn hear(&mut self, offset: &str) {
        let is_further = |heard: &String| position(offset).is_none() || position(offset) >= position(heard);
        if self.heard.as_ref().is_none_or(is_further) {
            self.heard = Some(offset.to_owned());
        }
    }

    /// Nothing is known any more about what the server has under the key.
    pub fn forget(&mut self, key: &str) {
        self.items.remove(key);
        self.deleted.remove(key);
        self.wanted.remove(key);
    }

    /// Whether the version is agreed on, or is what a merge was about to make of the file: then the server has it.
    pub fn knows(&self, key: &str, version: Digest) -> bool {
        self.base(key) == Some(version) || self.merging.get(key).is_some_and(|intent| intent.hash == Some(version))
    }

    /// How many of the changes agreed on the server has not in a cold store yet, as far as it said; None: it offers none, so
    /// that no change ever is.
    pub fn not_cold(&self) -> Option<usize> {
        let cold = position(self.cold.as_deref()?);
        let is_not = |offset: &&String| cold.is_none() || position(offset).is_none() || position(offset) > cold;
        Some(self.items.values().map(|item| &item.offset).chain(self.deleted.values()).filter(is_not).count())
    }

    /// Another writer to the stream, of whom the server has never heard. What was in the outbox is not sent under the
    /// new name: whether it arrived under the old one shows when the stream is read again.
    pub fn become_another(&mut self, producer: String) {
        self.producer = producer;
        self.epoch = 0;
        self.number = 0;
        self.outbox.clear();
        // What it says next may be of another history.
        self.cold = None;
    }
}

pub fn path(device: &Path, collection: Collection) -> PathBuf {
    device.join("state").join(format!("{}.json", collection.name))
}

/// The state as it was last saved; None if none ever was.
pub fn load(device: &Path, collection: Collection) -> Result<Option<State>, Failure> {
    let path = path(device, collection);
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).map(Some).map_err(|bad| bad.into_failure(&path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(disk::failed("reading", &path)(e)),
    }
}

pub fn save(device: &Path, collection: Collection, state: &State) -> Result<(), Failure> {
    disk::replace(&path(device, collection), &render(state))
}

/// Why bytes are no state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Damaged,
    Newer(u32),
}

impl Bad {
    fn into_failure(self, path: &Path) -> Failure {
        match self {
            Self::Damaged => Failure::new(
                4,
                format!("the device's state {} is damaged", path.display()),
                "run `everlog device reset --keep-files` on the folder and sync again: the files stay and are merged",
            ),
            Self::Newer(version) => Failure::new(
                3,
                format!(
                    "the device's state {} has version {version}, which this program does not know",
                    path.display()
                ),
                "use the program that wrote it, or a later one",
            ),
        }
    }
}

/// The file's bytes.
pub(super) fn render(state: &State) -> Vec<u8> {
    let body = serde_json::to_vec(state).expect("the fields are strings and numbers, which JSON can hold");
    let mut bytes = head(&body);
    bytes.extend_from_slice(&body);
    bytes
}

fn head(body: &[u8]) -> Vec<u8> {
    format!("{{\"blake3\":\"{}\"}}\n", Digest::of(body)).into_bytes()
}

/// Reads the file's bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<State, Bad> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let line = bytes.iter().position(|b| *b == b'\n').ok_or(Bad::Damaged)?;
    let (found, body) = bytes.split_at(line + 1);
    if found != head(body) {
        return Err(Bad::Damaged);
    }
    let Version { version } = serde_json::from_slice(body).map_err(|_| Bad::Damaged)?;
    if version != VERSION {
        return Err(Bad::Newer(version));
    }
    serde_json::from_slice(body).map_err(|_| Bad::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> State {
        let mut state = State::new("d1".into());
        state.store = Some("s".into());
        state.cursor = Some("0_7".into());
        state.stream = Some("1".into());
        state.snapshot = Some(Taken { next: "snapshot.0_7".into(), after: Some("a.vcf".into()) });
        state.agree("a.vcf", Some(Digest::of(b"a")), "0_1");
        state.agree("b.vcf", None, "0_2");
        let wanted = Wanted { hash: Some(Digest::of(b"c")), size: Some(1), offset: "0_3".into(), page: "-1".into() };
        state.wanted.insert("c.jpg".into(), wanted);
        state.merging.insert("d.vcf".into(), Intent { hash: None, offset: "0_4".into() });
        let changes = vec![("a.vcf".into(), None)];
        state.outbox.push(Batch { number: 0, expect: "0_7".into(), body: "[]".into(), changes });
        state
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        assert_eq!(parse(&render(&sample())), Ok(sample()));
    }

    #[test]
    fn what_lies_past_the_cold_offset_is_on_one_machine_only() {
        let offset = |position: u64| format!("00000001000000ff_{position:016x}");
        let mut state = State::new("d1".into());
        state.agree("a.vcf", Some(Digest::of(b"a")), &offset(5));
        state.agree("b.vcf", None, &offset(6));
        assert_eq!(state.not_cold(), None, "no cold store");
        for (cold, expected) in [(4, 2), (5, 1), (6, 0), (9, 0)] {
            state.cold = Some(offset(cold));
            assert_eq!(state.not_cold(), Some(expected), "{cold}");
        }
        state.cold = Some("odd".into());
        assert_eq!(state.not_cold(), Some(2));
        state.become_another("d2".into());
        assert_eq!(state.cold, None);
    }

    #[test]
    fn damage_at_any_byte_is_refused() {
        let good = render(&sample());
        for at in 0..good.len() {
            for flip in [1, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert_eq!(parse(&bad), Err(Bad::Damaged), "byte {at}");
            }
            assert_eq!(parse(&good[..at]), Err(Bad::Damaged), "cut at {at}");
        }
        assert_eq!(parse(&[&good[..], b" "].concat()), Err(Bad::Damaged));
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut later = sample();
        later.version = VERSION + 1;
        assert_eq!(parse(&render(&later)), Err(Bad::Newer(VERSION + 1)));
    }

    #[test]
    fn each_timeline_leaves_its_last_cursor() {
        let mut state = sample();
        ["1_1", "1_2", "2_2", "2_5", "3_6"].iter().for_each(|cursor| state.mark(cursor));
        assert_eq!(state.marks, ["1_2", "2_5", "3_6"]);
        (4..100).for_each(|timeline| state.mark(&format!("{timeline}_7")));
        assert_eq!((state.marks.len(), state.marks[MARKS_MAX - 1].as_str()), (MARKS_MAX, "99_7"));
    }

    #[test]
    fn only_a_further_place_is_news() {
        let offset = |position: u64| format!("00000001000000ff_{position:016x}");
        let mut state = sample();
        for (told, heard) in [(3, 3), (7, 7), (5, 7)] {
            state.hear(&offset(told));
            assert_eq!(state.heard, Some(offset(heard)));
        }
        state.hear("of another kind");
        assert_eq!(state.heard.as_deref(), Some("of another kind"));
    }

    #[test]
    fn an_agreement_ends_what_was_said_before() {
        let mut state = sample();
        state.agree("c.jpg", None, "0_4");
        assert!(state.wanted.is_empty() && state.deleted.contains_key("c.jpg"));
        state.agree("c.jpg", Some(Digest::of(b"x")), "0_5");
        assert!(!state.deleted.contains_key("c.jpg") && state.base("c.jpg") == Some(Digest::of(b"x")));
    }
}
