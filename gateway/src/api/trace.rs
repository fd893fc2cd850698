//! The trace of a request that makes runs: the one that its sender is in, or one that begins here.
//!
//! `tracestate` is not kept: it is what tracing systems tell each other, and this one tells them nothing.

use super::Api;
use crate::http::guard::RequestId;
use crate::http::problem::Problem;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, ResponseError};
use actors::traces::{Kind, Span, Traces};
use rand::RngExt;
use serde_json::Value;
use storage::Store;
use storage::model::{Timestamp, TraceParent};

const HEADER: &str = "traceparent";

/// From the beginning of a request to its answer.
pub struct RequestTrace {
    came: Option<TraceParent>,
    trace: Option<TraceParent>,
    recording: Option<Recording>,
}

/// The request's own span, which is told when this is dropped: a sender that goes away ends it too, and its runs may
/// be there.
struct Recording {
    traces: Traces,
    store: Store,
    name: &'static str,
    request: Option<RequestId>,
    trace: TraceParent,
    parent: Option<u64>,
    begin: Timestamp,
    status: Option<u16>,
}

impl RequestTrace {
    /// `name` is the method and the route.
    pub fn begin(api: &Api, request: &HttpRequest, name: &'static str) -> RequestTrace {
        let (traces, came) = (&api.runs.traces, came(request));
        let own = match came {
            Some(came) => traces.recorded(Some(came)).map(|came| came.within(fresh_span())),
            None if traces.is_on() => traces.begin(rand::rng().random(), fresh_span()),
            None => None,
        };
        let recording = own.map(|trace| Recording {
            traces: traces.clone(),
            store: api.runs.store.clone(),
            name,
            request: request.extensions().get::<RequestId>().cloned(),
            trace,
            parent: came.map(TraceParent::parent),
            begin: api.now(),
            status: None,
        });
        RequestTrace { came, trace: own.or(came), recording }
    }

    /// What is kept with the runs.
    pub fn of_runs(&self) -> Option<TraceParent> {
        self.trace
    }

    /// The answer, which names the trace to whoever named one.
    pub fn end(mut self, answer: Result<HttpResponse, Problem>) -> Result<HttpResponse, Problem> {
        if let Some(recording) = &mut self.recording {
            let status = answer.as_ref().map_or_else(ResponseError::status_code, HttpResponse::status);
            recording.status = Some(status.as_u16());
        }
        let mut answer = answer?;
        let trace = self.came.and(self.trace).and_then(|trace| HeaderValue::from_str(&trace.to_string()).ok());
        if let Some(trace) = trace {
            answer.headers_mut().insert(HeaderName::from_static(HEADER), trace);
        }
        Ok(answer)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let (method, route) = self.name.split_once(' ').unwrap_or(("", self.name));
        let mut fields = vec![("http.request.method", Value::from(method)), ("http.route", Value::from(route))];
        fields.extend(self.request.as_ref().map(|id| ("request.id", Value::from(id.as_str()))));
        fields.extend(self.status.map(|status| ("http.response.status_code", Value::from(status))));
        let failed = match self.status {
            None => Some("sender_gone".to_owned()),
            Some(status) => (status >= 500).then(|| status.to_string()),
        };
        self.traces.emit(Span {
            trace: self.trace.trace(),
            id: self.trace.parent(),
            parent: self.parent,
            name: self.name,
            kind: Kind::Server,
            begin: self.begin,
            end: self.store.now().max(self.begin),
            fields,
            links: Vec::new(),
            failed,
        });
    }
}

/// The sender's own. One that cannot be read, or that was sent twice, is none.
fn came(request: &HttpRequest) -> Option<TraceParent> {
    let mut values = request.headers().get_all(HEADER);
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    TraceParent::parse(value.trim_matches([' ', '\t']))
}

/// Never 0, which is none.
fn fresh_span() -> u64 {
    rand::rng().random::<u64>().max(1)
}
