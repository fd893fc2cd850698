//! The files-and-batches protocol of OpenAI and those who speak it (Azure, Groq, Together, …).
//!
//! The input file is both key and fence: it is named by one create only, so a batch that carries it is ours,
//! and once it is deleted a late create can start nothing. Our key also travels in `metadata`.

use super::request::{Envelope, Manifest};
use super::submit::{self, Committed, Created, Outgoing};
use super::wire::{self, Answer, CARRIED_OUT_WITHIN, CallError, Content, Endpoint, Exchange};
use super::{End, Listed, Polled, Protocol, Provider, ResultLines};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Deserialize;
use std::time::Duration;
use storage::failpoint::{Failpoint, reached};
use storage::model::Timestamp;
use storage::store::Limits;

/// Metadata key under which our create key travels.
pub const KEY: &str = "tidegate_key";
const MAX_REQUESTS: i64 = 50_000;
const MAX_BYTES: i64 = 200_000_000;
/// Embeddings count inputs, not requests; one request may hold many.
const MAX_EMBEDDING_REQUESTS: i64 = 10_000;
const LIST_GRACE: Duration = Duration::from_secs(300);
const MOST_PAGES: usize = 200;
const BOUNDARY: &str = "tidegate-7d1f3b52c9a84e06";

/// A provider that is reached by the OpenAI protocol.
pub struct OpenAi {
    endpoint: Endpoint,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAi").field("host", &self.endpoint.host()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct File {
    id: String,
    filename: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Batch {
    id: String,
    status: String,
    input_file_id: Option<String>,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    metadata: Option<std::collections::HashMap<String, String>>,
    request_counts: Option<Counts>,
    errors: Option<Errors>,
}

#[derive(Deserialize)]
struct Counts {
    total: i64,
    completed: i64,
    failed: i64,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    data: Vec<LineError>,
}

#[derive(Deserialize)]
struct LineError {
    code: Option<String>,
    message: Option<String>,
    line: Option<i64>,
}

/// What is around each request body in the input file.
fn envelope(url: &str) -> (String, &'static str) {
    (format!(r#"","method":"POST","url":"{url}","body":"#), "}")
}

impl OpenAi {
    /// `base` with its `/v1`, as the official clients take it.
    pub fn new(base: &str, key: &str) -> Result<OpenAi, CallError> {
        let mut value = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| CallError::BadBase { base: "(a key with characters that no header can hold)".to_owned() })?;
        value.set_sensitive(true);
        Ok(OpenAi { endpoint: Endpoint::parse(base)?, headers: vec![(AUTHORIZATION, value)] })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, route: &str) -> Result<T, CallError> {
        self.endpoint.json(Method::GET, &self.endpoint.route(route), &self.headers, Content::None).await
    }

    async fn feed_file(
        manifest: &Manifest<'_>,
        envelope: &Envelope<'_>,
        head: String,
        pieces: tokio::sync::mpsc::Sender<Bytes>,
    ) -> Result<(), storage::StoreError> {
        if pieces.send(Bytes::from(head)).await.is_err() {
            return Ok(());
        }
        let mut from = 0;
        while let Some((text, next)) = manifest.page(envelope, from).await? {
            if pieces.send(Bytes::from(text)).await.is_err() {
                return Ok(());
            }
            if next * 2 >= manifest.batch.requests {
                reached(Failpoint::UploadHalf);
            }
            from = next;
        }
        let _ = pieces.send(Bytes::from(format!("\n\r\n--{BOUNDARY}--\r\n"))).await;
        Ok(())
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn protocol(&self) -> Protocol {
        Protocol::OpenAi
    }

    fn limits(&self, url: &str) -> Limits {
        let embeddings = url.ends_with("/embeddings");
        Limits {
            max_requests: if embeddings { MAX_EMBEDDING_REQUESTS } else { MAX_REQUESTS },
            max_bytes: MAX_BYTES,
            max_bodies: i64::MAX,
            // `{"custom_id":"` + key and position (at most 40) + the rest of the line.
            envelope_bytes: i64::try_from(r#"{"custom_id":""#.len() + 40 + envelope(url).0.len() + 2).unwrap_or(200),
        }
    }

    async fn upload(&self, name: &str, manifest: &Manifest<'_>) -> Result<String, CallError> {
        let (before_body, after_body) = envelope(manifest.url());
        let envelope =
            Envelope { before_id: r#"{"custom_id":""#, before_body: &before_body, after_body, between: "\n" };
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--{BOUNDARY}\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\n\r\n--{BOUNDARY}--\r\n").len() as u64;
        let length = head.len() as u64 + manifest.length(&envelope) + tail;
        let (pieces, frames) = wire::body_channel();
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let content = Content::Stream { content_type, length, frames };
        let path = self.endpoint.route("/files");
        let mut answer = Box::pin(self.endpoint.open(Method::POST, &path, &self.headers, content).await?);
        let host = self.endpoint.host().to_owned();
        let patience = wire::ANSWER_WITHIN + Duration::from_secs(length / 20_000);
        let late = || CallError::Timeout { host: host.clone(), within: patience };
        let exchange = {
            let feed = tokio::time::timeout(patience, Self::feed_file(manifest, &envelope, head, pieces));
            tokio::select! {
                biased;
                early = &mut answer => early?,
                fed = feed => {
                    fed.map_err(|_| late())?.map_err(|_| CallError::BadAnswer {
                        host: host.clone(), expected: "reachable: the store failed during the upload",
                    })?;
                    reached(Failpoint::UploadSent);
                    tokio::time::timeout(wire::ANSWER_WITHIN, answer).await.map_err(|_| late())??
                }
            }
        };
        if !exchange.status().is_success() {
            return Err(exchange.into_status_error(&host).await);
        }
        let body = exchange.read(&host).await?;
        reached(Failpoint::UploadAnswered);
        let file: File = serde_json::from_slice(&body)
            .map_err(|_| CallError::BadAnswer { host: host.clone(), expected: "a file with an id" })?;
        Ok(file.id)
    }

    async fn files_named(&self, name: &str) -> Result<Vec<String>, CallError> {
        let mut found = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let page: Page<File> = self.get(&format!("/files?purpose=batch&order=desc&limit=1000{after}")).await?;
            let Some(last) = page.data.last() else { break };
            after = format!("&after={}", last.id);
            let named = page.data.iter().filter(|file| file.filename.as_deref() == Some(name));
            found.extend(named.map(|file| file.id.clone()));
            if !page.has_more {
                break;
            }
        }
        Ok(found)
    }

    async fn delete_file(&self, id: &str) -> Result<(), CallError> {
        let path = self.endpoint.route(&format!("/files/{id}"));
        match self.endpoint.call(Method::DELETE, &path, &self.headers, Content::None).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, manifest: &Manifest<'_>, file: Option<&str>, committed: Committed<'_>) -> Created {
        let body = serde_json::json!({
            "input_file_id": file.unwrap_or_default(),
            "endpoint": manifest.url(),
            "completion_window": "24h",
            "metadata": { KEY: manifest.key(), "tidegate_batch": manifest.batch.id.as_str() },
        })
        .to_string();
        let outgoing = Outgoing {
            endpoint: &self.endpoint,
            path: self.endpoint.route("/batches"),
            headers: &manifest.headers(&self.headers),
            length: body.len() as u64,
            committed,
        };
        submit::create(outgoing, |_| {
            reached(Failpoint::CreateHalf);
            async move { Ok(Bytes::from(body)) }.boxed()
        })
        .await
    }

    async fn list(&self, since: Timestamp) -> Result<Vec<Listed>, CallError> {
        let oldest = since - LIST_GRACE;
        let mut found = Vec::new();
        let mut after = String::new();
        for _ in 0..MOST_PAGES {
            let page: Page<Batch> = self.get(&format!("/batches?limit=100{after}")).await?;
            let Some(last) = page.data.last() else { break };
            let reached_oldest = Timestamp::from_millis(last.created_at.saturating_mul(1_000)) < oldest;
            after = format!("&after={}", last.id);
            found.extend(page.data.into_iter().map(Batch::listed).filter(|batch| batch.created_at >= oldest));
            if !page.has_more || reached_oldest {
                return Ok(found);
            }
        }
        Ok(found)
    }

    async fn told_time(&self) -> Result<Option<Timestamp>, CallError> {
        let route = self.endpoint.route("/batches?limit=1");
        let page = self.endpoint.dated::<Page<Batch>>(Method::GET, &route, &self.headers, Content::None);
        Ok(page.await?.1)
    }

    async fn newest(&self) -> Result<Option<String>, CallError> {
        // The input file tells a batch of ours exactly; no position in the listing is needed.
        Ok(None)
    }

    async fn poll(&self, id: &str) -> Result<Polled, CallError> {
        match self.get::<Batch>(&format!("/batches/{id}")).await {
            Ok(batch) => Ok(batch.polled()),
            Err(error) if error.status() == Some(404) => Ok(Polled::Gone),
            Err(error) => Err(error),
        }
    }

    async fn cancel(&self, id: &str) -> Result<(), CallError> {
        let path = self.endpoint.route(&format!("/batches/{id}/cancel"));
        match self.endpoint.call(Method::POST, &path, &self.headers, Content::None).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(400 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn results(&self, reference: &str) -> Result<Box<dyn ResultLines>, CallError> {
        let path = self.endpoint.route(&format!("/files/{reference}/content"));
        let exchange = self.endpoint.call(Method::GET, &path, &self.headers, Content::None).await?;
        Ok(Box::new(LineReader::new(exchange, self.endpoint.host().to_owned())))
    }

    async fn call(&self, url: &str, id: &str, body: &str) -> Result<Answer, CallError> {
        // The base ends in the version that the line's url begins with.
        let route = url.strip_prefix("/v1").unwrap_or(url);
        let mut headers = self.headers.clone();
        headers.extend(HeaderValue::from_str(id).ok().map(|id| (HeaderName::from_static("x-client-request-id"), id)));
        self.endpoint.ask(&self.endpoint.route(route), &headers, body.to_owned(), CARRIED_OUT_WITHIN).await
    }
}

impl Batch {
    fn listed(self) -> Listed {
        let ended =
            ["completed", "failed", "expired", "cancelled"].contains(&self.status.to_ascii_lowercase().as_str());
        Listed {
            created_at: Timestamp::from_millis(self.created_at.saturating_mul(1_000)),
            key: self.metadata.and_then(|mut metadata| metadata.remove(KEY)),
            input_file_id: self.input_file_id,
            // 0 while it is being validated: not counted yet.
            requests: self.request_counts.map(|counts| counts.total).filter(|total| *total > 0),
            ended,
            results_ref: self.output_file_id,
            id: self.id,
        }
    }

    fn polled(self) -> Polled {
        let status = self.status.to_ascii_lowercase().replace('\0', "");
        let end = match status.as_str() {
            "completed" => {
                let answered = self.request_counts.map(|counts| counts.completed + counts.failed);
                End::Completed { answered }
            }
            "expired" => End::Expired,
            "cancelled" => End::Cancelled,
            "failed" => failure(self.errors),
            _ => return Polled::Running { status, input_ref: self.input_file_id },
        };
        Polled::Ended { status, end, output_ref: self.output_file_id, error_ref: self.error_file_id }
    }
}

/// A batch that was accepted and then refused as a whole. Its input lines count from 1, positions from 0.
fn failure(errors: Option<Errors>) -> End {
    let errors = errors.map(|errors| errors.data).unwrap_or_default();
    let first = errors.first();
    let code = first.and_then(|error| error.code.clone()).unwrap_or_else(|| "failed".to_owned());
    if code == "token_limit_exceeded" {
        return End::QueueFull { code };
    }
    let message = first.and_then(|error| error.message.clone()).unwrap_or_default();
    let lines = errors.iter().filter_map(|error| error.line).map(|line| line - 1).collect();
    End::Invalid { code, message, lines }
}

/// Splits a streaming body into lines at 0x0A, in memory bounded by the longest line.
pub(super) struct LineReader {
    exchange: Exchange,
    host: String,
    buffer: Vec<u8>,
    read_to: usize,
    searched_to: usize,
    ended: bool,
}

const LONGEST_LINE: usize = 64 << 20;

impl LineReader {
    pub(super) fn new(exchange: Exchange, host: String) -> LineReader {
        LineReader { exchange, host, buffer: Vec::new(), read_to: 0, searched_to: 0, ended: false }
    }

    fn take(&mut self, end: usize, skip: usize) -> Vec<u8> {
        let mut line = self.buffer[self.read_to..end].to_vec();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        self.read_to = end + skip;
        self.searched_to = self.read_to;
        line
    }
}

#[async_trait]
impl ResultLines for LineReader {
    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        loop {
            if let Some(offset) = self.buffer[self.searched_to..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched_to + offset;
                return Ok(Some(self.take(end, 1)));
            }
            if self.ended {
                let rest = self.buffer.len();
                return Ok((self.read_to < rest).then(|| self.take(rest, 0)));
            }
            self.buffer.drain(..self.read_to);
            self.read_to = 0;
            self.searched_to = self.buffer.len();
            if self.buffer.len() > LONGEST_LINE {
                return Err(CallError::BadAnswer { host: self.host.clone(), expected: "lines below 64 MiB" });
            }
            match self.exchange.chunk(&self.host).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(json: &str) -> Batch {
        serde_json::from_str(json).expect("a batch")
    }

    #[test]
    fn statuses_lead_where_the_protocol_says() {
        let polled = |rest: &str| batch(&format!(r#"{{"id":"b","created_at":1,{rest}}}"#)).polled();
        for status in ["validating", "in_progress", "finalizing", "cancelling", "VALIDATING"] {
            let rest = format!(r#""status":"{status}","input_file_id":"f""#);
            let (status, input_ref) = (status.to_ascii_lowercase(), Some("f".to_owned()));
            assert_eq!(polled(&rest), Polled::Running { status, input_ref });
        }
        let Polled::Ended { end, output_ref, error_ref, .. } = polled(
            r#""status":"completed","output_file_id":null,"error_file_id":"f","request_counts":{"total":3,"completed":0,"failed":3}"#,
        ) else {
            panic!("an all-failed batch has ended")
        };
        assert_eq!((end, output_ref, error_ref), (End::Completed { answered: Some(3) }, None, Some("f".to_owned())));
    }

    #[test]
    fn a_full_queue_is_no_fault_of_the_requests() {
        let errors = |json: &str| failure(Some(serde_json::from_str(json).expect("errors")));
        assert_eq!(
            errors(r#"{"data":[{"code":"token_limit_exceeded","message":"m"}]}"#),
            End::QueueFull { code: "token_limit_exceeded".to_owned() }
        );
        assert_eq!(
            errors(r#"{"data":[{"code":"invalid","message":"m","line":1},{"line":3}]}"#),
            End::Invalid { code: "invalid".to_owned(), message: "m".to_owned(), lines: vec![0, 2] }
        );
    }
}
