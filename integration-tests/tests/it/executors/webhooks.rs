//! What a webhook's receiver gets, and where none is sent.

use super::{PLENTY, Underway, assignment, runtime};
use actors::executor::http::{Http, HttpTask, Resolve};
use actors::executor::{Assignment, Executor, Outcome, Output, Retry, Stop};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::model::{ManualClock, Timestamp};
use tokio::sync::{mpsc, watch};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECRET_BYTES: &[u8] =
    &[49, 242, 144, 246, 191, 6, 41, 138, 171, 79, 8, 212, 60, 63, 8, 44, 246, 72, 163, 98, 218, 45, 164, 176];
const OTHER_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_SECRET_BYTES: &[u8] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
    31,
];

/// A receiver that answers each connection in the same way, and tells what it got.
struct Hook {
    address: SocketAddr,
    requests: Receiver<String>,
}

impl Hook {
    fn answering(answer: impl Into<Vec<u8>>) -> Hook {
        let answer = answer.into();
        Hook::serving(move |mut stream, _| {
            let _ = stream.write_all(&answer);
        })
    }

    fn serving(serve: impl Fn(TcpStream, &str) + Send + 'static) -> Hook {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = listener.local_addr().expect("its address");
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let request = read_request(&mut stream);
                if sender.send(request.clone()).is_err() {
                    return;
                }
                serve(stream, &request);
            }
        });
        Hook { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=canary", self.address)
    }

    fn request(&self) -> String {
        self.requests.recv_timeout(harness::eventually::patience()).expect("a request")
    }

    fn got_nothing(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let (mut whole, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&whole).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => whole.extend_from_slice(&buffer[..length]),
            _ => return text,
        }
    }
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let fields = request.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// RFC 2104, written out, so that it shares nothing with what it checks.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let number =
            part.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)) << (8 * (3 - part.len()));
        for place in 0..4 {
            let letter = if place <= part.len() { LETTERS[number >> (18 - 6 * place) & 63] } else { b'=' };
            text.push(char::from(letter));
        }
    }
    text
}

/// Names with the addresses that they get, one list for each time they are asked about.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Names {
    fn answering(answers: &[&[SocketAddr]]) -> Arc<Names> {
        let answers = answers.iter().rev().map(|answer| answer.to_vec()).collect();
        Arc::new(Names { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Names {
    fn resolve(&self, _: String, _: u16) -> futures_util::future::BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().expect("nobody panicked").pop();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

fn task(url: String) -> HttpTask {
    HttpTask { url, allow_private: true, ..HttpTask::default() }
}

fn http(task: HttpTask) -> Http {
    let clock = ManualClock::at(Timestamp::from_millis(1_614_265_330_999));
    Http::new(task, Arc::new(clock)).expect("a task")
}

fn carry(http: &Http, assignment: Assignment) -> Outcome {
    Underway::begin(http, assignment, PLENTY).end().outcome
}

fn outcome_of(answer: &str) -> Outcome {
    let receiver = Hook::answering(answer);
    let outcome = carry(&http(task(receiver.url())), assignment("{}"));
    receiver.request();
    assert!(!format!("{outcome:?}").contains("canary"), "{outcome:?}");
    outcome
}

fn code_and_retry(outcome: &Outcome) -> (&str, Retry) {
    match outcome {
        Outcome::Failed { code, retry, .. } => (code, *retry),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_carries_the_payload_and_is_signed_as_others_verify_it() {
    let receiver = Hook::answering("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"got\": 12}");
    let headers = [("Authorization".to_owned(), "Bearer t".to_owned())].into();
    let secret = SECRET.parse().ok();
    let previous_secret = OTHER_SECRET.parse().ok();
    let executor = http(HttpTask { secret, previous_secret, headers, ..task(receiver.url()) });
    let payload = "{\"text\": \"\u{e9}\\u00e9\",  \"number\": 12345678901234567890123}";
    let job = assignment(payload);
    let outcome = carry(&executor, job.clone());
    assert_eq!(outcome, Outcome::Succeeded { output: Some(r#"{"status":200,"body":{"got": 12}}"#.to_owned()) });

    let request = receiver.request();
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /hook?key=canary HTTP/1.1\r\n"), "{head}");
    assert_eq!(body, payload);
    let host = receiver.address.to_string();
    for (name, value) in [
        ("host", host.as_str()),
        ("content-type", "application/json"),
        ("webhook-id", job.run.as_str()),
        ("webhook-timestamp", "1614265330"),
        ("tidegate-run-id", job.run.as_str()),
        ("tidegate-attempt", "3"),
        ("authorization", "Bearer t"),
    ] {
        assert_eq!(header(head, name), Some(value), "{name} in {head}");
    }
    let message = format!("{}.1614265330.{payload}", job.run);
    let signature = |key| format!("v1,{}", base64(&hmac(key, message.as_bytes())));
    let both = format!("{} {}", signature(SECRET_BYTES), signature(OTHER_SECRET_BYTES));
    assert_eq!(header(head, "webhook-signature"), Some(both.as_str()));

    carry(&executor, Assignment { attempt: 4, ..job.clone() });
    let again = receiver.request();
    assert_eq!(header(&again, "webhook-id"), Some(job.run.as_str()), "a receiver knows a run by its id");
    assert_eq!(header(&again, "tidegate-attempt"), Some("4"));
}

#[test]
fn answers_decide_whether_a_run_is_tried_again() {
    for (answer, expected) in [
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", ("http_status", Retry::No)),
        ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", ("gone", Retry::No)),
        ("HTTP/1.1 409 No\r\ncontent-length: 0\r\n\r\n", ("http_status", Retry::WithBackoff)),
        ("HTTP/1.1 500 No\r\ncontent-length: 6\r\n\r\ncanary", ("http_status", Retry::WithBackoff)),
        (
            "HTTP/1.1 429 No\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            ("http_status", Retry::After(Duration::from_secs(7))),
        ),
        (
            "HTTP/1.1 503 No\r\nretry-after: 86400\r\ncontent-length: 0\r\n\r\n",
            ("http_status", Retry::After(Duration::from_secs(3_600))),
        ),
        (
            "HTTP/1.1 503 No\r\nretry-after: Thu, 25 Feb 2021 15:02:41 GMT\r\ncontent-length: 0\r\n\r\n",
            ("http_status", Retry::After(Duration::from_millis(30_001))),
        ),
        ("HTTP/1.1 500 No\r\ncontent-length: 99999999\r\n\r\ncut", ("http_status", Retry::WithBackoff)),
        ("not http at all\r\n\r\n", ("http_unreachable", Retry::WithBackoff)),
        ("", ("http_unreachable", Retry::WithBackoff)),
    ] {
        assert_eq!(code_and_retry(&outcome_of(answer)), expected, "{answer}");
    }
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a port");
    let outcome = carry(&http(task(format!("http://{nobody}/canary"))), assignment("{}"));
    assert_eq!(code_and_retry(&outcome), ("http_unreachable", Retry::WithBackoff));
    assert!(!format!("{outcome:?}").contains("canary"), "{outcome:?}");
}

#[test]
fn a_run_that_was_accepted_is_not_sent_again_whatever_becomes_of_the_body() {
    let large = format!("HTTP/1.1 200 OK\r\n\r\n\"{}\"", "x".repeat(4 << 20));
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 202 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"cut\":",
        &large,
    ] {
        let Outcome::Succeeded { output: Some(output) } = outcome_of(answer) else { panic!("{answer:.40}") };
        assert!(output.starts_with("{\"status\":20") && !output.contains("body"), "{output}");
    }
    let slow = Hook::serving(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{");
        let _ = stream.read(&mut [0]);
    });
    let executor = http(HttpTask { timeout: Duration::from_millis(200), ..task(slow.url()) });
    let succeeded = Outcome::Succeeded { output: Some("{\"status\":200}".to_owned()) };
    assert_eq!(carry(&executor, assignment("{}")), succeeded);
}

#[test]
fn s10_an_answer_is_not_read_further_than_its_limit() {
    let (sender, sent) = channel();
    let endless = Hook::serving(move |mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let mut bytes = 0;
        while bytes < 1 << 30 && stream.write_all(&[b'x'; 1 << 16]).is_ok() {
            bytes += 1 << 16;
        }
        let _ = sender.send(bytes);
    });
    let executor = http(HttpTask { max_response_bytes: 100_000, ..task(endless.url()) });
    assert!(matches!(carry(&executor, assignment("{}")), Outcome::Succeeded { .. }));
    let bytes = sent.recv_timeout(harness::eventually::patience()).expect("it was cut off");
    assert!(bytes < 64 << 20, "{bytes}");
}

#[test]
fn s9_redirects_are_not_followed() {
    let elsewhere = Hook::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
        assert_eq!(code_and_retry(&outcome_of(&answer)), ("redirected", Retry::No));
    }
    assert!(elsewhere.got_nothing());
}

#[test]
fn s9_a_name_that_leads_to_a_private_address_gets_no_request() {
    let receiver = Hook::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let public = SocketAddr::from((Ipv4Addr::new(8, 8, 8, 8), receiver.address.port()));
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
    let mapped = SocketAddr::new(mapped, receiver.address.port());
    for addresses in
        [vec![receiver.address], vec![public, receiver.address], vec![receiver.address, public], vec![mapped]]
    {
        let url = format!("http://hook.example:{}/canary", receiver.address.port());
        let executor = http(HttpTask { allow_private: false, ..task(url) });
        let outcome = carry(&executor.with_resolver(Names::answering(&[&addresses])), assignment("{}"));
        assert_eq!(code_and_retry(&outcome), ("refused_address", Retry::No), "{addresses:?}");
        assert!(format!("{outcome:?}").contains("loopback"), "{outcome:?}");
    }
    assert!(receiver.got_nothing());
    // By the system's own resolver too.
    let url = format!("http://localhost:{}/canary", receiver.address.port());
    let outcome = carry(&http(HttpTask { allow_private: false, ..task(url) }), assignment("{}"));
    assert_eq!(code_and_retry(&outcome), ("refused_address", Retry::No));
    assert!(receiver.got_nothing());
}

#[test]
fn s9_a_name_is_asked_once_and_the_request_goes_where_it_was_checked() {
    let checked = Hook::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let rebound = Hook::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let names = Names::answering(&[&[checked.address], &[rebound.address]]);
    let executor = http(task("http://hook.example:1234/x".to_owned())).with_resolver(names.clone());
    assert!(matches!(carry(&executor, assignment("{}")), Outcome::Succeeded { .. }));
    assert_eq!(names.asked.load(Ordering::SeqCst), 1);
    assert_eq!(header(&checked.request(), "host"), Some("hook.example:1234"), "the host stays the one of the URL");
    assert!(rebound.got_nothing());
}

#[test]
fn s9_a_name_without_addresses_gets_no_request() {
    for names in [Names::answering(&[]), Names::answering(&[&[]])] {
        let executor = http(task("http://hook.example/canary".to_owned())).with_resolver(names);
        let outcome = carry(&executor, assignment("{}"));
        assert_eq!(code_and_retry(&outcome), ("dns_failed", Retry::WithBackoff));
        assert!(!format!("{outcome:?}").contains("canary"), "{outcome:?}");
    }
}

#[test]
fn a_receiver_that_stays_silent_is_given_up_and_a_stop_is_heeded_at_once() {
    let (sender, closed) = channel();
    let silent = Hook::serving(move |mut stream, _| {
        let _ = sender.send(stream.read(&mut [0]).unwrap_or(0));
    });
    let executor = http(HttpTask { timeout: Duration::from_millis(100), ..task(silent.url()) });
    assert_eq!(code_and_retry(&carry(&executor, assignment("{}"))), ("http_timeout", Retry::WithBackoff));
    let executor = http(HttpTask { timeout: Duration::from_secs(86_400), ..task(silent.url()) });
    for (why, outcome) in
        [(Stop::Cancelled, Outcome::Cancelled), (Stop::TimedOut, Outcome::TimedOut), (Stop::Lost, Outcome::Lost)]
    {
        let (asker, stop) = watch::channel(None);
        let (chunks, _) = mpsc::channel(1);
        let run = runtime().spawn(executor.carry(assignment("{}"), stop, Output::new(1, chunks)));
        silent.request();
        asker.send_replace(Some(why));
        assert_eq!(runtime().block_on(run).expect("it does not panic"), outcome);
        let read = closed.recv_timeout(harness::eventually::patience()).expect("the connection is cut");
        assert_eq!(read, 0);
    }
}
