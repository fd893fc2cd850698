//! Sends spans to an OTLP receiver, over HTTP and in the protocol's JSON form.
//!
//! Owns: the spans that wait for it. Never: holds up whoever made a span, or sends one twice that was taken.

use super::TelemetryConfig;
use actors::backoff::Backoff;
use actors::metrics::SPANS_DROPPED;
use actors::provider::CallError;
use actors::provider::wire::{Answer, Endpoint};
use actors::traces::{Kind, Span, Traces};
use serde_json::{Value, json};
use std::time::Duration;
use storage::model::{Timestamp, TraceParent};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

/// Spans in one request.
const TOGETHER: usize = 512;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one request is sent while the receiver is away.
const TRIES: u32 = 4;
const AGAIN: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };
/// What is left at the end of the process has so long.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// The task that sends; see the module's first lines.
pub struct Exporter {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Where spans go, and who sends them; nobody, where no receiver is set.
    pub fn start(config: &TelemetryConfig, node: &str, runtime: &Handle) -> (Traces, Option<Exporter>) {
        let endpoint = config.otlp_endpoint.as_deref().and_then(|base| Endpoint::parse(base).ok());
        let Some(endpoint) = endpoint else { return (Traces::off(), None) };
        let (traces, spans) = Traces::on(config.sample_ratio);
        let (stop, stopped) = watch::channel(false);
        let route = endpoint.route("/v1/traces");
        let sender = Sender { endpoint, route, resource: resource(node), stopped, away: false };
        let task = runtime.spawn(sender.work(spans));
        (traces, Some(Exporter { stop, task }))
    }

    /// Sends what is left, as far as that goes at once.
    pub async fn finish(mut self) {
        let _ = self.stop.send(true);
        if timeout(FINISH_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

struct Sender {
    endpoint: Endpoint,
    route: String,
    resource: Value,
    stopped: watch::Receiver<bool>,
    /// The last request was given up.
    away: bool,
}

/// What an answer means for the spans that were sent.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// But for so many.
    Taken {
        rejected: u64,
    },
    /// The same request may be taken later.
    Later(String),
    Refused(String),
}

impl Sender {
    async fn work(mut self, mut spans: mpsc::Receiver<Span>) {
        let mut group = Vec::with_capacity(TOGETHER);
        let mut stopped = self.stopped.clone();
        loop {
            // What has come while one request was under way goes with the next.
            tokio::select! {
                biased;
                () = is_told(&mut stopped), if !spans.is_closed() => spans.close(),
                got = spans.recv_many(&mut group, TOGETHER) => {
                    if got == 0 {
                        return;
                    }
                    self.send(&group).await;
                    group.clear();
                }
            }
        }
    }

    async fn send(&mut self, group: &[Span]) {
        let body = request(&self.resource, group).to_string();
        let mut tries = 1;
        let why = loop {
            match fate(self.endpoint.ask(&self.route, &[], body.clone(), PATIENCE).await) {
                Fate::Taken { rejected } => {
                    if std::mem::take(&mut self.away) {
                        info!("the receiver of traces answers again");
                    }
                    metrics::counter!(SPANS_DROPPED).increment(rejected);
                    return;
                }
                Fate::Later(_) if tries < TRIES && !self.away && !*self.stopped.borrow() => {
                    let wait = AGAIN.after(tries, &mut rand::rng());
                    // A process that ends does not wait for a receiver that is away.
                    let _ = timeout(wait, is_told(&mut self.stopped)).await;
                    tries += 1;
                }
                Fate::Later(why) | Fate::Refused(why) => break why,
            }
        };
        metrics::counter!(SPANS_DROPPED).increment(group.len() as u64);
        if !std::mem::replace(&mut self.away, true) {
            warn!(why, "spans are dropped until the receiver of traces takes them");
        }
    }
}

/// Until it is told to stop. Who is gone without a word tells it too.
async fn is_told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn fate(answer: Result<Answer, CallError>) -> Fate {
    /// Statuses after which the protocol lets a request be sent again.
    const LATER: [u16; 4] = [429, 502, 503, 504];
    match answer {
        Ok(Answer { status: 200..300, body, .. }) => {
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            let rejected = &said["partialSuccess"]["rejectedSpans"];
            // A 64-bit number, and so a text; some receivers write a number.
            let text = rejected.as_str().and_then(|text| text.parse().ok());
            Fate::Taken { rejected: text.or_else(|| rejected.as_u64()).unwrap_or(0) }
        }
        Ok(Answer { status, .. }) if LATER.contains(&status) => Fate::Later(format!("it answered {status}")),
        Ok(Answer { status, .. }) => Fate::Refused(format!("it answered {status}")),
        Err(error) => Fate::Later(error.to_string()),
    }
}

fn resource(node: &str) -> Value {
    let fields = [
        ("service.name", Value::from("tidegate")),
        ("service.version", Value::from(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Value::from(node)),
    ];
    json!({ "attributes": attributes(&fields) })
}

fn request(resource: &Value, group: &[Span]) -> Value {
    let spans: Vec<Value> = group.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{ "scope": { "name": "tidegate" }, "spans": spans }],
    }] })
}

fn span(span: &Span) -> Value {
    let mut written = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": hex(span.id),
        "name": span.name,
        "kind": match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        "startTimeUnixNano": nanos(span.begin),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes(&span.fields),
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = hex(parent).into();
    }
    if !span.links.is_empty() {
        written["links"] = span.links.iter().map(link).collect();
    }
    if let Some(why) = &span.failed {
        written["status"] = json!({ "code": 2, "message": why });
    }
    written
}

fn link(of: &TraceParent) -> Value {
    json!({ "traceId": of.trace_id(), "spanId": hex(of.parent()) })
}

fn hex(span: u64) -> String {
    format!("{span:016x}")
}

/// 64-bit numbers are texts in this form.
fn nanos(time: Timestamp) -> String {
    time.millis().saturating_mul(1_000_000).to_string()
}

fn attributes(fields: &[(&'static str, Value)]) -> Value {
    let value = |value: &Value| match value.as_i64() {
        Some(number) => json!({ "intValue": number.to_string() }),
        None => json!({ "stringValue": value.as_str().unwrap_or_default() }),
    };
    fields.iter().map(|(key, content)| json!({ "key": key, "value": value(content) })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, CallError> {
        Ok(Answer { status, retry_after: None, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn an_answer_says_what_was_taken_and_what_may_be_sent_again() {
        let taken = |rejected| Fate::Taken { rejected };
        assert_eq!(fate(answer(200, "{}")), taken(0));
        assert_eq!(fate(answer(202, "")), taken(0));
        assert_eq!(fate(answer(200, r#"{"partialSuccess":{"rejectedSpans":"3"}}"#)), taken(3));
        assert_eq!(fate(answer(200, r#"{"partialSuccess":{"rejectedSpans":2}}"#)), taken(2));
        for status in [429, 502, 503, 504] {
            assert!(matches!(fate(answer(status, "")), Fate::Later(_)), "{status}");
        }
        for status in [301, 400, 401, 404, 413, 500] {
            assert!(matches!(fate(answer(status, "")), Fate::Refused(_)), "{status}");
        }
        let late = CallError::Timeout { host: "h".to_owned(), within: PATIENCE };
        assert!(matches!(fate(Err(late)), Fate::Later(_)));
    }

    #[test]
    fn a_span_is_written_in_the_protocols_json_form() {
        let trace = TraceParent::begin(0x4bf9_2f35, 7);
        let written = span(&Span {
            trace: trace.trace(),
            id: 0xf067,
            parent: Some(7),
            name: "attempt",
            kind: Kind::Client,
            begin: Timestamp::from_millis(1_700_000_000_001),
            end: Timestamp::from_millis(1_700_000_000_002),
            fields: vec![("run.id", Value::from("run_1")), ("attempt", Value::from(2))],
            links: vec![trace],
            failed: Some("exit_nonzero".to_owned()),
        });
        let expected = json!({
            "traceId": "0000000000000000000000004bf92f35",
            "spanId": "000000000000f067",
            "parentSpanId": "0000000000000007",
            "name": "attempt",
            "kind": 3,
            "startTimeUnixNano": "1700000000001000000",
            "endTimeUnixNano": "1700000000002000000",
            "attributes": [
                { "key": "run.id", "value": { "stringValue": "run_1" } },
                { "key": "attempt", "value": { "intValue": "2" } },
            ],
            "links": [{ "traceId": "0000000000000000000000004bf92f35", "spanId": "0000000000000007" }],
            "status": { "code": 2, "message": "exit_nonzero" },
        });
        assert_eq!(written, expected);
    }
}
