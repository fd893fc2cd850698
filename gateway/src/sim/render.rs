//! Writes the result lines of a batch as a stream of chunks, from its input and its seed alone: nothing
//! is stored, and every download is the same.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::bodies::Body;
use super::event::Dialect;
use super::ids;
use super::lines::{self, Item};
use super::outcome::{Cause, Delivery, Judge, Outcome};

/// Lines that are shuffled together.
const WINDOW: usize = 512;
/// A chunk goes out when it has grown to this.
const CHUNK: usize = 1 << 17;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// An OpenAI output file.
    Output,
    /// An OpenAI error file.
    Errors,
    /// Anthropic has everything in one stream.
    All,
}

/// Hands the lines to `emit` in chunks; an error of `emit` ends it.
pub(super) fn render(
    judge: &Judge,
    input: &Path,
    part: Part,
    crlf: bool,
    emit: &mut dyn FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    let shuffle = judge.batch.faults.reorder == Some(true);
    let mut writer = Writer {
        judge,
        part,
        end: if crlf { b"\r\n" } else { b"\n" },
        shuffle: shuffle.then_some(judge.batch.seed),
        buffer: Vec::with_capacity(CHUNK * 2),
        ends: Vec::new(),
        emit,
    };
    lines::items(judge.batch, input, |index, _, item| match item {
        Ok(item) => writer.item(index, &item),
        // A batch with such a line never ran; there is nothing to say about it.
        Err(_) => Ok(()),
    })?;
    writer.flush()
}

struct Writer<'a> {
    judge: &'a Judge<'a>,
    part: Part,
    end: &'static [u8],
    shuffle: Option<u64>,
    buffer: Vec<u8>,
    /// Where each line in the buffer ends.
    ends: Vec<usize>,
    emit: &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>,
}

impl Writer<'_> {
    fn item(&mut self, index: u64, item: &Item) -> io::Result<()> {
        let outcome = self.judge.outcome(index, item);
        let wanted = match (self.part, outcome) {
            (Part::All, _) => true,
            (Part::Output, outcome) => outcome.is_billed(),
            (Part::Errors, outcome) => matches!(outcome, Outcome::Errored(_) | Outcome::Expired),
        };
        let times = match outcome {
            Outcome::Succeeded(Delivery::Never) => 0,
            Outcome::Succeeded(Delivery::Twice) => 2,
            _ => 1,
        };
        for _ in 0..if wanted { times } else { 0 } {
            self.line(index, item, outcome)?;
        }
        if self.part != Part::Errors && self.judge.unknown_follows(index) {
            let mut stranger = item.clone();
            stranger.custom_id = format!("unknown-{}", self.tag(index, "unknown"));
            self.line(index, &stranger, Outcome::Succeeded(Delivery::Once))?;
        }
        Ok(())
    }

    fn line(&mut self, index: u64, item: &Item, outcome: Outcome) -> io::Result<()> {
        let tag = self.tag(index, "");
        match self.judge.batch.dialect {
            Dialect::Openai => self.openai(item, outcome, &tag)?,
            Dialect::Anthropic => self.anthropic(item, outcome, &tag)?,
        }
        self.buffer.extend_from_slice(self.end);
        self.ends.push(self.buffer.len());
        let full = match self.shuffle {
            Some(_) => self.ends.len() >= WINDOW,
            None => self.buffer.len() >= CHUNK,
        };
        if full { self.flush() } else { Ok(()) }
    }

    fn tag(&self, index: u64, kind: &str) -> String {
        let salt = 100 + kind.len() as u64;
        format!("{:016x}{index:08x}", ids::mix(self.judge.batch.seed, index, salt))
    }

    fn openai(&mut self, item: &Item, outcome: Outcome, tag: &str) -> io::Result<()> {
        let custom_id = Value::String(item.custom_id.clone());
        let out = &mut self.buffer;
        write!(out, r#"{{"id":"batch_req_{tag}","custom_id":{custom_id},"response":"#)?;
        let status = match outcome {
            Outcome::Succeeded(_) => 200,
            Outcome::Errored(Cause::Server) => 500,
            Outcome::Errored(_) => 400,
            Outcome::Expired | Outcome::Canceled => {
                let message = "This request could not be executed before the completion window expired.";
                return write!(out, r#"null,"error":{{"code":"batch_expired","message":"{message}"}}}}"#);
            }
        };
        write!(out, r#"{{"status_code":{status},"request_id":"req_{tag}","body":"#)?;
        match outcome {
            Outcome::Errored(cause) => {
                let (kind, code) = match cause {
                    Cause::Server => ("server_error", Value::Null),
                    Cause::Content => ("invalid_request_error", json!("invalid_prompt")),
                    Cause::Params | Cause::Late => ("invalid_request_error", json!("invalid_value")),
                };
                let message = message(cause, item);
                let error = json!({"message": message, "type": kind, "param": null, "code": code});
                write!(out, r#"{{"error":{error}}}"#)?;
            }
            _ => Body { batch: self.judge.batch, item, tag }.openai(out)?,
        }
        out.extend_from_slice(br#"},"error":null}"#);
        Ok(())
    }

    fn anthropic(&mut self, item: &Item, outcome: Outcome, tag: &str) -> io::Result<()> {
        let custom_id = Value::String(item.custom_id.clone());
        let out = &mut self.buffer;
        write!(out, r#"{{"custom_id":{custom_id},"result":"#)?;
        match outcome {
            Outcome::Succeeded(_) => {
                out.extend_from_slice(br#"{"type":"succeeded","message":"#);
                Body { batch: self.judge.batch, item, tag }.anthropic(out)?;
                out.push(b'}');
            }
            Outcome::Errored(cause) => {
                let kind = if cause == Cause::Server { "api_error" } else { "invalid_request_error" };
                let error = json!({"type": kind, "message": message(cause, item)});
                write!(
                    out,
                    r#"{{"type":"errored","error":{{"type":"error","error":{error},"request_id":"req_{tag}"}}}}"#
                )?;
            }
            Outcome::Expired => out.extend_from_slice(br#"{"type":"expired"}"#),
            Outcome::Canceled => out.extend_from_slice(br#"{"type":"canceled"}"#),
        }
        out.push(b'}');
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.ends.is_empty() {
            return Ok(());
        }
        let plain = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK * 2));
        let ends = std::mem::take(&mut self.ends);
        let chunk = match self.shuffle {
            Some(seed) => shuffled(&plain, &ends, seed),
            None => plain,
        };
        (self.emit)(chunk)
    }
}

fn message(cause: Cause, item: &Item) -> String {
    match cause {
        Cause::Server => "The server had an error while processing your request.".to_owned(),
        Cause::Content => "The request was rejected because of its content.".to_owned(),
        Cause::Params => item.params.problem.clone().unwrap_or_default(),
        Cause::Late => late_problem(&[1, 3]),
    }
}

/// What a late failure says about the whole batch.
pub(super) fn late_problem(lines: &[u64]) -> String {
    let named: Vec<String> = lines.iter().map(|line| format!("line {line}")).collect();
    format!("The request is invalid ({}).", named.join(", "))
}

/// The same lines in another order; from two lines on it is never the given one.
fn shuffled(lines: &[u8], ends: &[usize], seed: u64) -> Vec<u8> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    for last in (1..order.len()).rev() {
        let pick = ids::mix(seed, last as u64, 200) % (last as u64 + 1);
        order.swap(last, pick as usize);
    }
    if order.is_sorted() {
        order.rotate_left(1);
    }
    let mut out = Vec::with_capacity(lines.len());
    for line in order {
        let start = if line == 0 { 0 } else { ends[line - 1] };
        out.extend_from_slice(&lines[start..ends[line]]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_the_lines_and_changes_their_order() {
        let (lines, ends) = (b"a\nbb\nccc\n".as_slice(), [2, 5, 9]);
        for seed in 0..50 {
            let out = shuffled(lines, &ends, seed);
            assert_ne!(out, lines);
            let mut parts: Vec<&[u8]> = out.split(|b| *b == b'\n').filter(|p| !p.is_empty()).collect();
            parts.sort();
            assert_eq!(parts, [b"a".as_slice(), b"bb", b"ccc"]);
        }
        assert_eq!(shuffled(b"x\n", &[2], 1), b"x\n");
    }
}
