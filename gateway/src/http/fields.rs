//! Strict reading of a JSON object that a client sent: every field asked for by name, all errors at once.
//!
//! The whole text is looked over first (`scan`). Values stay the text that they were, so that a payload keeps
//! its thirty-digit numbers and the order of its keys. Nothing that is said about an error comes from a parser.

mod faults;
mod scan;
mod text;
mod time;

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::value::RawValue;
use storage::model::Timestamp;

pub(in crate::http) use faults::Faults;
pub(in crate::http) use text::{check, cut, shown};
pub(in crate::http) use time::{decimal_seconds, iso_duration, rfc3339};

pub use scan::KEYS_MAX;
pub use text::Charset;
pub use time::day_or_time;

use super::problem::Problem;
use scan::Member;

/// The fields of one JSON object. What a method gives counts only once `finish` has said `Ok`: until then a
/// value that is wrong reads like one that is absent.
#[derive(Debug)]
pub struct Fields<'a> {
    members: Vec<Member<'a>>,
    /// Where this object stands in the body, as a JSON pointer.
    at: String,
    faults: Faults,
}

impl<'a> Fields<'a> {
    /// Reads a body, which must be one JSON object and nothing else.
    pub fn parse(body: &'a [u8]) -> Result<Fields<'a>, Problem> {
        Ok(Fields { members: scan::members(body)?, at: String::new(), faults: Faults::default() })
    }

    /// The same for an endpoint whose body may be left away.
    pub fn parse_or_empty(body: &'a [u8]) -> Result<Fields<'a>, Problem> {
        if body.is_empty() {
            return Ok(Fields { members: Vec::new(), at: String::new(), faults: Faults::default() });
        }
        Fields::parse(body)
    }

    /// Whether the field is there at all, be it `null`.
    pub fn has(&mut self, name: &'static str) -> bool {
        self.look(name).is_some()
    }

    /// Whether the field is there and `null`, which some requests use to clear a value.
    pub fn is_null(&mut self, name: &'static str) -> bool {
        self.look(name).is_some_and(|raw| raw.get() == "null")
    }

    /// Makes a field required that is read with a method that allows it to be absent.
    pub fn require(&mut self, name: &'static str) {
        if self.value(name).is_none() {
            self.missing(name);
        }
    }

    /// A text that must be there; empty if it is wrong.
    pub fn text(&mut self, name: &'static str, chars: RangeInclusive<usize>, charset: Charset) -> String {
        if self.value(name).is_none() {
            self.missing(name);
            return String::new();
        }
        self.optional_text(name, chars, charset).unwrap_or_default()
    }

    pub fn optional_text(
        &mut self,
        name: &'static str,
        chars: RangeInclusive<usize>,
        charset: Charset,
    ) -> Option<String> {
        let text = self.string(name, "a string")?;
        match text::check(&text, &chars, charset) {
            Ok(()) => Some(text),
            Err((code, detail)) => self.refuse(name, code, detail),
        }
    }

    /// A whole number, written as one: `1.0`, `1e0` and `"1"` are refused.
    pub fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let raw = self.value(name)?;
        let text = raw.get();
        if !is_number(text) {
            return self.refuse_type(name, "a whole number", raw);
        }
        if text.contains(['.', 'e', 'E']) {
            return self.refuse(name, "type", "must be a whole number, without a fraction or an exponent");
        }
        match text.parse().ok().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.refuse(name, "range", format!("must be between {} and {}", range.start(), range.end())),
        }
    }

    /// A span as a number of seconds or as an ISO 8601 duration such as `"PT90M"`.
    pub fn seconds(&mut self, name: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let raw = self.value(name)?;
        let span = match raw.get() {
            text if text.starts_with('-') => None,
            text if is_number(text) => time::decimal_seconds(text),
            text if text.starts_with('"') => time::iso_duration(text.trim_matches('"')),
            _ => return self.refuse_type(name, "a number of seconds or an ISO 8601 duration", raw),
        };
        let negative = raw.get().starts_with('-');
        match span {
            Some(span) if range.contains(&span) => Some(span),
            None if !negative => {
                self.refuse(name, "format", "must be plain seconds, or a duration such as \"PT90M\" or \"P1DT12H\"")
            }
            _ => {
                let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
                self.refuse(name, "range", format!("must be between {least} and {most} seconds"))
            }
        }
    }

    /// A point in time: RFC 3339 with an offset.
    pub fn timestamp(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.string(name, "a string with a date and time")?;
        match time::rfc3339(&text) {
            Some(at) => Some(at),
            None => self.refuse(name, "format", TIMESTAMP_FORM),
        }
    }

    /// A date, which is its first instant in UTC, or a date with a time.
    pub fn day_or_time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.string(name, "a string with a date")?;
        match time::day_or_time(&text) {
            Some(at) => Some(at),
            None => {
                self.refuse(name, "format", "must be a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z")
            }
        }
    }

    /// A list of short texts without doubles, in the order given; `None` if it is absent.
    pub fn tags(&mut self, name: &'static str, count_max: usize, chars_max: usize) -> Option<Vec<String>> {
        let raw = self.value(name)?;
        let Some(items) = list(raw) else { return self.refuse_type(name, "a list of strings", raw) };
        if items.len() > count_max {
            return self.refuse(name, "too_many", format!("may have {count_max} items at most, not {}", items.len()));
        }
        let mut tags: Vec<String> = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let refusal = match unquoted(item) {
                None => ("type", format!("must be a string, not {}", kind(item))),
                Some(tag) => match text::check(&tag, &(1..=chars_max), Charset::Line) {
                    Err(refusal) => refusal,
                    Ok(()) if tags.contains(&tag) => continue,
                    Ok(()) => {
                        tags.push(tag);
                        continue;
                    }
                },
            };
            self.faults.add(format!("{}/{name}/{index}", self.at), refusal.0, refusal.1);
        }
        Some(tags)
    }

    /// An object, as the text that it is.
    pub fn object(&mut self, name: &'static str, bytes_max: usize) -> Option<&'a RawValue> {
        let raw = self.value(name)?;
        if !raw.get().starts_with('{') {
            return self.refuse_type(name, "an object", raw);
        }
        self.raw(name, bytes_max)
    }

    /// Any value, as the text that it is; `null` is a value here.
    pub fn raw(&mut self, name: &'static str, bytes_max: usize) -> Option<&'a RawValue> {
        let raw = self.look(name)?;
        let bytes = raw.get().len();
        if bytes > bytes_max {
            return self.refuse(name, "too_large", format!("may have {bytes_max} bytes at most, not {bytes}"));
        }
        Some(raw)
    }

    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let raw = self.value(name)?;
        match raw.get() {
            "true" => Some(true),
            "false" => Some(false),
            _ => self.refuse_type(name, "true or false", raw),
        }
    }

    /// One of a few words, compared byte by byte.
    pub fn one_of(&mut self, name: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.string(name, "a string")?;
        match words.iter().find(|word| **word == text) {
            Some(word) => Some(word),
            None => self.refuse(name, "choice", not_a_choice(&text, words)),
        }
    }

    /// An object inside this one, read the same way; give it back with `absorb`.
    pub fn section(&mut self, name: &'static str) -> Option<Fields<'a>> {
        let raw = self.value(name)?;
        let Some(members) = scan::object(raw.get()) else { return self.refuse_type(name, "an object", raw) };
        Some(Fields { members, at: format!("{}/{name}", self.at), faults: Faults::default() })
    }

    /// Takes over what is wrong with a section, and that nothing unknown is in it.
    pub fn absorb(&mut self, mut section: Fields<'a>) {
        section.reject_unknown();
        self.faults.absorb(section.faults);
    }

    /// The objects of a list, each to be read and finished by itself. An item that is no object reads as an
    /// object without fields that is already wrong.
    pub fn items(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
    ) -> impl Iterator<Item = Fields<'a>> + use<'a> {
        let list = format!("{}/{name}", self.at);
        self.listed(name, count).into_iter().enumerate().map(move |(index, raw)| {
            let (at, mut faults) = (format!("{list}/{index}"), Faults::default());
            let members = scan::object(raw.get()).unwrap_or_else(|| {
                faults.add(at.clone(), "type", format!("must be an object, not {}", kind(raw)));
                Vec::new()
            });
            Fields { members, at, faults }
        })
    }

    fn listed(&mut self, name: &'static str, count: RangeInclusive<usize>) -> Vec<&'a RawValue> {
        let Some(raw) = self.value(name) else {
            self.missing(name);
            return Vec::new();
        };
        let Some(items) = list(raw) else {
            self.refuse_type::<()>(name, "a list of objects", raw);
            return Vec::new();
        };
        if items.len() > *count.end() {
            let detail = format!("may have {} items at most, not {}", count.end(), items.len());
            self.refuse::<()>(name, "too_many_items", detail);
            return Vec::new();
        }
        if items.len() < *count.start() {
            let items = if *count.start() == 1 { "item" } else { "items" };
            self.refuse::<()>(name, "too_few", format!("must have {} {items} at least", count.start()));
            return Vec::new();
        }
        items
    }

    /// Adds an error that only the caller can know of, such as two fields that exclude each other.
    pub fn refuse_field(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) {
        self.refuse::<()>(name, code, detail);
    }

    /// Every field that was not asked for before this is an error.
    pub fn reject_unknown(&mut self) {
        for member in &self.members {
            if !self.faults.knows(&member.name) {
                let pointer = format!("{}{}", self.at, text::pointer(&member.name));
                self.faults.unknown(pointer, &member.name);
            }
        }
    }

    /// All that is wrong, or nothing.
    pub fn finish(self) -> Result<(), Problem> {
        self.faults.finish()
    }

    fn look(&mut self, name: &'static str) -> Option<&'a RawValue> {
        if !self.faults.knows(name) {
            self.faults.asks(name);
        }
        self.members.iter().find(|member| member.name == name).map(|member| member.value)
    }

    /// The field's value; `null` says the same as leaving it away.
    fn value(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.look(name).filter(|raw| raw.get() != "null")
    }

    fn string(&mut self, name: &'static str, wanted: &str) -> Option<String> {
        let raw = self.value(name)?;
        match unquoted(raw) {
            Some(text) => Some(text),
            None => self.refuse_type(name, wanted, raw),
        }
    }

    fn missing(&mut self, name: &'static str) {
        let detail = if self.is_null(name) { "must not be null" } else { "is required" };
        self.refuse::<()>(name, "required", detail);
    }

    fn refuse<T>(&mut self, name: &str, code: &'static str, detail: impl Into<String>) -> Option<T> {
        self.faults.add(format!("{}/{name}", self.at), code, detail);
        None
    }

    fn refuse_type<T>(&mut self, name: &str, wanted: &str, raw: &RawValue) -> Option<T> {
        self.refuse(name, "type", format!("must be {wanted}, not {}", kind(raw)))
    }
}

/// How a point in time must be written.
pub(in crate::http) const TIMESTAMP_FORM: &str =
    "must be a date and time with an offset, such as \"2030-01-31T12:00:00Z\"";

pub(in crate::http) fn not_a_choice(given: &str, words: &[&'static str]) -> String {
    let near = text::nearest(given, words.iter().copied());
    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    format!("must be one of {}, not {}{hint}", words.join(", "), shown(given))
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn unquoted(raw: &RawValue) -> Option<String> {
    let inside = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') { serde_json::from_str(raw.get()).ok() } else { Some(inside.to_owned()) }
}

fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    raw.get().starts_with('[').then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests;
