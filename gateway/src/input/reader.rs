//! Lines of a file through one reused buffer, hashed on the way.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};

use super::ContentHash;

const BUFFER_BYTES: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// CR and LF, and the byte order mark of the first line.
const AROUND_BYTES: usize = 2 + BYTE_ORDER_MARK.len();

/// Splits on byte 0x0A and nothing else: U+2028 and its kind may stand inside a JSON string.
pub(super) struct Lines<R> {
    input: BufReader<Hashing<R>>,
    line: Vec<u8>,
    number: u64,
    max_line_bytes: usize,
}

/// A line that is not blank, by its number in the file, from one.
pub(super) enum Line<'a> {
    Whole { number: u64, bytes: &'a [u8] },
    TooLong { number: u64, max_line_bytes: usize },
}

struct Hashing<R> {
    inner: R,
    digest: Sha256,
    bytes: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(inner: R, max_line_bytes: usize) -> Lines<R> {
        let hashing = Hashing { inner, digest: Sha256::new(), bytes: 0 };
        let input = BufReader::with_capacity(BUFFER_BYTES, hashing);
        Lines { input, line: Vec::new(), number: 0, max_line_bytes }
    }

    /// The next line that is not blank, without its line end; `None` at the end of the file.
    pub fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let fits = match self.read_line()? {
                None => return Ok(None),
                Some(fits) => fits,
            };
            let content = self.content();
            let (number, max_line_bytes) = (self.number, self.max_line_bytes);
            if !fits || content.len() > max_line_bytes {
                return Ok(Some(Line::TooLong { number, max_line_bytes }));
            }
            if content.iter().any(|byte| !matches!(byte, b' ' | b'\t')) {
                // Found again, since a borrow that leaves the loop would hold the buffer for the next round too.
                return Ok(Some(Line::Whole { number, bytes: self.content() }));
            }
        }
    }

    /// Reads to the end without looking.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.input, &mut io::sink())?;
        Ok(())
    }

    /// The hash and the number of all bytes read so far: those of the whole file once it has ended.
    pub fn finish(self) -> (ContentHash, u64) {
        let hashing = self.input.into_inner();
        (ContentHash(hashing.digest.finalize().into()), hashing.bytes)
    }

    /// Fills the buffer with one line; `Some(false)` when it was too long and has been skipped.
    fn read_line(&mut self) -> io::Result<Option<bool>> {
        self.line.clear();
        let most = self.max_line_bytes.saturating_add(AROUND_BYTES + 1);
        while self.line.len() < most && self.line.last() != Some(&b'\n') {
            let piece = self.make_room(most);
            if self.input.by_ref().take(piece as u64).read_until(b'\n', &mut self.line)? == 0 {
                break;
            }
        }
        if self.line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let cut = self.line.len() == most && self.line.last() != Some(&b'\n');
        if cut {
            self.line.clear();
            self.input.skip_until(b'\n')?;
        }
        Ok(Some(!cut))
    }

    /// Makes room for the next piece of a line, and says how large it may be. The buffer doubles as any would, but
    /// never beyond the longest line: twice that is what a small machine may not have.
    fn make_room(&mut self, most: usize) -> usize {
        let piece = BUFFER_BYTES.min(most - self.line.len());
        if self.line.capacity() - self.line.len() < piece {
            let wanted = self.line.capacity().saturating_mul(2).min(most).max(self.line.len() + piece);
            self.line.reserve_exact(wanted - self.line.len());
        }
        piece
    }

    fn content(&self) -> &[u8] {
        let line = self.line.as_slice();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.number > 1 {
            return line;
        }
        line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
    }
}

impl Line<'_> {
    pub fn number(&self) -> u64 {
        match self {
            Line::Whole { number, .. } | Line::TooLong { number, .. } => *number,
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
