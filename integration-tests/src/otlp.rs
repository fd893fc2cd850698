//! A receiver of traces: OTLP over HTTP in its JSON form, read as strictly as the protocol is written.

use crate::eventually::{eventually, patience};
use crate::http::line;
use serde_json::Value;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A span that was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    pub trace: String,
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    pub kind: i64,
    /// Nanoseconds since 1970.
    pub begin: u64,
    pub end: u64,
    pub fields: Value,
    /// Trace and span of each.
    pub links: Vec<(String, String)>,
    pub failed: Option<String>,
    /// Of the process that sent it.
    pub resource: Value,
}

impl Recorded {
    /// What another one would say that is a child of this.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// See the module's first lines. Its threads end with this process.
pub struct Otlp {
    port: u16,
    seen: Arc<Mutex<Vec<Recorded>>>,
}

impl Otlp {
    pub fn start() -> Otlp {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::<Mutex<Vec<Recorded>>>::default();
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || receive(stream, &kept));
            }
        });
        Otlp { port, seen }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything received so far.
    pub fn all(&self) -> Vec<Recorded> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace, in the order of their beginning.
    pub fn of_trace(&self, trace: &str) -> Vec<Recorded> {
        let mut spans: Vec<Recorded> = self.all().into_iter().filter(|span| span.trace == trace).collect();
        spans.sort_by_key(|span| span.begin);
        spans
    }

    /// The same once there are so many.
    #[track_caller]
    pub fn wait(&self, trace: &str, spans: usize) -> Vec<Recorded> {
        eventually("the spans of a trace have come", || self.of_trace(trace).len() >= spans);
        self.of_trace(trace)
    }
}

fn receive(stream: TcpStream, seen: &Mutex<Vec<Recorded>>) {
    let _ = stream.set_read_timeout(Some(patience()));
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        match line(&mut reader) {
            Ok(line) if line.is_empty() => break,
            Ok(line) => lines.push(line.to_ascii_lowercase()),
            Err(_) => return,
        }
    }
    let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let asked = lines.first().is_some_and(|line| line.starts_with("post /v1/traces "));
    let spans = if asked && header("content-type:") == Some("application/json") { read(&body) } else { None };
    let answer = match spans {
        Some(spans) => {
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        }
        None => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    };
    let _ = reader.get_mut().write_all(answer.as_bytes());
}

/// All spans of a request; `None` if one of them is none.
fn read(body: &[u8]) -> Option<Vec<Recorded>> {
    let request: Value = serde_json::from_slice(body).ok()?;
    let mut spans = Vec::new();
    for of_resource in request["resourceSpans"].as_array()? {
        let resource = fields(&of_resource["resource"]["attributes"])?;
        for of_scope in of_resource["scopeSpans"].as_array()? {
            for span in of_scope["spans"].as_array()? {
                spans.push(recorded(span, &resource)?);
            }
        }
    }
    Some(spans)
}

fn recorded(span: &Value, resource: &Value) -> Option<Recorded> {
    let link = |link: &Value| Some((id(&link["traceId"], 32)?, id(&link["spanId"], 16)?));
    let links = span["links"].as_array().into_iter().flatten().map(link).collect::<Option<_>>()?;
    let parent = &span["parentSpanId"];
    let recorded = Recorded {
        trace: id(&span["traceId"], 32)?,
        id: id(&span["spanId"], 16)?,
        parent: if parent.is_null() { None } else { Some(id(parent, 16)?) },
        name: span["name"].as_str()?.to_owned(),
        kind: span["kind"].as_i64()?,
        begin: span["startTimeUnixNano"].as_str()?.parse().ok()?,
        end: span["endTimeUnixNano"].as_str()?.parse().ok()?,
        fields: fields(&span["attributes"])?,
        links,
        failed: (span["status"]["code"] == 2).then(|| span["status"]["message"].as_str().unwrap_or("").to_owned()),
        resource: resource.clone(),
    };
    (recorded.begin <= recorded.end).then_some(recorded)
}

/// Hex digits, and not zeros alone.
fn id(value: &Value, digits: usize) -> Option<String> {
    let text = value.as_str()?;
    let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fits && text.bytes().any(|byte| byte != b'0')).then(|| text.to_ascii_lowercase())
}

/// Attributes as one object; a number of 64 bits comes as a text.
fn fields(attributes: &Value) -> Option<Value> {
    let read = |attribute: &Value| {
        let value = &attribute["value"];
        let number = || value["intValue"].as_str()?.parse::<i64>().ok().map(Value::from);
        let value = value["stringValue"].as_str().map(Value::from).or_else(number)?;
        Some((attribute["key"].as_str()?.to_owned(), value))
    };
    attributes.as_array()?.iter().map(read).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
}
