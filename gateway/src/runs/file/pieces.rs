//! Reads lines on a thread of its own and puts them into pieces; never more of the file in memory than a few of
//! these.

use super::Pieces;
use crate::exit::Failure;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// What a server takes in one request.
const LINES_MAX: usize = 1_000;
/// A good part of what a server takes by default; where it takes less, pieces are halved.
const BYTES_MAX: usize = 800 * 1024;
/// A longer line is no run.
const LINE_MAX: usize = 1 << 20;
const AHEAD: usize = 2;

/// A line that has something in it.
#[derive(Debug)]
pub struct Line {
    /// In the file, from 1.
    pub number: u64,
    pub text: String,
    /// Why it is not sent at all.
    pub refused: Option<String>,
}

#[derive(Debug, Default)]
pub struct Piece {
    pub lines: Vec<Line>,
    bytes: usize,
}

/// Begins to read. The thread ends with the file, with its first error, or when nobody takes pieces any more.
pub fn read(path: &Path, prefix: &str) -> Result<Pieces, Failure> {
    let name = path.display().to_string();
    let from: Box<dyn Read + Send> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::usage(format!("--file: cannot read {name}: {error}")))?)
    };
    let (feed, pieces) = mpsc::channel(AHEAD);
    let prefix = prefix.to_owned();
    let reading = std::thread::Builder::new().name("runs-file".to_owned()).spawn(move || {
        let mut cutter = Cutter { from: BufReader::with_capacity(1 << 16, from), number: 0, held: None };
        loop {
            let piece = cutter.piece(&prefix);
            let over = piece.as_ref().is_ok_and(|piece| piece.lines.is_empty());
            let failed = piece.is_err();
            let piece = piece.map_err(|error| Failure::usage(format!("--file: cannot read {name}: {error}")));
            if over || feed.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    reading.map_err(|error| Failure::new(crate::exit::Exit::Unexpected, format!("cannot start a thread: {error}")))?;
    Ok(pieces)
}

/// The lines as they are, each on its own.
pub fn body(lines: &[Line]) -> String {
    lines.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect()
}

struct Cutter<R> {
    from: BufReader<R>,
    number: u64,
    /// The line that did not fit into the piece before.
    held: Option<Line>,
}

impl<R: Read> Cutter<R> {
    /// The next piece; empty at the end.
    fn piece(&mut self, prefix: &str) -> std::io::Result<Piece> {
        let mut piece = Piece::default();
        while piece.lines.len() < LINES_MAX {
            let line = match self.held.take() {
                Some(line) => line,
                None => match self.line(prefix)? {
                    Some(line) => line,
                    None => break,
                },
            };
            let bytes = line.text.len() + 1;
            if !piece.lines.is_empty() && piece.bytes + bytes > BYTES_MAX {
                self.held = Some(line);
                break;
            }
            piece.bytes += bytes;
            piece.lines.push(line);
        }
        Ok(piece)
    }

    /// The next line that is not empty.
    fn line(&mut self, prefix: &str) -> std::io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let mut limited = (&mut self.from).take(LINE_MAX as u64 + 1);
            if limited.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let refused = |why: &str| Some(why.to_owned());
            let mut line = Line { number: self.number, text: String::new(), refused: None };
            if bytes.len() > LINE_MAX && bytes.last() != Some(&b'\n') {
                self.from.skip_until(b'\n')?;
                line.refused = refused("the line is longer than 1 MiB");
                return Ok(Some(line));
            }
            let bom: &[u8] = if self.number == 1 { b"\xef\xbb\xbf" } else { b"" };
            let bytes = bytes.strip_prefix(bom).unwrap_or(&bytes).trim_ascii();
            if bytes.is_empty() {
                continue;
            }
            match std::str::from_utf8(bytes) {
                Err(_) => line.refused = refused("the line is not UTF-8"),
                Ok(text) => match with_key(text, &format!("{prefix}:{}", self.number)) {
                    Ok(text) => line.text = text,
                    Err(why) => line.refused = Some(why),
                },
            }
            return Ok(Some(line));
        }
    }
}

/// The run that a line asks for, with a key of its own unless it has one. Its text stays what it is.
fn with_key(text: &str, key: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("the line is not JSON: {error}"))?;
    let object = value.as_object().ok_or("the line must be a JSON object")?;
    if object.get("idempotency_key").is_some_and(|own| !own.is_null()) {
        return Ok(text.to_owned());
    }
    if object.contains_key("idempotency_key") {
        return Err("idempotency_key is null; leave it away".to_owned());
    }
    let comma = if object.is_empty() { "" } else { "," };
    Ok(format!("{{\"idempotency_key\":{}{comma}{}", Value::from(key), &text[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &[u8]) -> Vec<Piece> {
        let mut cutter = Cutter { from: BufReader::new(text), number: 0, held: None };
        let mut pieces = Vec::new();
        loop {
            let piece = cutter.piece("p").expect("memory can be read");
            if piece.lines.is_empty() {
                return pieces;
            }
            pieces.push(piece);
        }
    }

    #[test]
    fn every_line_has_a_key_of_its_own_and_stays_what_it_was() {
        for (line, sent) in [
            (r#"{"task":"t","payload":1.0}"#, r#"{"idempotency_key":"p:7","task":"t","payload":1.0}"#),
            ("{ }", r#"{"idempotency_key":"p:7" }"#),
            (r#"{"task":"t","idempotency_key":"own"}"#, r#"{"task":"t","idempotency_key":"own"}"#),
        ] {
            assert_eq!(with_key(line, "p:7").as_deref(), Ok(sent));
        }
        for bad in ["", "no", "[]", "1", "{\"a\":1}x", r#"{"idempotency_key":null}"#] {
            assert!(with_key(bad, "p:7").is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_keep_their_numbers_whatever_stands_between_them() {
        let text = b"\xef\xbb\xbf{}\r\n\n   \nno\n{\"task\":\"\xff\"}\n{}";
        let pieces = pieces(text);
        let lines: Vec<(u64, bool)> =
            pieces[0].lines.iter().map(|line| (line.number, line.refused.is_none())).collect();
        assert_eq!(lines, [(1, true), (4, false), (5, false), (6, true)]);
        assert_eq!(pieces.len(), 1);
    }

    #[test]
    fn a_piece_holds_a_thousand_lines_or_what_one_request_may_weigh() {
        let many = pieces("{}\n".repeat(2_500).as_bytes());
        assert_eq!(many.iter().map(|piece| piece.lines.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        let heavy = format!("{{\"payload\":\"{}\"}}\n", "x".repeat(300 * 1024)).repeat(5);
        assert_eq!(pieces(heavy.as_bytes()).iter().map(|piece| piece.lines.len()).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn a_line_without_end_is_refused_without_being_held() {
        let mut text = b"{}\n".to_vec();
        text.extend(vec![b'x'; 3 << 20]);
        text.extend(b"\n{}\n");
        let pieces = pieces(&text);
        let lines: Vec<_> = pieces[0].lines.iter().map(|line| (line.number, line.refused.is_some())).collect();
        assert_eq!(lines, [(1, false), (2, true), (3, false)]);
    }
}
