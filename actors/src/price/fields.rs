//! Picks a few top-level values out of a JSON object without building the rest.
//!
//! Nothing here recurses into a value, so a nesting bomb costs time in proportion to its length and no stack.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The raw values under `names`, in that order; `None` for an absent key and for `null`. Of a doubled key the
/// last one counts, as it does for most readers.
pub(crate) fn pick<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    let picked = Pick { names }.deserialize(&mut json)?;
    json.end()?;
    Ok(picked)
}

/// Like [`pick`] for a value that may be anything: what is no object has no fields.
pub(crate) fn pick_lenient<'a, const N: usize>(
    raw: Option<&'a RawValue>,
    names: [&str; N],
) -> [Option<&'a RawValue>; N] {
    raw.and_then(|raw| pick(raw.get(), names).ok()).unwrap_or([None; N])
}

/// The text of a JSON string, borrowed where it has no escapes; `None` for anything else.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).ok().map(Cow::Owned)
}

/// A count; `None` for anything but an unsigned integer.
pub(crate) fn count(raw: &RawValue) -> Option<u64> {
    raw.get().parse().ok()
}

struct Pick<'n, const N: usize> {
    names: [&'n str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = [None; N];
        while let Some(position) = map.next_key_seed(Position(&self.names))? {
            match position {
                Some(at) => {
                    let raw: &'de RawValue = map.next_value()?;
                    picked[at] = Some(raw).filter(|raw| raw.get() != "null");
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(picked)
    }
}

/// Reads a key as bytes, since a key that is not wanted may hold a lone surrogate, which is no `str`.
struct Position<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let [found] = pick(text, [name]).unwrap_or([None]);
        found.map(RawValue::get)
    }

    #[test]
    fn values_come_back_byte_for_byte() {
        let line = r#" {"a" : {"x": [1 , 2]} ,"b":"\u00e9\/","c":1e999,"d":null} "#;
        assert_eq!(raw(line, "a"), Some(r#"{"x": [1 , 2]}"#));
        assert_eq!(raw(line, "b"), Some(r#""\u00e9\/""#));
        assert_eq!(raw(line, "c"), Some("1e999"));
        assert_eq!(raw(line, "d"), None);
        assert_eq!(raw(line, "e"), None);
    }

    #[test]
    fn keys_are_compared_after_unescaping_and_the_last_one_counts() {
        assert_eq!(raw(r#"{"\u0061":1,"a":2}"#, "a"), Some("2"));
        assert_eq!(raw(r#"{"\ud800":0,"a":1}"#, "a"), Some("1"));
    }

    #[test]
    fn what_is_no_single_object_is_an_error() {
        for text in ["", "null", "[]", r#"["a",1]"#, "{}{}", r#"{"a":1"#, r#"{"a":1,}"#, "{'a':1}", r#"{"a":NaN}"#] {
            assert!(pick(text, ["a"]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_nesting_bomb_is_only_long() {
        let bomb = format!(r#"{{"x":{}{},"a":7}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(raw(&bomb, "a"), Some("7"));
    }
}
