//! Writes what is uploaded to a file while it arrives; until it is kept, the file vanishes with its owner.

use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: BufWriter<File>,
    kept: bool,
    bytes: u64,
    /// Lines that are not blank, apart from the one that has not ended yet.
    lines: u64,
    line_has_text: bool,
}

impl Spool {
    pub fn create(path: PathBuf) -> io::Result<Spool> {
        let file = BufWriter::with_capacity(1 << 18, File::create(&path)?);
        Ok(Spool { path, file, kept: false, bytes: 0, lines: 0, line_has_text: false })
    }

    pub fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.bytes += chunk.len() as u64;
        let mut rest = chunk;
        while !rest.is_empty() {
            let whole = rest;
            let length = rest.skip_until(b'\n')?;
            let piece = &whole[..length];
            self.line_has_text = self.line_has_text || !piece.trim_ascii_start().is_empty();
            if piece.ends_with(b"\n") {
                self.lines += u64::from(std::mem::take(&mut self.line_has_text));
            }
        }
        self.file.write_all(chunk)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn lines(&self) -> u64 {
        self.lines + u64::from(self.line_has_text)
    }

    /// Hands what is buffered to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the file stay.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "spooled upload could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_across_chunks_and_blank_ones_are_not() {
        let path = std::env::temp_dir().join(crate::sim::ids::mint("spool-"));
        let mut spool = Spool::create(path.clone()).unwrap();
        for chunk in ["a", "b\n\n \r", "\nc\n", "d"] {
            spool.write(chunk.as_bytes()).unwrap();
        }
        assert_eq!((spool.lines(), spool.bytes()), (3, 10));
        drop(spool);
        assert!(!path.exists());
    }
}
