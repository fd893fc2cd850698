//! Reads one line of a provider's results, and puts the caller's id back into it.
//!
//! Only what decides about the run is looked at; every other byte of a line reaches the caller as it came. Line
//! and item errors are known by the provider's machine codes: message texts are the caller's to read.

mod classify;
mod live;
mod synthetic;

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::Protocol;
use crate::price::Usage;
use crate::price::fields::{pick, text};

pub use live::live_line;
pub use synthetic::synthetic_line;

/// Whose wire form a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    OpenAi,
    Anthropic,
}

impl Form {
    pub fn of(protocol: Protocol) -> Form {
        match protocol {
            Protocol::OpenAi => Form::OpenAi,
            Protocol::Anthropic => Form::Anthropic,
        }
    }
}

/// What became of one request of a provider batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Succeeded,
    /// Not done, or done in vain. `retryable` means that the same request may fare better later.
    Errored {
        retryable: bool,
    },
    /// The provider's window closed first. Not billed.
    Expired,
    /// The batch was cancelled first. Not billed.
    Canceled,
    /// Answered, and billed, with a refusal. The same request would be refused again.
    Refused,
}

/// What one line says, borrowed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultLine<'a> {
    pub custom_id: Cow<'a, str>,
    /// The JSON string of the id within the line, quotes included.
    pub custom_id_span: Range<usize>,
    pub outcome: Outcome,
    /// The provider's machine code of what went wrong, or `http_<status>` where it gave none.
    pub code: Option<Cow<'a, str>>,
    /// Kept whatever the outcome: a refusal is billed, and so may be a failed answer.
    pub usage: Option<Usage>,
}

/// Why a text is no result line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResultLineError {
    /// Most likely the rest has not been read yet: fetch again from the start of this line.
    #[error("the result line ends in the middle")]
    CutShort,
    #[error("the result line is not one JSON object (column {column})")]
    NotAnObject { column: usize },
    #[error("the result line has no custom_id")]
    NoCustomId,
    #[error("the result line has neither a response nor an error")]
    NoResult,
}

impl<'a> ResultLine<'a> {
    /// Reads a line of an output file, an error file or a results stream, without its line end.
    pub fn parse(form: Form, line: &'a str) -> Result<ResultLine<'a>, ResultLineError> {
        let [custom_id, response, error, result] =
            pick(line, ["custom_id", "response", "error", "result"]).map_err(|error| why(&error))?;
        let raw_id = custom_id.ok_or(ResultLineError::NoCustomId)?;
        let custom_id = text(raw_id).ok_or(ResultLineError::NoCustomId)?;
        let verdict = match form {
            Form::OpenAi => classify::openai(response, error),
            Form::Anthropic => classify::anthropic(result),
        };
        let verdict = verdict.ok_or(ResultLineError::NoResult)?;
        Ok(ResultLine {
            custom_id,
            custom_id_span: span_within(line, raw_id),
            outcome: verdict.outcome,
            code: verdict.code,
            usage: verdict.usage,
        })
    }

    /// Whether the account, not the request, is the problem: whoever sends more would only collect more of these.
    pub fn is_out_of_money(&self) -> bool {
        self.code.as_deref().is_some_and(classify::is_out_of_money)
    }
}

/// Replaces the id at `span`, which [`ResultLine::parse`] gave for this very line, and nothing else.
///
/// Panics when `span` is not within `line`.
pub fn splice_custom_id(line: &str, span: Range<usize>, original: &str) -> String {
    let id = serde_json::Value::from(original).to_string();
    let mut spliced = String::with_capacity(line.len() - span.len() + id.len());
    spliced.push_str(&line[..span.start]);
    spliced.push_str(&id);
    spliced.push_str(&line[span.end..]);
    spliced
}

fn why(error: &serde_json::Error) -> ResultLineError {
    if error.is_eof() { ResultLineError::CutShort } else { ResultLineError::NotAnObject { column: error.column() } }
}

/// A raw value borrows from the line, so its place follows from the two addresses.
fn span_within(line: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr().saturating_sub(line.as_ptr().addr());
    start..start + raw.get().len()
}

#[cfg(test)]
mod tests;
