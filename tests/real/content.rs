//! What the victim writes: each record is a function of a seed, its log and its seq, so that whoever checks needs no
//! copies.
//!
//! The length varies from record to record. The content depends on it too, so that a record that lost its end or grew
//! one is told from a whole one without knowing how long it was meant to be.

use super::Random;

/// What the names of the victim's logs begin with.
pub const PREFIX: &str = "victim/";

/// The name of the victim's log of that number.
#[must_use]
pub fn log_name(number: usize) -> String {
    format!("{PREFIX}{number:04}")
}

/// A record, of 1 to twice `bytes_mean` bytes.
#[must_use]
pub fn record(seed: u64, log: &str, seq: u64, bytes_mean: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ seq.rotate_left(32) ^ blake3_word(log));
    let len = 1 + random.below(2 * bytes_mean.max(1) as u64);
    content(seed, log, seq, len as usize)
}

/// Whether `payload` is whole and the record of that place.
///
/// # Errors
/// What is wrong with it.
pub fn check(seed: u64, log: &str, seq: u64, payload: &[u8]) -> Result<(), String> {
    let expected = content(seed, log, seq, payload.len());
    if !payload.is_empty() && payload == expected {
        return Ok(());
    }
    let at = payload.iter().zip(&expected).position(|(found, expected)| found != expected).unwrap_or_default();
    Err(format!("log {log}, seq {seq}: of {} bytes the one at {at} is not what was appended", payload.len()))
}

/// Bytes that no compression shortens.
fn content(seed: u64, log: &str, seq: u64, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for number in [seed, seq, len as u64] {
        hasher.update(&number.to_le_bytes());
    }
    let mut out = vec![0; len];
    hasher.update(log.as_bytes()).finalize_xof().fill(&mut out);
    out
}

fn blake3_word(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes have 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_place_and_its_length() {
        let one = record(7, "victim/0001", 3, 500);
        assert_eq!(one, record(7, "victim/0001", 3, 500));
        check(7, "victim/0001", 3, &one).expect("it is whole");
        for (seed, log, seq) in [(8, "victim/0001", 3), (7, "victim/0002", 3), (7, "victim/0001", 4)] {
            check(seed, log, seq, &one).expect_err("it is another place's");
        }
        check(7, "victim/0001", 3, &one[..one.len() - 1]).expect_err("it lost its end");
        let mut longer = one;
        longer.push(0);
        check(7, "victim/0001", 3, &longer).expect_err("it grew an end");
    }

    #[test]
    fn records_have_many_lengths() {
        let lengths: std::collections::BTreeSet<usize> =
            (0..100).map(|seq| record(1, "victim/0000", seq, 1000).len()).collect();
        assert!(lengths.len() > 80 && lengths.iter().all(|len| (1..=2000).contains(len)), "{lengths:?}");
    }
}
