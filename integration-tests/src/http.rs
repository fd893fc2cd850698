//! A small blocking HTTP/1.1 client, written against the RFCs and not with the server's own library. It never
//! sends a request twice by itself: what was not answered is an error that the caller sees.

use crate::eventually::patience;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Where a server listens now; it moves when the server is started again, and is nowhere in between.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<AtomicU32>);

/// One start of a server: the low half is its port, 0 while there is none; the high half counts the starts,
/// because another start may well get the port that an earlier one had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opening(u32);

impl Opening {
    fn addr(self) -> Option<SocketAddr> {
        let port = self.0 as u16;
        (port != 0).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

impl Door {
    pub(crate) fn open(&self, port: u16) {
        let before = self.now().0 >> 16;
        self.0.store((before + 1) << 16 | u32::from(port), Ordering::SeqCst);
    }

    pub(crate) fn close(&self) {
        self.0.fetch_and(!0xFFFF, Ordering::SeqCst);
    }

    fn now(&self) -> Opening {
        Opening(self.0.load(Ordering::SeqCst))
    }

    pub fn addr(&self) -> Option<SocketAddr> {
        self.now().addr()
    }

    /// A connection that nothing has been sent on yet.
    pub fn connect(&self) -> io::Result<TcpStream> {
        Door::connect_to(self.now(), patience())
    }

    fn connect_to(opening: Opening, within: Duration) -> io::Result<TcpStream> {
        let addr = opening.addr().ok_or(io::ErrorKind::NotConnected)?;
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        Ok(stream)
    }
}

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A member of the body as text; empty when it is absent or null.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        match &self.json()[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// This very answer if its status is that one.
    #[track_caller]
    pub fn is(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        self
    }

    /// An error of ours, complete: media type, code, request id where there is one, and a wait where it helps.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.header("content-type")), (status, Some("application/problem+json")), "{self:?}");
        let body = self.json();
        assert_eq!((body["status"].as_u64(), body["code"].as_str()), (Some(u64::from(status)), Some(code)), "{body}");
        for member in ["type", "title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} is missing: {body}");
        }
        if body["retryable"] == Value::Bool(true) {
            let wait = self.header("retry-after").and_then(|value| value.parse::<u64>().ok());
            assert!(wait.is_some_and(|wait| wait >= 1), "when to come again is missing: {self:?}");
        }
    }
}

/// One caller: an env, and a connection that is kept open for as long as the server that it was made to runs.
#[derive(Debug)]
pub struct Client {
    door: Door,
    headers: Vec<(String, String)>,
    /// How long it waits for a server that says nothing.
    within: Duration,
    connection: Option<(Opening, BufReader<TcpStream>)>,
}

impl Clone for Client {
    fn clone(&self) -> Client {
        Client { door: self.door.clone(), headers: self.headers.clone(), within: self.within, connection: None }
    }
}

impl Client {
    pub fn new(door: &Door) -> Client {
        Client { door: door.clone(), headers: Vec::new(), within: patience(), connection: None }
    }

    /// The same caller, who takes a silence of this long for no answer.
    pub fn within(&self, span: Duration) -> Client {
        Client { within: span, ..self.clone() }
    }

    pub fn in_env(&self, env: &str) -> Client {
        self.with("X-Tidegate-Env", env)
    }

    /// The same caller with one more header in every request.
    pub fn with(&self, name: &str, value: &str) -> Client {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    /// Sends a request and reads its answer; paths are below `/api/v1` unless they begin with `//`.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&str>) -> io::Result<Answer> {
        let opening = self.door.now();
        // Nothing can be under way on a kept connection, so that leaving that of an earlier start loses nothing.
        let mut connection = match self.connection.take() {
            Some((made_to, connection)) if made_to == opening => connection,
            _ => BufReader::new(Door::connect_to(opening, self.within)?),
        };
        connection.get_mut().write_all(&self.request(method, path, body))?;
        let head = read_head(&mut connection)?;
        let keep = head.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        let mut answer = Answer { body: Vec::new(), ..head };
        let mut rest = Body::of(&answer, connection);
        let mut bytes = Vec::new();
        rest.read_to_end(&mut bytes)?;
        answer.body = bytes;
        if keep {
            self.connection = Some((opening, rest.connection));
        }
        Ok(answer)
    }

    fn request(&self, method: &str, path: &str, body: Option<&str>) -> Vec<u8> {
        let path =
            path.strip_prefix('/').filter(|path| path.starts_with('/')).map_or(format!("/api/v1{path}"), str::to_owned);
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            let named = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            if !named {
                text += "Content-Type: application/json\r\n";
            }
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body.unwrap_or_default();
        text.into_bytes()
    }

    /// Whether anybody answers at all.
    pub fn is_answered(&mut self) -> bool {
        self.send("GET", "/tasks", None).is_ok()
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, None).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    #[track_caller]
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        let text = body.to_string();
        self.send("POST", path, Some(&text)).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    #[track_caller]
    pub fn patch(&mut self, path: &str, body: &Value) -> Answer {
        let text = body.to_string();
        self.send("PATCH", path, Some(&text)).unwrap_or_else(|error| panic!("PATCH {path}: {error}"))
    }

    /// Makes a run and returns its id; panics unless it is taken.
    #[track_caller]
    pub fn run(&mut self, body: &Value) -> String {
        let answer = self.post("/runs", body);
        assert!(matches!(answer.status, 201 | 202), "{answer:?}");
        answer.field("id")
    }

    /// A run as it stands.
    #[track_caller]
    pub fn read(&mut self, id: &str) -> Value {
        self.get(&format!("/runs/{id}")).is(200).json()
    }

    /// All that a list holds, page by page.
    #[track_caller]
    pub fn list(&mut self, path: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let next = cursor.map(|cursor| format!("{joint}cursor={cursor}")).unwrap_or_default();
            let mut page = self.get(&format!("{path}{next}")).is(200).json();
            found.extend(page["data"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return found,
            }
        }
    }

    /// Follows a stream of events on a connection of its own.
    pub fn follow(&self, path: &str, last_event_id: Option<&str>) -> io::Result<Events> {
        let mut connection = BufReader::new(self.door.connect()?);
        let mut caller = self.with("Accept", "text/event-stream");
        if let Some(id) = last_event_id {
            caller = caller.with("Last-Event-ID", id);
        }
        connection.get_mut().write_all(&caller.request("GET", path, None))?;
        let head = read_head(&mut connection)?;
        if head.status != 200 {
            return Err(io::Error::other(format!("the stream is answered with {}", head.status)));
        }
        Ok(Events { lines: BufReader::new(Body::of(&head, connection)) })
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

pub(crate) fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Answer> {
    let first = line(reader)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok(Answer { status, headers, body: Vec::new() });
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("no header line"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// How much of a body is still to come.
#[derive(Debug)]
enum Left {
    Bytes(u64),
    /// Within a chunk, or 0 between two.
    Chunk(u64),
    ToTheEnd,
    Nothing,
}

/// The body of one answer, without its framing.
struct Body {
    connection: BufReader<TcpStream>,
    left: Left,
}

impl Body {
    fn of(head: &Answer, connection: BufReader<TcpStream>) -> Body {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = head.header("content-length").and_then(|value| value.parse().ok());
        let left = match length {
            _ if matches!(head.status, 204 | 304) => Left::Nothing,
            _ if chunked => Left::Chunk(0),
            Some(length) => Left::Bytes(length),
            None => Left::ToTheEnd,
        };
        Body { connection, left }
    }

    fn take(&mut self, most: u64, buffer: &mut [u8]) -> io::Result<u64> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.connection.read(&mut buffer[..most])?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(got as u64)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match self.left {
            Left::Nothing | Left::Bytes(0) => 0,
            Left::ToTheEnd => return self.connection.read(buffer),
            Left::Bytes(left) => {
                let got = self.take(left, buffer)?;
                self.left = Left::Bytes(left - got);
                got
            }
            Left::Chunk(0) => {
                let size = line(&mut self.connection)?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16).map_err(|_| bad("no size of a chunk"))?;
                if size == 0 {
                    while !line(&mut self.connection)?.is_empty() {}
                    self.left = Left::Nothing;
                    return Ok(0);
                }
                self.left = Left::Chunk(size);
                return self.read(buffer);
            }
            Left::Chunk(left) => {
                let got = self.take(left, buffer)?;
                self.left = Left::Chunk(left - got);
                if left == got && !line(&mut self.connection)?.is_empty() {
                    return Err(bad("a chunk is longer than it says"));
                }
                got
            }
        };
        Ok(usize::try_from(got).unwrap_or(0))
    }
}

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
}

impl Event {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// A stream of events; ends with the answer.
pub struct Events {
    lines: BufReader<Body>,
}

impl Events {
    /// Cuts the stream off after this long without a word.
    pub fn within(self, patience: Duration) -> Events {
        let stream = self.lines.get_ref().connection.get_ref();
        stream.set_read_timeout(Some(patience)).expect("a time to wait");
        self
    }
}

impl Iterator for Events {
    type Item = Event;

    /// The next event, comments passed over; `None` at the end of the stream, and when it breaks off.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = line(&mut self.lines).ok()?;
            match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
                None if line.is_empty() && event != Event::default() => return Some(event),
                Some(("id", value)) => event.id = Some(value.to_owned()),
                Some(("event", value)) => event.name = value.to_owned(),
                Some(("data", value)) => event.data += value,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers as many requests as told on one connection, then reads one more and breaks off.
    fn answering(count: usize) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().expect("a connection").0);
            for answered in 0..=count {
                while line(&mut stream).is_ok_and(|line| !line.is_empty()) {}
                if answered < count {
                    let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                }
            }
        });
        port
    }

    #[test]
    fn a_connection_to_a_server_that_is_gone_is_not_used_again() {
        let door = Door::default();
        door.open(answering(1));
        let mut client = Client::new(&door);
        client.get("/one").is(200);
        door.close();
        assert!(client.send("GET", "/nobody", None).is_err_and(|error| error.kind() == io::ErrorKind::NotConnected));
        door.open(answering(2));
        client.get("/two").is(200);
        client.get("/three").is(200);
    }

    #[test]
    fn a_request_that_breaks_off_is_reported_and_not_sent_again() {
        let door = Door::default();
        door.open(answering(1));
        let mut client = Client::new(&door);
        client.get("/one").is(200);
        let broken = client.send("POST", "/runs", Some("{}")).expect_err("nobody answers");
        assert!(matches!(broken.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{broken}");
    }
}
