//! What every request passes first and every answer passes last; the outermost middleware.
//!
//! It names the request, refuses a head that nobody should act on, catches a panic, and sees to it that every
//! error leaves as a problem with the request's name on it. Some things are the framework's alone: a head that
//! it cannot parse is answered with a bare 400, 408 or 431, a head with bare line feeds is read as if they
//! were proper line ends, `100 Continue` is sent before anything here is asked, and of requests that are sent
//! ahead of answers it forgets which was a HEAD.

mod admit;
mod metrics;
mod name;
mod unread;

use std::future::{Future, Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::{Error, HttpMessage, HttpResponse};
use actors::metrics::HTTP_RATE_LIMITED;
use bytes::Bytes;
use futures_util::FutureExt;
use tracing::{error, warn};

pub use admit::Rules;
pub use name::{REQUEST_ID_HEADER, RequestId};

use super::connections::Connection;
use super::problem::{Code, MEDIA_TYPE, Problem};
use metrics::{Meter, Passing};
use unread::Unread;

/// What `client_disconnect_timeout` of the server has to be: how long a refused client may go on sending. The
/// framework reckons it from a time that it reads twice a second; a deadline that is past when it is set is
/// never noticed, and the connection stays open for ever.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The middleware; wrap the whole app in it, outside of everything else.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    rules: Arc<Rules>,
}

impl Guard {
    pub fn new(rules: Rules) -> Guard {
        Guard { rules: Arc::new(rules) }
    }
}

impl<S, B> Transform<S, ServiceRequest> for Guard
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type InitError = ();
    type Transform = Guarded<S>;
    type Future = Ready<Result<Guarded<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (service, meter) = (Rc::new(service), Rc::new(Meter::new()));
        ready(Ok(Guarded { service, meter, rules: Arc::clone(&self.rules) }))
    }
}

/// An app behind the guard.
pub struct Guarded<S> {
    service: Rc<S>,
    meter: Rc<Meter>,
    rules: Arc<Rules>,
}

impl<S, B> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<BoxBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ServiceResponse<BoxBody>, Error>>>>;

    forward_ready!(service);

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let passage = Passage {
            id: RequestId::of(request.headers()),
            unread: Unread::watch(&mut request),
            connection: Connection::of(request.request()),
            wants_body: *request.method() != Method::GET && *request.method() != Method::HEAD,
            is_head: *request.method() == Method::HEAD,
            passing: self.meter.enters(request.method()),
        };
        request.extensions_mut().insert(passage.id.clone());
        if let Some(connection) = &passage.connection {
            connection.works();
        }
        if let Err(problem) = admit::admit(request.request(), &self.rules) {
            let response = request.error_response(problem);
            return Box::pin(async move { Ok(passage.answer(response).await) });
        }
        if passage.is_head {
            // Whatever can be got can be asked for without its body.
            request.head_mut().method = Method::GET;
        }
        let service = Rc::clone(&self.service);
        Box::pin(async move {
            // A service may also panic before it gives its future.
            match AssertUnwindSafe(async { service.call(request).await }).catch_unwind().await {
                Ok(Ok(response)) => Ok(passage.answer(response.map_into_boxed_body()).await),
                Ok(Err(error)) => Err(passage.fail(error).await),
                Err(_) => Err(passage.fail(Problem::internal("a handler panicked").into()).await),
            }
        })
    }
}

/// One request between its coming and its going.
struct Passage {
    id: RequestId,
    unread: Option<Unread>,
    connection: Option<Arc<Connection>>,
    wants_body: bool,
    is_head: bool,
    passing: Passing,
}

impl Passage {
    async fn answer(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let route = response.request().match_pattern();
        let (request, response) = response.into_parts();
        let response = self.finish(response, route).await;
        ServiceResponse::new(request, response)
    }

    /// The answer where the request is gone with what failed.
    async fn fail(self, error: Error) -> Error {
        let response = self.finish(HttpResponse::from_error(error), None).await;
        InternalError::from_response("answered", response).into()
    }

    async fn finish(mut self, response: HttpResponse<BoxBody>, route: Option<String>) -> HttpResponse<BoxBody> {
        let mut response = as_problem(response, &self.id);
        if self.is_head {
            response = response.map_body(|_, body| BoxBody::new(LeftAway(body.size())));
        }
        allow_head(response.headers_mut());
        let status = response.status();
        self.passing.leaves(route, status);
        add_headers(response.headers_mut(), &self.id);
        let response = match self.unread.take() {
            Some(unread) => self.settle(unread, response).await,
            None => response,
        };
        match self.connection {
            Some(connection) => response.map_body(|_, body| connection.answers(body)),
            None => response,
        }
    }

    /// Sees to it that what is left of the request's body cannot be taken for the next request.
    async fn settle(&self, unread: Unread, mut response: HttpResponse<BoxBody>) -> HttpResponse<BoxBody> {
        if unread.is_broken() {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        // Closing would cost a client with a small body its connection for nothing.
        let stuck = matches!(response.status(), StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE);
        if self.wants_body && !stuck {
            unread.drain().await;
        }
        response.map_body(|_, body| unread.hold(body))
    }
}

/// The body of an answer to HEAD: as long as it would be where that is known, and nothing of it.
struct LeftAway(BodySize);

impl MessageBody for LeftAway {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        // The framework would end what comes in chunks by an empty one, which is a body.
        if self.0 == BodySize::Stream { BodySize::None } else { self.0 }
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// Where GET is allowed, HEAD is.
fn allow_head(headers: &mut HeaderMap) {
    let Some(allowed) = headers.get(header::ALLOW).and_then(|allowed| allowed.to_str().ok()) else { return };
    let has = |method: &str| allowed.split(',').any(|allowed| allowed.trim() == method);
    if has("GET")
        && !has("HEAD")
        && let Ok(allowed) = HeaderValue::try_from(format!("{allowed}, HEAD"))
    {
        headers.insert(header::ALLOW, allowed);
    }
}

/// Gives an error its final form. Answers that have a body of their own are left as they are.
fn as_problem(response: HttpResponse<BoxBody>, id: &RequestId) -> HttpResponse<BoxBody> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = match response.error() {
        Some(error) => match error.as_error::<Problem>() {
            Some(problem) => problem.clone(),
            None if is_json(response.headers()) => return response,
            None => Problem::new(Code::of_status(status), what_of(status)).because(error),
        },
        None if matches!(response.body().size(), BodySize::None | BodySize::Sized(0)) => {
            Problem::new(Code::of_status(status), what_of(status))
        }
        None => return response,
    };
    log(&problem, id);
    if problem.code.status() == StatusCode::TOO_MANY_REQUESTS {
        ::metrics::counter!(HTTP_RATE_LIMITED, "policy" => problem.code.word()).increment(1);
    }
    let mut response = response.map_body(|_, _| BoxBody::new(problem.body(Some(id.as_str()))));
    *response.status_mut() = if status.is_server_error() { problem.code.status() } else { status };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn is_json(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    media.is_some_and(|media| media.contains("json"))
}

fn what_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "no resource has this path",
        StatusCode::METHOD_NOT_ALLOWED => "the header Allow lists the methods of this resource",
        status if status.is_server_error() => "it is not the request's fault; the request id names it in the log",
        _ => "the request cannot be answered as it is",
    }
}

fn log(problem: &Problem, id: &RequestId) {
    let (Some(cause), true) = (problem.cause(), problem.code.status().is_server_error()) else { return };
    if problem.code == Code::Internal {
        error!(request.id = %id, cause = ?cause, "a request failed");
    } else {
        warn!(request.id = %id, cause = ?cause, "a request could not be carried out");
    }
}

fn add_headers(headers: &mut HeaderMap, id: &RequestId) {
    const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id.header());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, NO_STORE);
    }
}

#[cfg(test)]
mod tests;
