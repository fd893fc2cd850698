//! Signatures of requests, by the Standard Webhooks specification: the receiver can tell that a request is
//! ours, unchanged and fresh, and by its id whether it had the same one before.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "whsec_";
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Keys are passed around with their padding and without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is no key. The text itself is in no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error("a signing key is `{PREFIX}` followed by base64")]
    Form,
    #[error("a signing key has {} to {} bytes, not {bytes}", KEY_BYTES.start(), KEY_BYTES.end())]
    Length { bytes: usize },
}

/// A signing key.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl FromStr for WebhookSecret {
    type Err = BadSecret;

    fn from_str(text: &str) -> Result<WebhookSecret, BadSecret> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(BadSecret::Form)?;
        let key = LENIENT.decode(text).map_err(|_| BadSecret::Form)?;
        if KEY_BYTES.contains(&key.len()) {
            Ok(WebhookSecret(key))
        } else {
            Err(BadSecret::Length { bytes: key.len() })
        }
    }
}

impl WebhookSecret {
    /// One signature, with its version.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_others_compute() {
        let secret: WebhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a key");
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let secret: WebhookSecret = " whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAA=\n".parse().expect("a key");
        assert_eq!(format!("{secret:?}"), "****");
        assert_eq!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAA".parse(), Ok(secret), "padding does not matter");
        for (text, error) in [
            ("", BadSecret::Form),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", BadSecret::Form),
            ("whsec_not base64!", BadSecret::Form),
            ("whsec_AAAA", BadSecret::Length { bytes: 3 }),
        ] {
            assert_eq!(text.parse::<WebhookSecret>(), Err(error), "{text}");
        }
    }
}
