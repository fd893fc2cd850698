//! Objects of the API as they came: numbers and the order of keys stay what they were on the way to stdout.

use super::unexpected;
use crate::cli::Output;
use crate::exit::Failure;
use crate::http::query::Query;
use crate::output::{List, Record};
use crate::stdout::print;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::io::IsTerminal;
use storage::model::Timestamp;

/// One object: its text, and the same to look into.
#[derive(Debug, Clone)]
pub struct Object {
    pub text: Box<RawValue>,
    pub value: Value,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub data: Vec<Object>,
    pub next_cursor: Option<String>,
}

impl Object {
    pub fn parse(body: &[u8]) -> Result<Object, Failure> {
        serde_json::from_slice(body).map_err(|_| unexpected("an object"))
    }

    /// A field that is a text; empty when it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.value[name].as_str().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let value: Value = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        if !value.is_object() {
            return Err(serde::de::Error::custom("not an object"));
        }
        Ok(Object { text, value })
    }
}

/// A time of the API, for a table that shows times as distances. All of them are in UTC.
pub fn time_of(value: &Value) -> Option<Timestamp> {
    let text = format!("at={}", value.as_str()?);
    Query::parse(&text).ok()?.timestamp("at")
}

/// Prints one object, as it came or as a table.
pub fn print_object(
    object: &Object,
    output: Output,
    now: Timestamp,
    table: impl FnOnce(&Value) -> Record,
) -> Result<(), Failure> {
    match output {
        Output::Table => table(&object.value).print(output, now),
        Output::Json | Output::Jsonl => print(&line(object, output)),
    }
}

/// Prints several, as they came or as a table.
pub fn print_objects(
    objects: &[Object],
    output: Output,
    now: Timestamp,
    table: impl FnOnce(&[Object]) -> List,
) -> Result<(), Failure> {
    match output {
        Output::Table => table(objects).print(output, now),
        Output::Json => {
            let texts: Vec<_> = objects.iter().map(|object| object.text.get()).collect();
            print(&laid_out(&format!("{{\"data\":[{}]}}", texts.join(","))))
        }
        Output::Jsonl => print(&objects.iter().map(|object| line(object, output)).collect::<String>()),
    }
}

fn line(object: &Object, output: Output) -> String {
    match output {
        Output::Json => laid_out(object.text.get()),
        Output::Table | Output::Jsonl => format!("{}\n", object.text.get()),
    }
}

/// For a person on lines of their own, for a program on one.
fn laid_out(json: &str) -> String {
    if std::io::stdout().is_terminal() { indented(json) } else { format!("{json}\n") }
}

/// Valid JSON with a line for each value. Works on the text: what a parser would make of a long number is not
/// what it was.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if quoted {
            text.push(c);
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '{' | '[' => {
                text.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                    continue;
                }
                depth += 1;
                new_line(&mut text, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                quoted = c == '"';
                text.push(c);
            }
        }
    }
    text + "\n"
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_its_numbers_and_the_order_of_its_keys() {
        let text = r#"{"z":123456789012345678901234567890,"a":1.10}"#;
        let object = Object::parse(text.as_bytes()).expect("an object");
        assert_eq!(object.text.get(), text);
        assert!(Object::parse(b"[1]").is_err());
        assert!(Object::parse(b"<html>").is_err());
    }

    #[test]
    fn json_is_laid_out_without_being_changed() {
        let json = r#"{"a":[1,{"b\"}":"x, y: \\"}],"e":{ },"f":[],"n":1e400}"#;
        let shown = indented(json);
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\\\"}\": \"x, y: \\\\\"\n    }\n  ],\n  \"e\": {},\n  \
                        \"f\": [],\n  \"n\": 1e400\n}\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn times_are_read_as_the_server_writes_them() {
        assert_eq!(time_of(&Value::from("1970-01-01T00:00:01.500Z")), Some(Timestamp::from_millis(1_500)));
        assert_eq!(time_of(&Value::Null), None);
    }
}
