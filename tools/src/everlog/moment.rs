//! A moment as an operator writes it, an LSN or a time, and as it is printed.
//!
//! Whether a store still has it is not known here. Invariant: a time has its offset from UTC; no time zone is guessed.

use everlog::types::{AsOf, Lsn, TimeUs};
use jiff::Timestamp;

/// Reads `4711`, an LSN, or `2026-11-28T14:00:00Z`, a time of RFC 3339.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<AsOf, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(|lsn| AsOf::Lsn(Lsn(lsn))).map_err(|e| format!("{e}"));
    }
    let time = text.parse().ok().and_then(|time: Timestamp| u64::try_from(time.as_microsecond()).ok());
    time.map(|time| AsOf::Time(TimeUs(time)))
        .ok_or_else(|| "write an LSN, such as 4711, or a time from 1970 on, such as 2026-11-28T14:00:00Z".to_owned())
}

/// A time as RFC 3339 has it.
pub fn shown(time: TimeUs) -> String {
    let time = i64::try_from(time.0).ok().and_then(|time| Timestamp::from_microsecond(time).ok());
    time.map_or_else(|| "after the year 9999".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_or_a_time_with_its_offset_is_read_and_nothing_else() {
        let time = |us| Ok(AsOf::Time(TimeUs(us)));
        assert_eq!(parse("4711"), Ok(AsOf::Lsn(Lsn(4711))));
        assert_eq!(parse("1970-01-01T00:00:00Z"), time(0));
        assert_eq!(parse("2026-11-28T14:00:00Z"), time(1_795_874_400_000_000));
        assert_eq!(parse("2026-11-28T15:00:00.25+01:00"), time(1_795_874_400_250_000));
        for text in ["", "x", "-1", "2026-11-28", "2026-11-28T14:00:00", "2026-02-30T00:00:00Z", "1969-12-31T00:00:00Z"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("99999999999999999999").is_err(), "past the greatest LSN");
        assert_eq!(shown(TimeUs(1_795_874_400_250_000)), "2026-11-28T14:00:00.25Z");
        assert_eq!(shown(TimeUs(u64::MAX)), "after the year 9999");
    }
}
