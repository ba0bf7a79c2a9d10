//! What clients ask for and are answered, as plain values.
//!
//! What each request comes to is in `state.rs`. Invariant: what is here is all that a client can tell two answers apart by.

use crate::ends::Lifetime;
use std::fmt;
use std::sync::Arc;

/// One message of a JSON stream, or one body of another.
pub type Part = Arc<[u8]>;

/// The path of a stream, below its client's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// One that is used again and again.
    Collection(&'static str),
    /// A fork's, which is another each time: no fork takes a name that was used.
    Fork(u32),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collection(name) => f.write_str(name),
            Self::Fork(number) => write!(f, "fork{number}"),
        }
    }
}

/// What is sent, and the parts that it has for a stream of its content type; none if it is malformed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub content_type: &'static str,
    pub bytes: Vec<u8>,
    pub parts: Option<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub id: &'static str,
    pub epoch: u64,
    pub number: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    pub content: Content,
    pub close: bool,
    pub producer: Option<Numbers>,
    pub stream_seq: Option<String>,
    /// The end that the stream must have: the offset's text, and its number.
    pub end: Option<(String, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    pub content: Content,
    /// Whether the content type is not said, which a fork then has from its source; it brings no content then.
    pub untyped: bool,
    pub close: bool,
    pub lifetime: Option<Lifetime>,
    pub fork: Option<Fork>,
}

/// What a fork is to be of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    pub source: Path,
    /// Where it parts from it, as text and number; at its end if that is not said.
    pub offset: Option<(String, u64)>,
    /// How far behind that: messages of a JSON stream, else bytes.
    pub sub_offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Start,
    Now,
    Offset(String, u64),
    /// An offset behind the place where the stream parted from the one that it was given for.
    Elsewhere(String),
}

/// A request to one stream.
#[derive(Clone, Debug)]
pub enum Request {
    Create(Creation),
    Append(Append),
    Delete,
    Head,
    /// `live` as a long poll.
    Read {
        from: From,
        live: bool,
    },
}

/// What a client can tell answers apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// `Everlog-Error`.
    pub error: String,
    /// Of an answer that tells of a stream.
    pub content_type: String,
    /// The number of `Stream-Next-Offset`.
    pub next: Option<u64>,
    pub up_to_date: bool,
    pub closed: bool,
    pub durability: String,
    pub ttl: String,
    pub expires_at: String,
    pub producer_epoch: Option<u64>,
    pub producer_seq: Option<u64>,
    pub producer_expected: Option<u64>,
    pub producer_received: Option<u64>,
    /// Of a page.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    pub fn of(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn failed(status: u16, error: &str) -> Self {
        Self { status, error: error.to_owned(), ..Self::default() }
    }

    pub fn next(self, next: u64) -> Self {
        Self { next: Some(next), ..self }
    }

    pub fn closed(self, closed: bool) -> Self {
        Self { closed, ..self }
    }

    pub fn stored(self) -> Self {
        Self { durability: "local".to_owned(), ..self }
    }

    pub fn numbered(self, epoch: u64, number: u64) -> Self {
        Self { producer_epoch: Some(epoch), producer_seq: Some(number), ..self }
    }
}
