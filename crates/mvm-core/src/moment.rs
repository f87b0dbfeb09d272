//! Moments as people write them: RFC 3339, `15m` ago, or a place in a log.
//!
//! The days of the civil calendar follow Howard Hinnant's `civil_from_days` and `days_from_civil`.
//! It refuses to know what time it is.

use std::str::FromStr;

use thiserror::Error;

use crate::units::Timestamp;

const DAY: u64 = 86_400;

/// Where to begin in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// At this entry.
    Seq(u64),
    /// At this moment.
    At(Timestamp),
    /// So many seconds before the present.
    Ago(u64),
}

/// Why a text names no beginning.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no beginning: write a time (2026-01-31T08:00:00Z), a span (30s, 15m, 2h, 3d) or the number of an entry"
)]
pub struct InvalidSince(String);

impl FromStr for Since {
    type Err = InvalidSince;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSince(text.to_owned());
        if let Ok(seq) = text.parse() {
            return Ok(Self::Seq(seq));
        }
        if let Some(moment) = Timestamp::from_rfc3339(text) {
            return Ok(Self::At(moment));
        }
        let unit = match text.chars().next_back() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => DAY,
            Some('w') => 7 * DAY,
            Some(_) | None => return Err(invalid()),
        };
        let count = text.get(..text.len() - 1).and_then(digits).ok_or_else(invalid)?;
        count.checked_mul(unit).map(Self::Ago).ok_or_else(invalid)
    }
}

impl Timestamp {
    /// The moment as RFC 3339, UTC, whole seconds.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let seconds = self.0 / 1000;
        let (days, second) = (seconds / DAY, seconds % DAY);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }

    /// Reads RFC 3339: a date, `T` or a space, a time with or without a fraction, `Z` or an offset.
    /// None for anything else, and for moments before 1970.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let part = |from: usize, to: usize| digits(text.get(from..to)?);
        let mark = |at: usize, of: &[u8]| of.contains(text.as_bytes().get(at)?).then_some(());
        for (at, of) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] {
            mark(at, of)?;
        }
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        let is_there = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
        if !is_there || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let (milliseconds, zone) = fraction(text.get(19..)?)?;
        let seconds =
            days_since_epoch(year, month, day)? * DAY + hour * 3600 + minute * 60 + second;
        let utc = i64::try_from(seconds).ok()? - offset(zone)?;
        Some(Self(u64::try_from(utc).ok()?.checked_mul(1000)? + milliseconds))
    }
}

fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The milliseconds of a fraction, and what follows it.
fn fraction(text: &str) -> Option<(u64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let length = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = rest.split_at(length);
    digits(fraction)?;
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    Some((digits(&thousandths)?, zone))
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        (_, _) => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if rest.len() != 5 || hours > 23 || minutes > 59 {
        return None;
    }
    Some(sign * i64::try_from(hours * 3600 + minutes * 60).ok()?)
}

const fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        assert_eq!(Timestamp(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(Timestamp(951_782_400_000).rfc3339(), "2000-02-29T00:00:00Z");
        assert_eq!(Timestamp(1_763_769_599_000).rfc3339(), "2025-11-21T23:59:59Z");
    }

    proptest! {
        #[test]
        fn every_moment_reads_back(seconds in 0u64..4_000_000_000) {
            let moment = Timestamp(seconds * 1000);
            prop_assert_eq!(Timestamp::from_rfc3339(&moment.rfc3339()), Some(moment));
        }
    }

    #[test]
    fn fractions_and_offsets_count() {
        let read = |text| Timestamp::from_rfc3339(text).unwrap().0;
        assert_eq!(read("1970-01-01T01:00:00.5+01:00"), 500);
        assert_eq!(read("1970-01-01t00:00:01-00:30"), 1_801_000);
        assert_eq!(read("1970-01-02 00:00:00.123456z"), 86_400_123);
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "2026",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "1969-12-31T23:59:59Z",
            "2026-01-01T00:00:00Zz",
            "2026-01-0١T00:00:00Z",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn a_beginning_is_a_time_a_span_or_a_place() {
        let read = |text: &str| text.parse::<Since>();
        assert_eq!(read("42"), Ok(Since::Seq(42)));
        assert_eq!(read("15m"), Ok(Since::Ago(900)));
        assert_eq!(read("3d"), Ok(Since::Ago(3 * 86_400)));
        assert_eq!(read("1970-01-01T00:00:01Z"), Ok(Since::At(Timestamp(1000))));
        for text in ["", "m", "-5m", "1.5h", "5y", "yesterday", "99999999999999999999w", "5é"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
