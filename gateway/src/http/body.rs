//! Takes bodies off the wire within limits of size and time, and says what media they are.
//!
//! Without these limits a client that stalls holds its connection for ever. Time counts only while the client
//! is waited for: what is done between two lines of a stream is not held against it. An answer that is given
//! before the body has ended closes the connection; the guard sees to that.

mod lines;

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

pub use lines::{Line, LineLimits, Lines};

use super::problem::{Code, Problem};

/// How long a client may send nothing in the middle of a body.
pub const STALL: Duration = Duration::from_secs(10);
/// How long a client may take for a small body, and for any.
const WHOLE_LEAST: Duration = Duration::from_secs(30);
const WHOLE_MOST: Duration = Duration::from_secs(60);
/// What even a poor line carries in a second.
const BYTES_PER_SECOND: u64 = 256 * 1024;
/// Taken in advance for a body whose length is declared.
const RESERVE_MAX: usize = 64 * 1024;

/// What a request body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Ndjson,
}

impl Media {
    const fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Ndjson => "application/x-ndjson",
        }
    }
}

/// How much a body may be, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub bytes_max: usize,
    pub stall: Duration,
    pub whole: Duration,
}

impl Limits {
    /// The usual deadlines for a body of this size.
    pub fn of(bytes_max: usize) -> Limits {
        let size = Duration::from_secs(u64::try_from(bytes_max).unwrap_or(u64::MAX) / BYTES_PER_SECOND);
        Limits { bytes_max, stall: STALL, whole: WHOLE_LEAST.saturating_add(size).min(WHOLE_MOST) }
    }
}

/// The whole of a JSON body.
pub async fn read<S>(payload: S, request: &HttpRequest, limits: &Limits) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    expect_media(request, Media::Json)?;
    take(payload, request, limits).await
}

/// The same where the body may be left away, and its type with it.
pub async fn read_optional<S>(payload: S, request: &HttpRequest, limits: &Limits) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    if is_absent(request.headers()) {
        return Ok(Bytes::new());
    }
    read(payload, request, limits).await
}

/// What the body is; anything that is not named here is refused, as is a compressed body.
pub fn media(request: &HttpRequest) -> Result<Media, Problem> {
    let headers = request.headers();
    let plain = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).all(plain) {
        return Err(Problem::new(Code::UnsupportedEncoding, "send the body without a Content-Encoding"));
    }
    let mut types = headers.get_all(header::CONTENT_TYPE);
    let media = types.next().and_then(|value| media_of(value.to_str().ok()?));
    media.filter(|_| types.next().is_none()).ok_or_else(|| unsupported("application/json or application/x-ndjson"))
}

/// Refuses every other media than this.
pub fn expect_media(request: &HttpRequest, wanted: Media) -> Result<(), Problem> {
    if media(request)? == wanted { Ok(()) } else { Err(unsupported(wanted.name())) }
}

fn unsupported(wanted: &str) -> Problem {
    Problem::new(Code::UnsupportedMediaType, format!("send the body as {wanted}, in UTF-8"))
}

fn media_of(text: &str) -> Option<Media> {
    let mut parts = text.split(';');
    let name = parts.next()?.trim();
    let media = [Media::Json, Media::Ndjson].into_iter().find(|media| name.eq_ignore_ascii_case(media.name()))?;
    let charsets = parts.filter_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    let utf8 = |charset: &str| charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8");
    charsets.into_iter().all(utf8).then_some(media)
}

fn is_absent(headers: &HeaderMap) -> bool {
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() == b"0");
    empty && !headers.contains_key(header::TRANSFER_ENCODING)
}

/// A body's declared length; none where it comes in chunks.
pub fn expected(request: &HttpRequest, bytes_max: usize) -> Result<Option<usize>, Problem> {
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    if chunked { Ok(None) } else { declared(request, bytes_max).map(Some) }
}

/// Refuses a declared length over the limit, so that nothing of it is read.
fn declared(request: &HttpRequest, bytes_max: usize) -> Result<usize, Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let Some(length) = length.and_then(|length| length.parse::<u64>().ok()) else { return Ok(0) };
    let fits = usize::try_from(length).ok().filter(|length| *length <= bytes_max);
    fits.ok_or_else(|| too_large(bytes_max))
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body may have {bytes_max} bytes at most"))
}

async fn take<S>(payload: S, request: &HttpRequest, limits: &Limits) -> Result<Bytes, Problem>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let length = declared(request, limits.bytes_max)?;
    let mut arriving = Arriving::new(payload, limits);
    let Some(first) = arriving.next().await? else { return Ok(Bytes::new()) };
    let Some(second) = arriving.within(limits.bytes_max, first.len()).await? else { return Ok(first) };
    let mut body = BytesMut::with_capacity(length.min(RESERVE_MAX).max(first.len() + second.len()));
    body.extend_from_slice(&first);
    body.extend_from_slice(&second);
    while let Some(chunk) = arriving.within(limits.bytes_max, body.len()).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// A body on its way, with the patience that is left for it.
struct Arriving<S> {
    payload: S,
    stall: Duration,
    left: Duration,
}

impl<S> Arriving<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    fn new(payload: S, limits: &Limits) -> Arriving<S> {
        Arriving { payload, stall: limits.stall, left: limits.whole }
    }

    #[expect(clippy::disallowed_methods, reason = "how long the client was waited for")]
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let late = || Problem::new(Code::BodyTimeout, "the rest of the body did not come in time");
        if self.left.is_zero() {
            return Err(late());
        }
        let began = tokio::time::Instant::now();
        let waited = tokio::time::timeout(self.stall.min(self.left), self.payload.next()).await;
        self.left = self.left.saturating_sub(began.elapsed());
        match waited {
            Err(_) => Err(late()),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(error))) => Err(broken(&error)),
        }
    }

    /// The next chunk, if it and what was `taken` before stay within the limit.
    async fn within(&mut self, bytes_max: usize, taken: usize) -> Result<Option<Bytes>, Problem> {
        if taken > bytes_max {
            return Err(too_large(bytes_max));
        }
        match self.next().await? {
            Some(chunk) if chunk.len() > bytes_max - taken => Err(too_large(bytes_max)),
            chunk => Ok(chunk),
        }
    }
}

fn broken(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Overflow => Problem::new(Code::BodyTooLarge, "the body is too large"),
        _ => Problem::new(Code::BodyIncomplete, "the body broke off, or its framing is broken"),
    }
}

#[cfg(test)]
mod tests;
