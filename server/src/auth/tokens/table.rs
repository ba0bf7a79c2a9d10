//! The tokens in memory: who has which, and which devices there are.
//!
//! A token takes about 300 bytes, at most 1.5 KiB with the longest names. Invariants: a token opens only while its state is
//! [`State::Live`]; of two tokens that reach a common name no two are for one device, those included whose record is not
//! durable yet.

use super::record::{Change, Issued};
use super::{Scope, TokenId};
use std::collections::HashMap;

/// So many tokens there can be.
pub const TOKENS_MAX: usize = 100_000;

/// Where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its record is not durable yet: nobody has it.
    Coming,
    /// It opens.
    Live,
    /// It was revoked, and that is not durable yet.
    Leaving,
}

/// Why no token can be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are [`TOKENS_MAX`].
    Tokens,
    /// The device has this one.
    Device(TokenId),
    /// Another one has its id.
    Id,
}

/// The tokens.
#[derive(Debug, Default)]
pub struct Table {
    tokens: HashMap<TokenId, (State, Issued)>,
}

impl Table {
    /// Takes a change that is durable, as the log is read.
    pub fn replay(&mut self, change: Change) {
        match change {
            Change::Issued(id, issued) => {
                self.tokens.insert(id, (State::Live, issued));
            }
            Change::Revoked(id) => {
                self.tokens.remove(&id);
            }
        }
    }

    /// Makes room for a token.
    ///
    /// # Errors
    /// Why there is none.
    pub fn add(&mut self, id: TokenId, issued: Issued) -> Result<(), Full> {
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Full::Tokens);
        }
        if self.tokens.contains_key(&id) {
            return Err(Full::Id);
        }
        let meet = |one: &str, other: &str| {
            Scope::Under(one.to_owned()).holds(other) || Scope::Under(other.to_owned()).holds(one)
        };
        // One that was revoked counts until that is durable: a restart may bring it back.
        let same = |(_, there): &(State, Issued)| there.device == issued.device && meet(&there.scope, &issued.scope);
        if let Some((id, _)) = self.tokens.iter().find(|(_, token)| same(token)) {
            return Err(Full::Device(*id));
        }
        self.tokens.insert(id, (State::Coming, issued));
        Ok(())
    }

    /// The token's record became durable.
    pub fn came(&mut self, id: TokenId) {
        if let Some((state, _)) = self.tokens.get_mut(&id).filter(|(state, _)| *state == State::Coming) {
            *state = State::Live;
        }
    }

    /// The token is gone: its revocation is durable, or its record is not.
    pub fn forget(&mut self, id: TokenId) {
        self.tokens.remove(&id);
    }

    /// Has the token open nothing from here on. None if there is none.
    pub fn revoke(&mut self, id: TokenId) -> Option<Issued> {
        let (state, issued) = self.tokens.get_mut(&id).filter(|(state, _)| *state != State::Coming)?;
        *state = State::Leaving;
        Some(issued.clone())
    }

    /// The token, if it opens.
    #[must_use]
    pub fn live(&self, id: TokenId) -> Option<&Issued> {
        self.tokens.get(&id).filter(|(state, _)| *state == State::Live).map(|(_, issued)| issued)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (TokenId, State, &Issued)> {
        self.tokens.iter().map(|(id, (state, issued))| (*id, *state, issued))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(device: &str, scope: &str, secret: &str) -> (TokenId, Issued) {
        let hash = blake3::hash(secret.as_bytes());
        (TokenId::of(&hash), Issued { hash, device: device.into(), scope: scope.into(), issued_us: 0 })
    }

    #[test]
    fn a_token_opens_from_its_record_on_to_its_revocation() {
        let mut table = Table::default();
        let (id, issued) = token("phone", "users/alice", "1");
        table.add(id, issued.clone()).expect("there is room");
        assert_eq!(table.live(id), None, "its record is not durable");
        assert_eq!(table.revoke(id), None, "nobody has it");
        table.came(id);
        assert_eq!(table.live(id), Some(&issued));
        assert!(table.revoke(id).is_some());
        assert_eq!(table.live(id), None, "at once");
        assert!(table.revoke(id).is_some(), "until that is durable it may be tried again");
        table.came(id);
        assert_eq!(table.live(id), None, "and nothing brings it back");
        table.forget(id);
        assert_eq!(table.revoke(id), None);
    }

    #[test]
    fn what_the_log_says_last_counts() {
        let mut table = Table::default();
        let (id, issued) = token("phone", "users/alice", "1");
        table.replay(Change::Issued(id, issued));
        assert!(table.live(id).is_some());
        table.replay(Change::Revoked(id));
        table.replay(Change::Revoked(id));
        assert!(table.live(id).is_none());
    }

    #[test]
    fn a_device_has_one_token_wherever_it_could_meet_itself() {
        let mut table = Table::default();
        let (first, issued) = token("phone", "users/alice", "1");
        table.add(first, issued).expect("there is room");
        for scope in ["users/alice", "users/alice/notes", "users"] {
            let (id, issued) = token("phone", scope, scope);
            assert_eq!(table.add(id, issued), Err(Full::Device(first)), "{scope}");
        }
        for (device, scope) in [("phone", "users/bob"), ("laptop", "users/alice"), ("phone", "users/alice2")] {
            let (id, issued) = token(device, scope, &format!("{device} {scope}"));
            table.add(id, issued).expect("another one");
        }
        table.came(first);
        table.revoke(first);
        let (id, issued) = token("phone", "users/alice", "2");
        assert_eq!(table.add(id, issued.clone()), Err(Full::Device(first)), "a restart may bring it back");
        table.forget(first);
        table.add(id, issued).expect("it was revoked for good");
    }
}
