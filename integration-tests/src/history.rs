//! What callers saw: a line for every request and for every answer, kept outside of everything that is killed.

use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use storage::model::{Clock, SystemClock};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Invoke,
    /// It was done.
    Ok,
    /// It was not done.
    Fail,
    /// It may have been done, or be done later.
    Info,
}

impl Kind {
    /// What an answer means, or its absence. One of 503 may hide a commit.
    pub fn of(status: Option<u16>) -> Kind {
        match status {
            Some(200..300) => Kind::Ok,
            None | Some(500..) => Kind::Info,
            Some(_) => Kind::Fail,
        }
    }
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Milliseconds since 1970 UTC.
    pub at: i64,
    pub caller: usize,
    /// Which server was asked.
    pub node: usize,
    pub kind: Kind,
    pub path: String,
    pub key: Option<String>,
    pub run: Option<String>,
    pub status: Option<u16>,
}

/// Lines of one caller or of all of them.
#[derive(Debug, Default)]
pub struct History(Vec<Entry>);

/// The present on this machine, in milliseconds since 1970 UTC.
pub fn now_ms() -> i64 {
    SystemClock.now().millis()
}

impl History {
    pub fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    pub fn join(&mut self, mut other: History) {
        self.0.append(&mut other.0);
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|entry| entry.kind == kind).count()
    }

    /// Requests for a path.
    pub fn asked(&self, path: &str) -> usize {
        self.0.iter().filter(|entry| entry.kind == Kind::Invoke && entry.path == path).count()
    }

    /// Requests that were answered by `200`s, of a hundred.
    pub fn ok_percent(&self) -> usize {
        100 * self.count(Kind::Ok) / self.count(Kind::Invoke).max(1)
    }

    /// Answers of one kind within a span of time.
    pub fn between(&self, from: i64, to: i64, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| entry.kind == kind && (from..to).contains(&entry.at))
    }

    /// Writes all lines to a file of their own, in the order of time.
    pub fn save(&self) -> std::io::Result<PathBuf> {
        let mut lines: Vec<&Entry> = self.0.iter().collect();
        lines.sort_by_key(|entry| entry.at);
        let mut file = tempfile::Builder::new().prefix("tidegate-history-").suffix(".jsonl").tempfile()?;
        for line in lines {
            writeln!(file, "{}", serde_json::to_string(line)?)?;
        }
        Ok(file.keep()?.1)
    }
}

/// What was not as promised is looked into with the history at hand.
impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking()
            && !self.0.is_empty()
            && let Ok(path) = self.save()
        {
            eprintln!("the callers' history is kept in {}", path.display());
        }
    }
}
