//! Sends each run to a URL as one signed POST (a webhook).
//!
//! The URL's host is resolved once and every address checked before a connection is made to those very
//! addresses, so that a name cannot lead anywhere else in between. Never: follows a redirect, uses a proxy, sends
//! a second request by itself, or shows a key or the URL's path.

mod address;
mod target;
mod sign;
mod answer;

pub use address::refuse;
pub use sign::{BadSecret, WebhookSecret};
pub use target::{BadUrl, Resolve, SystemResolver};

use super::{Assignment, Executor, Outcome, Output, Retry, Stop, asked};
use crate::provider::wire::{CallError, Content, Exchange, retry_after};
use answer::Head;
use futures_util::future::BoxFuture;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use storage::model::Clock;
use target::Target;
use tokio::sync::watch;
use tokio::time::timeout;

/// How runs of one task are carried out.
#[derive(Clone)]
pub struct HttpTask {
    pub url: String,
    /// Signs every request.
    pub secret: Option<WebhookSecret>,
    /// Signs as well, while receivers change over to the new one.
    pub previous_secret: Option<WebhookSecret>,
    pub headers: BTreeMap<String, String>,
    /// Also addresses that are not of the public internet.
    pub allow_private: bool,
    /// For the whole exchange.
    pub timeout: Duration,
    /// An answer is not read further than this.
    pub max_response_bytes: u64,
}

impl Default for HttpTask {
    fn default() -> HttpTask {
        HttpTask {
            url: String::new(),
            secret: None,
            previous_secret: None,
            headers: BTreeMap::new(),
            allow_private: false,
            timeout: Duration::from_secs(30),
            max_response_bytes: 1 << 20,
        }
    }
}

impl fmt::Debug for HttpTask {
    /// Without the URL, whose path may be a secret, and without values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTask")
            .field("url", &"****")
            .field("secret", &self.secret)
            .field("previous_secret", &self.previous_secret)
            .field("headers", &self.headers.keys())
            .field("allow_private", &self.allow_private)
            .field("timeout", &self.timeout)
            .field("max_response_bytes", &self.max_response_bytes)
            .finish()
    }
}

/// Why a task cannot be carried out. Neither the URL nor a header's value is in any message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHook {
    #[error("url: {0}")]
    Url(#[from] BadUrl),
    #[error("headers: {name:?} is set by the node alone")]
    OurHeader { name: String },
    #[error("headers: {name:?} is no name of a header, or its value is none of a header")]
    BadHeader { name: String },
    #[error("previous_secret needs a secret beside it")]
    OnlyPrevious,
}

/// Headers that a task cannot set, besides those that begin with `webhook-` or `tidegate-`.
const OUR_HEADERS: [&str; 11] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "user-agent",
    "traceparent",
];

impl HttpTask {
    /// Says why this cannot be carried out, as far as that can be known beforehand.
    pub fn check(&self) -> Result<(), BadHook> {
        self.read().map(|_| ())
    }

    fn read(&self) -> Result<(Target, Vec<(HeaderName, HeaderValue)>), BadHook> {
        if self.secret.is_none() && self.previous_secret.is_some() {
            return Err(BadHook::OnlyPrevious);
        }
        let target = Target::parse(&self.url, self.allow_private)?;
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let bad = || BadHook::BadHeader { name: name.clone() };
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let ours = OUR_HEADERS.contains(&header.as_str())
                || ["webhook-", "tidegate-", "proxy-"].iter().any(|start| header.as_str().starts_with(start));
            if ours {
                return Err(BadHook::OurHeader { name: name.clone() });
            }
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((header, value));
        }
        Ok((target, headers))
    }
}

/// Carries out runs of one `http` task.
#[derive(Debug, Clone)]
pub struct Http {
    parts: Arc<Parts>,
}

/// What every attempt needs.
#[derive(Debug, Clone)]
struct Parts {
    task: HttpTask,
    target: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    clock: Arc<dyn Clock>,
    resolver: Arc<dyn Resolve>,
}

impl Http {
    /// Checks the task.
    pub fn new(task: HttpTask, clock: Arc<dyn Clock>) -> Result<Http, BadHook> {
        let (target, headers) = task.read()?;
        let parts = Parts { task, target, headers, clock, resolver: Arc::new(SystemResolver) };
        Ok(Http { parts: Arc::new(parts) })
    }

    /// Looks the host up as every run does, and calls nobody: how many addresses it has that may be called.
    pub async fn look_up(&self) -> Result<usize, Undelivered> {
        addresses(&self.parts).await.map(|addresses| addresses.len())
    }

    /// With names looked up by another than the system's resolver.
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolve>) -> Http {
        Arc::make_mut(&mut self.parts).resolver = resolver;
        self
    }
}

impl Executor for Http {
    fn carry(
        &self,
        assignment: Assignment,
        mut stop: watch::Receiver<Option<Stop>>,
        _output: Output,
    ) -> BoxFuture<'static, Outcome> {
        let parts = self.parts.clone();
        Box::pin(async move {
            tokio::select! {
                biased;
                asked = asked(&mut stop, None) => asked.outcome(),
                outcome = deliver(&parts, &assignment) => outcome,
            }
        })
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    #[error("the name {host} cannot be resolved: {source}")]
    Unresolvable { host: String, source: std::io::Error },
    #[error("{host} is at {ip}, which is refused ({why})")]
    Refused { host: String, ip: IpAddr, why: &'static str },
    #[error("the request cannot be written down")]
    Unwritable,
    #[error(transparent)]
    Call(#[from] CallError),
}

async fn deliver(parts: &Parts, assignment: &Assignment) -> Outcome {
    let mut head = None;
    let exchange = timeout(parts.task.timeout, exchange(parts, assignment, &mut head)).await;
    match (head, exchange) {
        (Some(head), Ok(Ok(body))) => answer::outcome(head, body.as_deref()),
        (Some(head), _) => answer::outcome(head, None),
        (None, Ok(Err(undelivered))) => failed(&undelivered),
        (None, _) => {
            let host = parts.target.endpoint.host();
            let reason = format!("no answer from {host} within {:?}", parts.task.timeout);
            Outcome::failed("http_timeout", reason, Retry::WithBackoff)
        }
    }
}

fn failed(undelivered: &Undelivered) -> Outcome {
    let (code, retry) = match undelivered {
        Undelivered::Unresolvable { .. } => ("dns_failed", Retry::WithBackoff),
        Undelivered::Refused { .. } => ("refused_address", Retry::No),
        Undelivered::Unwritable | Undelivered::Call(CallError::BadBase { .. }) => ("bad_request", Retry::No),
        Undelivered::Call(_) => ("http_unreachable", Retry::WithBackoff),
    };
    Outcome::failed(code, undelivered, retry)
}

/// One exchange; the head is known as soon as it is there. The body is `None` if it was not read whole.
async fn exchange(
    parts: &Parts,
    assignment: &Assignment,
    head: &mut Option<Head>,
) -> Result<Option<Vec<u8>>, Undelivered> {
    let headers = headers(parts, assignment)?;
    let addresses = addresses(parts).await?;
    let (target, content) = (&parts.target, Content::Json(assignment.payload.clone()));
    let answer = target.endpoint.open_at(&addresses, Method::POST, &target.path, &headers, content).await?;
    let mut exchange = answer.await?;
    let status = exchange.status().as_u16();
    let said = exchange.response.headers();
    let date = || answer::until(said.get(RETRY_AFTER)?.to_str().ok()?, parts.clock.now());
    *head = Some(Head { status, retry_after: retry_after(said).or_else(date) });
    if !exchange.status().is_success() {
        return Ok(None);
    }
    Ok(body(&mut exchange, parts).await)
}

async fn body(exchange: &mut Exchange, parts: &Parts) -> Option<Vec<u8>> {
    let most = usize::try_from(parts.task.max_response_bytes).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(chunk) = exchange.chunk(parts.target.endpoint.host()).await.ok()? {
        if chunk.len() > most - body.len() {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// The addresses to connect to, each of which may be connected to. One that may not spoils the name.
async fn addresses(parts: &Parts) -> Result<Vec<SocketAddr>, Undelivered> {
    let endpoint = &parts.target.endpoint;
    let (host, port) = (endpoint.bare_host().to_owned(), endpoint.port());
    let addresses = match parts.target.literal() {
        Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        None => parts.resolver.resolve(host.clone(), port).await,
    };
    let addresses = match addresses {
        Ok(addresses) if addresses.is_empty() => Err(std::io::ErrorKind::NotFound.into()),
        other => other,
    };
    let addresses = addresses.map_err(|source| Undelivered::Unresolvable { host: host.clone(), source })?;
    for address in addresses.iter().filter(|_| !parts.task.allow_private) {
        if let Some(why) = refuse(address.ip()) {
            return Err(Undelivered::Refused { host, ip: address.ip(), why });
        }
    }
    Ok(addresses)
}

/// The id is the run's, so that a receiver knows the second attempt of a run by it.
fn headers(parts: &Parts, assignment: &Assignment) -> Result<Vec<(HeaderName, HeaderValue)>, Undelivered> {
    let (id, seconds) = (assignment.run.as_str(), parts.clock.now().millis().div_euclid(1_000));
    let secrets = parts.task.secret.iter().chain(&parts.task.previous_secret);
    let signatures: Vec<_> = secrets.map(|secret| secret.sign(id, seconds, &assignment.payload)).collect();
    let mut headers = parts.headers.clone();
    let mut add = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).map_err(|_| Undelivered::Unwritable)?;
        headers.push((HeaderName::from_static(name), value));
        Ok::<(), Undelivered>(())
    };
    add("webhook-id", id)?;
    add("webhook-timestamp", &seconds.to_string())?;
    add("tidegate-run-id", id)?;
    add("tidegate-attempt", &assignment.attempt.to_string())?;
    if let Some(trace) = assignment.trace {
        add("traceparent", &trace.to_string())?;
    }
    if !signatures.is_empty() {
        add("webhook-signature", &signatures.join(" "))?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::SystemClock;

    fn task() -> HttpTask {
        HttpTask { url: "https://example.com/canary-url?key=canary-query".to_owned(), ..HttpTask::default() }
    }

    #[test]
    fn a_tasks_keys_are_never_shown() {
        let secret = Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("a key"));
        let headers = BTreeMap::from([("authorization".to_owned(), "Bearer canary-token".to_owned())]);
        let task = HttpTask { secret: secret.clone(), previous_secret: secret, headers, ..task() };
        let http = Http::new(task, Arc::new(SystemClock)).expect("a task");
        let shown = format!("{http:?}");
        assert!(shown.contains("****") && shown.contains("example.com"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("MfKQ") && !shown.contains("49, 242"), "{shown}");
    }

    #[test]
    fn tasks_that_cannot_be_carried_out_are_refused_without_telling_their_secrets() {
        let header = |name: &str, value: &str| HttpTask {
            headers: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            ..task()
        };
        for (task, words) in [
            (HttpTask { url: "ftp://canary/".to_owned(), ..task() }, "url: it is not http"),
            (HttpTask { url: "http://10.0.0.1/canary".to_owned(), ..task() }, "10.0.0.1 is refused (private)"),
            (header("Host", "canary"), "\"Host\" is set by the node"),
            (header("Webhook-Id", "canary"), "set by the node"),
            (header("Content-Length", "7"), "set by the node"),
            (header("Traceparent", "canary"), "set by the node"),
            (header("Transfer-Encoding", "chunked"), "set by the node"),
            (header("X-A", "canary\r\nX-B: c"), "no name of a header, or its value"),
            (header("X A", "canary"), "no name of a header"),
            (
                HttpTask { previous_secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().ok(), ..task() },
                "needs a secret",
            ),
        ] {
            let error = task.check().expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
        header("Authorization", "Bearer x").check().expect("an ordinary header");
    }
}
