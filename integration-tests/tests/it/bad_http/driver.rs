//! Plays rows against a server over raw connections, and says what is not right about its answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::rows::{Row, Send};
use super::wire::{Answer, Inbox};

/// Rows under way at once; some of them are mostly waiting.
const AT_ONCE: usize = 24;
const GOOD_BODY: &str = "{\"task\":\"noop\",\"payload\":1}";
/// Words of parsers and databases that no answer may have.
const FOREIGN_WORDS: [&str; 9] =
    ["expected ", "invalid type", "EOF while", "serde", " at line ", "SQL", "panicked", "sqlx", "trailing characters"];

/// The server, and what has to be known of it.
#[derive(Debug, Clone)]
pub struct Place {
    pub address: SocketAddr,
    /// A key that may read and write runs; `None` where no keys are asked for.
    pub key: Option<String>,
    /// Bytes that the body of a create may have, if a payload may be about as large.
    pub body_bytes_max: usize,
    /// How long any one answer may take.
    pub patience: Duration,
    /// Between two bytes of a client that drips.
    pub drip_every: Duration,
}

/// Everything that is not right, one line each. Every row is played twice.
pub fn findings(place: &Place, rows: &[Row]) -> Vec<String> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = check(place, row);
                    found
                        .lock()
                        .expect("findings")
                        .extend(wrong.map(|what| format!("row {}: {what}: {:?}", row.number, row.send)));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("findings");
    found.sort();
    found
}

fn check(place: &Place, row: &Row) -> Option<String> {
    let first = match play(place, row) {
        Ok(answers) => answers,
        Err(what) => return Some(what),
    };
    for answer in &first {
        if let Some(what) = wrong(row, answer) {
            return Some(format!("{what} in {answer:?}"));
        }
    }
    let second = match play(place, row) {
        Ok(answers) => answers,
        Err(what) => return Some(format!("the second time, {what}")),
    };
    if let Some(what) = second.iter().find_map(|answer| wrong(row, answer)) {
        return Some(format!("the second time, {what}"));
    }
    let told = |answers: &[Answer]| answers.iter().map(Answer::stable).collect::<Vec<_>>();
    // Where silence is right too, which of the two it is may hang on who was faster.
    let silent = row.right.contains(&0) && (first.is_empty() || second.is_empty());
    if !silent && told(&first) != told(&second) {
        return Some(format!("two answers: {first:?} and {second:?}"));
    }
    let (mut inbox, id) = good_request(place)?;
    match inbox.answer() {
        Ok(Some(answer)) if answer.status == 200 && answer.header("x-request-id") == Some(&id) => None,
        other => Some(format!("a good request afterwards gives {other:?}")),
    }
}

fn wrong(row: &Row, answer: &Answer) -> Option<String> {
    if !row.right.contains(&answer.status) {
        return Some(format!("{} is not one of {:?}", answer.status, row.right));
    }
    if answer.status < 400 {
        return None;
    }
    if let Some(word) = FOREIGN_WORDS.iter().find(|word| answer.body.contains(**word)) {
        return Some(format!("the answer says `{word}`"));
    }
    if answer.body.is_empty() {
        // What the framework cannot parse never reaches us.
        return row.code.map(|code| format!("no problem `{code}`"));
    }
    let Some(problem) = answer.problem() else { return Some("no problem document".to_owned()) };
    if problem["status"] != answer.status || problem["request_id"].as_str() != answer.header("x-request-id") {
        return Some("the document contradicts its head".to_owned());
    }
    if row.code.is_some_and(|code| problem["code"] != code) {
        return Some(format!("the code is not {:?}", row.code));
    }
    let needed = [(401, "www-authenticate"), (405, "allow")];
    let lacking = needed.iter().find(|(status, name)| answer.status == *status && answer.header(name).is_none());
    lacking.map(|(_, name)| format!("there is no header {name}"))
}

/// Sends what the row says and reads the answers; then the connection has to be closed or to work.
fn play(place: &Place, row: &Row) -> Result<Vec<Answer>, String> {
    let mut inbox = connect(place)?;
    let sent = sent(place, &row.send);
    // A server may refuse and close before everything is sent.
    let _ = inbox.stream.write_all(&sent);
    match row.send {
        Send::Aborted(_) => return Ok(Vec::new()),
        Send::HalfClosed(_) => inbox.stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?,
        Send::Dripping(_, byte) => drip(place, &mut inbox, byte)?,
        _ => {}
    }
    let expected = if matches!(row.send, Send::Pipelined) { 2 } else { 1 };
    let mut answers = Vec::new();
    for _ in 0..expected {
        match inbox.answer()? {
            Some(answer) => answers.push(answer),
            None if row.right.contains(&0) => return Ok(answers),
            None => return Err("closed without an answer".to_owned()),
        }
    }
    let half = matches!(row.send, Send::HalfClosed(_));
    if half || answers.last().is_some_and(Answer::is_last) {
        return inbox.ends().map(|()| answers);
    }
    let (good, id) = good_bytes(place);
    inbox.stream.write_all(good.as_bytes()).map_err(|error| format!("the connection is gone: {error}"))?;
    match inbox.answer()? {
        Some(answer) if answer.status == 200 && answer.header("x-request-id") == Some(&id) => Ok(answers),
        other => Err(format!("the connection is out of step after {answers:?}: {other:?}")),
    }
}

/// One byte after the other, until there is an answer.
fn drip(place: &Place, inbox: &mut Inbox, byte: u8) -> Result<(), String> {
    inbox.stream.set_read_timeout(Some(place.drip_every)).map_err(|error| error.to_string())?;
    let drops = place.patience.as_millis() / place.drip_every.as_millis().max(1);
    for _ in 0..drops {
        match inbox.stream.peek(&mut [0]) {
            Ok(_) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.to_string()),
        }
        if inbox.stream.write_all(&[byte]).is_err() {
            break;
        }
    }
    inbox.stream.set_read_timeout(Some(place.patience)).map_err(|error| error.to_string())
}

fn connect(place: &Place) -> Result<Inbox, String> {
    let connect = || {
        let stream = TcpStream::connect_timeout(&place.address, place.patience)?;
        stream.set_read_timeout(Some(place.patience))?;
        stream.set_write_timeout(Some(place.patience))?;
        stream.set_nodelay(true)?;
        Ok(Inbox::new(stream))
    };
    connect().map_err(|error: std::io::Error| format!("cannot connect: {error}"))
}

fn good_request(place: &Place) -> Option<(Inbox, String)> {
    let mut inbox = connect(place).ok()?;
    let (good, id) = good_bytes(place);
    inbox.stream.write_all(good.as_bytes()).ok()?;
    Some((inbox, id))
}

/// A good request with a name of its own, so that its answer can be told from a stray one.
fn good_bytes(place: &Place) -> (String, String) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let id = format!("good-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    (filled(place, &format!("{{get}}X-Request-Id: {id}\r\n\r\n")), id)
}

fn sent(place: &Place, send: &Send) -> Vec<u8> {
    let body = |bytes: Vec<u8>| post(place, "/api/v1/runs", &[("Content-Type", "application/json")], &bytes);
    match *send {
        Send::Bytes(bytes) | Send::HalfClosed(bytes) | Send::Aborted(bytes) | Send::Stalled(bytes) => {
            filled_bytes(place, bytes)
        }
        Send::Dripping(bytes, _) => filled_bytes(place, bytes),
        Send::Built(build) => filled_bytes(place, &build()),
        Send::Pipelined => body(GOOD_BODY.into()).repeat(2),
        Send::Body(bytes) => body(bytes.to_vec()),
        Send::BuiltBody(build) => body(build()),
        Send::Sized(more) => body(sized(place, more)),
        Send::SizedChunks(more) => chunked(place, &sized(place, more)),
        Send::Batch(build) => post(place, "/api/v1/runs/batch", &[("Content-Type", "application/json")], &build()),
        Send::Get(path) => get(place, path, &[]),
        Send::BuiltGet(build) => get(place, &build(), &[]),
        Send::With(headers) => get(place, "/api/v1/runs", headers),
        Send::Bare(headers) => get(&Place { key: None, ..place.clone() }, "/api/v1/runs", headers),
        Send::PostWith(headers) => post(place, "/api/v1/runs", headers, GOOD_BODY.as_bytes()),
    }
}

fn get(place: &Place, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    filled(place, &format!("GET {path} HTTP/1.1\r\nHost: {{host}}\r\n{{auth}}{}\r\n", lines(headers))).into_bytes()
}

fn post(place: &Place, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {{host}}\r\n{{auth}}{}", lines(headers));
    let mut bytes = filled(place, &head).into_bytes();
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn lines(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// A good body of a size, in which the payload is a long text.
fn sized(place: &Place, more: i64) -> Vec<u8> {
    let bytes = usize::try_from(place.body_bytes_max as i64 + more).expect("a size");
    let empty = "{\"task\":\"noop\",\"payload\":\"\"}".len();
    format!("{{\"task\":\"noop\",\"payload\":\"{}\"}}", "a".repeat(bytes - empty)).into_bytes()
}

fn chunked(place: &Place, body: &[u8]) -> Vec<u8> {
    let mut bytes = filled(place, "{post}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    // The end never comes: a server that only counts at the end would wait for it.
    bytes
}

fn filled_bytes(place: &Place, template: &[u8]) -> Vec<u8> {
    // Latin-1 keeps every byte what it is, there and back.
    let text: String = template.iter().copied().map(char::from).collect();
    filled(place, &text).chars().map(|c| c as u8).collect()
}

fn filled(place: &Place, template: &str) -> String {
    let auth = place.key.as_ref().map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    template
        .replace("{post}", "POST /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}Content-Type: application/json\r\n")
        .replace("{get}", "GET /api/v1/runs HTTP/1.1\r\nHost: {host}\r\n{auth}")
        .replace("{host}", &place.address.to_string())
        .replace("{auth}", &auth)
        .replace("{body}", GOOD_BODY)
        .replace("{length}", &GOOD_BODY.len().to_string())
}

/// Reads everything up to the end of a connection, for the times that nothing more may come.
pub(super) fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => Ok(rest),
        // What is closed with bytes of ours unread is reset.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(rest),
        Err(error) => Err(format!("the connection is not closed: {error}")),
    }
}
