//! Reads a file of batch requests, one JSON object per line.
//!
//! Two passes over the same bytes: [`scan`] judges all of it before anything else happens, [`requests`] hands the
//! requests out one by one. Both hash what they read, so that a file that changed in between is noticed. One line
//! is in memory at a time, and 24 bytes per line for the search of doubled ids. Never: changes a byte of a body.

mod body;
mod error;
mod kinds;
mod line;
mod reader;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use actors::provider::result_line::Form;
pub use error::{Fault, InputError, Problems};
pub use kinds::Kinds;
pub use line::Request;

use line::{FirstForm, parse_line};
use reader::{Line, Lines};

/// Room for what goes around a body on its way out, below the 32 MiB that a provider takes for one request.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// How much of a file is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest line, without its line end. Longer ones are refused and never held in memory.
    pub max_line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_line_bytes: 32 * 1024 * 1024 - ENVELOPE_BYTES }
    }
}

/// SHA-256 of every byte of a file. Shows as hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

/// What a file holds, once all of it has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub form: Form,
    pub sha256: ContentHash,
    /// Requests; blank lines are none.
    pub count: u64,
    /// Size of the whole file.
    pub bytes: u64,
    /// Sorted by url, then model.
    pub packs: Vec<Pack>,
    pub kinds: Kinds,
}

/// Requests of one file that may share a provider batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    pub url: &'static str,
    pub model: String,
    pub count: u64,
}

/// Reads the whole file and judges every line. Nothing else happens.
pub fn scan(path: &Path, limits: &Limits) -> Result<Scan, InputError> {
    scan_lines(Lines::new(open(path)?, limits.max_line_bytes), path)
}

/// Opens the file for handing out its requests. Lines are judged as by [`scan`], except for doubled ids.
pub fn requests(path: &Path, limits: &Limits) -> Result<Requests, InputError> {
    let lines = Lines::new(open(path)?, limits.max_line_bytes);
    Ok(Requests { path: path.to_owned(), lines, form: None })
}

/// One request by itself, in the form of a line.
pub fn one_request(line: &str) -> Result<Request<'_>, Fault> {
    parse_line(Line::Whole { number: 1, bytes: line.as_bytes() }, &mut None)
}

/// The requests of a file, in its order.
pub struct Requests<R: Read = File> {
    path: PathBuf,
    lines: Lines<R>,
    form: Option<FirstForm>,
}

impl<R: Read> Requests<R> {
    /// The next request, which borrows the line buffer: it must be dropped before the one after it.
    pub fn next_request(&mut self) -> Result<Option<Request<'_>>, InputError> {
        let Some(line) = self.lines.next_line().map_err(|source| unreadable(&self.path, source))? else {
            return Ok(None);
        };
        let number = line.number();
        parse_line(line, &mut self.form).map(Some).map_err(|fault| {
            let mut problems = Problems::default();
            problems.add(number, fault);
            InputError::BadLines { path: self.path.clone(), problems }
        })
    }

    /// Reads what is left, unjudged, and tells what the whole file hashes to.
    pub fn finish(mut self) -> Result<ContentHash, InputError> {
        self.lines.drain().map_err(|source| unreadable(&self.path, source))?;
        Ok(self.lines.finish().0)
    }
}

fn scan_lines<R: Read>(mut lines: Lines<R>, path: &Path) -> Result<Scan, InputError> {
    let mut form = None;
    let mut problems = Problems::default();
    let mut ids = Ids::default();
    let mut packs: BTreeMap<&'static str, BTreeMap<String, u64>> = BTreeMap::new();
    let mut shapes = kinds::Counting::default();
    while let Some(line) = lines.next_line().map_err(|source| unreadable(path, source))? {
        let number = line.number();
        let judged = parse_line(line, &mut form).and_then(|request| ids.insert(&request).map(|()| request));
        let request = match judged {
            Ok(request) => request,
            Err(fault) => {
                problems.add(number, fault);
                continue;
            }
        };
        shapes.count(&request);
        let models = packs.entry(request.url).or_default();
        match models.get_mut(request.model.as_ref()) {
            Some(count) => *count += 1,
            None => {
                models.insert(request.model.into_owned(), 1);
            }
        }
    }
    if problems.count() > 0 {
        return Err(InputError::BadLines { path: path.to_owned(), problems });
    }
    let form = form.ok_or_else(|| InputError::NoRequest { path: path.to_owned() })?.form;
    let (sha256, bytes) = lines.finish();
    let flat = |(url, models): (&'static str, BTreeMap<String, u64>)| {
        models.into_iter().map(move |(model, count)| Pack { url, model, count })
    };
    let packs: Vec<Pack> = packs.into_iter().flat_map(flat).collect();
    Ok(Scan { form, sha256, count: packs.iter().map(|pack| pack.count).sum(), bytes, packs, kinds: shapes.finish() })
}

/// The ids seen so far, as the first half of their digests, with the line that had each first.
#[derive(Default)]
struct Ids(HashMap<[u8; 16], u64>);

impl Ids {
    fn insert(&mut self, request: &Request<'_>) -> Result<(), Fault> {
        let digest = Sha256::digest(request.custom_id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        let first_line = *self.0.entry(key).or_insert(request.line_no);
        if first_line == request.line_no {
            return Ok(());
        }
        Err(Fault::DoubledId { custom_id: error::shown(&request.custom_id), first_line })
    }
}

/// Only regular files: a pipe could be read once, and opening one may wait for ever.
fn open(path: &Path) -> Result<File, InputError> {
    let found = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if found.is_dir() {
        return Err(InputError::Directory { path: path.to_owned() });
    }
    if !found.is_file() {
        return Err(InputError::NotAFile { path: path.to_owned() });
    }
    File::open(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: std::io::Error) -> InputError {
    InputError::Unreadable { path: path.to_owned(), source }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
