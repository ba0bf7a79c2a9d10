//! The last word that a stream says of a key, read and not yet merged.
//!
//! It decides nothing. Invariant: what cannot be read is said to be so, and is never taken for a deletion.

use serde_json::value::RawValue;

use super::collection::Collection;
use super::digest::Digest;
use super::item::{Change, Content, Element, decode};
use super::merge::Version;

/// The last word on one key.
pub struct Last {
    pub said: Said,
    /// The offset after it, and the one that leads to its page.
    pub offset: String,
    pub page: String,
    pub was_put_back: bool,
}

pub enum Said {
    Deleted,
    File {
        hash: Digest,
        bytes: Option<Vec<u8>>,
    },
    Photo {
        hash: Digest,
        size: u64,
    },
    /// Nobody can tell.
    Unreadable(String),
}

/// What an element says.
pub enum Heard {
    /// A mark, which says nothing.
    Nothing,
    /// Of all keys that are gone.
    Reset,
    /// Of this key.
    Of(String, Said),
}

impl Heard {
    /// What an element says; content of no more than so many bytes is held. Else why it says nothing.
    pub fn of(collection: Collection, element: &RawValue, held_max: usize) -> Result<Self, String> {
        let (key, said) = match decode(collection, element.get()) {
            Element::Control => return Ok(Self::Nothing),
            Element::Reset => return Ok(Self::Reset),
            Element::Unreadable(None, why) => return Err(why),
            Element::Unreadable(Some(key), why) => (key, Said::Unreadable(why)),
            Element::Change(Change { key, content: Content::Deleted }) => (key, Said::Deleted),
            Element::Change(Change { key, content: Content::Photo { hash, size } }) => {
                (key, Said::Photo { hash, size })
            }
            Element::Change(Change { key, content: Content::File(bytes) }) => {
                let hash = Digest::of(&bytes);
                (key, Said::File { hash, bytes: (bytes.len() <= held_max).then_some(bytes) })
            }
        };
        Ok(Self::Of(key, said))
    }
}

impl Last {
    /// The version that it makes of the item.
    pub fn version(&self) -> Version {
        match &self.said {
            Said::File { hash, .. } | Said::Photo { hash, .. } => Some(*hash),
            Said::Deleted | Said::Unreadable(_) => None,
        }
    }
}

/// The bytes of content that it holds.
pub fn held(said: &Said) -> usize {
    if let Said::File { bytes: Some(bytes), .. } = said { bytes.len() } else { 0 }
}
