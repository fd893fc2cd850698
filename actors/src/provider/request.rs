//! A batch's requests as they go over the wire, streamed from the store with a length known beforehand.
//!
//! Bodies are the caller's bytes; only the envelope around them is ours, and with it the custom id
//! `KEY-CREATE-POSITION`, which proves to whom a result belongs.

use hyper::header::{HeaderName, HeaderValue};
use storage::StoreError;
use storage::model::TraceParent;
use storage::store::{BatchRow, Store};

const PAGE: i64 = 256;

/// What to send for one batch.
#[derive(Debug, Clone)]
pub struct Manifest<'a> {
    pub store: &'a Store,
    pub batch: &'a BatchRow,
    /// The trace of its create, if that is recorded.
    pub trace: Option<TraceParent>,
}

/// The text around each body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub before_id: &'a str,
    pub before_body: &'a str,
    pub after_body: &'a str,
    /// Stands between two requests.
    pub between: &'a str,
}

impl<'a> Manifest<'a> {
    /// The endpoint that every request of this batch names: the first word of its pack.
    pub fn url(&self) -> &'a str {
        url_of_pack(&self.batch.pack)
    }

    /// The headers of the create: those of every call, and its trace.
    pub fn headers(&self, of_every_call: &[(HeaderName, HeaderValue)]) -> Vec<(HeaderName, HeaderValue)> {
        let trace = self.trace.and_then(|trace| HeaderValue::from_str(&trace.to_string()).ok());
        let trace = trace.map(|value| (HeaderName::from_static("traceparent"), value));
        of_every_call.iter().cloned().chain(trace).collect()
    }

    pub fn key(&self) -> String {
        self.batch.create_key()
    }

    /// Exact length in bytes of all requests in their envelopes.
    pub fn length(&self, envelope: &Envelope<'_>) -> u64 {
        let requests = u64::try_from(self.batch.requests).unwrap_or(0);
        let fixed = envelope.before_id.len() + self.key().len() + 1 + envelope.before_body.len();
        let each = (fixed + envelope.after_body.len() + envelope.between.len()) as u64;
        let bodies = u64::try_from(self.batch.body_bytes).unwrap_or(0);
        (each * requests + digits_below(requests) + bodies).saturating_sub(envelope.between.len() as u64)
    }

    /// The requests from position `from` on as one piece of text, and the position after it; `None` at the end.
    pub async fn page(&self, envelope: &Envelope<'_>, from: i64) -> Result<Option<(String, i64)>, StoreError> {
        let bodies = self.store.bodies(&self.batch.id, from, PAGE).await?;
        let Some((last, _)) = bodies.last() else { return Ok(None) };
        let next = last + 1;
        let key = self.key();
        let size: usize = bodies.iter().map(|(_, body)| body.len() + 160).sum();
        let mut text = String::with_capacity(size);
        for (position, body) in &bodies {
            if *position > 0 {
                text.push_str(envelope.between);
            }
            text.push_str(envelope.before_id);
            text.push_str(&key);
            text.push('-');
            text.push_str(&position.to_string());
            text.push_str(envelope.before_body);
            text.push_str(body);
            text.push_str(envelope.after_body);
        }
        Ok(Some((text, next)))
    }
}

/// A pack is the endpoint and the model, apart by a space; requests of one pack may share a batch. Where a file has
/// many requests with the same parameters, the shape of these parts them from the rest, so that what a provider
/// says to one of them can be held against all.
pub fn pack_of(url: &str, model: &str, shape: Option<u32>) -> String {
    match shape {
        None => format!("{url} {model}"),
        Some(shape) => format!("{url} {model}{SHAPE_MARK}{shape:08x}"),
    }
}

const SHAPE_MARK: &str = " ~";
const SHAPE_BYTES: usize = SHAPE_MARK.len() + 8;

/// Whether all requests of a pack have the same parameters.
pub fn has_shape(pack: &str) -> bool {
    without_shape(pack).len() < pack.len()
}

fn without_shape(pack: &str) -> &str {
    let split = pack.len().checked_sub(SHAPE_BYTES).and_then(|at| pack.split_at_checked(at));
    let is_shape = |end: &str| end.strip_prefix(SHAPE_MARK).is_some_and(|hex| u32::from_str_radix(hex, 16).is_ok());
    split.filter(|(_, end)| is_shape(end)).map_or(pack, |(pack, _)| pack)
}

pub fn url_of_pack(pack: &str) -> &str {
    pack.split_once(' ').map_or(pack, |(url, _)| url)
}

pub fn model_of_pack(pack: &str) -> &str {
    without_shape(pack).split_once(' ').map_or("", |(_, model)| model)
}

/// Splits a custom id from the wire into the key of its create and the request's position.
pub fn split_custom_id(custom_id: &str) -> Option<(&str, i64)> {
    let (key, position) = custom_id.rsplit_once('-')?;
    let canonical = position == "0" || !position.starts_with('0');
    let digits = !position.is_empty() && position.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| position.parse().ok())?.map(|position| (key, position))
}

/// The batch's part of a create key: what stays the same when a batch is created again.
pub fn batch_of_key(key: &str) -> &str {
    key.rsplit_once('-').map_or(key, |(batch, _)| batch)
}

/// How many digits it takes to write 0, 1, …, n − 1.
fn digits_below(n: u64) -> u64 {
    let mut digits = 0;
    let (mut width, mut from) = (1_u64, 0_u64);
    while from < n {
        let until = 10_u64.saturating_pow(u32::try_from(width).unwrap_or(u32::MAX)).min(n);
        digits += (until - from) * width;
        from = until;
        width += 1;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_counted_exactly() {
        for n in [0, 1, 9, 10, 11, 99, 100, 101, 1_000, 12_345] {
            let slow: u64 = (0..n).map(|i: u64| i.to_string().len() as u64).sum();
            assert_eq!(digits_below(n), slow, "{n}");
        }
    }

    #[test]
    fn a_pack_shows_its_endpoint_its_model_and_whether_it_has_a_shape() {
        for (shape, has) in [(None, false), (Some(0), true), (Some(u32::MAX), true)] {
            let pack = pack_of("/v1/responses", "ft:m é", shape);
            assert_eq!((url_of_pack(&pack), model_of_pack(&pack)), ("/v1/responses", "ft:m é"));
            assert_eq!(has_shape(&pack), has);
        }
        for plain in ["", "/v1/x m ~12", "/v1/x m ~1234567g", "/v1/x ééééé"] {
            assert!(!has_shape(plain), "{plain}");
        }
    }

    #[test]
    fn custom_ids_split_only_when_they_are_ours_to_the_letter() {
        assert_eq!(split_custom_id("01abc-1-0"), Some(("01abc-1", 0)));
        assert_eq!(split_custom_id("01abc-2-417"), Some(("01abc-2", 417)));
        for foreign in ["", "x", "01abc-1-", "01abc-1-007", "01abc-1-x", "01abc-1-99999999999999999999"] {
            assert_eq!(split_custom_id(foreign), None, "{foreign}");
        }
        assert_eq!(batch_of_key("01abc-2"), "01abc");
    }
}
