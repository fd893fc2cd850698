//! What an answer means for a run.

use crate::executor::{Outcome, Retry};
use crate::provider::date::http_date;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use storage::model::Timestamp;

/// Longest that a receiver can put us off.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// Longer bodies are not kept with the run.
const LARGEST_KEPT_BODY: usize = 16 << 10;

/// The part of an answer that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Kept<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

/// How the attempt ended. The head of a 2xx is enough: the receiver has the run, whatever becomes of the body.
pub(super) fn outcome(head: Head, body: Option<&[u8]>) -> Outcome {
    let status = head.status;
    let failed = |code, retry| Outcome::failed(code, format_args!("the receiver answered {status}"), retry);
    match status {
        200..=299 => Outcome::Succeeded { output: kept(status, body) },
        300..=399 => {
            let reason = format!("the receiver answered {status}; redirects are not followed");
            Outcome::failed("redirected", reason, Retry::No)
        }
        410 => failed("gone", Retry::No),
        429 | 503 => {
            let after = head.retry_after.map(|after| Retry::After(after.min(LONGEST_RETRY_AFTER)));
            failed("http_status", after.unwrap_or(Retry::WithBackoff))
        }
        408 | 409 | 425 | 500..=599 => failed("http_status", Retry::WithBackoff),
        _ => failed("http_status", Retry::No),
    }
}

/// The status, and the body if it is small and JSON.
fn kept(status: u16, body: Option<&[u8]>) -> Option<String> {
    let small = body.filter(|body| body.len() <= LARGEST_KEPT_BODY);
    let body = small.and_then(|body| serde_json::from_slice::<&RawValue>(body).ok());
    serde_json::to_string(&Kept { status, body }).ok()
}

/// The time from `now` to a date as HTTP writes it. One that has passed is now.
pub(super) fn until(date: &str, now: Timestamp) -> Option<Duration> {
    http_date(date).map(|date| date.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(status: u16, retry_after: Option<u64>) -> Option<Retry> {
        let head = Head { status, retry_after: retry_after.map(Duration::from_secs) };
        match outcome(head, None) {
            Outcome::Failed { reason, retry, .. } => {
                assert!(reason.contains(&status.to_string()), "{reason}");
                Some(retry)
            }
            Outcome::Succeeded { .. } => None,
            other => panic!("{status}: {other:?}"),
        }
    }

    #[test]
    fn every_status_has_its_outcome() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(retry(status, None), None, "{status}");
        }
        for status in [100, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 410, 413, 422, 451, 499, 600, 999] {
            assert_eq!(retry(status, Some(7)), Some(Retry::No), "{status}");
        }
        for status in [408, 409, 425, 429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(retry(status, None), Some(Retry::WithBackoff), "{status}");
        }
        for (status, after, expected) in [(429, 7, 7), (503, 0, 0), (503, 3_600, 3_600), (429, 86_400, 3_600)] {
            assert_eq!(retry(status, Some(after)), Some(Retry::After(Duration::from_secs(expected))), "{status}");
        }
        assert_eq!(retry(500, Some(7)), Some(Retry::WithBackoff));
    }

    #[test]
    fn a_small_json_body_is_kept_and_no_other() {
        let large = format!("\"{}\"", "x".repeat(LARGEST_KEPT_BODY));
        for (body, expected) in [
            (Some(r#" {"id": 12345678901234567890123} "#), r#"{"status":200,"body":{"id": 12345678901234567890123}}"#),
            (Some("null"), r#"{"status":200,"body":null}"#),
            (Some("ok"), r#"{"status":200}"#),
            (Some(""), r#"{"status":200}"#),
            (Some(r#"{"cut":"#), r#"{"status":200}"#),
            (Some(large.as_str()), r#"{"status":200}"#),
            (None, r#"{"status":200}"#),
        ] {
            assert_eq!(kept(200, body.map(str::as_bytes)).as_deref(), Some(expected));
        }
        assert_eq!(kept(200, Some(b"\"\xff\"")).as_deref(), Some(r#"{"status":200}"#));
    }

    #[test]
    fn dates_are_read_as_spans_from_now() {
        let now = Timestamp::from_millis(784_111_777_000);
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0)),
            ("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400 - 784_111_777)),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 25:49:37 GMT", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(until(date, now).map(|span| span.as_secs()), expected, "{date}");
        }
    }
}
