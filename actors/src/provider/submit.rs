//! Sends a create with its last byte held back, and names what the answer means.
//!
//! A server cannot act on a body that it has not wholly received. So everything but the last byte is sent,
//! then the intent is made durable, then the last byte leaves: whatever dies before that is known to be
//! unsent, and what dies after it is *unknown* until the provider's listing tells.

use super::wire::{ANSWER_WITHIN, CallError, Content, Endpoint, Exchange, body_channel};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use std::time::Duration;
use storage::StoreError;
use storage::boot_clock::since_boot;
use storage::failpoint::{Failpoint, reached};
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

/// The last byte leaves at most this long after the intent was committed, in time that counts suspends.
const SEND_WITHIN: Duration = Duration::from_secs(2);
/// A body must flow at least this fast on the whole.
const SLOWEST_BYTES_PER_SECOND: u64 = 20_000;

/// Makes the create durable as intended, and tells until when, in time since boot, its last byte may leave: from then
/// on another node may have proven that it never did. An error means that it must not be sent.
pub type Committed<'a> = Box<dyn FnOnce() -> BoxFuture<'a, Result<Duration, StoreError>> + Send + 'a>;

/// What became of a create.
#[derive(Debug)]
pub enum Created {
    /// The provider has it.
    Accepted { id: String },
    /// The provider has nothing: it said so, or never got the last byte. `committed` tells whether the
    /// intent had been made durable.
    NotTaken { committed: bool, why: CallError },
    /// Nobody can tell yet. Never to be repeated without evidence.
    Unclear { why: CallError },
    /// The intent could not be made durable, or the bodies not read; nothing was sent whole.
    Store(StoreError),
}

/// A create as it goes out: its last piece ends with the byte that is held back.
pub(super) struct Outgoing<'e, 'c> {
    pub endpoint: &'e Endpoint,
    pub path: String,
    pub headers: &'e [(HeaderName, HeaderValue)],
    pub length: u64,
    pub committed: Committed<'c>,
}

/// Carries out the protocol. `feed` pushes all pieces of the body but the last one, which it returns.
pub(super) async fn create<'f, F>(outgoing: Outgoing<'_, '_>, feed: F) -> Created
where
    F: FnOnce(Sender<Bytes>) -> BoxFuture<'f, Result<Bytes, StoreError>>,
{
    let Outgoing { endpoint, path, headers, length, committed } = outgoing;
    let not_sent = |why| Created::NotTaken { committed: false, why };
    let (pieces, frames) = body_channel();
    let content = Content::Stream { content_type: "application/json".to_owned(), length, frames };
    let answer = match endpoint.open(Method::POST, &path, headers, content).await {
        Ok(answer) => answer,
        Err(why) => return not_sent(why),
    };
    let mut answer = Box::pin(answer);
    let patience = ANSWER_WITHIN + Duration::from_secs(length / SLOWEST_BYTES_PER_SECOND);
    let late = || CallError::Timeout { host: endpoint.host().to_owned(), within: patience };

    let mut last_piece = {
        let fed = timeout(patience, feed(pieces.clone()));
        tokio::select! {
            biased;
            early = &mut answer => return answered_early(endpoint, early, committed).await,
            fed = fed => match fed {
                Ok(Ok(last_piece)) => last_piece,
                Ok(Err(error)) => return Created::Store(error),
                Err(_) => return not_sent(late()),
            },
        }
    };
    let Some(last_byte) = last_piece.len().checked_sub(1).map(|at| last_piece.split_off(at)) else {
        return not_sent(CallError::BadAnswer { host: endpoint.host().to_owned(), expected: "a body to send" });
    };
    if !last_piece.is_empty() && pieces.send(last_piece).await.is_err() {
        // The connection is gone; the exchange says why.
        return answered_early(endpoint, answer.await, committed).await;
    }
    let committing_at = since_boot();
    let send_by = match committed().await {
        Ok(held_until) => held_until.min(committing_at + SEND_WITHIN),
        Err(error) => return Created::Store(error),
    };
    if since_boot() > send_by {
        return Created::NotTaken { committed: true, why: late() };
    }
    // Only the receiver's end is closed when this fails; the byte then never left, but as the socket may
    // have been closed by an answer that is on its way, the answer decides.
    let _ = pieces.send(last_byte).await;
    drop(pieces);
    reached(Failpoint::CreateLastByte);
    match timeout(ANSWER_WITHIN, answer).await {
        Err(_) => Created::Unclear { why: late() },
        Ok(answer) => read_answer(endpoint, answer).await,
    }
}

/// An answer or a broken connection before the last byte: nothing was taken, unless the answer claims so.
async fn answered_early(endpoint: &Endpoint, answer: Result<Exchange, CallError>, committed: Committed<'_>) -> Created {
    let exchange = match answer {
        Ok(exchange) => exchange,
        Err(why) => return Created::NotTaken { committed: false, why },
    };
    if exchange.status().is_success() {
        // It says that it has taken what it cannot have read to the end: believe it, durably.
        return match committed().await {
            Err(error) => Created::Store(error),
            Ok(_) => read_answer(endpoint, Ok(exchange)).await,
        };
    }
    Created::NotTaken { committed: false, why: exchange.into_status_error(endpoint.host()).await }
}

async fn read_answer(endpoint: &Endpoint, answer: Result<Exchange, CallError>) -> Created {
    let exchange = match answer {
        Ok(exchange) => exchange,
        Err(why) => return Created::Unclear { why },
    };
    if !exchange.status().is_success() {
        let why = exchange.into_status_error(endpoint.host()).await;
        reached(Failpoint::CreateAnswered);
        return match why.status() {
            Some(status) if is_definite_no(status) => Created::NotTaken { committed: true, why },
            _ => Created::Unclear { why },
        };
    }
    let body = match exchange.read(endpoint.host()).await {
        Ok(body) => body,
        Err(why) => return Created::Unclear { why },
    };
    reached(Failpoint::CreateAnswered);
    match serde_json::from_slice::<WithId>(&body) {
        Ok(WithId { id }) if is_plausible_id(&id) => Created::Accepted { id },
        _ => Created::Unclear {
            why: CallError::BadAnswer { host: endpoint.host().to_owned(), expected: "a batch with an id" },
        },
    }
}

#[derive(serde::Deserialize)]
struct WithId {
    id: String,
}

fn is_plausible_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
    (1..=256).contains(&id.len()) && id.bytes().all(allowed)
}

/// Whether a status on a create proves that nothing was taken. A time-out (408, 425, 499), a conflict (409)
/// and every 5xx prove nothing: the request may have been accepted before the answer was made.
pub(super) fn is_definite_no(status: u16) -> bool {
    (400..500).contains(&status) && ![408, 409, 425, 499].contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documented_refusals_prove_that_nothing_was_taken() {
        for no in [400, 401, 402, 403, 404, 405, 413, 422, 429] {
            assert!(is_definite_no(no), "{no}");
        }
        for unclear in [200, 302, 408, 409, 425, 499, 500, 502, 503, 504, 520, 529] {
            assert!(!is_definite_no(unclear), "{unclear}");
        }
    }

    #[test]
    fn ids_that_could_leave_the_path_are_not_believed() {
        assert!(is_plausible_id("batch_68f-1.a:b"));
        for bad in ["", "../files", "a/b", "a?b", "a b", "é"] {
            assert!(!is_plausible_id(bad), "{bad}");
        }
    }
}
