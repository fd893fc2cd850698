//! Points in time and spans as clients write them: RFC 3339 with an offset, seconds, ISO 8601 durations.

use std::time::Duration;

use storage::model::Timestamp;

/// The widest offset that any place on earth has.
const OFFSET_MAX_MINUTES: i64 = 14 * 60;
/// Spans beyond this are typing errors, whatever the field.
const SECONDS_MAX: u64 = 1_000_000_000_000;

/// Reads an RFC 3339 date-time. Finer parts than milliseconds are dropped; leap seconds are no points in time.
pub(in crate::http) fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (head, rest) = bytes.split_at_checked(19)?;
    let punctuation = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if punctuation.iter().any(|(at, mark)| head[*at] != *mark) || !matches!(head[10], b'T' | b't') {
        return None;
    }
    let part = |from: usize, to: usize| digits(&head[from..to]);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let in_calendar = year >= 1 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !in_calendar || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (millis, rest) = fraction(rest)?;
    let offset = offset_minutes(rest)?;
    let minutes = (days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset;
    Some(Timestamp::from_millis((minutes * 60 + second) * 1_000 + millis))
}

/// Reads a date, which is its first instant in UTC, or a date with a time.
pub fn day_or_time(text: &str) -> Option<Timestamp> {
    if text.len() == 10 { rfc3339(&format!("{text}T00:00:00Z")) } else { rfc3339(text) }
}

/// Reads `PnW` or `PnDTnHnMnS`. Months and years are refused, as they are no fixed spans.
pub(in crate::http) fn iso_duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (days, clock) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((days, clock)) => (days, clock),
        None => (rest, ""),
    };
    if let Some(weeks) = rest.strip_suffix('W') {
        return span(weeks, 7 * 86_400);
    }
    let mut sum = Duration::ZERO;
    for (mut part, units) in [(days, &[('D', 86_400)][..]), (clock, &[('H', 3_600), ('M', 60), ('S', 1)][..])] {
        for (unit, seconds) in units {
            let Some((number, left)) = part.split_once(*unit) else { continue };
            let whole_only = *unit != 'S' && number.contains('.');
            sum += span(number, *seconds).filter(|_| !whole_only)?;
            part = left;
        }
        if !part.is_empty() {
            return None;
        }
    }
    (!rest.is_empty()).then_some(sum)
}

/// Reads a plain decimal number of seconds; what is finer than a millisecond is dropped.
pub(in crate::http) fn decimal_seconds(text: &str) -> Option<Duration> {
    span(text, 1)
}

fn span(number: &str, seconds: u64) -> Option<Duration> {
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    if whole.is_empty() || whole.len() > 13 || part.is_some_and(|part| part.is_empty()) {
        return None;
    }
    let whole = u64::try_from(digits(whole.as_bytes())?).ok()?.checked_mul(seconds)?;
    let (millis, rest) = match part {
        Some(_) => fraction(&number.as_bytes()[number.find('.')?..])?,
        None => (0, &[][..]),
    };
    let fits = rest.is_empty() && whole <= SECONDS_MAX;
    fits.then(|| Duration::from_millis(whole * 1_000 + u64::try_from(millis).unwrap_or(0)))
}

/// A fraction of a second in milliseconds if there is one, and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', text)) = text.split_first() else { return Some((0, text)) };
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let kept = digits(&text[..count.min(3)])?;
    let millis = kept * [0, 100, 10, 1][count.min(3)];
    Some((millis, &text[count..]))
}

fn offset_minutes(text: &[u8]) -> Option<i64> {
    let (sign, text) = match text {
        [b'Z' | b'z'] => return Some(0),
        [b'+', text @ ..] => (1, text),
        [b'-', text @ ..] => (-1, text),
        _ => return None,
    };
    let [h1, h2, b':', m1, m2] = text else { return None };
    let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
    let offset = hours * 60 + minutes;
    (minutes < 60 && offset <= OFFSET_MAX_MINUTES).then_some(sign * offset)
}

fn digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_i64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_read_with_their_offset() {
        for (text, utc) in [
            ("2026-11-21T09:01:01.042Z", "2026-11-21T09:01:01.042Z"),
            ("2026-11-21t10:01:01.0429999999999+01:00", "2026-11-21T09:01:01.042Z"),
            ("2026-11-20T19:01:01.04-14:00", "2026-11-21T09:01:01.040Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999z", "9999-12-31T23:59:59.999Z"),
            ("2000-02-29T00:00:00+00:00", "2000-02-29T00:00:00.000Z"),
            ("1969-12-31T23:59:59.5-00:00", "1969-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(rfc3339(text).map(|at| at.to_string()).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn what_is_no_point_in_time_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T09:01:01",
            "2026-11-21 09:01:01Z",
            "0000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-12-31T23:59:60Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T09:60:00Z",
            "2026-11-21T09:01:01+24:00",
            "2026-11-21T09:01:01+14:01",
            "2026-11-21T09:01:01+01:60",
            "2026-11-21T09:01:01+0100",
            "2026-11-21T09:01:01.Z",
            "2026-11-21T09:01:01ZZ",
            "２026-11-21T09:01:01Z",
            "+026-11-21T09:01:01Z",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn spans_are_read_in_both_forms() {
        for (text, millis) in [
            ("PT0S", 0),
            ("PT30S", 30_000),
            ("PT1.5S", 1_500),
            ("PT90M", 5_400_000),
            ("P1DT2H3M4S", 93_784_000),
            ("P2W", 1_209_600_000),
            ("P1D", 86_400_000),
        ] {
            assert_eq!(iso_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for (text, millis) in [("0", 0), ("5", 5_000), ("0.25", 250), ("0.30000000000000004", 300), ("1.0009", 1_000)] {
            assert_eq!(decimal_seconds(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "P",
            "PT",
            "P1",
            "P1M",
            "P1Y",
            "PT1D",
            "P1H",
            "PT1",
            "-PT1S",
            "PT-1S",
            "PT1S1M",
            "P1.5D",
            "P1W1D",
            "PT1.S",
            "1S",
            "pt1s",
            "PT1M1M",
            "PT99999999999999999999S",
            "P1DT",
        ] {
            assert_eq!(iso_duration(text), None, "{text}");
        }
        for text in ["", "-1", "1e3", "1.", ".5", "+1", "1_0", "99999999999999999999", "NaN"] {
            assert_eq!(decimal_seconds(text), None, "{text}");
        }
    }
}
