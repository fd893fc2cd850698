//! A receiver of webhooks that counts how often each run was delivered, and how many at once, where no kill of a
//! server can reach it.

use crate::eventually::patience;
use crate::http::line;
use crate::server::Server;
use crate::witness::lost_leases;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The task's name.
pub const HOOKED: &str = "hooked";

/// How long an answer takes, so that deaths find deliveries under way.
const ANSWER_AFTER: Duration = Duration::from_millis(10);

/// See the module's first lines. Its threads end with this process.
pub struct Hook {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// What has come in, by run; and by the names in a payload's `under`, of which each counts what is under way.
#[derive(Debug, Default)]
struct Seen {
    deliveries: HashMap<String, usize>,
    now: HashMap<String, usize>,
    most: HashMap<String, usize>,
    traceparents: HashMap<String, Vec<Option<String>>>,
}

impl Seen {
    fn begin(&mut self, run: &str, names: &[String]) {
        *self.deliveries.entry(run.to_owned()).or_default() += 1;
        for name in names {
            let now = self.now.entry(name.clone()).or_default();
            *now += 1;
            let most = self.most.entry(name.clone()).or_default();
            *most = (*most).max(*now);
        }
    }

    fn end(&mut self, names: &[String]) {
        for name in names {
            if let Some(now) = self.now.get_mut(name) {
                *now -= 1;
            }
        }
    }
}

impl Hook {
    pub fn start() -> Hook {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let seen = Arc::<Mutex<Seen>>::default();
        let counted = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                // A sender that dies in the middle breaks its own connection and no other.
                std::thread::spawn(move || receive(stream, &counted));
            }
        });
        Hook { port, seen }
    }

    /// How often each run was delivered.
    pub fn deliveries(&self) -> HashMap<String, usize> {
        lock(&self.seen).deliveries.clone()
    }

    /// The header `traceparent` of each delivery of a run, in the order in which they came.
    pub fn traceparents(&self, run: &str) -> Vec<Option<String>> {
        lock(&self.seen).traceparents.get(run).cloned().unwrap_or_default()
    }

    /// The most that were under way at one instant under each name that payloads have given.
    pub fn most_at_once(&self) -> HashMap<String, usize> {
        lock(&self.seen).most.clone()
    }

    /// The task that delivers here.
    pub fn task(&self) -> String {
        format!(
            "[tasks.{HOOKED}]\nkind = \"http\"\nurl = \"http://127.0.0.1:{}/hook\"\nallow_private = true\nretry_base_seconds = 0.01\nretry_cap_seconds = 0.05\n",
            self.port
        )
    }

    /// No run was delivered more often than it was given out, and every one that succeeded was delivered; holds a
    /// server that has ended to it. Returns the deliveries.
    #[track_caller]
    pub fn verify(&self, server: &Server) -> usize {
        let deliveries = self.deliveries();
        let lost = lost_leases(server);
        for (run, count) in &deliveries {
            let leases = 1 + lost.get(run).copied().unwrap_or(0);
            assert!(*count <= leases, "{run} was delivered {count} times and given out {leases} times");
        }
        let done = server.rows(&format!("SELECT id FROM run_records WHERE task = '{HOOKED}' AND state = 'succeeded'"));
        let never = done.iter().find(|row| !row[0].as_ref().is_some_and(|id| deliveries.contains_key(id)));
        assert!(never.is_none(), "{never:?} succeeded without ever being delivered");
        deliveries.values().sum()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names in a payload, and the run's own.
fn names(run: &str, body: &[u8]) -> Vec<String> {
    let payload: Value = serde_json::from_slice(body).unwrap_or_default();
    let under = payload["under"].as_array().into_iter().flatten().filter_map(Value::as_str);
    under.chain([run]).map(str::to_owned).collect()
}

fn receive(stream: TcpStream, seen: &Mutex<Seen>) {
    let _ = stream.set_read_timeout(Some(patience()));
    let mut reader = BufReader::new(stream);
    let (_held, never) = channel::<()>();
    loop {
        let (mut run, mut trace, mut length) = (None, None, 0);
        loop {
            let Ok(line) = line(&mut reader) else { return };
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "tidegate-run-id" => run = Some(value.trim().to_owned()),
                "traceparent" => trace = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        // A request that breaks off is none: a receiver has nothing to act on.
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let run = run.unwrap_or_default();
        let names = names(&run, &body);
        lock(seen).traceparents.entry(run.clone()).or_default().push(trace);
        lock(seen).begin(&run, &names);
        let _ = never.recv_timeout(ANSWER_AFTER);
        lock(seen).end(&names);
        if reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}
