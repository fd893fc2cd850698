//! One look over a whole JSON text for what a parser lets through, and one that cuts its top level apart.
//!
//! Refused at any depth: a key that is there twice, since readers differ in which one counts; the character
//! NUL, which PostgreSQL cannot hold; nesting and objects that only an attack has. What is accepted stays
//! byte for byte what it was.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::text;
use crate::http::problem::{Code, FieldError, Problem};

/// Keys in one object.
pub const KEYS_MAX: usize = 10_000;
/// Up to here a list is searched faster than a set.
const FEW_KEYS: usize = 16;

/// A field as it stands in the body: its name, and the text of its value.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub name: Cow<'a, str>,
    pub value: &'a RawValue,
}

/// The fields of the object that `body` is, in their order.
pub(super) fn members(body: &[u8]) -> Result<Vec<Member<'_>>, Problem> {
    let text = as_text(body)?;
    match text.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first() {
        None => return Err(refused("the body is empty; it must be a JSON object")),
        Some(b'{') => {}
        Some(b'[') => return Err(refused("the body must be a JSON object, not an array")),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            return Err(refused("the body must be a JSON object, not a single value"));
        }
        Some(_) => return Err(refused("the body is not JSON")),
    }
    let mut scan = Scan::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let end = Any(&mut scan).deserialize(&mut json).and_then(|()| json.end().inspect_err(|_| scan.ended = true));
    if let Err(error) = end {
        return Err(scan.refusal(text, &error));
    }
    object(text).ok_or_else(|| refused("the body must be a JSON object"))
}

/// The fields of an object inside a body that was looked over already; `None` if it is no object.
pub(super) fn object(text: &str) -> Option<Vec<Member<'_>>> {
    serde_json::Deserializer::from_str(text).deserialize_map(Members).ok()
}

fn refused(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::MalformedJson, detail)
}

fn as_text(body: &[u8]) -> Result<&str, Problem> {
    match body {
        [0xef, 0xbb, 0xbf, ..] => return Err(refused("the body begins with a byte order mark")),
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, _, ..] | [_, 0, ..] => {
            return Err(refused("the body is not UTF-8; it looks like UTF-16 or UTF-32"));
        }
        _ => {}
    }
    std::str::from_utf8(body).map_err(|error| {
        let (line, column) = place(&body[..error.valid_up_to()]);
        refused(format!("line {line}, column {column}: the body is not UTF-8"))
    })
}

/// Line and column of what follows `before`, both from 1; columns count bytes.
fn place(before: &[u8]) -> (usize, usize) {
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    DoubledKey,
    TooManyKeys,
    Nul,
}

#[derive(Default)]
struct Scan {
    fault: Option<Fault>,
    /// Where the error is, from the inside out; filled on the way back from it.
    trail: Vec<String>,
    /// The object itself is over, so that the error is about what follows it.
    ended: bool,
}

impl Scan {
    fn fail<E: serde::de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn text<E: serde::de::Error>(&mut self, text: &str) -> Result<(), E> {
        if text.as_bytes().contains(&0) { Err(self.fail(Fault::Nul)) } else { Ok(()) }
    }

    fn refusal(mut self, text: &str, error: &serde_json::Error) -> Problem {
        self.trail.reverse();
        let pointer = self.trail.concat();
        let (code, what) = match self.fault {
            Some(Fault::DoubledKey) => ("duplicate_key", "a key is there twice"),
            Some(Fault::TooManyKeys) => ("too_many_keys", "an object has more than 10,000 keys"),
            Some(Fault::Nul) => ("nul_character", "a text has the character NUL"),
            None if self.ended => ("trailing_text", "the body goes on after its JSON object"),
            // The parser has no other way to tell this one.
            None if error.to_string().starts_with("recursion limit") => ("too_deep", "it is nested too deeply"),
            None if error.classify() == Category::Eof => ("cut_short", "the body ends in the middle of its JSON"),
            None => ("syntax", "the JSON cannot be read from here on"),
        };
        let line = error.line().max(1);
        let column = error.column().clamp(1, text.len().max(1));
        let detail = format!("line {line}, column {column}: {what}");
        let at_root = pointer.is_empty() && self.fault.is_none();
        let errors = (!at_root).then(|| FieldError { pointer, code, detail: what.to_owned() });
        refused(detail).with_errors(errors.into_iter().collect())
    }
}

/// Any value; looked at, never built.
struct Any<'s>(&'s mut Scan);

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let scan = self.0;
        for index in 0_usize.. {
            match items.next_element_seed(Any(scan)) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    scan.trail.push(format!("/{index}"));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let scan = self.0;
        let mut seen = Seen::default();
        while let Some(key) = map.next_key_seed(Key(scan))? {
            if let Err(error) = map.next_value_seed(Any(scan)) {
                scan.trail.push(text::pointer(&key));
                return Err(error);
            }
            if seen.len() == KEYS_MAX {
                return Err(scan.fail(Fault::TooManyKeys));
            }
            if let Some(key) = seen.doubled(key) {
                scan.trail.push(text::pointer(&key));
                return Err(scan.fail(Fault::DoubledKey));
            }
        }
        Ok(())
    }
}

/// The keys of one object so far. The set's hashes are seeded, so that no client can make them collide.
#[derive(Default)]
struct Seen<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Seen<'de> {
    fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    /// Gives the key back if it was there already.
    fn doubled(&mut self, key: Cow<'de, str>) -> Option<Cow<'de, str>> {
        if self.few.contains(&key) || self.many.contains(&key) {
            return Some(key);
        }
        if self.few.len() < FEW_KEYS {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        None
    }
}

struct Key<'s>(&'s mut Scan);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        self.0.text(key)?;
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Cow<'de, str>, E> {
        self.0.text(key)?;
        Ok(Cow::Owned(key.to_owned()))
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Member<'de>>, A::Error> {
        let mut members = Vec::with_capacity(FEW_KEYS);
        while let Some(name) = map.next_key_seed(Key(&mut Scan::default()))? {
            if members.len() == KEYS_MAX {
                return Err(A::Error::custom("refused"));
            }
            members.push(Member { name, value: map.next_value()? });
        }
        Ok(members)
    }
}
