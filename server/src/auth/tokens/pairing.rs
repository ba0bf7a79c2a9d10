//! Pairing codes: short enough to be typed, good once, for ten minutes, and not to be guessed.
//!
//! A code has 50 random bits. Of [`CODES_MAX`] codes and [`GUESSES_MAX`] guesses in [`WINDOW`], one in 5·10^11 windows lets a
//! guess in. While there were too many wrong guesses, right ones are refused as well: otherwise the limit would tell them
//! apart. Time is that of the monotonic clock.
//!
//! Invariant: a code leads to one token at most. It is taken out when it is given in, and put back, with the time that it
//! had left, only if no token was given out for it. Codes live in memory alone: after a restart there are none.

use blake3::Hash;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a code is good.
pub const LIFE: Duration = Duration::from_secs(600);
/// So many are good at once.
pub const CODES_MAX: usize = 100;
/// So many wrong guesses are answered within [`WINDOW`].
pub const GUESSES_MAX: usize = 20;
/// How long a wrong guess counts.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Crockford's base 32: no letter that looks like a digit.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a code, five bits each.
const CODE_LEN: usize = 10;

/// What a code is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The name that the token is to reach.
    pub scope: String,
    /// The device that may give the code in; any if None.
    pub device: Option<String>,
    /// Until then.
    until: Instant,
}

/// Why a code is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is not good, or no longer.
    Wrong,
    /// There were too many wrong ones; after this time there may be more.
    TooMany(Duration),
}

/// The codes that are good.
#[derive(Debug, Default)]
pub struct Pairings {
    offers: HashMap<Hash, Offer>,
    wrong: VecDeque<Instant>,
}

/// A code, as people read it.
///
/// # Errors
/// What the system says that gives no random numbers.
pub fn draw() -> Result<String, getrandom::Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let bits = u64::from_le_bytes(random);
    let digit = |n: usize| char::from(ALPHABET[(bits >> (5 * n)) as usize % 32]);
    let code: String = (0..CODE_LEN).map(digit).collect();
    let (first, second) = code.split_at(CODE_LEN / 2);
    Ok(format!("{first}-{second}"))
}

/// What is kept of a code, however it was typed.
fn hash(code: &str) -> Hash {
    let typed = code.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    });
    blake3::hash(typed.collect::<String>().as_bytes())
}

impl Pairings {
    /// Makes a code good; false if there are too many.
    pub fn offer(&mut self, code: &str, scope: String, device: Option<String>, now: Instant) -> bool {
        self.offers.retain(|_, offer| offer.until > now);
        if self.offers.len() >= CODES_MAX {
            return false;
        }
        self.offers.insert(hash(code), Offer { scope, device, until: now + LIFE });
        true
    }

    /// Takes what a code is good for.
    ///
    /// # Errors
    /// It is good for nothing.
    pub fn take(&mut self, code: &str, now: Instant) -> Result<Offer, Denied> {
        while self.wrong.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            self.wrong.pop_front();
        }
        if self.wrong.len() >= GUESSES_MAX {
            let left = self.wrong.front().map_or(WINDOW, |first| WINDOW.saturating_sub(now.duration_since(*first)));
            return Err(Denied::TooMany(left));
        }
        match self.offers.remove(&hash(code)).filter(|offer| offer.until > now) {
            Some(offer) => Ok(offer),
            None => {
                self.wrong.push_back(now);
                Err(Denied::Wrong)
            }
        }
    }

    /// Puts back what was taken, where no token was given out for it.
    pub fn put_back(&mut self, code: &str, offer: Offer) {
        self.offers.insert(hash(code), offer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(now: Instant) -> (Pairings, String) {
        let mut pairings = Pairings::default();
        let code = draw().expect("random numbers");
        assert!(pairings.offer(&code, "users/alice".into(), None, now));
        (pairings, code)
    }

    #[test]
    fn a_code_is_good_once_however_it_is_typed() {
        let now = Instant::now();
        let (mut pairings, code) = offered(now);
        assert_eq!(code.len(), CODE_LEN + 1);
        let typed = code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        let offer = pairings.take(&typed, now).expect("it is good");
        assert_eq!(pairings.take(&code, now), Err(Denied::Wrong), "once");
        pairings.put_back(&code, offer);
        assert!(pairings.take(&code, now).is_ok(), "no token was given out");
    }

    #[test]
    fn a_code_ends_after_ten_minutes() {
        let now = Instant::now();
        let (mut pairings, code) = offered(now);
        assert_eq!(pairings.take(&code, now + LIFE), Err(Denied::Wrong));
        let (mut pairings, code) = offered(now);
        assert!(pairings.take(&code, now + LIFE - Duration::from_millis(1)).is_ok());
    }

    #[test]
    fn whoever_guesses_is_told_to_wait_and_so_is_everybody() {
        let now = Instant::now();
        let (mut pairings, code) = offered(now);
        for _ in 0..GUESSES_MAX {
            assert_eq!(pairings.take("AAAAA-AAAAA", now), Err(Denied::Wrong));
        }
        assert_eq!(pairings.take(&code, now), Err(Denied::TooMany(WINDOW)), "also the right one");
        let later = now + WINDOW / 2;
        assert_eq!(pairings.take(&code, later), Err(Denied::TooMany(WINDOW / 2)));
        assert!(pairings.take(&code, now + WINDOW).is_ok(), "it was not used up");
    }

    #[test]
    fn there_is_an_end_of_codes() {
        let now = Instant::now();
        let mut pairings = Pairings::default();
        for n in 0..CODES_MAX {
            assert!(pairings.offer(&format!("{n:010}"), "users/alice".into(), None, now));
        }
        assert!(!pairings.offer("ZZZZZ-ZZZZZ", "users/alice".into(), None, now));
        assert!(pairings.offer("ZZZZZ-ZZZZZ", "users/alice".into(), None, now + LIFE), "the others ended");
    }
}
