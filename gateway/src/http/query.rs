//! Strict reading of what stands in a URL: the query string, the path, and ids in it.
//!
//! A key that is there twice, an unknown key or a bad escape is an error, never a guess. Paths are looked at
//! before routing, as the router decodes and repairs them silently.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use storage::model::Timestamp;

use super::fields::{self, Charset, Faults};
use super::problem::{Code, Problem};

/// Bytes of a query string.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a path; far beyond what any route has.
pub const PATH_BYTES_MAX: usize = 16 * 1024;
/// Parameters in a query string.
const PARAMETERS_MAX: usize = 100;
/// The characters of an id after its prefix.
const ID_CHARS: usize = 26;

/// The parameters of one query string. As with `Fields`, values count once `finish` has said `Ok`.
#[derive(Debug)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    faults: Faults,
}

impl<'a> Query<'a> {
    pub fn parse(raw: &'a str) -> Result<Query<'a>, Problem> {
        if raw.len() > QUERY_BYTES_MAX {
            let detail = format!("the query string has {} bytes; {QUERY_BYTES_MAX} are allowed", raw.len());
            return Err(Problem::new(Code::UriTooLong, detail));
        }
        let mut pairs: Vec<(Cow<str>, Cow<str>)> = Vec::new();
        for part in raw.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(key), Some(value)) = (decoded(key), decoded(value)) else {
                let detail = format!("the part {} has a bad escape, NUL, or is not UTF-8", fields::shown(part));
                return Err(Problem::new(Code::MalformedQuery, detail));
            };
            if pairs.iter().any(|(seen, _)| *seen == key) {
                let detail = format!("{} is there twice", fields::shown(&key));
                return Err(Problem::new(Code::MalformedQuery, detail));
            }
            if pairs.len() == PARAMETERS_MAX {
                return Err(Problem::new(Code::MalformedQuery, format!("more than {PARAMETERS_MAX} parameters")));
            }
            pairs.push((key, value));
        }
        Ok(Query { pairs, faults: Faults::default() })
    }

    pub fn text(&mut self, name: &'static str, chars: RangeInclusive<usize>, charset: Charset) -> Option<String> {
        let text = self.look(name)?;
        match fields::check(&text, &chars, charset) {
            Ok(()) => Some(text.into_owned()),
            Err((code, detail)) => self.refuse(name, code, detail),
        }
    }

    pub fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let text = self.look(name)?;
        let digits = text.strip_prefix('-').unwrap_or(&text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.refuse(name, "type", format!("must be a whole number, not {}", fields::shown(&text)));
        }
        match text.parse().ok().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.refuse(name, "range", format!("must be between {} and {}", range.start(), range.end())),
        }
    }

    /// How many items a page may have.
    pub fn limit(&mut self, default: u16, max: u16) -> u16 {
        let limit = self.integer("limit", 1..=i64::from(max));
        limit.and_then(|limit| u16::try_from(limit).ok()).unwrap_or(default)
    }

    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        match self.look(name)?.as_ref() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            text => self.refuse(name, "type", format!("must be true or false, not {}", fields::shown(text))),
        }
    }

    /// One of a few words.
    pub fn one_of(&mut self, name: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.look(name)?;
        match words.iter().find(|word| **word == text) {
            Some(word) => Some(word),
            None => self.refuse(name, "choice", fields::not_a_choice(&text, words)),
        }
    }

    /// Some of a few words, with commas between them.
    pub fn any_of(&mut self, name: &'static str, words: &[&'static str]) -> Option<Vec<&'static str>> {
        let text = self.look(name)?;
        let mut chosen = Vec::new();
        for part in text.split(',') {
            match words.iter().find(|word| **word == part) {
                None => return self.refuse(name, "choice", fields::not_a_choice(part, words)),
                Some(word) if chosen.contains(word) => {}
                Some(word) => chosen.push(*word),
            }
        }
        Some(chosen)
    }

    pub fn timestamp(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.look(name)?;
        match fields::rfc3339(&text) {
            Some(at) => Some(at),
            None => self.refuse(name, "format", fields::TIMESTAMP_FORM),
        }
    }

    /// A span as plain seconds or as an ISO 8601 duration.
    pub fn seconds(&mut self, name: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.look(name)?;
        match fields::decimal_seconds(&text).or_else(|| fields::iso_duration(&text)) {
            Some(span) if range.contains(&span) => Some(span),
            Some(_) => {
                let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                self.refuse(name, "range", format!("must be between {least} and {most} seconds"))
            }
            None => self.refuse(name, "format", "must be plain seconds, or a duration such as \"PT90M\""),
        }
    }

    /// Adds an error that only the caller can know of.
    pub fn refuse_parameter(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) {
        self.refuse::<()>(name, code, detail);
    }

    /// Every parameter that was not asked for before this is an error.
    pub fn reject_unknown(&mut self) {
        for (name, _) in &self.pairs {
            if !self.faults.knows(name) {
                self.faults.unknown(format!("?{}", fields::cut(name)), name);
            }
        }
    }

    pub fn finish(self) -> Result<(), Problem> {
        self.faults.finish()
    }

    fn look(&mut self, name: &'static str) -> Option<Cow<'a, str>> {
        self.faults.asks(name);
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn refuse<T>(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) -> Option<T> {
        self.faults.add(format!("?{name}"), code, detail);
        None
    }
}

/// Refuses a path that the router would read otherwise than it is written.
pub fn check_path(raw: &str) -> Result<(), Problem> {
    if raw.len() > PATH_BYTES_MAX {
        let detail = format!("the path has {} bytes; {PATH_BYTES_MAX} are allowed", raw.len());
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    let refused = |detail: &'static str| Err(Problem::new(Code::MalformedPath, detail));
    if raw.split('/').any(|segment| matches!(segment, "." | "..")) {
        return refused("the path goes up or stays in place");
    }
    if !raw.contains('%') {
        return Ok(());
    }
    let Some(bytes) = unescaped(raw.as_bytes(), Plus::Itself) else {
        return refused("the path has a bad escape");
    };
    if std::str::from_utf8(&bytes).is_err() {
        return refused("the path is not UTF-8");
    }
    let escaped = raw.split('%').skip(1).filter_map(|part| hex_pair(part.as_bytes().get(..2)?));
    for byte in escaped {
        if byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b'.') {
            return refused("the path has an escaped control character, dot or slash");
        }
    }
    Ok(())
}

/// An id out of a path. What has the form of an id but cannot be one of `prefix` names nothing; what has no
/// such form is an error.
pub fn path_id<'t>(prefix: &'static str, text: &'t str) -> Result<&'t str, Problem> {
    let known = text.split_once('_').filter(|(kind, rest)| {
        let kind_like = !kind.is_empty() && kind.len() <= 8 && kind.bytes().all(|byte| byte.is_ascii_alphabetic());
        kind_like && rest.len() == ID_CHARS && rest.bytes().all(|byte| is_crockford(byte.to_ascii_lowercase()))
    });
    match known {
        None => {
            let detail = format!("{} is not an id; it must be `{prefix}` and 26 characters", fields::shown(text));
            Err(Problem::new(Code::MalformedPath, detail))
        }
        Some((kind, rest)) => {
            let ours = prefix.strip_suffix('_') == Some(kind) && !rest.bytes().any(|byte| byte.is_ascii_uppercase());
            if ours { Ok(text) } else { Err(Problem::not_found("object")) }
        }
    }
}

/// A part of a query string as it is meant; `None` if it has a bad escape, NUL, or is not UTF-8.
fn decoded(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains(['%', '+']) {
        return Some(Cow::Borrowed(part));
    }
    let bytes = unescaped(part.as_bytes(), Plus::Space)?;
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(Cow::Owned(text))
}

/// What a `+` stands for, which differs between paths and queries.
#[derive(Clone, Copy)]
enum Plus {
    Itself,
    Space,
}

fn unescaped(text: &[u8], plus: Plus) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, plus) {
            (b'%', _) => {
                bytes.push(hex_pair(text.get(at + 1..at + 3)?)?);
                at += 2;
            }
            (b'+', Plus::Space) => bytes.push(b' '),
            _ => bytes.push(*byte),
        }
        at += 1;
    }
    Some(bytes)
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let [high, low] = pair else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Lower-case letters and digits without those that are easily confused.
pub(in crate::http) fn is_crockford(byte: u8) -> bool {
    byte.is_ascii_digit() || (byte.is_ascii_lowercase() && !matches!(byte, b'i' | b'l' | b'o' | b'u'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_string_is_read_exactly() {
        let raw = "status=queued,running&limit=20&tag=a+b%2Bc%20%C3%A9&since=2030-01-31T12:00:00Z&x=&wait=1.5&on=1";
        let mut query = Query::parse(raw).expect("a query");
        assert_eq!(query.any_of("status", &["queued", "running", "failed"]), Some(vec!["queued", "running"]));
        assert_eq!(query.limit(50, 200), 20);
        assert_eq!(query.text("tag", 1..=9, Charset::Line).as_deref(), Some("a b+c é"));
        assert!(query.timestamp("since").is_some());
        assert_eq!(query.text("x", 0..=9, Charset::Line).as_deref(), Some(""));
        assert_eq!(query.seconds("wait", Duration::ZERO..=Duration::MAX), Some(Duration::from_millis(1_500)));
        assert_eq!((query.boolean("on"), query.boolean("off")), (Some(true), None));
        query.reject_unknown();
        assert!(query.finish().is_ok());
    }

    #[test]
    fn a_query_string_that_can_be_read_in_two_ways_is_refused() {
        let long = format!("a={}", "x".repeat(QUERY_BYTES_MAX - 2));
        let longer = format!("{long}x");
        let many: Vec<String> = (0..=PARAMETERS_MAX).map(|index| format!("k{index}=")).collect();
        for (row, raw, code) in [
            (119, "a=1&a=1", Some(Code::MalformedQuery)),
            (119, "a=1&%61=2", Some(Code::MalformedQuery)),
            (112, "a=%zz", Some(Code::MalformedQuery)),
            (112, "a=%", Some(Code::MalformedQuery)),
            (112, "a=%4", Some(Code::MalformedQuery)),
            (112, "a=%+4", Some(Code::MalformedQuery)),
            (113, "a=%ff%fe", Some(Code::MalformedQuery)),
            (110, "a=%00", Some(Code::MalformedQuery)),
            (110, "%00=a", Some(Code::MalformedQuery)),
            (80, &long, None),
            (80, &longer, Some(Code::UriTooLong)),
            (0, &many.join("&"), Some(Code::MalformedQuery)),
            (0, "", None),
            (0, "a&b=&&", None),
        ] {
            assert_eq!(Query::parse(raw).err().map(|problem| problem.code), code, "row {row}: {raw:.40}");
        }
    }

    #[test]
    fn every_kind_of_parameter_refuses_what_it_is_not() {
        type Read = fn(&mut Query) -> bool;
        let limit: Read = |query| query.limit(50, 200) > 0;
        let at: Read = |query| query.timestamp("at").is_some();
        let status: Read = |query| query.any_of("status", &["queued", "running"]).is_some();
        let rows: [(u32, &str, Read, &[&str]); 14] = [
            (77, "limit=0", limit, &["?limit range"]),
            (77, "limit=-1", limit, &["?limit range"]),
            (77, "limit=201", limit, &["?limit range"]),
            (77, "limit=200", limit, &[]),
            (77, "limit=abc", limit, &["?limit type"]),
            (77, "limit=", limit, &["?limit type"]),
            (77, "limit=1.0", limit, &["?limit type"]),
            (77, "limit=%2B1", limit, &["?limit type"]),
            (77, "limit=99999999999999999999", limit, &["?limit range"]),
            (102, "at=2030-01-31T12:00:00", at, &["?at format"]),
            (123, "status=' OR 1=1--", status, &["?status choice"]),
            (56, "status=Queued", status, &["?status choice"]),
            (120, "status=queued&stat%0aus=1", status, &["?stat\nus unknown_field"]),
            (120, "colour=1", status, &["?colour unknown_field"]),
        ];
        for (row, raw, read, expected) in rows {
            let mut query = Query::parse(raw).expect("a query");
            read(&mut query);
            query.reject_unknown();
            let errors = query.finish().err().map(|problem| problem.errors).unwrap_or_default();
            let found: Vec<String> = errors.iter().map(|error| format!("{} {}", error.pointer, error.code)).collect();
            assert_eq!(found, expected, "row {row}: {raw}");
        }
    }

    #[test]
    fn a_path_is_taken_only_as_it_is_written() {
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        for (row, path, code) in [
            (0, "/api/v1/runs/run_1", None),
            (0, "/api/v1/queues/caf%C3%A9", None),
            (0, "/a//b/", None),
            (110, "/runs/a%00b", Some(Code::MalformedPath)),
            (111, "/runs/%2e%2e%2fx", Some(Code::MalformedPath)),
            (111, "/runs/a%2Fb", Some(Code::MalformedPath)),
            (111, "/runs/%2E%2E", Some(Code::MalformedPath)),
            (111, "/runs/a%5cb", Some(Code::MalformedPath)),
            (111, "/runs/../nodes", Some(Code::MalformedPath)),
            (112, "/runs/%zz", Some(Code::MalformedPath)),
            (112, "/runs/%", Some(Code::MalformedPath)),
            (112, "/runs/%2", Some(Code::MalformedPath)),
            (113, "/runs/%ff%fe", Some(Code::MalformedPath)),
            (0, "/runs/%0d%0a", Some(Code::MalformedPath)),
            (26, &long, Some(Code::UriTooLong)),
        ] {
            assert_eq!(check_path(path).err().map(|problem| problem.code), code, "row {row}: {path:.40}");
        }
    }

    #[test]
    fn an_id_names_something_is_unknown_or_is_no_id() {
        let long = "x".repeat(10_240);
        for (row, id, code) in [
            (0, "run_01jd8v9k3z5m7q2w4x6y8a0b1c", None),
            (114, "run_01JD8V9K3Z5M7Q2W4X6Y8A0B1C", Some(Code::NotFound)),
            (114, "RUN_01jd8v9k3z5m7q2w4x6y8a0b1c", Some(Code::NotFound)),
            (116, "job_01jd8v9k3z5m7q2w4x6y8a0b1c", Some(Code::NotFound)),
            (109, "", Some(Code::MalformedPath)),
            (109, "x", Some(Code::MalformedPath)),
            (109, &long, Some(Code::MalformedPath)),
            (109, "run_01jd8v9k3z5m7q2w4x6y8a0b1", Some(Code::MalformedPath)),
            (109, "run_01jd8v9k3z5m7q2w4x6y8a0b1cc", Some(Code::MalformedPath)),
            (109, "run_01jd8v9k3z5m7q2w4x6y8a0b1l", Some(Code::MalformedPath)),
            (109, "run01jd8v9k3z5m7q2w4x6y8a0b1c0", Some(Code::MalformedPath)),
            (123, "' OR '1'='1", Some(Code::MalformedPath)),
            (124, "run_%", Some(Code::MalformedPath)),
        ] {
            assert_eq!(path_id("run_", id).err().map(|problem| problem.code), code, "row {row}: {id:.40}");
        }
    }
}
