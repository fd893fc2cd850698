//! Where time, chance and digests enter the simulator; everything else receives them as values.

use std::time::Duration;

use sha2::{Digest, Sha256};
use storage::model::{Clock, SystemClock};

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    u64::try_from(SystemClock.now().millis()).unwrap_or(0)
}

/// Being slow is what a provider with this fault does.
#[expect(clippy::disallowed_methods, reason = "the fault that was asked for is a delay")]
pub(super) async fn dawdle(span: Duration) {
    tokio::time::sleep(span).await;
}

/// A fresh id such as `batch_1f0c…`.
pub(super) fn mint(prefix: &str) -> String {
    let noise: u128 = rand::random();
    format!("{prefix}{noise:032x}")
}

pub(super) fn seed() -> u64 {
    rand::random()
}

pub(super) fn chance(rate: f64) -> bool {
    rate > 0.0 && rand::random::<f64>() < rate
}

/// A random place in `0..size`.
pub(super) fn place(size: u64) -> u64 {
    if size == 0 { 0 } else { rand::random_range(0..size) }
}

pub(super) type Sha = [u8; 32];

pub(super) fn sha(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// The digest that `hex` wrote; `None` for any other text.
pub(super) fn unhex(text: &str) -> Option<Sha> {
    let mut sha = Sha::default();
    let well = text.len() == 2 * sha.len() && text.is_ascii();
    for (byte, digits) in sha.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    well.then_some(sha)
}

/// The id of a file that a batch produces; it can be told again after a restart.
pub(super) fn derived(batch: &str, kind: &str) -> String {
    let digest = sha(format!("{batch}:{kind}").as_bytes());
    format!("file-{}", hex(&digest[..12]))
}

/// A well mixed number from a seed and an item's position; `salt` keeps decisions independent.
pub(super) fn mix(seed: u64, index: u64, salt: u64) -> u64 {
    let mut x = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd1b5_4a32_d192_ed03);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The same as a number in `[0, 1)`.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A point in time as Anthropic writes it.
pub(super) fn rfc3339(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Days to a civil date with eras of 400 years that begin in March.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_civil_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_795_255_200_000), "2026-11-21T10:00:00.000Z");
    }

    #[test]
    fn mixed_numbers_are_spread_over_the_unit_interval() {
        let low = (0..10_000).filter(|i| unit(mix(7, *i, 1)) < 0.25).count();
        assert!((2_200..2_800).contains(&low), "{low}");
    }
}
