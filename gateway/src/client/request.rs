//! A request before it is sent: small, whole in memory, so that it can be sent again.

use actors::provider::wire::{Content, body_channel};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use std::fmt::{Display, Write};

/// Path and query below `/api/v1`, headers of its own, and a body.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the server makes nothing of it twice.
    pub repeatable: bool,
    path: String,
    query: String,
    body: Option<(&'static str, Bytes)>,
}

impl Request {
    pub fn get(path: impl Into<String>) -> Request {
        Request::new(Method::GET, path, true)
    }

    /// A request that is sent once, unless it is said to be `repeatable`.
    pub fn post(path: impl Into<String>) -> Request {
        Request::new(Method::POST, path, false)
    }

    fn new(method: Method, path: impl Into<String>, repeatable: bool) -> Request {
        Request { method, headers: Vec::new(), repeatable, path: path.into(), query: String::new(), body: None }
    }

    pub fn json(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Some(("application/json", body.into()));
        self
    }

    /// A JSON object a line.
    pub fn lines(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Some(("application/x-ndjson", body.into()));
        self
    }

    pub fn repeatable(mut self) -> Request {
        self.repeatable = true;
        self
    }

    pub fn query(mut self, name: &str, value: impl Display) -> Request {
        let mark = if self.query.is_empty() { '?' } else { '&' };
        self.query += &format!("{mark}{name}={}", segment(&value.to_string()));
        self
    }

    pub fn maybe_query(self, name: &str, value: Option<impl Display>) -> Request {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// A header; a value that no header can have is left out, as all of ours are checked before.
    pub fn header(mut self, name: &'static str, value: &str) -> Request {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn path_and_query(&self) -> String {
        format!("{}{}", self.path, self.query)
    }

    /// The body with its exact length, made anew for each try.
    pub fn content(&self) -> Content {
        let Some((media, body)) = &self.body else { return Content::None };
        let (feed, frames) = body_channel();
        // There is room for one: the channel was made for more.
        let _ = feed.try_send(body.clone());
        Content::Stream { content_type: (*media).to_owned(), length: body.len() as u64, frames }
    }
}

/// A text as one segment of a path, or as a value in a query.
pub fn segment(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            safe.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    // Such a segment means another path, whatever it is escaped to.
    if matches!(safe.as_str(), "." | "..") { safe.replace('.', "%2E") } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_types_stays_one_segment() {
        for (text, safe) in [
            ("run_01", "run_01"),
            ("../keys?x=1#y", "..%2Fkeys%3Fx%3D1%23y"),
            ("a b&c", "a%20b%26c"),
            ("..", "%2E%2E"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(segment(text), safe);
        }
        let request = Request::get("/runs").query("tag", "a&b").maybe_query("task", None::<&str>).query("limit", 3);
        assert_eq!(request.path_and_query(), "/runs?tag=a%26b&limit=3");
    }

    #[test]
    fn only_reading_is_repeatable_by_itself() {
        assert!(Request::get("/runs").repeatable);
        assert!(!Request::post("/runs").repeatable);
        assert!(Request::post("/runs").repeatable().repeatable);
    }
}
