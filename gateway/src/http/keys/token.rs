//! The text of an API key: `tg_ORG.ENV_ID_SECRET_CHECK`.
//!
//! The prefix lets log scrubbers and secret scanners find it; the checksum tells a typing error from a key
//! without asking the store. Neither is a secret.

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Digest as _;

use super::Env;
use crate::http::query::is_crockford;

/// What every key begins with.
pub const PREFIX: &str = "tg_";

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_BYTES: usize = 10;
const SECRET_BYTES: usize = 32;
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 52;
const CHECK_CHARS: usize = 7;
/// The longest key that can be; anything longer is not looked at.
const CHARS_MAX: usize = PREFIX.len() + 81 + 1 + ID_CHARS + 1 + SECRET_CHARS + 1 + CHECK_CHARS;

/// SHA-256 of a key's secret.
pub type Digest = [u8; 32];

/// The part of a key that may be shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Takes an id as it stands in the store or in a request; it need not exist.
    pub fn from_text(text: impl Into<String>) -> KeyId {
        KeyId(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole text of a key. Prints as `****`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// For the one time that the key is shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// A key that was just made: `token` goes to its owner, the rest into the store.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub id: KeyId,
    pub sha256: Digest,
    pub token: Token,
}

impl NewKey {
    /// Makes a key from the operating system's randomness; fails only if there is none.
    pub fn generate(env: &Env) -> Result<NewKey, rand::rngs::SysError> {
        let mut noise = [0; ID_BYTES + SECRET_BYTES];
        SysRng.try_fill_bytes(&mut noise)?;
        let (id, secret) = noise.split_at(ID_BYTES);
        let (id, secret) = (base32(id), base32(secret));
        let body = format!("{PREFIX}{}_{id}_{secret}", env.slug());
        let token = Token(format!("{body}_{}", check_of(&body)));
        Ok(NewKey { id: KeyId(id), sha256: sha2::Sha256::digest(&secret).into(), token })
    }
}

/// A key as a client presents it: of the right form, with the right checksum, and not yet looked up.
pub struct Presented {
    pub id: KeyId,
    pub env: Env,
    sha256: Digest,
}

impl Presented {
    /// `None` for what cannot be a key; costs no lookup.
    pub fn parse(text: &str) -> Option<Presented> {
        if text.len() > CHARS_MAX {
            return None;
        }
        let (body, check) = text.rsplit_once('_')?;
        let mut parts = body.strip_prefix(PREFIX)?.split('_');
        let (slug, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let well_formed = parts.next().is_none() && is_base32(id, ID_CHARS) && is_base32(secret, SECRET_CHARS);
        if !well_formed || check != check_of(body) {
            return None;
        }
        let env = Env::from_slug(slug).ok()?;
        Some(Presented { id: KeyId(id.to_owned()), env, sha256: sha2::Sha256::digest(secret).into() })
    }

    /// Compares with the stored digest in the same time, wherever they differ.
    pub fn matches(&self, stored: &Digest) -> bool {
        let differing = self.sha256.iter().zip(stored).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({} in {}, ****)", self.id, self.env)
    }
}

/// Whether a text has the form of a key, right or wrong; such a text belongs into no URL and no log.
pub fn looks_like_key(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| rest.len() >= SECRET_CHARS && rest.contains('_'))
}

fn is_base32(text: &str, chars: usize) -> bool {
    text.len() == chars && text.bytes().all(is_crockford)
}

/// Crockford's base 32, high bits first, the last character filled up with zeros.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(char::from(ALPHABET[(bits >> held) as usize & 31]));
        }
    }
    if held > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - held)) as usize & 31]));
    }
    text
}

fn check_of(body: &str) -> String {
    base32(&crc32(body.as_bytes()).to_be_bytes())
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The checksum of Ethernet and zip.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ CRC_TABLE[((crc ^ u32::from(*byte)) & 255) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> NewKey {
        NewKey::generate(&"acme/prod".parse().expect("an env")).expect("randomness")
    }

    #[test]
    fn the_checksum_is_the_common_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_key_that_was_made_is_read_back() {
        let key = key();
        let text = key.token.reveal();
        assert!(text.starts_with("tg_acme.prod_") && text.is_ascii() && looks_like_key(text), "{text}");
        let presented = Presented::parse(text).expect("a key");
        assert_eq!((&presented.id, presented.env.as_str()), (&key.id, "acme/prod"));
        assert!(presented.matches(&key.sha256));
        assert!(!presented.matches(&[0; 32]));
        let mut near = key.sha256;
        near[31] ^= 1;
        assert!(!presented.matches(&near));
    }

    #[test]
    fn no_two_keys_are_alike() {
        let (a, b) = (key(), key());
        assert_ne!(a.token, b.token);
        assert_ne!((a.id, a.sha256), (b.id, b.sha256));
    }

    #[test]
    fn row_127_every_typing_error_is_noticed_without_a_lookup() {
        let text = key().token.reveal().to_owned();
        for at in 0..text.len() {
            for other in ['0', 'z', 'Z', '_', '-', ' '] {
                let mut wrong: Vec<char> = text.chars().collect();
                if wrong[at] == other {
                    continue;
                }
                wrong[at] = other;
                let wrong: String = wrong.into_iter().collect();
                assert!(Presented::parse(&wrong).is_none(), "{wrong}");
            }
            assert!(Presented::parse(&text[..at]).is_none());
        }
        for wrong in
            [format!("{text}0"), format!(" {text}"), format!("{text}\n"), text.to_uppercase(), "tg_".repeat(9_999)]
        {
            assert!(Presented::parse(&wrong).is_none());
        }
    }

    #[test]
    fn the_secret_is_in_nothing_that_is_printed() {
        let key = key();
        let text = key.token.reveal();
        let secret = text.split('_').nth(3).expect("a secret");
        let presented = Presented::parse(text).expect("a key");
        let printed = format!("{key:?} {presented:?} {} {}", key.token, key.id);
        assert!(!printed.contains(secret), "{printed}");
    }
}
