//! What stands in the log of tokens: one JSON change for each token issued or revoked.
//!
//! Invariant: of a token its hash alone is written down; a record that is not understood is an error and never passed over,
//! since it may be a revocation.

use super::TokenId;
use blake3::Hash;
use serde::{Deserialize, Serialize};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A token was issued.
    Issued(TokenId, Issued),
    /// It was revoked.
    Revoked(TokenId),
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The BLAKE3 of its text.
    #[serde(with = "hex")]
    pub hash: Hash,
    /// The device that has it.
    pub device: String,
    /// The name that it reaches, and those below.
    pub scope: String,
    /// When, by the wall clock.
    pub issued_us: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    #[serde(rename = "type")]
    kind: Kind,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Issued>,
    headers: Headers,
}

#[derive(Serialize, Deserialize)]
struct Headers {
    operation: Operation,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Token,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Insert,
    Delete,
}

impl Change {
    /// The record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (id, value, operation) = match self {
            Self::Issued(id, issued) => (id, Some(issued.clone()), Operation::Insert),
            Self::Revoked(id) => (id, None, Operation::Delete),
        };
        let message = Message { kind: Kind::Token, key: id.to_string(), value, headers: Headers { operation } };
        serde_json::to_vec(&message).expect("the fields are text and numbers")
    }

    /// What a record says.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message: Message = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let id: TokenId = message.key.parse().map_err(|()| "its key is no token's id".to_owned())?;
        match (message.headers.operation, message.value) {
            (Operation::Insert, Some(issued)) if TokenId::of(&issued.hash) == id => Ok(Self::Issued(id, issued)),
            (Operation::Delete, None) => Ok(Self::Revoked(id)),
            _ => Err("its parts contradict one another".to_owned()),
        }
    }
}

mod hex {
    //! A hash as hexadecimal digits.

    use blake3::Hash;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(hash.to_hex().as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        Hash::from_hex(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_comes_back_and_nothing_else_is_taken_for_one() {
        let hash = blake3::hash(b"a token");
        let id = TokenId::of(&hash);
        let issued = Issued { hash, device: "phone".into(), scope: "users/alice".into(), issued_us: 7 };
        let issued = Change::Issued(id, issued);
        for change in [issued.clone(), Change::Revoked(id)] {
            assert_eq!(Change::decode(&change.encode()), Ok(change));
        }
        let text = String::from_utf8(issued.encode()).expect("JSON is UTF-8");
        let other = text.replacen(&id.to_string(), "0000000000000000", 1);
        let unknown = text.replacen("insert", "upsert", 1);
        let further = text.replacen("{", "{\"until\":7,", 1);
        for bad in ["", "{}", "[]", &text[..text.len() - 1], &other, &unknown, &further] {
            assert!(Change::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
