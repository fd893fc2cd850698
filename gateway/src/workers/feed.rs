//! Sends what a program writes, piece by piece; the program is held back while a piece is under way.

use super::heart::{Told, hear};
use super::lease::{Lease, is_lost};
use crate::client::Client;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::timeout;

/// Even if each byte has to be escaped, a piece stays below what the server takes.
const PIECE_MAX: usize = 40 * 1024;
/// Small pieces wait this long for company.
const FLUSH_EVERY: Duration = Duration::from_millis(250);

/// One stream of one attempt.
pub struct Feed {
    pub client: Client,
    pub lease: Lease,
    pub stream: &'static str,
    pub told: watch::Sender<Told>,
}

impl Feed {
    /// Until the stream's end, or until the lease is lost. What cannot be sent is dropped: the run is worth more
    /// than its output.
    pub async fn run(self, mut from: impl AsyncRead + Unpin) {
        let (mut held, mut seq, mut open) = (Vec::new(), 0_u64, true);
        while open {
            open = fill(&mut from, &mut held).await;
            while let Some(piece) = cut(&mut held, !open) {
                match self.send(&piece, seq).await {
                    Sent::Taken => seq += 1,
                    Sent::Dropped => {}
                    Sent::Lost => return hear(&self.told, Told::Lost),
                }
            }
        }
    }

    async fn send(&self, piece: &str, seq: u64) -> Sent {
        let fields = json!({ "stream": self.stream, "seq": seq, "data": piece });
        match self.lease.say(&self.client, "output", fields).await {
            Ok(_) => Sent::Taken,
            Err(failure) if is_lost(&failure) => Sent::Lost,
            Err(failure) => {
                say!("{}: a piece of its {} is lost: {}", self.lease.run, self.stream, failure.what);
                Sent::Dropped
            }
        }
    }
}

enum Sent {
    Taken,
    Dropped,
    Lost,
}

/// Reads until there is a whole piece, or a pause; false at the end.
async fn fill(from: &mut (impl AsyncRead + Unpin), held: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 16 * 1024];
    // The first bytes may take as long as they like.
    match from.read(&mut buffer).await {
        Ok(0) | Err(_) => return false,
        Ok(count) => held.extend_from_slice(&buffer[..count]),
    }
    while held.len() < PIECE_MAX {
        match timeout(FLUSH_EVERY, from.read(&mut buffer)).await {
            Err(_) => return true,
            Ok(Ok(0) | Err(_)) => return false,
            Ok(Ok(count)) => held.extend_from_slice(&buffer[..count]),
        }
    }
    true
}

/// The next piece as text. A character that is cut by the end of what is there waits for its rest, unless
/// nothing comes any more; bytes that are no text show as the replacement character.
fn cut(held: &mut Vec<u8>, last: bool) -> Option<String> {
    let mut end = held.len().min(PIECE_MAX);
    if !(last && end == held.len()) {
        end -= unfinished(&held[..end]);
    }
    if end == 0 {
        return None;
    }
    let bytes: Vec<u8> = held.drain(..end).collect();
    // NUL is a character that not every store can hold.
    Some(String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"))
}

/// Bytes at the end that may be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let wanted = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if back < wanted { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_cut_in_two() {
        let text = "aé€👍z";
        for at in 0..=text.len() {
            let mut held = text.as_bytes()[..at].to_vec();
            let mut sent = cut(&mut held, false).unwrap_or_default();
            held.extend_from_slice(&text.as_bytes()[at..]);
            sent += &cut(&mut held, true).unwrap_or_default();
            assert_eq!(sent, text, "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_text_is_shown_as_such_and_does_not_wait_for_ever() {
        let mut held = vec![b'a', 0xff, 0, 0xe2, 0x82];
        assert_eq!(cut(&mut held, false).as_deref(), Some("a\u{fffd}\u{fffd}"));
        assert_eq!(cut(&mut held, true).as_deref(), Some("\u{fffd}"));
        assert_eq!(cut(&mut held, true), None);
    }

    #[test]
    fn a_piece_stays_small_even_if_all_of_it_is_escaped() {
        let mut held = vec![1; 3 * PIECE_MAX];
        let mut pieces = 0;
        while let Some(piece) = cut(&mut held, true) {
            pieces += 1;
            assert!(json!(piece).to_string().len() <= 256 * 1024);
        }
        assert_eq!(pieces, 3);
    }
}
