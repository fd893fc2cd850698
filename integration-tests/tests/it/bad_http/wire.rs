//! Just enough HTTP to read answers off a raw connection.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use super::driver::rest;

/// One answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    version: String,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the server means to close the connection after this.
    pub fn is_last(&self) -> bool {
        let says = self.header("connection").is_some_and(|value| matches!(value, "close" | "upgrade"));
        // What the framework refuses by itself is bare, and its last word.
        says || self.version == "HTTP/1.0" || (self.status >= 400 && self.body.is_empty())
    }

    pub fn problem(&self) -> Option<serde_json::Value> {
        let problem = self.header("content-type") == Some("application/problem+json");
        problem.then(|| serde_json::from_str(&self.body).ok()).flatten()
    }

    /// What has to be the same when the same is sent again; what was carried out has ids of its own.
    pub fn stable(&self) -> (u16, Option<String>) {
        let mut problem = self.problem();
        if let Some(problem) = problem.as_mut().and_then(serde_json::Value::as_object_mut) {
            problem.remove("request_id");
        }
        (self.status, problem.map(|problem| problem.to_string()))
    }
}

/// A connection, and what was read from it too early.
pub struct Inbox {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Inbox {
    pub fn new(stream: TcpStream) -> Inbox {
        Inbox { stream, buffer: Vec::new() }
    }

    /// The next answer; `None` if the connection ends before it begins. Interim answers are skipped.
    pub fn answer(&mut self) -> Result<Option<Answer>, String> {
        loop {
            let Some(end) = self.find(b"\r\n\r\n")? else { return Ok(None) };
            let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 4);
            let mut lines = head.split("\r\n");
            let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
            let version = first.next().unwrap_or_default();
            let status = first.next().and_then(|status| status.parse::<u16>().ok());
            let status = status.ok_or_else(|| format!("no status in {head:?}"))?;
            if status < 200 {
                continue;
            }
            let headers = lines.filter_map(|line| line.split_once(':'));
            let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
            let mut answer = Answer { version, status, headers, body: String::new() };
            answer.body = String::from_utf8_lossy(&self.body(&answer)?).into_owned();
            return Ok(Some(answer));
        }
    }

    /// Nothing but bare refusals may come before the connection ends.
    pub fn ends(&mut self) -> Result<(), String> {
        let more = rest(&mut self.stream)?;
        self.buffer.extend_from_slice(&more);
        let rest = String::from_utf8_lossy(&self.buffer).into_owned();
        if rest.is_empty() || rest.starts_with("HTTP/1.1 4") { Ok(()) } else { Err(format!("there is more: {rest:?}")) }
    }

    fn body(&mut self, answer: &Answer) -> Result<Vec<u8>, String> {
        if answer.header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                let end = self.find(b"\r\n")?.ok_or("cut off in a chunk's size")?;
                let size = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let size = usize::from_str_radix(&size, 16).map_err(|error| format!("chunk size {size:?}: {error}"))?;
                self.buffer.drain(..end + 2);
                let mut chunk = self.take(size + 2)?;
                chunk.truncate(size);
                if chunk.is_empty() {
                    return Ok(body);
                }
                body.append(&mut chunk);
            }
        }
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        self.take(length)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < count {
            if !self.more()? {
                return Err(format!("cut off after {} of {count} bytes", self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn find(&mut self, mark: &[u8]) -> Result<Option<usize>, String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(Some(at));
            }
            if !self.more()? {
                return if self.buffer.is_empty() { Ok(None) } else { Err("cut off in a head".to_owned()) };
            }
        }
    }

    fn more(&mut self) -> Result<bool, String> {
        let mut chunk = [0; 4_096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset && self.buffer.is_empty() => Ok(false),
            Err(error) => Err(format!("no answer: {error}")),
        }
    }
}
