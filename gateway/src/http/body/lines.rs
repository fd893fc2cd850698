//! A body of JSON lines, one line at a time and never more of it in memory than is needed.

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use super::{Arriving, Limits, Media, declared, expect_media};
use crate::http::problem::{Code, Problem};

/// How long a line and the whole may be, and how many lines there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    pub line_bytes_max: usize,
    pub lines_max: u64,
    pub whole: Limits,
}

/// One line with its number in the body, from 1; without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub number: u64,
    pub bytes: Bytes,
}

/// Reads lines that end in LF or CRLF; the last one may end with the body. Lines of spaces only are counted
/// and left out. The client is held back while nobody asks for the next line.
pub struct Lines<S> {
    arriving: Arriving<S>,
    limits: LineLimits,
    buffer: BytesMut,
    /// How much of the buffer is known to have no line end.
    searched: usize,
    taken: usize,
    number: u64,
    given: u64,
    ended: bool,
}

impl<S> Lines<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    pub fn open(payload: S, request: &HttpRequest, limits: &LineLimits) -> Result<Lines<S>, Problem> {
        expect_media(request, Media::Ndjson)?;
        declared(request, limits.whole.bytes_max)?;
        Ok(Lines {
            arriving: Arriving::new(payload, &limits.whole),
            limits: *limits,
            buffer: BytesMut::new(),
            searched: 0,
            taken: 0,
            number: 0,
            given: 0,
            ended: false,
        })
    }

    /// The next line that has something in it. After an error there is no next one.
    pub async fn next(&mut self) -> Result<Option<Line>, Problem> {
        while let Some(bytes) = self.line().await? {
            self.number += 1;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            if self.given == self.limits.lines_max {
                let detail = format!("there may be {} lines at most", self.limits.lines_max);
                return Err(Problem::new(Code::TooManyItems, detail));
            }
            self.given += 1;
            return Ok(Some(Line { number: self.number, bytes }));
        }
        Ok(None)
    }

    async fn line(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| self.searched + end) {
                self.fits(end)?;
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end - usize::from(line[..end].ends_with(b"\r")));
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            self.fits(self.searched)?;
            if self.ended {
                let last = std::mem::take(&mut self.buffer).freeze();
                self.searched = 0;
                return Ok(Some(last).filter(|last| !last.is_empty()));
            }
            match self.arriving.within(self.limits.whole.bytes_max, self.taken).await? {
                Some(chunk) => {
                    self.taken += chunk.len();
                    self.buffer.extend_from_slice(&chunk);
                }
                None => self.ended = true,
            }
        }
    }

    fn fits(&self, bytes: usize) -> Result<(), Problem> {
        if bytes <= self.limits.line_bytes_max {
            return Ok(());
        }
        let (number, max) = (self.number + 1, self.limits.line_bytes_max);
        Err(Problem::new(Code::BodyTooLarge, format!("line {number} is longer than {max} bytes")))
    }
}
