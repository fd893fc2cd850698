//! The message-batches protocol of Anthropic, in both of its dialects.
//!
//! There is no file and no metadata, and work starts at once: the only trace of our key is in the custom ids,
//! which the provider shows when the batch has ended. Until then a batch is recognised by its exact size.

use super::openai::LineReader;
use super::request::{Envelope, Manifest};
use super::submit::{self, Committed, Created, Outgoing};
use super::wire::{Answer, CARRIED_OUT_WITHIN, CallError, Content, Endpoint};
use super::{End, Listed, Polled, Protocol, Provider, ResultLines};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Deserialize;
use std::time::Duration;
use storage::StoreError;
use storage::failpoint::{Failpoint, reached};
use storage::model::Timestamp;
use storage::store::Limits;
use tokio::sync::mpsc::Sender;

const MAX_REQUESTS: i64 = 100_000;
const MAX_BYTES: i64 = 256_000_000;
const LIST_GRACE: Duration = Duration::from_secs(300);
const MOST_PAGES: usize = 200;
const HEAD: &str = r#"{"requests":["#;
const TAIL: &str = "]}";
const ENVELOPE: Envelope<'static> =
    Envelope { before_id: r#"{"custom_id":""#, before_body: r#"","params":"#, after_body: "}", between: "," };

/// The version from which a bearer token replaces `x-api-key`.
const BEARER_SINCE: &str = "2026-10-21";
pub const DEFAULT_VERSION: &str = "2023-06-01";

/// A provider that is reached by the Anthropic protocol.
pub struct Anthropic {
    endpoint: Endpoint,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Anthropic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Anthropic").field("host", &self.endpoint.host()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Page {
    data: Vec<MessageBatch>,
    #[serde(default)]
    has_more: bool,
    last_id: Option<String>,
}

#[derive(Deserialize)]
struct MessageBatch {
    id: String,
    processing_status: String,
    request_counts: Counts,
    created_at: String,
    archived_at: Option<String>,
    results_url: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    processing: i64,
    succeeded: i64,
    errored: i64,
    canceled: i64,
    expired: i64,
}

impl Counts {
    fn total(&self) -> i64 {
        self.processing + self.succeeded + self.errored + self.canceled + self.expired
    }
}

impl Anthropic {
    /// `base` without `/v1`, as the official clients take it; `version` decides the dialect.
    pub fn new(base: &str, key: &str, version: &str) -> Result<Anthropic, CallError> {
        let bad =
            |_| CallError::BadBase { base: "(a key or version with characters that no header can hold)".to_owned() };
        let (name, value) = if version >= BEARER_SINCE {
            (AUTHORIZATION, format!("Bearer {key}"))
        } else {
            (HeaderName::from_static("x-api-key"), key.to_owned())
        };
        let mut value = HeaderValue::try_from(value).map_err(bad)?;
        value.set_sensitive(true);
        let version = HeaderValue::try_from(version).map_err(bad)?;
        let headers = vec![(name, value), (HeaderName::from_static("anthropic-version"), version)];
        Ok(Anthropic { endpoint: Endpoint::parse(base)?, headers })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, route: &str) -> Result<T, CallError> {
        self.endpoint.json(Method::GET, &self.endpoint.route(route), &self.headers, Content::None).await
    }

    fn batch_route(&self, id: &str, verb: &str) -> String {
        self.endpoint.route(&format!("/v1/messages/batches/{id}{verb}"))
    }

    /// Pushes all of the body but its tail, whose last byte is the one that is held back.
    async fn feed(manifest: &Manifest<'_>, pieces: Sender<Bytes>) -> Result<Bytes, StoreError> {
        let tail = Ok(Bytes::from_static(TAIL.as_bytes()));
        if pieces.send(Bytes::from_static(HEAD.as_bytes())).await.is_err() {
            return tail;
        }
        let mut from = 0;
        while let Some((text, next)) = manifest.page(&ENVELOPE, from).await? {
            if pieces.send(Bytes::from(text)).await.is_err() {
                return tail;
            }
            if next * 2 >= manifest.batch.requests {
                reached(Failpoint::CreateHalf);
            }
            from = next;
        }
        tail
    }
}

#[async_trait]
impl Provider for Anthropic {
    fn protocol(&self) -> Protocol {
        Protocol::Anthropic
    }

    fn limits(&self, _url: &str) -> Limits {
        let around = ENVELOPE.before_id.len() + 40 + ENVELOPE.before_body.len() + ENVELOPE.after_body.len() + 1;
        Limits {
            max_requests: MAX_REQUESTS,
            max_bytes: MAX_BYTES - 64,
            max_bodies: i64::MAX,
            envelope_bytes: i64::try_from(around).unwrap_or(100),
        }
    }

    async fn upload(&self, _name: &str, _manifest: &Manifest<'_>) -> Result<String, CallError> {
        Err(CallError::BadAnswer { host: self.endpoint.host().to_owned(), expected: "a provider with input files" })
    }

    async fn files_named(&self, _name: &str) -> Result<Vec<String>, CallError> {
        Ok(Vec::new())
    }

    async fn delete_file(&self, _id: &str) -> Result<(), CallError> {
        Ok(())
    }

    async fn create(&self, manifest: &Manifest<'_>, _file: Option<&str>, committed: Committed<'_>) -> Created {
        let length = (HEAD.len() + TAIL.len()) as u64 + manifest.length(&ENVELOPE);
        let outgoing = Outgoing {
            endpoint: &self.endpoint,
            path: self.endpoint.route("/v1/messages/batches"),
            headers: &manifest.headers(&self.headers),
            length,
            committed,
        };
        submit::create(outgoing, |pieces| async move { Self::feed(manifest, pieces).await }.boxed()).await
    }

    async fn list(&self, since: Timestamp) -> Result<Vec<Listed>, CallError> {
        let oldest = since - LIST_GRACE;
        let mut found = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let page: Page = self.get(&format!("/v1/messages/batches?limit=100{after}")).await?;
            let Some(last_id) = page.last_id.or_else(|| page.data.last().map(|batch| batch.id.clone())) else { break };
            after = format!("&after_id={last_id}");
            let mut reached_oldest = false;
            for batch in page.data {
                let listed = batch.listed(self.endpoint.host())?;
                reached_oldest |= listed.created_at < oldest;
                if listed.created_at >= oldest {
                    found.push(listed);
                }
            }
            if !page.has_more || reached_oldest {
                break;
            }
        }
        Ok(found)
    }

    async fn told_time(&self) -> Result<Option<Timestamp>, CallError> {
        let route = self.endpoint.route("/v1/messages/batches?limit=1");
        let page = self.endpoint.dated::<Page>(Method::GET, &route, &self.headers, Content::None);
        Ok(page.await?.1)
    }

    async fn newest(&self) -> Result<Option<String>, CallError> {
        let page: Page = self.get("/v1/messages/batches?limit=1").await?;
        Ok(page.data.into_iter().next().map(|batch| batch.id))
    }

    async fn poll(&self, id: &str) -> Result<Polled, CallError> {
        match self.get::<MessageBatch>(&format!("/v1/messages/batches/{id}")).await {
            Ok(batch) => Ok(batch.polled()),
            Err(error) if error.status() == Some(404) => Ok(Polled::Gone),
            Err(error) => Err(error),
        }
    }

    async fn cancel(&self, id: &str) -> Result<(), CallError> {
        match self.endpoint.call(Method::POST, &self.batch_route(id, "/cancel"), &self.headers, Content::None).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(400 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn results(&self, reference: &str) -> Result<Box<dyn ResultLines>, CallError> {
        let path = self.endpoint.path_on_this_host(reference)?;
        let exchange = self.endpoint.call(Method::GET, &path, &self.headers, Content::None).await?;
        Ok(Box::new(LineReader::new(exchange, self.endpoint.host().to_owned())))
    }

    async fn call(&self, url: &str, _: &str, body: &str) -> Result<Answer, CallError> {
        self.endpoint.ask(&self.endpoint.route(url), &self.headers, body.to_owned(), CARRIED_OUT_WITHIN).await
    }
}

impl MessageBatch {
    fn listed(self, host: &str) -> Result<Listed, CallError> {
        let bad = || CallError::BadAnswer { host: host.to_owned(), expected: "a batch with a creation time" };
        Ok(Listed {
            created_at: parse_rfc3339(&self.created_at).ok_or_else(bad)?,
            input_file_id: None,
            key: None,
            requests: Some(self.request_counts.total()),
            ended: self.processing_status == "ended",
            results_ref: self.results_url,
            id: self.id,
        })
    }

    fn polled(self) -> Polled {
        let status = self.processing_status.replace('\0', "");
        if self.archived_at.is_some() {
            return Polled::Gone;
        }
        if status != "ended" {
            return Polled::Running { status, input_ref: None };
        }
        let counts = &self.request_counts;
        let answered = Some(counts.total() - counts.processing);
        Polled::Ended { status, end: End::Completed { answered }, output_ref: self.results_url, error_ref: None }
    }
}

/// Reads a UTC time such as `2024-08-20T18:37:24.100435Z` or with an offset, to milliseconds. Day counting
/// after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let mut parts = time.splitn(3, ':');
    let (hours, minutes): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    let offset = match zone.as_bytes().first()? {
        b'Z' | b'z' => 0,
        sign => {
            let (h, m) = zone.get(1..)?.split_once(':')?;
            let minutes = h.parse::<i64>().ok()? * 60 + m.parse::<i64>().ok()?;
            if *sign == b'+' { minutes } else { -minutes }
        }
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0.0..61.0).contains(&seconds) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let minutes = (days * 24 + hours) * 60 + minutes - offset;
    Some(Timestamp::from_millis(minutes * 60_000 + (seconds * 1_000.0) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_listing_are_read_exactly() {
        for (text, printed) in [
            ("2024-08-20T18:37:24.100435Z", "2024-08-20T18:37:24.100Z"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000Z"),
            ("1970-01-01T02:30:00+02:30", "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(parse_rfc3339(text).map(|at| at.to_string()).as_deref(), Some(printed));
        }
        for bad in ["", "yesterday", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00"] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_batch_is_running_until_it_has_ended_and_its_size_is_known_from_the_start() {
        let batch = |status: &str| -> MessageBatch {
            serde_json::from_str(&format!(
                r#"{{"id":"msgbatch_1","processing_status":"{status}","created_at":"2024-08-20T18:37:24Z",
                "request_counts":{{"processing":2,"succeeded":3,"errored":1,"canceled":0,"expired":0}},
                "results_url":null,"archived_at":null}}"#
            ))
            .expect("a batch")
        };
        for status in ["in_progress", "canceling"] {
            let running = Polled::Running { status: status.to_owned(), input_ref: None };
            assert_eq!(batch(status).polled(), running);
        }
        assert!(matches!(batch("ended").polled(), Polled::Ended { end: End::Completed { answered: Some(4) }, .. }));
        assert_eq!(batch("ended").listed("h").expect("listed").requests, Some(6));
    }
}
