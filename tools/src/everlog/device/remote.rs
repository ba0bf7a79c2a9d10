//! The user's streams on the server, and what its answers to reads and appends mean for a device.
//!
//! It keeps no state and merges nothing. Invariant: each answer becomes one case of an enumeration, or a failure; "not
//! there" is never made of anything but the server's own word for it.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use ureq::http::Method;

use super::collection::Collection;
use super::digest::Digest;
use super::http::{Answer, Http, Place, Request, percent_encoded};
use super::state::Batch;
use everlog_server::failure::Failure;

/// Where every stream begins.
pub const START: &str = "-1";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

pub struct Remote {
    http: Http,
    /// `users/NAME`, ready for an address.
    owner: String,
}

/// What a read from an offset found.
pub enum Page {
    Content {
        elements: Vec<Box<RawValue>>,
        next: String,
        at_end: bool,
        /// All before this offset is in a cold store; None: the server offers none that counts.
        cold: Option<String>,
        /// Which of the streams that had this name it is, as far as the server tells.
        stream: Option<String>,
    },
    /// The server no longer has the history that the offset belongs to.
    Cut(Told),
    /// What the offset points to is no longer kept.
    Trimmed,
    /// There is no such stream. `is_rewind`: and it was taken back on purpose since the offset.
    Missing { is_rewind: bool },
}

/// What the server says of a history that it no longer has.
pub struct Told {
    /// Past this place it lost all, where it knows it.
    pub cut: Option<String>,
    /// It was taken back on purpose.
    pub is_rewind: bool,
}

/// What became of a batch.
pub enum Append {
    /// The stream now ends at `next`.
    Accepted {
        next: String,
        level: Option<String>,
    },
    /// It had arrived before.
    Duplicate {
        next: Option<String>,
        level: Option<String>,
    },
    /// The stream does not end where the batch expects it.
    Moved,
    /// Somebody else has written under this device's name: the device's folder was copied.
    Estranged,
    /// The server does not know what this device had written before.
    Forgotten,
    TooLarge,
}

/// What became of a photo's chunk.
pub enum Chunk {
    Accepted,
    /// It had arrived before, as had all up to this one.
    Duplicate(u64),
    /// This one is missing before it.
    Gap(u64),
    /// The stream is complete.
    Complete,
    Missing,
    /// Other bytes have this number.
    Conflict,
}

/// What a read of a photo's bytes found.
pub struct Piece {
    pub next: String,
    pub at_end: bool,
    pub closed: bool,
}

pub enum PhotoPage {
    Piece(Piece),
    Missing,
    /// The offset is no longer valid: begin again.
    Invalid,
}

impl Remote {
    pub fn new(http: Http, user: &str) -> Self {
        Self { http, owner: format!("users/{}", percent_encoded(user)) }
    }

    pub fn http(&self) -> &Http {
        &self.http
    }

    fn stream(&self, collection: Collection) -> String {
        format!("{}/{}", self.owner, collection.name)
    }

    fn photo(&self, hash: Digest) -> String {
        format!("{}/photos/{hash}", self.owner)
    }

    /// Asks for nothing but who answers, before anything is sent to it.
    pub fn greet(&self, collection: Collection) -> Result<(), Failure> {
        let request = Request { method: Method::HEAD, path: self.stream(collection), headers: Vec::new(), body: None };
        let answer = self.http.send(&request)?;
        if matches!(answer.status, 200 | 404 | 410) { Ok(()) } else { Err(answer.unexpected("HEAD")) }
    }

    /// Sees to it that the collection's stream is there.
    pub fn create(&self, collection: Collection) -> Result<(), Failure> {
        let headers = vec![("content-type", JSON.to_owned())];
        let request = Request { method: Method::PUT, path: self.stream(collection), headers, body: None };
        let answer = self.http.send(&request)?;
        if matches!(answer.status, 200 | 201) { Ok(()) } else { Err(answer.unexpected("the creation of a stream")) }
    }

    pub fn read(&self, collection: Collection, offset: &str) -> Result<Page, Failure> {
        let path = format!("{}?offset={}", self.stream(collection), percent_encoded(offset));
        let answer = self.http.send(&Request { method: Method::GET, path, headers: Vec::new(), body: None })?;
        match answer.status {
            200 => page(&answer),
            410 if answer.says("timeline") => {
                let cut = answer.header("everlog-cut").map(str::to_owned);
                Ok(Page::Cut(Told { cut, is_rewind: is_rewind(&answer) }))
            }
            410 => Ok(Page::Trimmed),
            404 => Ok(Page::Missing { is_rewind: is_rewind(&answer) }),
            _ => Err(answer.unexpected("a read")),
        }
    }

    /// Up to where the collection's stream is in a cold store; None: the server offers none that counts, or has no such
    /// stream.
    pub fn cold(&self, collection: Collection) -> Result<Option<String>, Failure> {
        let request = Request { method: Method::HEAD, path: self.stream(collection), headers: Vec::new(), body: None };
        let answer = self.http.send(&request)?;
        if matches!(answer.status, 200 | 404 | 410) { Ok(cold(&answer)) } else { Err(answer.unexpected("HEAD")) }
    }

    pub fn append(&self, collection: Collection, producer: &str, epoch: u64, batch: &Batch) -> Result<Append, Failure> {
        let headers = vec![
            ("content-type", JSON.to_owned()),
            ("producer-id", producer.to_owned()),
            ("producer-epoch", epoch.to_string()),
            ("producer-seq", batch.number.to_string()),
            ("everlog-expect-offset", batch.expect.clone()),
        ];
        let body = Some(batch.body.as_bytes());
        let request = Request { method: Method::POST, path: self.stream(collection), headers, body };
        let answer = self.http.send(&request)?;
        let next = answer.header("stream-next-offset").map(str::to_owned);
        let level = answer.header("everlog-durability").map(str::to_owned);
        match (answer.status, next) {
            (200, Some(next)) => Ok(Append::Accepted { next, level }),
            (204, next) => {
                // A device sends one batch at a time. If the server has seen a later number than this one, it was not
                // this device that sent it, and what arrived under this number is not known.
                match answer.number("producer-seq").map_or(Ordering::Equal, |highest| highest.cmp(&batch.number)) {
                    Ordering::Equal => Ok(Append::Duplicate { next, level }),
                    Ordering::Greater => Ok(Append::Estranged),
                    Ordering::Less => Ok(Append::Forgotten),
                }
            }
            // A stream that is missing, or whose history is another by now, is read before anything is appended to it.
            (404 | 410 | 412, _) => Ok(Append::Moved),
            (403, _) => Ok(Append::Estranged),
            (409, _) if answer.says("producer-conflict") => Ok(Append::Estranged),
            (409, _) if let Some(expected) = answer.number("producer-expected-seq") => {
                Ok(if expected < batch.number { Append::Forgotten } else { Append::Estranged })
            }
            (413, _) => Ok(Append::TooLarge),
            _ => Err(answer.unexpected("an append")),
        }
    }

    /// Begins a photo's stream. Whether it is complete already; an empty photo is at once.
    pub fn begin_photo(&self, hash: Digest, empty: bool) -> Result<bool, Failure> {
        let mut headers = vec![("content-type", BYTES.to_owned())];
        if empty {
            headers.push(("stream-closed", "true".to_owned()));
        }
        let answer = self.http.send(&Request { method: Method::PUT, path: self.photo(hash), headers, body: None })?;
        match answer.status {
            200 | 201 => Ok(empty),
            409 if answer.is_set("stream-closed") => Ok(true),
            409 if empty => self.close_photo(hash).map(|()| true),
            _ => Err(answer.unexpected("the creation of a photo's stream")),
        }
    }

    fn close_photo(&self, hash: Digest) -> Result<(), Failure> {
        let headers = vec![("stream-closed", "true".to_owned())];
        let request = Request { method: Method::POST, path: self.photo(hash), headers, body: Some(&[]) };
        let answer = self.http.send(&request)?;
        if matches!(answer.status, 200 | 204) { Ok(()) } else { Err(answer.unexpected("the end of a photo's stream")) }
    }

    pub fn append_chunk(&self, hash: Digest, number: u64, bytes: &[u8], last: bool) -> Result<Chunk, Failure> {
        let mut headers = vec![
            ("content-type", BYTES.to_owned()),
            ("producer-id", hash.to_string()),
            ("producer-epoch", "0".to_owned()),
            ("producer-seq", number.to_string()),
        ];
        if last {
            headers.push(("stream-closed", "true".to_owned()));
        }
        let request = Request { method: Method::POST, path: self.photo(hash), headers, body: Some(bytes) };
        let answer = self.http.send(&request)?;
        let closed = answer.is_set("stream-closed");
        match answer.status {
            200 if !last => Ok(Chunk::Accepted),
            200 => Ok(Chunk::Complete),
            204 | 409 if closed => Ok(Chunk::Complete),
            204 => Ok(Chunk::Duplicate(answer.number("producer-seq").unwrap_or(number))),
            409 if answer.says("producer-conflict") => Ok(Chunk::Conflict),
            409 if let Some(expected) = answer.number("producer-expected-seq") => Ok(Chunk::Gap(expected)),
            404 => Ok(Chunk::Missing),
            _ => Err(answer.unexpected("a photo's chunk")),
        }
    }

    /// Reads on in a photo's stream; the bytes go to `place`.
    pub fn read_photo(&self, hash: Digest, offset: &str, place: Place<'_>) -> Result<PhotoPage, Failure> {
        let path = format!("{}?offset={}", self.photo(hash), percent_encoded(offset));
        let request = Request { method: Method::GET, path, headers: Vec::new(), body: None };
        let answer = self.http.send_to(&request, Some(place))?;
        match answer.status {
            200 => Ok(PhotoPage::Piece(Piece {
                next: next_offset(&answer)?,
                at_end: answer.is_set("stream-up-to-date") || answer.is_set("stream-closed"),
                closed: answer.is_set("stream-closed"),
            })),
            404 => Ok(PhotoPage::Missing),
            410 => Ok(PhotoPage::Invalid),
            _ => Err(answer.unexpected("the read of a photo")),
        }
    }
}

fn is_rewind(answer: &Answer) -> bool {
    answer.header("everlog-timeline-cause") == Some("rewind")
}

fn cold(answer: &Answer) -> Option<String> {
    answer.header("everlog-cold-offset").map(str::to_owned)
}

fn next_offset(answer: &Answer) -> Result<String, Failure> {
    let Some(next) = answer.header("stream-next-offset") else {
        return Err(answer.unexpected("a read, without the next offset,"));
    };
    Ok(next.to_owned())
}

fn page(answer: &Answer) -> Result<Page, Failure> {
    let next = next_offset(answer)?;
    // At the end of a stream a server may leave the body away.
    let body = if answer.body.is_empty() { b"[]" } else { answer.body.as_slice() };
    let Elements(elements) = serde_json::from_slice(body).map_err(|e| {
        let cause = format!("the server answered a read with something that is no list of changes: {e}");
        Failure::new(1, cause, "see whether the address leads to everlog; nothing was changed")
    })?;
    let stream = answer.header("everlog-stream").map(str::to_owned);
    Ok(Page::Content { elements, next, at_end: answer.is_set("stream-up-to-date"), cold: cold(answer), stream })
}

/// The elements of one page. There may be no more than a page of everlog has by far, however small they are.
struct Elements(Vec<Box<RawValue>>);

const ELEMENTS_MAX: usize = 1 << 17;

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Elements;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of changes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Elements, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == ELEMENTS_MAX {
                        return Err(de::Error::custom("there are too many of them in one page"));
                    }
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_no_more_elements_than_can_be_held() {
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        let read = |text: String| serde_json::from_str::<Elements>(&text).map(|elements| elements.0.len());
        assert_eq!(read(list(ELEMENTS_MAX)).expect("it fits"), ELEMENTS_MAX);
        assert!(read(list(ELEMENTS_MAX + 1)).is_err());
    }
}
