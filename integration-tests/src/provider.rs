//! The simulated provider, running in the test process: what is killed is never the judge.

use crate::case::Protocol;
use crate::server::{mortal, spawn};
use actors::provider::wire::{Content, Endpoint};
use gateway::sim::{Faults, Sim, SimConfig};
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Running {
    addr: SocketAddr,
    runtime: tokio::runtime::Runtime,
    _sim: Sim,
    _dir: tempfile::TempDir,
}

fn running() -> &'static Running {
    static RUNNING: OnceLock<Running> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder for the provider");
        let config =
            SimConfig { dir: dir.path().to_owned(), latency: Duration::from_millis(60), faults: Faults::default() };
        let sim = Sim::start(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("the provider starts");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Running { addr: sim.addr(), runtime: runtime.expect("a runtime"), _sim: sim, _dir: dir }
    })
}

/// One customer of the provider; its batches, faults and bill are its own.
#[derive(Debug, Clone)]
pub struct Account {
    pub key: String,
    /// Of a provider that is a process of its own.
    at: Option<SocketAddr>,
}

/// `tidegate sim` as a process of its own, which ends with this value.
pub struct OwnSim {
    process: Child,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl OwnSim {
    /// One whose batches take this long.
    pub fn start(latency: &str) -> OwnSim {
        let dir = tempfile::tempdir().expect("a folder for the provider");
        let mut command = mortal();
        command.args(["sim", "--listen", "127.0.0.1:0", "--latency", latency, "--state"]).arg(dir.path());
        command.env_clear().current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = spawn(command);
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its stdout is piped")).read_line(&mut line).expect("its address");
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        OwnSim { process, addr: addr.expect("its address"), _dir: dir }
    }

    pub fn account(&self) -> Account {
        Account { at: Some(self.addr), ..Account::open() }
    }
}

impl Drop for OwnSim {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

/// The provider's bill.
#[derive(Debug, Clone, Deserialize)]
pub struct Ledger {
    pub creates: u64,
    pub batches: Vec<LedgerBatch>,
    pub items_billed_total: u64,
    pub distinct_items: u64,
    pub billed_twice: Vec<serde_json::Value>,
    pub uploads: u64,
    /// Requests that were called by themselves, and how many of them were billed.
    pub calls: u64,
    pub calls_billed: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct LedgerBatch {
    pub id: String,
    pub status: String,
    pub requests: u64,
    pub key: String,
    pub answer: String,
    pub billed: u64,
}

impl Account {
    /// A customer with a key that no other test has. The key is the canary that must not show up anywhere.
    pub fn open() -> Account {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        Account { key: format!("sk-canary-{}-{number}-7Qx2", std::process::id()), at: None }
    }

    pub fn addr(&self) -> SocketAddr {
        self.at.unwrap_or_else(|| running().addr)
    }

    /// Replaces the account's faults, for example `{"lose_answers": 1}`.
    pub fn faults(&self, faults: &serde_json::Value) {
        let _: serde_json::Value = self.call(Method::PUT, "/sim/faults", Content::Json(faults.to_string()));
    }

    pub fn ledger(&self) -> Ledger {
        self.call(Method::GET, "/sim/ledger", Content::None)
    }

    /// Any GET of the vendors' protocols.
    pub fn get(&self, path: &str) -> serde_json::Value {
        self.call(Method::GET, path, Content::None)
    }

    pub fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        self.call(Method::POST, path, Content::Json(body.to_string()))
    }

    /// Buys a batch as any other program does, of lines as they are; returns the provider's id of it.
    pub fn buy(&self, protocol: Protocol, requests: &[String]) -> String {
        let made = match protocol {
            Protocol::Anthropic => {
                let body = format!(r#"{{"requests":[{}]}}"#, requests.join(","));
                self.call::<serde_json::Value>(Method::POST, "/v1/messages/batches", Content::Json(body))
            }
            Protocol::OpenAi => {
                let file = self.upload(&requests.join("\n"));
                let endpoint = "/v1/chat/completions";
                let batch = json!({"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"});
                self.post("/v1/batches", &batch)
            }
        };
        made["id"].as_str().expect("its id").to_owned()
    }

    fn upload(&self, lines: &str) -> serde_json::Value {
        let part =
            |head: &str, body: &str| format!("--part\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
        let file = part("name=\"file\"; filename=\"lines.jsonl\"", lines);
        let body = format!("{}{file}--part--\r\n", part("name=\"purpose\"", "batch"));
        let (send, frames) = tokio::sync::mpsc::channel(1);
        let length = body.len() as u64;
        send.try_send(bytes::Bytes::from(body)).expect("there is room for it");
        let content_type = "multipart/form-data; boundary=part".to_owned();
        let answer: serde_json::Value =
            self.call(Method::POST, "/v1/files", Content::Stream { content_type, length, frames });
        answer["id"].clone()
    }

    /// Whether a batch has ended there.
    pub fn has_ended(&self, protocol: Protocol, id: &str) -> bool {
        match protocol {
            Protocol::OpenAi => self.get(&format!("/v1/batches/{id}"))["status"] == "completed",
            Protocol::Anthropic => self.get(&format!("/v1/messages/batches/{id}"))["processing_status"] == "ended",
        }
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, content: Content) -> T {
        let endpoint = Endpoint::parse(&format!("http://{}", self.addr())).expect("its address");
        let bearer = HeaderValue::try_from(format!("Bearer {}", self.key)).expect("a header");
        let version = (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
        let headers = [(AUTHORIZATION, bearer), version];
        let answer = running().runtime.block_on(endpoint.json(method, path, &headers, content));
        answer.unwrap_or_else(|error| panic!("the provider's {path} answers: {error}"))
    }
}
