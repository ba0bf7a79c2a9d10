//! A moment of the past, as an operator writes it: an LSN, or a time.
//!
//! Whether a store still has it is not known here. Invariant: what is no plain number and no timestamp of RFC 3339 with its
//! offset from UTC is refused; no time zone is guessed.

use everlog::types::{AsOf, Lsn, TimeUs};

/// Reads `4711`, an LSN, or `2026-11-28T14:00:00Z`, a time.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<AsOf, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(|lsn| AsOf::Lsn(Lsn(lsn))).map_err(|e| format!("{e}"));
    }
    timestamp(text)
        .map(|time| AsOf::Time(TimeUs(time)))
        .ok_or_else(|| "write an LSN, such as 4711, or a time from 1970 on, such as 2026-11-28T14:00:00Z".to_owned())
}

/// A timestamp of RFC 3339 in microseconds since 1970 UTC; what is finer is cut off.
fn timestamp(text: &str) -> Option<u64> {
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes()[10], b'T' | b't' | b' ') {
        return None;
    }
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = fields(rest.get(..8)?, ':', [2, 2, 2])?;
    let (fraction, offset) = rest[8..].split_at(rest[8..].find(['Z', 'z', '+', '-'])?);
    let micros = match fraction.strip_prefix('.') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{digits:0<6}")[..6].parse::<i64>().ok()?
        }
        None if fraction.is_empty() => 0,
        _ => return None,
    };
    let east = match offset.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, by) => {
            let [hours, minutes] = fields(by, ':', [2, 2])?;
            (hours < 24 && minutes < 60).then_some((hours * 60 + minutes) * if sign == "-" { -1 } else { 1 })?
        }
    };
    // 60 is a leap second, which clocks that count from 1970 do not have: it is the second behind it.
    if hour > 23 || minute > 59 || second > 60 || day == 0 || day > days_in(year, month)? {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + (minute - east) * 60 + second;
    u64::try_from(seconds * 1_000_000 + micros).ok()
}

/// Numbers of so many digits each, with `between` between them, and nothing else.
fn fields<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let parts: Vec<_> = text.split(between).collect();
    let fits = |(part, len): (&&str, usize)| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != N || !parts.iter().zip(digits).all(fits) {
        return None;
    }
    Some(std::array::from_fn(|n| parts[n].parse().expect("a few digits")))
}

fn days_in(year: i64, month: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => Some(if leap { 29 } else { 28 }),
        4 | 6 | 9 | 11 => Some(30),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar: `days_from_civil` of Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms". Years begin in March there, so that a leap day ends one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_lsn_and_a_timestamp_a_time() {
        assert_eq!(parse("0"), Ok(AsOf::Lsn(Lsn(0))));
        assert_eq!(parse("4711"), Ok(AsOf::Lsn(Lsn(4711))));
        // The seconds are those of `date --date=… +%s`.
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000_000),
            ("2026-11-28T14:00:00Z", 1_795_874_400_000_000),
            ("2026-11-28t15:00:00.25+01:00", 1_795_874_400_250_000),
            ("2026-11-28 09:30:00.1234567-04:30", 1_795_874_400_123_456),
            ("2024-12-31T23:59:60z", 1_735_689_600_000_000),
        ] {
            assert_eq!(parse(text), Ok(AsOf::Time(TimeUs(micros))), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "-1",
            "99999999999999999999",
            "yesterday",
            "2026-11-28",
            "2026-11-28T14:00:00",
            "2026-11-28T14:00Z",
            "2026-11-28T14:00:00.Z",
            "2026-11-28T14:00:00Zulu",
            "2026-11-28T14:00:00+1:00",
            "2026-11-28T14:00:00+01:60",
            "2026-02-29T14:00:00Z",
            "2026-13-01T14:00:00Z",
            "2026-11-00T14:00:00Z",
            "2026-11-28T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-28x14:00:00Z",
            "2026-11-2é14:00:00Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
