//! Hides whatever has the form of an API key in what is logged, right key or wrong.

use crate::http::keys::{PREFIX, looks_like_key};
use std::borrow::Cow;
use std::io::{self, Write};

/// In place of all but the prefix of a key.
const HIDDEN: &[u8] = b"****";

/// Passes on what is written to it without the keys. An event is written at once, so that no key is cut in two.
pub(super) struct Scrubbed<W>(W);

impl<W> Scrubbed<W> {
    pub(super) fn new(writer: W) -> Scrubbed<W> {
        Scrubbed(writer)
    }
}

impl<W: Write> Write for Scrubbed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(&without_keys(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn without_keys(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut clean: Option<Vec<u8>> = None;
    let (mut at, mut kept_to) = (0, 0);
    while let Some(found) = find(&bytes[at..], PREFIX.as_bytes()) {
        let begins = at + found;
        let length = bytes[begins..].iter().take_while(|byte| is_of_key(**byte)).count();
        at = begins + length;
        // Only bytes of ASCII were taken.
        if std::str::from_utf8(&bytes[begins..at]).is_ok_and(looks_like_key) {
            let clean = clean.get_or_insert_default();
            clean.extend_from_slice(&bytes[kept_to..begins + PREFIX.len()]);
            clean.extend_from_slice(HIDDEN);
            kept_to = at;
        }
    }
    match clean {
        None => Cow::Borrowed(bytes),
        Some(mut clean) => {
            clean.extend_from_slice(&bytes[kept_to..]);
            Cow::Owned(clean)
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::keys::NewKey;

    fn scrubbed(text: &str) -> String {
        let mut out = Vec::new();
        Scrubbed::new(&mut out).write_all(text.as_bytes()).expect("it is in memory");
        String::from_utf8(out).expect("text stays text")
    }

    #[test]
    fn s6_a_key_is_hidden_wherever_it_stands_in_a_line() {
        let key = NewKey::generate(&"acme/prod".parse().expect("an env")).expect("randomness");
        let token = key.token.reveal();
        for line in [
            token.to_owned(),
            format!("the header `Bearer {token}` is bad\n"),
            format!("{{\"url\":\"/?a={token}&b={token}\"}}\n"),
            format!("é{token}é tg_ tg_{token}"),
            format!("typed wrong: {token}x"),
        ] {
            let said = scrubbed(&line);
            let secret = token.split('_').nth(3).expect("a secret");
            assert!(said.contains("tg_****") && !said.contains(secret) && !said.contains(key.id.as_str()), "{said}");
        }
    }

    #[test]
    fn what_is_no_key_is_passed_on_byte_for_byte() {
        for line in ["", "tg_", "tg_starting", "listening on http://127.0.0.1:7070", "run_01 tg_**** tg_a.b_c"] {
            assert_eq!(scrubbed(line), line);
        }
        let mut out = Vec::new();
        Scrubbed::new(&mut out).write_all(b"\xff tg_\xfe").expect("it is in memory");
        assert_eq!(out, b"\xff tg_\xfe");
    }
}
