//! The append-only journal: one event a line, written by one call, so that a kill leaves whole lines and
//! at most one torn one at the end, which is cut off at the next start.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use super::SimError;
use super::event::Entry;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Journal {
    /// Hands every entry to `replay`, then is ready to append.
    pub fn open(path: &Path, mut replay: impl FnMut(Entry)) -> Result<Journal, SimError> {
        let io = |source| SimError::io(path, source);
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io)?;
        let mut reader = BufReader::with_capacity(1 << 18, &file);
        let mut line = Vec::new();
        let (mut len, mut number) = (0u64, 0u64);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io)?;
            // A line without its end was never confirmed to anybody.
            if read == 0 || !line.ends_with(b"\n") {
                break;
            }
            number += 1;
            let entry = serde_json::from_slice(&line).map_err(|source| SimError::Corrupt { line: number, source })?;
            replay(entry);
            len += read as u64;
        }
        file.set_len(len).map_err(io)?;
        Ok(Journal { path: path.to_owned(), file, len })
    }

    /// When this returns, a kill of the process cannot undo the entry.
    pub fn append(&mut self, entry: &Entry) -> Result<(), SimError> {
        let mut line = serde_json::to_vec(entry).map_err(SimError::Encode)?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            // Half a line in the middle would make the journal unreadable for ever.
            self.file.set_len(self.len).map_err(|source| SimError::io(&self.path, source))?;
            return Err(SimError::io(&self.path, source));
        }
        self.len += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::event::Event;

    fn entry(n: usize) -> Entry {
        Entry { account: "a".to_owned(), event: Event::FaultUsed { fault: format!("f{n}") } }
    }

    fn read(path: &Path) -> Result<Vec<Entry>, SimError> {
        let mut seen = Vec::new();
        Journal::open(path, |entry| seen.push(entry))?;
        Ok(seen)
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(crate::sim::ids::mint(name));
        std::fs::create_dir_all(&path).unwrap();
        path.join("journal.jsonl")
    }

    #[test]
    fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
        let path = scratch("torn-");
        let mut journal = Journal::open(&path, |_| ()).unwrap();
        journal.append(&entry(1)).unwrap();
        journal.append(&entry(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for end in first..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(1)], "torn at {end}");
            Journal::open(&path, |_| ()).unwrap().append(&entry(3)).unwrap();
            assert_eq!(read(&path).unwrap(), [entry(1), entry(3)], "torn at {end}");
        }
    }

    #[test]
    fn a_broken_line_in_the_middle_is_an_error() {
        let path = scratch("broken-");
        std::fs::write(&path, "{}\n").unwrap();
        assert!(matches!(read(&path), Err(SimError::Corrupt { line: 1, .. })));
    }
}
