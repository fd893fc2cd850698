//! One HTTP/1.1 exchange on a connection of its own.
//!
//! There is no pool, no redirect and no retry at any layer below this file, because a create that is sent
//! twice may be billed twice: popular clients re-send on a stale pooled connection, on 409, 429 and 5xx.
//! A body is streamed with its exact length announced, so that a truncated one can never be taken as whole.

use super::date::http_date;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use storage::model::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for the head of an answer once the request is out.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Longest wait for a live answer: a model may think for minutes.
pub const CARRIED_OUT_WITHIN: Duration = Duration::from_secs(600);
const LARGEST_SMALL_ANSWER: usize = 16 << 20;
const FRAMES_AHEAD: usize = 4;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why an exchange brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot connect to {host}: {source}")]
    Connect { host: String, source: std::io::Error },
    #[error("`{base}` is not a base URL: use http://HOST[:PORT][/PATH] or https://…")]
    BadBase { base: String },
    #[error("no answer from {host} within {} s", within.as_secs())]
    Timeout { host: String, within: Duration },
    #[error("the exchange with {host} broke off: {source}")]
    Broken { host: String, source: hyper::Error },
    #[error("{host} answered {status}{}: {message}", code.as_deref().map(|code| format!(" {code}")).unwrap_or_default())]
    Status { host: String, status: u16, code: Option<String>, message: String, retry_after: Option<Duration> },
    #[error("{host} answered with something that is not {expected}")]
    BadAnswer { host: String, expected: &'static str },
    #[error("the results of the batch are said to be at {url}, which is not the provider's host")]
    ForeignHost { url: String },
}

impl CallError {
    /// The HTTP status, where there was an answer at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            CallError::Status { status, .. } => Some(*status),
            CallError::Connect { .. } | CallError::BadBase { .. } | CallError::Timeout { .. } => None,
            CallError::Broken { .. } | CallError::BadAnswer { .. } | CallError::ForeignHost { .. } => None,
        }
    }

    /// Whether nothing of the request can have reached the host.
    pub fn was_never_sent(&self) -> bool {
        matches!(self, CallError::Connect { .. } | CallError::BadBase { .. })
    }

    /// The provider does not accept our key, or its owner may not do this.
    pub fn is_account_trouble(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }
}

/// Where a provider lives.
#[derive(Debug, Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    path: String,
    tls: bool,
}

/// The content of a request.
pub enum Content {
    None,
    Json(String),
    /// A body of exactly `length` bytes, fed through a channel while the exchange is under way.
    Stream {
        content_type: String,
        length: u64,
        frames: mpsc::Receiver<Bytes>,
    },
}

/// What a host answered, whatever it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The provider's own code of what went wrong, in either vendor's shape.
    pub fn code(&self) -> Option<String> {
        vendor_error(&self.body).0
    }
}

/// One exchange that is under way; dropping it cuts the connection.
pub struct Exchange {
    pub response: Response<Incoming>,
    _connection: Connection,
}

struct Connection(AbortHandle);

/// A connection that is ready for its one request.
type Link = (http1::SendRequest<Body>, Connection);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The feeding end of a streamed body.
pub fn body_channel() -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
    mpsc::channel(FRAMES_AHEAD)
}

impl Endpoint {
    /// Reads a base URL such as `https://api.openai.com/v1`; a trailing slash does not matter.
    pub fn parse(base: &str) -> Result<Endpoint, CallError> {
        let bad = || CallError::BadBase { base: base.to_owned() };
        let uri: Uri = base.parse().map_err(|_| bad())?;
        if uri.query().is_some() {
            return Err(bad());
        }
        Endpoint::of(&uri).ok_or_else(bad)
    }

    /// Where a URL leads; `None` when it is not http or https, or holds a name and password.
    pub fn of(uri: &Uri) -> Option<Endpoint> {
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/').to_owned();
        Some(Endpoint { host: authority.host().to_owned(), port, path, tls })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host without the brackets around an IPv6 address.
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of an absolute or relative URL if it lies on this very host; a key is sent nowhere else.
    pub fn path_on_this_host(&self, url: &str) -> Result<String, CallError> {
        let foreign = || CallError::ForeignHost { url: url.chars().take(200).collect() };
        let uri: Uri = url.parse().map_err(|_| foreign())?;
        let same_host = match (uri.scheme_str(), uri.authority()) {
            (None, None) => true,
            (Some(scheme), Some(authority)) => {
                let tls = scheme == "https";
                let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
                tls == self.tls
                    && port == self.port
                    && authority.host().eq_ignore_ascii_case(&self.host)
                    && !authority.as_str().contains('@')
            }
            _ => false,
        };
        if !same_host || !uri.path().starts_with('/') || uri.path().starts_with("//") {
            return Err(foreign());
        }
        Ok(uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
    }

    /// The full path of a route under the base URL.
    pub fn route(&self, route: &str) -> String {
        format!("{}{route}", self.path)
    }

    /// Opens a connection of its own and sends the request head; the answer's head is awaited by the caller,
    /// who may still be feeding the body. Dropping the returned future cuts the connection.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<impl Future<Output = Result<Exchange, CallError>> + Send + use<>, CallError> {
        let request = self.request(method, path, headers, content)?;
        let link = self.connect(TcpStream::connect((self.bare_host(), self.port))).await?;
        Ok(self.send(link, request))
    }

    /// The same, over one of these addresses: no name is looked up, so the caller knows where it goes.
    pub async fn open_at(
        &self,
        addresses: &[SocketAddr],
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<impl Future<Output = Result<Exchange, CallError>> + Send + use<>, CallError> {
        let request = self.request(method, path, headers, content)?;
        let link = self.connect(TcpStream::connect(addresses)).await?;
        Ok(self.send(link, request))
    }

    fn send(
        &self,
        (mut sender, connection): Link,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Exchange, CallError>> + Send + use<> {
        let host = self.host.clone();
        async move {
            let response = sender.send_request(request).await;
            let response = response.map_err(|source| CallError::Broken { host, source })?;
            Ok(Exchange { response, _connection: connection })
        }
    }

    /// One exchange without a streamed body, awaited for at most `ANSWER_WITHIN`; other statuses than 2xx are errors.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<Exchange, CallError> {
        let answer = self.open(method, path, headers, content).await?;
        let late = |_| CallError::Timeout { host: self.host.clone(), within: ANSWER_WITHIN };
        let exchange = timeout(ANSWER_WITHIN, answer).await.map_err(late)??;
        if exchange.response.status().is_success() {
            return Ok(exchange);
        }
        Err(exchange.into_status_error(&self.host).await)
    }

    /// One exchange whose answer is wanted whatever its status, within `patience` for its head.
    pub async fn ask(
        &self,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        json: String,
        patience: Duration,
    ) -> Result<Answer, CallError> {
        let answer = self.open(Method::POST, path, headers, Content::Json(json)).await?;
        let late = |_| CallError::Timeout { host: self.host.clone(), within: patience };
        let exchange = timeout(patience, answer).await.map_err(late)??;
        let status = exchange.status().as_u16();
        let retry_after = retry_after(exchange.response.headers());
        Ok(Answer { status, retry_after, body: exchange.read(&self.host).await? })
    }

    /// One exchange whose answer is read as JSON.
    pub async fn json<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<T, CallError> {
        self.dated(method, path, headers, content).await.map(|(value, _)| value)
    }

    /// The same with the date that the host puts on its answer.
    pub async fn dated<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<(T, Option<Timestamp>), CallError> {
        let exchange = self.call(method, path, headers, content).await?;
        let date = exchange.response.headers().get(DATE).and_then(|date| http_date(date.to_str().ok()?));
        let body = exchange.read(&self.host).await?;
        let bad = |_| CallError::BadAnswer { host: self.host.clone(), expected: "the JSON that its protocol names" };
        serde_json::from_slice(&body).map(|value| (value, date)).map_err(bad)
    }

    async fn connect(&self, stream: impl Future<Output = std::io::Result<TcpStream>>) -> Result<Link, CallError> {
        let late = |_| CallError::Timeout { host: self.host.clone(), within: CONNECT_WITHIN };
        timeout(CONNECT_WITHIN, self.link(stream)).await.map_err(late)?
    }

    async fn link(&self, stream: impl Future<Output = std::io::Result<TcpStream>>) -> Result<Link, CallError> {
        let unreachable = |source| CallError::Connect { host: self.host.clone(), source };
        let stream = stream.await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        if !self.tls {
            return self.handshake(TokioIo::new(stream)).await;
        }
        let name = ServerName::try_from(self.bare_host().to_owned())
            .map_err(|error| unreachable(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
        let stream = tls().connect(name, stream).await.map_err(unreachable)?;
        self.handshake(TokioIo::new(stream)).await
    }

    async fn handshake<S>(&self, io: S) -> Result<Link, CallError>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let broken = |source| CallError::Broken { host: self.host.clone(), source };
        let (sender, connection) = http1::handshake(io).await.map_err(broken)?;
        let task = tokio::spawn(async move {
            // Its errors reach us through the exchange.
            let _ = connection.await;
        });
        Ok((sender, Connection(task.abort_handle())))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        content: Content,
    ) -> Result<Request<Body>, CallError> {
        let default_port = if self.tls { 443 } else { 80 };
        let host = if self.port == default_port { self.host.clone() } else { format!("{}:{}", self.host, self.port) };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = match content {
            Content::None => Empty::new().boxed_unsync(),
            Content::Json(text) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Full::new(Bytes::from(text)).boxed_unsync()
            }
            Content::Stream { content_type, length, frames } => {
                request = request.header(CONTENT_TYPE, content_type).header(CONTENT_LENGTH, length);
                let frames = futures_util::stream::unfold(frames, |mut frames| async move {
                    frames.recv().await.map(|bytes: Bytes| (Ok::<_, Infallible>(Frame::data(bytes)), frames))
                });
                StreamBody::new(frames).boxed_unsync()
            }
        };
        let bad = |_| CallError::BadBase { base: path.to_owned() };
        request.body(body).map_err(bad)
    }
}

impl Exchange {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Reads an answer that is small by nature, up to 16 MiB.
    pub async fn read(mut self, host: &str) -> Result<Vec<u8>, CallError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk(host).await? {
            if whole.len() + chunk.len() > LARGEST_SMALL_ANSWER {
                return Err(CallError::BadAnswer { host: host.to_owned(), expected: "a small answer" });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// The next piece of the body; `None` at its announced end, an error when it was cut off before.
    pub async fn chunk(&mut self, host: &str) -> Result<Option<Bytes>, CallError> {
        loop {
            let late = |_| CallError::Timeout { host: host.to_owned(), within: ANSWER_WITHIN };
            let frame = timeout(ANSWER_WITHIN, self.response.body_mut().frame()).await.map_err(late)?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(CallError::Broken { host: host.to_owned(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Turns an answer that is not 2xx into an error with the provider's own code and message.
    pub async fn into_status_error(self, host: &str) -> CallError {
        let status = self.response.status().as_u16();
        let retry_after = retry_after(self.response.headers());
        let body = self.read(host).await.unwrap_or_default();
        let (code, message) = vendor_error(&body);
        CallError::Status { host: host.to_owned(), status, code, message, retry_after }
    }
}

/// `Retry-After` in seconds, at most an hour; dates are left to our own back-off.
pub(crate) fn retry_after(headers: &hyper::HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(3_600.0)))
}

/// The code and message of an error in either vendor's shape, shortened; empty when it has neither.
fn vendor_error(body: &[u8]) -> (Option<String>, String) {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let text = |value: &serde_json::Value| {
        value.as_str().map(|text| text.chars().filter(|c| *c != '\0').take(300).collect::<String>())
    };
    let code = text(&error["details"]["error_code"]).or_else(|| text(&error["code"])).or_else(|| text(&error["type"]));
    (code, text(&error["message"]).unwrap_or_else(|| "no explanation".to_owned()))
}

fn tls() -> TlsConnector {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    });
    TlsConnector::from(config.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_to_the_providers_host_only() {
        let endpoint = Endpoint::parse("https://api.example.com/v1/").expect("a base URL");
        for good in ["/v1/x?y=1", "https://api.example.com/v1/x?y=1", "https://API.example.com:443/v1/x?y=1"] {
            assert_eq!(endpoint.path_on_this_host(good).expect("ours"), "/v1/x?y=1");
        }
        for foreign in [
            "https://evil.example.com/v1/x",
            "http://api.example.com/v1/x",
            "https://api.example.com:8443/v1/x",
            "https://api.example.com@evil.com/v1/x",
            "https://me@api.example.com/v1/x",
            "//evil.com/x",
            "",
        ] {
            assert!(endpoint.path_on_this_host(foreign).is_err(), "{foreign}");
        }
    }

    #[test]
    fn base_urls_with_secrets_or_other_schemes_are_refused() {
        for bad in ["ftp://x", "api.openai.com", "https://user:pw@x/v1", "https://x/v1?key=1", ""] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Endpoint::parse("http://[::1]:80/v1").expect("a base URL").route("/files"), "/v1/files");
    }

    #[test]
    fn vendor_errors_are_read_in_both_shapes() {
        let openai = br#"{"error":{"message":"No","type":"invalid_request_error","param":null,"code":"bad_file"}}"#;
        assert_eq!(vendor_error(openai), (Some("bad_file".into()), "No".into()));
        let anthropic = br#"{"type":"error","error":{"type":"rate_limit_error","message":"Slow",
            "details":{"error_code":"enforced_spend_limit_reached"}}}"#;
        assert_eq!(vendor_error(anthropic), (Some("enforced_spend_limit_reached".into()), "Slow".into()));
        assert_eq!(vendor_error(b"<html>"), (None, "no explanation".into()));
    }
}
