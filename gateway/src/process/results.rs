//! Writes the results in input order, into a temporary file that takes the name when it is whole.

use crate::exit::{Exit, Failure};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use storage::failpoint::{Failpoint, reached};
use storage::store::Store;

const PAGE: i64 = 1_000;

/// A path that results can be written to.
#[derive(Debug, Clone)]
pub struct Out {
    path: PathBuf,
    temporary: PathBuf,
}

impl Out {
    /// Checks what can be checked before anything is bought.
    pub fn check(path: &Path, input: &Path) -> Result<Out, Failure> {
        let refuse = |why: &str| Failure::usage(format!("--out {}: {why}", path.display()));
        let name = path.file_name().ok_or_else(|| refuse("it names no file"))?;
        if path.is_dir() {
            return Err(refuse("it is a directory"));
        }
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(refuse("it is a device or a pipe, and the results take their name when they are whole"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(refuse("its directory does not exist"));
        }
        let same =
            |a: std::io::Result<PathBuf>, b: std::io::Result<PathBuf>| matches!((a, b), (Ok(a), Ok(b)) if a == b);
        if same(path.canonicalize(), input.canonicalize()) {
            return Err(refuse("it is the input file"));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".tidegate-part");
        let out = Out { path: path.to_owned(), temporary: folder.join(hidden) };
        File::create(&out.temporary).map_err(|error| refuse(&format!("cannot write beside it: {error}")))?;
        out.discard();
        Ok(out)
    }

    fn discard(&self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.temporary);
    }

    /// Writes every known result of the pool and returns how many lines there are.
    pub async fn write(&self, store: &Store, pool: &str) -> Result<u64, Failure> {
        let written = self.write_part(store, pool).await;
        if written.is_err() {
            self.discard();
        }
        written
    }

    async fn write_part(&self, store: &Store, pool: &str) -> Result<u64, Failure> {
        let cannot = |what: &'static str| {
            let path = self.path.display().to_string();
            move |error: std::io::Error| Failure::new(Exit::StoreFailed, format!("cannot {what} {path}: {error}"))
        };
        let file = File::create(&self.temporary).map_err(cannot("create"))?;
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        reached(Failpoint::OutOpened);
        let (mut after, mut lines) = (0, 0);
        loop {
            let page = store.results(pool, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for line in page.iter().filter_map(|row| row.line.as_ref()) {
                writer.write_all(line.as_bytes()).map_err(cannot("write"))?;
                writer.write_all(b"\n").map_err(cannot("write"))?;
                lines += 1;
            }
            reached(Failpoint::OutHalf);
        }
        let file = writer.into_inner().map_err(|error| cannot("write")(error.into_error()))?;
        file.sync_all().map_err(cannot("flush"))?;
        reached(Failpoint::OutBeforeRename);
        std::fs::rename(&self.temporary, &self.path).map_err(cannot("name"))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name is durable once its directory is; a file system that cannot sync one has nothing to lose.
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
        reached(Failpoint::OutRenamed);
        Ok(lines)
    }
}
