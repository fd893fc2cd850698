//! Speaks to a server for the commands of the command line.
//!
//! Every exchange has a connection of its own. A call is repeated only when its connection could not be made,
//! or when the server makes nothing twice of it: reading, what is idempotent, and what carries a key of its own.
//! Never: shows the key, follows a redirect, or sends the key to another host.

mod request;
mod refusal;
mod stream;
mod events;
mod follow;
mod object;

pub use events::Event;
pub use follow::Follow;
pub use object::{Object, Page, print_object, print_objects, time_of};
pub use refusal::unexpected;
pub use request::{Request, segment};
pub use stream::{Piece, Stream};

use crate::cli::Remote;
use crate::exit::{Exit, Failure};
use crate::http::keys::{Env, Presented};
use actors::backoff::Backoff;
use actors::provider::wire::Endpoint;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, StatusCode};
use refusal::Trouble;
use std::time::Duration;
use tokio::time::timeout;

const DEFAULT_SERVER: &str = "http://127.0.0.1:7070";
const TRIES: u32 = 3;
const BETWEEN_TRIES: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };
/// A server may ask for more patience than our own back-off, up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// A server, and who calls it.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    /// As it was named, for messages.
    server: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    patience: Duration,
}

/// An answer with a status of success.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub fn new(remote: &Remote) -> Result<Client, Failure> {
        let server = Some(remote.server.trim()).filter(|url| !url.is_empty()).unwrap_or(DEFAULT_SERVER);
        let bad = |_| Failure::usage(format!("--server {server}: use http://HOST[:PORT] or https://HOST[:PORT]"));
        let endpoint = Endpoint::parse(server).map_err(bad)?;
        let mut headers = Vec::new();
        if let Some(key) = key()? {
            headers.push((AUTHORIZATION, key));
        }
        if let Some(env) = remote.env.as_deref().filter(|env| !env.is_empty()) {
            let env: Env = env.parse().map_err(|error| Failure::usage(format!("--env {env}: {error}")))?;
            let value = HeaderValue::from_str(env.as_str()).map_err(Failure::usage)?;
            headers.push((HeaderName::from_static("x-tidegate-env"), value));
        }
        Ok(Client { endpoint, server: server.to_owned(), headers, patience: remote.request_timeout })
    }

    /// Sends a request and reads the whole answer; other statuses than 2xx are failures.
    pub async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        match self.patiently(request, Want::Whole).await? {
            Got::Answer(answer) => Ok(answer),
            Got::Stream(_) => Err(unexpected("a whole answer")),
        }
    }

    /// Sends a request whose answer is read while it comes.
    pub async fn stream(&self, request: &Request) -> Result<Stream, Failure> {
        match self.patiently(request, Want::Stream).await? {
            Got::Stream(stream) => Ok(*stream),
            Got::Answer(_) => Err(unexpected("a stream")),
        }
    }

    /// Tries as often as is safe, within the patience for all tries together.
    async fn patiently(&self, request: &Request, want: Want) -> Result<Got, Failure> {
        let tries = async {
            let mut failures = 0;
            loop {
                let trouble = match self.once(request, want).await {
                    Ok(got) => return Ok(got),
                    Err(trouble) => trouble,
                };
                failures += 1;
                if failures >= TRIES || !trouble.may_try_again(request.repeatable) {
                    return Err(trouble.into_failure(&self.server));
                }
                wait(failures, &trouble).await;
            }
        };
        match timeout(self.patience, tries).await {
            Ok(done) => done,
            Err(_) => Err(refusal::late(&self.server, self.patience, request)),
        }
    }

    async fn once(&self, request: &Request, want: Want) -> Result<Got, Trouble> {
        let headers: Vec<_> = self.headers.iter().chain(&request.headers).cloned().collect();
        let path = self.endpoint.route(&format!("/api/v1{}", request.path_and_query()));
        let opened = self.endpoint.open(request.method.clone(), &path, &headers, request.content()).await;
        let exchange = opened.map_err(Trouble::Call)?.await.map_err(Trouble::Call)?;
        let (status, headers) = (exchange.status(), exchange.response.headers().clone());
        if status.is_success() && want == Want::Stream {
            return Ok(Got::Stream(Box::new(Stream::new(exchange))));
        }
        let body = exchange.read(self.endpoint.host()).await.map_err(Trouble::Call)?;
        if status.is_success() {
            return Ok(Got::Answer(Answer { status, headers, body: body.into() }));
        }
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Trouble::Refused { status, retry_after: retry_after.map(Duration::from_secs), body })
    }
}

/// What a call is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Whole,
    Stream,
}

enum Got {
    Answer(Answer),
    Stream(Box<Stream>),
}

#[expect(clippy::disallowed_methods, reason = "waits for the server to be reachable, or less busy")]
async fn wait(failures: u32, trouble: &Trouble) {
    let own = BETWEEN_TRIES.after(failures, &mut rand::rng());
    let asked = trouble.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
    tokio::time::sleep(own.max(asked)).await;
}

/// The key of the environment, as a header that does not print. Checked as far as that is possible here, so
/// that a typing error does not look like a key that was revoked.
fn key() -> Result<Option<HeaderValue>, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let (name, text) = match (set("TIDEGATE_API_KEY"), set("TIDEGATE_API_KEY_FILE")) {
        (Some(key), _) => ("TIDEGATE_API_KEY", key.to_string_lossy().into_owned()),
        (None, Some(path)) => {
            let unreadable = |error| Failure::usage(format!("cannot read TIDEGATE_API_KEY_FILE: {error}"));
            ("TIDEGATE_API_KEY_FILE", std::fs::read_to_string(path).map_err(unreadable)?)
        }
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    let good = Presented::parse(text).and_then(|_| HeaderValue::from_str(&format!("Bearer {text}")).ok());
    let Some(mut value) = good else {
        let failure = Failure::new(Exit::NotAllowed, format!("what {name} holds is not a whole key"));
        return Err(failure.hint("a key begins with tg_ and was printed once, by `tidegate keys create`"));
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Answer {
    /// The answer as one object of the API.
    pub fn object(&self) -> Result<Object, Failure> {
        Object::parse(&self.body)
    }

    pub fn page(&self) -> Result<Page, Failure> {
        serde_json::from_slice(&self.body).map_err(|_| unexpected("a list"))
    }
}

/// Runs a command that speaks to a server; one thread is enough for it.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let cannot = |error| Failure::new(Exit::Unexpected, format!("cannot start the runtime: {error}"));
    let runtime = runtime.map_err(cannot)?;
    let done = runtime.block_on(work);
    // A look-up of a name that is still under way is nobody's any more.
    runtime.shutdown_background();
    done
}
