//! Arguments with places for values: `{payload}`, `{payload.a.b}`, `{run.id}`, `{run.attempt}`.
//!
//! Each argument stays one element of argv whatever the value holds, so that nothing in a payload can become
//! another argument or a command. A value is put in once and not read again for places. Any other brace is text.

use crate::executor::Assignment;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The kernel takes no longer element of argv, its final NUL included.
const LONGEST_ARGUMENT: usize = 128 << 10;

/// Why an argument is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    #[error("a name between its dots is empty")]
    EmptyName,
    #[error("of a run there are only {{run.id}} and {{run.attempt}}")]
    NoSuchField,
    #[error("it holds a NUL character")]
    Nul,
}

/// Why a payload does not fit the arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPayload {
    #[error("{place} is missing")]
    Missing { place: String },
    #[error("{place} is {found}, not text, a number, true or false")]
    NotScalar { place: String, found: &'static str },
    #[error("{place} holds a NUL character, which no argument can")]
    Nul { place: String },
    #[error("an argument becomes {bytes} bytes long; the system takes less than {LONGEST_ARGUMENT}")]
    TooLong { bytes: usize },
    #[error("the payload is not JSON")]
    NotJson,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Names from the outside in; none of them for the payload as a whole.
    Payload(Vec<String>),
    RunId,
    Attempt,
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl Template {
    pub fn parse(argument: &str) -> Result<Template, BadTemplate> {
        if argument.contains('\0') {
            return Err(BadTemplate::Nul);
        }
        let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), argument);
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let place = after.split_once('}').map(|(inner, after)| Ok((place(inner)?, after))).transpose()?;
            let Some((Some(part), after)) = place else {
                text.push('{');
                rest = after;
                continue;
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(part);
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Template(parts))
    }

    /// The argument for one run.
    pub fn render(&self, assignment: &Assignment) -> Result<String, BadPayload> {
        let mut argument = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => argument.push_str(text),
                Part::RunId => argument.push_str(assignment.run.as_str()),
                Part::Attempt => argument.push_str(&assignment.attempt.to_string()),
                Part::Payload(path) => argument.push_str(&value(&assignment.payload, path)?),
            }
        }
        if argument.len() >= LONGEST_ARGUMENT {
            return Err(BadPayload::TooLong { bytes: argument.len() });
        }
        Ok(argument)
    }
}

/// What stands between two braces; `None` when it means nothing to us.
fn place(inner: &str) -> Result<Option<Part>, BadTemplate> {
    let (root, path) = match inner.split_once('.') {
        Some((root, path)) => (root, Some(path)),
        None => (inner, None),
    };
    match (root, path) {
        ("payload", None) => Ok(Some(Part::Payload(Vec::new()))),
        ("payload", Some(path)) => {
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            if names.iter().any(String::is_empty) {
                return Err(BadTemplate::EmptyName);
            }
            Ok(Some(Part::Payload(names)))
        }
        ("run", Some("id")) => Ok(Some(Part::RunId)),
        ("run", Some("attempt")) => Ok(Some(Part::Attempt)),
        ("run", Some(_)) => Err(BadTemplate::NoSuchField),
        _ => Ok(None),
    }
}

/// The scalar at a path. Numbers keep the digits that the caller wrote.
fn value(payload: &str, path: &[String]) -> Result<String, BadPayload> {
    let place = || match path {
        [] => "the payload".to_owned(),
        names => format!("`{}` of the payload", names.join(".")),
    };
    let mut at: &RawValue = serde_json::from_str(payload).map_err(|_| BadPayload::NotJson)?;
    for name in path {
        let inside: BTreeMap<String, &RawValue> =
            serde_json::from_str(at.get()).map_err(|_| BadPayload::Missing { place: place() })?;
        at = inside.get(name).copied().ok_or_else(|| BadPayload::Missing { place: place() })?;
    }
    let found = match at.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'n') => "null",
        Some(b'"') => {
            let text: String = serde_json::from_str(at.get()).map_err(|_| BadPayload::NotJson)?;
            return if text.contains('\0') { Err(BadPayload::Nul { place: place() }) } else { Ok(text) };
        }
        _ => return Ok(at.get().to_owned()),
    };
    Err(BadPayload::NotScalar { place: place(), found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::{Epoch, RunId};

    fn rendered(argument: &str, payload: &str) -> Result<String, BadPayload> {
        let assignment = Assignment {
            run: RunId::from_text("run_1"),
            env: "default/dev".to_owned(),
            task: "t".to_owned(),
            attempt: 3,
            epoch: Epoch::from_number(1),
            payload: payload.to_owned(),
            session: None,
            trace: None,
            max_duration: None,
            start_by: std::time::Duration::MAX,
        };
        Template::parse(argument).expect("a template").render(&assignment)
    }

    #[test]
    fn values_take_their_places() {
        for (argument, payload, expected) in [
            ("plain", "null", "plain"),
            ("", "null", ""),
            ("{payload}", r#""text""#, "text"),
            ("{payload}", " 7 ", "7"),
            ("{payload.a}", r#"{"a":"x"}"#, "x"),
            ("{payload.a.b}", r#"{"a":{"b":true}}"#, "true"),
            ("--in={payload.a},{payload.b}", r#"{"a":1,"b":"two"}"#, "--in=1,two"),
            ("{payload.n}", r#"{"n":12345678901234567890123.50}"#, "12345678901234567890123.50"),
            ("{payload.a}", r#"{"a":""}"#, ""),
            ("{payload.\u{e9}}", r#"{"\u00e9":"\ud83d\ude00"}"#, "\u{1f600}"),
            ("{run.id}.{run.attempt}", "null", "run_1.3"),
        ] {
            assert_eq!(rendered(argument, payload).as_deref(), Ok(expected), "{argument} {payload}");
        }
    }

    #[test]
    fn a_value_is_never_read_for_places_again() {
        assert_eq!(rendered("{payload.a}", r#"{"a":"{run.id}"}"#).as_deref(), Ok("{run.id}"));
        assert_eq!(rendered("{{payload.a}}", r#"{"a":"payload.b"}"#).as_deref(), Ok("{payload.b}"));
    }

    #[test]
    fn other_braces_are_text() {
        for text in ["{", "}", "{}", "{print $1}", r#"{"a":1}"#, "{payloads}", "{ payload }", "{payload", "${HOME}"] {
            assert_eq!(rendered(text, "null").as_deref(), Ok(text));
        }
    }

    #[test]
    fn templates_that_mean_nothing_are_refused() {
        for (argument, why) in [
            ("{payload.}", BadTemplate::EmptyName),
            ("{payload.a..b}", BadTemplate::EmptyName),
            ("{run.epoch}", BadTemplate::NoSuchField),
            ("a\0b", BadTemplate::Nul),
        ] {
            assert_eq!(Template::parse(argument), Err(why), "{argument}");
        }
    }

    #[test]
    fn values_that_are_missing_or_not_scalar_are_refused() {
        for (argument, payload, words) in [
            ("{payload.a}", "{}", "`a` of the payload is missing"),
            ("{payload.a.b}", r#"{"a":7}"#, "`a.b` of the payload is missing"),
            ("{payload.0}", "[1]", "`0` of the payload is missing"),
            ("{payload.a}", r#"{"a":{}}"#, "`a` of the payload is an object"),
            ("{payload.a}", r#"{"a":[1]}"#, "`a` of the payload is a list"),
            ("{payload.a}", r#"{"a":null}"#, "`a` of the payload is null"),
            ("{payload}", "{}", "the payload is an object"),
            ("{payload.a}", r#"{"a":"x\u0000y"}"#, "`a` of the payload holds a NUL"),
            ("{payload.a}", "no json", "the payload is not JSON"),
        ] {
            let error = rendered(argument, payload).expect_err(argument).to_string();
            assert!(error.contains(words), "{argument} {payload}: {error}");
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(LONGEST_ARGUMENT));
        assert_eq!(rendered("{payload.a}", &long), Err(BadPayload::TooLong { bytes: LONGEST_ARGUMENT }));
    }
}
