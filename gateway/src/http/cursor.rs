//! Where a page of a list ended, in a form that only we can have made.
//!
//! A cursor is sealed together with the list that it is of: the route, the env and the filter. One that was
//! changed, made up, or taken from another list does not open, and says nothing about why.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::digest::Key;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

use super::problem::{Code, Problem};

/// The first byte of every cursor; another form gets another one.
const VERSION: u8 = 1;
const SORT_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// The longest id that a cursor takes.
const ID_BYTES_MAX: usize = 128;
/// Beyond this a text is not even decoded.
const CHARS_MAX: usize = (1 + SORT_BYTES + ID_BYTES_MAX + TAG_BYTES) * 4 / 3 + 4;

/// The last item of a page: what the list is sorted by, and its id to tell equal ones apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub sort: i64,
    pub id: String,
}

/// The list that a cursor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List<'a> {
    /// Tells lists of different things apart, as in `runs`.
    pub name: &'a str,
    pub env: &'a str,
    /// Everything that decides which items are in it and in which order, always written the same way.
    pub filter: &'a str,
}

/// Seals and opens cursors with a secret that all nodes of a store share.
#[derive(Clone)]
pub struct Cursors {
    mac: Hmac<Sha256>,
}

impl Cursors {
    pub fn new(secret: &[u8; 32]) -> Cursors {
        let mut key = Key::<Hmac<Sha256>>::default();
        key[..secret.len()].copy_from_slice(secret);
        Cursors { mac: Hmac::new(&key) }
    }

    pub fn seal(&self, position: &Position, list: &List<'_>) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&position.sort.to_be_bytes());
        bytes.extend_from_slice(position.id.as_bytes());
        let tag = self.tag(&bytes, list).finalize().into_bytes();
        bytes.extend_from_slice(&tag[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn open(&self, text: &str, list: &List<'_>) -> Result<Position, Problem> {
        self.opened(text, list).ok_or_else(|| {
            Problem::new(Code::InvalidCursor, "use the cursor of the page before, with the same filter, or none")
        })
    }

    fn opened(&self, text: &str, list: &List<'_>) -> Option<Position> {
        let bytes =
            Some(text).filter(|text| text.len() <= CHARS_MAX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())?;
        let (sealed, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        self.tag(sealed, list).verify_truncated_left(tag).ok()?;
        let (version, rest) = sealed.split_first()?;
        let (sort, id) = rest.split_first_chunk::<SORT_BYTES>()?;
        let id = String::from_utf8(id.to_vec()).ok()?;
        (*version == VERSION).then(|| Position { sort: i64::from_be_bytes(*sort), id })
    }

    /// Every part with its length before it, so that nothing can move from one part into the next.
    fn tag(&self, sealed: &[u8], list: &List<'_>) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in [sealed, list.name.as_bytes(), list.env.as_bytes(), list.filter.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Cursors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cursors(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: List<'static> = List { name: "runs", env: "acme/prod", filter: "status=queued" };

    fn position() -> Position {
        Position { sort: -1_795_251_661_042, id: "run_01jd8v9k3z5m7q2w4x6y8a0b1c".to_owned() }
    }

    #[test]
    fn a_cursor_opens_to_what_was_sealed() {
        let cursors = Cursors::new(&[7; 32]);
        for position in [position(), Position { sort: i64::MAX, id: String::new() }] {
            let text = cursors.seal(&position, &RUNS);
            assert!(text.len() < 100 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            assert_eq!(cursors.open(&text, &RUNS).ok(), Some(position));
        }
    }

    #[test]
    fn row_121_a_cursor_of_another_list_or_store_does_not_open() {
        let cursors = Cursors::new(&[7; 32]);
        let text = cursors.seal(&position(), &RUNS);
        for list in [
            List { env: "acme/dev", ..RUNS },
            List { filter: "status=running", ..RUNS },
            List { filter: "", ..RUNS },
            List { name: "jobs", ..RUNS },
            List { env: "acme/prods", filter: "tatus=queued", ..RUNS },
        ] {
            assert_eq!(cursors.open(&text, &list).err().map(|problem| problem.code), Some(Code::InvalidCursor));
        }
        assert!(Cursors::new(&[8; 32]).open(&text, &RUNS).is_err());
    }

    #[test]
    fn row_121_a_changed_or_made_up_cursor_does_not_open() {
        let cursors = Cursors::new(&[7; 32]);
        let text = cursors.seal(&position(), &RUNS);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(cursors.open(&changed, &RUNS).is_err(), "{at}");
            assert!(cursors.open(&text[..at], &RUNS).is_err(), "{at}");
        }
        let other_version = {
            let mut bytes = vec![VERSION + 1];
            bytes.extend_from_slice(&0_i64.to_be_bytes());
            let tag = cursors.tag(&bytes, &RUNS).finalize().into_bytes();
            bytes.extend_from_slice(&tag[..TAG_BYTES]);
            URL_SAFE_NO_PAD.encode(bytes)
        };
        let long = "A".repeat(10_240);
        for text in
            ["", "A", "garbage", "%%%", "run_1", &format!("{text}="), &format!("{text}A"), &long, &other_version]
        {
            assert!(cursors.open(text, &RUNS).is_err(), "{text:.40}");
        }
        assert_eq!(format!("{cursors:?}"), "Cursors(****)");
    }
}
