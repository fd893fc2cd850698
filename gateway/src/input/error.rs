//! Why a file is refused, in the words the user sees.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Form;

/// Problems named one by one; the rest is counted.
const PROBLEMS_SHOWN: usize = 100;
/// Characters of a caller's text that a message repeats.
const TEXT_SHOWN: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot read {}: it is a directory", path.display())]
    Directory { path: PathBuf },
    #[error("cannot read {}: it is not a regular file, and it has to be read twice", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} holds no request", path.display())]
    NoRequest { path: PathBuf },
    #[error("{}: {problems}", path.display())]
    BadLines { path: PathBuf, problems: Problems },
}

/// The bad lines of a file. Shows as how many there are, then one line for each of the first.
#[derive(Debug, Default)]
pub struct Problems {
    shown: Vec<(u64, Fault)>,
    count: u64,
}

/// What is wrong with one line. Says nothing about how it is read here, and repeats little of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("longer than {max_line_bytes} bytes")]
    TooLong { max_line_bytes: usize },
    #[error("not valid UTF-8 (byte {byte})")]
    NotUtf8 { byte: usize },
    #[error("not JSON (byte {byte})")]
    NotJson { byte: usize },
    #[error("ends in the middle of its JSON")]
    CutShort,
    #[error("not a JSON object")]
    NotAnObject,
    #[error("goes on after its JSON object (byte {byte})")]
    MoreThanOne { byte: usize },
    #[error("nested deeper than {levels} levels")]
    TooDeep { levels: usize },
    #[error("has `{key}` twice")]
    DoubledKey { key: &'static str },
    #[error("has `{key}` twice in its `{within}`")]
    DoubledInBody { within: &'static str, key: &'static str },
    #[error("has the unknown key {key}")]
    UnknownKey { key: String },
    #[error("has neither `body` (OpenAI form) nor `params` (Anthropic form)")]
    NoForm,
    #[error("has both `params` (Anthropic form) and `{key}` (OpenAI form)")]
    BothForms { key: &'static str },
    #[error("in {} form, but line {first_line} made this a file in {} form", name(*here), name(*first))]
    OtherForm { here: Form, first: Form, first_line: u64 },
    #[error("has no `{key}`")]
    Missing { key: &'static str },
    #[error("`custom_id` must be a string")]
    IdNotText,
    #[error("`custom_id` must not be empty")]
    IdEmpty,
    #[error("`custom_id` is longer than {max} bytes")]
    IdTooLong { max: usize },
    #[error("`{key}` holds a character that cannot be stored")]
    UnstorableText { key: &'static str },
    #[error("custom_id {custom_id} is already on line {first_line}")]
    DoubledId { custom_id: String, first_line: u64 },
    #[error("`method` must be \"POST\"")]
    NotPost,
    #[error("`url` must be a batch endpoint such as \"/v1/chat/completions\", not {url}")]
    UnknownUrl { url: String },
    #[error("`{key}` must be an object")]
    BodyNotAnObject { key: &'static str },
    #[error("`{key}.stream` must not be true in a batch")]
    Streams { key: &'static str },
    #[error("`{key}.model` must be a non-empty string")]
    BadModel { key: &'static str },
    #[error("`{key}.model` is longer than {max} bytes")]
    ModelTooLong { key: &'static str, max: usize },
    #[error("`params.max_tokens` must be a whole number, at least 1")]
    BadMaxTokens,
}

impl Problems {
    pub fn add(&mut self, line_no: u64, fault: Fault) {
        self.count += 1;
        if self.shown.len() < PROBLEMS_SHOWN {
            self.shown.push((line_no, fault));
        }
    }

    /// Bad lines in all, shown or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first bad lines by their numbers.
    pub fn shown(&self) -> &[(u64, Fault)] {
        &self.shown
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("1 bad line")?,
            count => write!(f, "{count} bad lines")?,
        }
        for (line_no, fault) in &self.shown {
            write!(f, "\nline {line_no}: {fault}")?;
        }
        match self.count - self.shown.len() as u64 {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// A caller's text for a message: quoted, escaped so that it cannot break the line, and not all of it.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(TEXT_SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

fn name(form: Form) -> &'static str {
    match form {
        Form::OpenAi => "OpenAI",
        Form::Anthropic => "Anthropic",
    }
}
