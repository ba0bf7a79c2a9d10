//! What a case does, in words that always mean something: places relative to a log's end, numbers relative to a
//! producer's last, a creation only if it is needed.
//!
//! So any part of a sequence is a sequence again, and a failing case shrinks to what it needs without a precondition
//! that could stand in the way. What the words come to is decided when they are carried out (`run.rs`). Invariant: the
//! first choice everywhere is the plainest one, since that is where shrinking leads.

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::Index;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Op {
    /// A batch; answered before the next thing happens, unless it is left open.
    Append {
        drafts: Vec<Draft>,
        open: bool,
        impatient: bool,
    },
    /// So many batches of one record of a producer, each with the next number.
    Burst {
        log: usize,
        producer: usize,
        batches: usize,
    },
    /// A page.
    Read {
        log: usize,
        from: From,
        records: usize,
        bytes: usize,
        impatient: bool,
    },
    /// All of a log.
    ReadAll {
        log: usize,
        records: usize,
    },
    List {
        prefix: usize,
        after: Option<usize>,
        limit: usize,
    },
    Subscribe {
        log: usize,
        after: Place,
    },
    /// What is open becomes durable.
    Commit,
    /// What is durable goes into a segment.
    Flush,
    /// The store is closed, or its process killed, and it is opened again.
    Reopen {
        clean: bool,
        look: bool,
    },
    /// Everything is looked at.
    Check,
}

/// A part of a batch.
#[derive(Clone, Debug)]
pub struct Draft {
    pub log: usize,
    pub opening: Opening,
    pub body: Vec<Piece>,
    pub ending: Ending,
    pub expect_next: Option<Place>,
    pub expect_at: Option<Remembered>,
    /// Whether it is the creation that holds, or an older one.
    pub expect_created: Option<bool>,
    pub tag: Option<Vec<u8>>,
    pub producer: Option<Sender>,
}

#[derive(Clone, Debug)]
pub enum Opening {
    /// A creation, if there is none.
    Needed,
    Nothing,
    IfMissing,
    Create(Vec<u8>),
    /// Of one of the live logs, and only where there is no log yet.
    Fork {
        parent: Index,
        at: Place,
    },
    /// Of any log, wherever.
    ForkAnyway {
        parent: usize,
        at: Place,
    },
    Undelete,
    /// An undeletion, if there is something to undelete.
    Revive,
}

#[derive(Clone, Debug)]
pub enum Piece {
    /// A record with so many bytes behind its name.
    Record(usize),
    Trim(Place),
    Metadata(Vec<u8>),
    Close,
    /// Where it does not belong.
    Misplaced(bool),
}

#[derive(Clone, Copy, Debug)]
pub enum Ending {
    Nothing,
    Close,
    Delete,
    CloseAndDelete,
}

/// A seq of a log.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The first that is kept, and so many after.
    AfterTrim(u64),
    BeforeEnd(u64),
    BeforeTrim(u64),
    /// Near the place of the fork.
    AroundFork(u64),
    PastEnd(u64),
}

/// A cursor.
#[derive(Clone, Copy, Debug)]
pub enum Remembered {
    /// That of the log's end.
    End,
    /// One that was given for this log before.
    Given(Index),
    /// One that was given for any log.
    Other(Index),
}

/// Where a read begins.
#[derive(Clone, Copy, Debug)]
pub enum From {
    Start,
    End,
    Seq(Place),
    Cursor(Remembered),
}

/// A producer, and how it numbers its batch.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub id: usize,
    pub number: Number,
}

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Next,
    /// The batch that it sent so many before its last (counted round), word for word.
    Again(usize),
    /// That number, with other content.
    Conflict(u64),
    Gap(u64),
    /// The first of a new epoch.
    NewEpoch,
    NewEpochLater,
    OldEpoch,
}

/// The settings of a case.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub heads_max: usize,
    pub flush_kib: usize,
    pub in_flight: usize,
}

pub fn settings() -> impl Strategy<Value = Settings> {
    (1usize..6, 12usize..48, 1usize..4).prop_map(|(heads_max, flush_kib, in_flight)| Settings {
        heads_max,
        flush_kib,
        in_flight,
    })
}

pub fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..most)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => (prop_oneof![3 => vec(draft(), 1..2), 1 => vec(draft(), 2..4)], prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(drafts, open, impatient)| Op::Append { drafts, open, impatient }),
        2 => (log(), 0usize..2, 1usize..90).prop_map(|(log, producer, batches)| Op::Burst { log, producer, batches }),
        6 => (log(), from(), 0usize..30, prop_oneof![0usize..200, 200usize..9000], any::<bool>())
            .prop_map(|(log, from, records, bytes, impatient)| Op::Read { log, from, records, bytes, impatient }),
        2 => (log(), 1usize..30).prop_map(|(log, records)| Op::ReadAll { log, records }),
        2 => (0usize..PREFIXES, weighted(0.5, 0usize..LOGS), 0usize..10)
            .prop_map(|(prefix, after, limit)| Op::List { prefix, after, limit }),
        2 => (log(), place()).prop_map(|(log, after)| Op::Subscribe { log, after }),
        2 => Just(Op::Commit),
        5 => Just(Op::Flush),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(clean, look)| Op::Reopen { clean, look }),
        1 => Just(Op::Check),
    ]
}

/// Logs, and prefixes of their names, that a case speaks of.
pub const LOGS: usize = 14;
pub const PREFIXES: usize = 6;

/// Most happens to a few logs, so that they have a history.
fn log() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0usize..4, 2 => 0usize..LOGS]
}

fn draft() -> impl Strategy<Value = Draft> {
    let ending = prop_oneof![50 => Just(Ending::Nothing), 1 => Just(Ending::Close), 3 => Just(Ending::Delete), 1 => Just(Ending::CloseAndDelete)];
    let conditions = (
        weighted(0.06, place()),
        weighted(0.06, remembered()),
        weighted(0.06, prop::bool::weighted(0.8)),
        weighted(0.1, vec(0u8..8, 0..4)),
    );
    (log(), opening(), vec(piece(), 0..4), ending, conditions, weighted(0.4, sender())).prop_map(
        |(log, opening, body, ending, (expect_next, expect_at, expect_created, tag), producer)| Draft {
            log,
            opening,
            body,
            ending,
            expect_next,
            expect_at,
            expect_created,
            tag,
            producer,
        },
    )
}

fn opening() -> impl Strategy<Value = Opening> {
    let metadata = vec(any::<u8>(), 0..6);
    prop_oneof![
        40 => Just(Opening::Needed),
        2 => Just(Opening::Nothing),
        3 => Just(Opening::IfMissing),
        2 => metadata.prop_map(Opening::Create),
        16 => (any::<Index>(), place()).prop_map(|(parent, at)| Opening::Fork { parent, at }),
        3 => (log(), place()).prop_map(|(parent, at)| Opening::ForkAnyway { parent, at }),
        2 => Just(Opening::Undelete),
        8 => Just(Opening::Revive),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        80 => (0usize..24).prop_map(Piece::Record),
        5 => (100usize..3000).prop_map(Piece::Record),
        10 => place().prop_map(Piece::Trim),
        5 => vec(any::<u8>(), 0..6).prop_map(Piece::Metadata),
        1 => Just(Piece::Close),
        1 => any::<bool>().prop_map(Piece::Misplaced),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        3 => (0u64..4).prop_map(Place::AfterTrim),
        6 => (0u64..6).prop_map(Place::BeforeEnd),
        2 => (1u64..3).prop_map(Place::BeforeTrim),
        2 => (0u64..3).prop_map(Place::AroundFork),
        1 => (1u64..3).prop_map(Place::PastEnd),
    ]
}

fn remembered() -> impl Strategy<Value = Remembered> {
    prop_oneof![
        4 => Just(Remembered::End),
        4 => any::<Index>().prop_map(Remembered::Given),
        1 => any::<Index>().prop_map(Remembered::Other),
    ]
}

fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        1 => Just(From::Start),
        1 => Just(From::End),
        5 => place().prop_map(From::Seq),
        4 => remembered().prop_map(From::Cursor),
    ]
}

fn sender() -> impl Strategy<Value = Sender> {
    let number = prop_oneof![
        10 => Just(Number::Next),
        3 => (0usize..80).prop_map(Number::Again),
        4 => (0usize..3).prop_map(Number::Again),
        1 => (60usize..70).prop_map(Number::Again),
        2 => (0u64..70).prop_map(Number::Conflict),
        1 => (1u64..3).prop_map(Number::Gap),
        3 => Just(Number::NewEpoch),
        1 => Just(Number::NewEpochLater),
        1 => Just(Number::OldEpoch),
    ];
    (0usize..2, number).prop_map(|(id, number)| Sender { id, number })
}
