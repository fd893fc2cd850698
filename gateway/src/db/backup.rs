//! `tidegate db backup`: a whole copy under its name, or none.

use crate::exit::{Exit, Failure};
use crate::output::{Cell, Record, note};
use crate::signals::Signals;
use serde_json::json;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};
use storage::model::{Clock, SystemClock};
use storage::store::{PostgresPlace, copy_into, postgres_place};
use tempfile::{NamedTempFile, TempDir};

/// What came of it.
pub enum Ended {
    Done(Record),
    /// By a signal; nothing is left of it.
    Stopped(Exit),
}

pub async fn backup(url: &str, out: &Path) -> Result<Ended, Failure> {
    if let Some(place) = postgres_place(url)? {
        return Err(by_its_own_means(&place, out));
    }
    let mut signals = Signals::listen()?;
    #[expect(clippy::disallowed_methods, reason = "how long the copy takes")]
    let started = Instant::now();
    let part = part_of(out)?;
    let path = part.file.path().to_str().ok_or_else(|| refuse(out, "its name is not valid UTF-8"))?;
    let marked = tokio::select! {
        copied = copy_into(url, path, SystemClock.now()) => copied?,
        exit = signals.next() => return Ok(Ended::Stopped(exit)),
    };
    let bytes = put_in_place(part, out)?;
    if !marked {
        note("its schema is older than this binary: say that it is a copy by `tidegate db restored` before it is used");
    }
    Ok(Ended::Done(record(out, bytes, started.elapsed())))
}

fn refuse(out: &Path, why: &str) -> Failure {
    Failure::usage(format!("--out {}: {why}", out.display()))
}

fn exists(out: &Path) -> Failure {
    let failure = Failure::new(Exit::Conflict, format!("--out {}: it exists already", out.display()));
    failure.hint("name another file; no backup is overwritten")
}

fn folder_of(out: &Path) -> &Path {
    out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is written first, for its owner's eyes only; it goes with all that the database keeps beside it.
struct Part {
    file: NamedTempFile,
    _folder: TempDir,
}

/// In a folder of its own, beside the place where it will be.
fn part_of(out: &Path) -> Result<Part, Failure> {
    let name = out.file_name().ok_or_else(|| refuse(out, "it names no file"))?;
    if out.symlink_metadata().is_ok() {
        return Err(exists(out));
    }
    if !folder_of(out).is_dir() {
        return Err(refuse(out, "its directory does not exist"));
    }
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let folder = tempfile::Builder::new().prefix(&hidden).suffix(".tidegate-part").tempdir_in(folder_of(out));
    // Its own words name the hidden folder, which says nothing to anybody.
    let cannot = |error: std::io::Error| refuse(out, &format!("cannot write beside it: {}", error.kind()));
    let folder = folder.map_err(cannot)?;
    Ok(Part { file: NamedTempFile::new_in(folder.path()).map_err(cannot)?, _folder: folder })
}

/// Gives it its name once it is on disk, unless somebody has that name by now; returns its length.
fn put_in_place(part: Part, out: &Path) -> Result<u64, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::StoreFailed, format!("cannot write the backup {}: {error}", out.display()))
    };
    let Part { file, _folder } = part;
    let bytes = file.as_file().metadata().map_err(cannot)?.len();
    file.as_file().sync_all().map_err(cannot)?;
    file.persist_noclobber(out).map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => exists(out),
        _ => cannot(error.error),
    })?;
    // The name is durable once its directory is; a file system that cannot sync one has nothing to lose.
    if let Ok(folder) = File::open(folder_of(out)) {
        let _ = folder.sync_all();
    }
    Ok(bytes)
}

fn record(out: &Path, bytes: u64, took: Duration) -> Record {
    let (out, seconds) = (out.display().to_string(), (took.as_secs_f64() * 1_000.0).round() / 1_000.0);
    Record {
        json: json!({ "out": out, "bytes": bytes, "seconds": seconds }),
        fields: vec![
            ("out", Cell::text(out)),
            ("bytes", Cell::text(bytes.to_string())),
            ("seconds", Cell::text(seconds.to_string())),
        ],
        sections: Vec::new(),
    }
}

fn by_its_own_means(place: &PostgresPlace, out: &Path) -> Failure {
    let PostgresPlace { host, port, user, database } = place;
    let words = [
        format!("--file={}", out.display()),
        format!("--host={host}"),
        format!("--port={port}"),
        format!("--username={user}"),
        format!("--dbname={database}"),
    ];
    let line = words.map(|word| quoted(&word)).join(" ");
    Failure::usage("a PostgreSQL store is backed up by PostgreSQL's own programs").hint(format!(
        "pg_dump --format=custom {line}; to go back to any moment, base backups (pg_basebackup) with their WAL"
    ))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=./:@%+,".contains(&byte));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_postgres_is_one_that_a_shell_takes() {
        let place = PostgresPlace { host: "db".into(), port: 5433, user: "o'neil".into(), database: "a b".into() };
        let hint = by_its_own_means(&place, Path::new("x.dump")).hint.expect("a hint");
        let line = "pg_dump --format=custom --file=x.dump --host=db --port=5433 '--username=o'\\''neil' '--dbname=a b'";
        assert!(hint.starts_with(line), "{hint}");
    }
}
