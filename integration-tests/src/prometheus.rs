//! A real Prometheus that scrapes servers and evaluates the rules of `ops/`, in a hurry: their spans are shortened.

use crate::eventually::eventually;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Prometheus as a process of its own, which ends with this value.
pub struct Prometheus {
    process: Child,
    addr: SocketAddr,
    dir: tempfile::TempDir,
}

/// The rules with their spans as short as a test can wait for; what each alert is about stays.
fn in_a_hurry(rules: &str, limits: &[(&str, &str)]) -> String {
    let mut text = rules.to_owned();
    for span in ["[5m]", "[10m]", "[30m]", "[1h]", "[6h]"] {
        text = text.replace(span, "[10s]");
    }
    let lines = text.lines().map(|line| match line.trim_start().starts_with("for: ") {
        true => format!("{}for: 1s", &line[..line.len() - line.trim_start().len()]),
        false => line.to_owned(),
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for (limit, short) in limits {
        assert!(text.contains(limit), "no rule says {limit}");
        text = text.replace(limit, short);
    }
    text
}

/// One that begins with the files of a folder, and where it will be found. It cannot be told to take a free port and
/// say which.
fn begun(dir: &Path) -> (Child, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut command = Command::new("prometheus");
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]);
    command.arg(format!("--web.listen-address={free}")).current_dir(dir).stdin(Stdio::null());
    (command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("prometheus is installed"), free)
}

impl Prometheus {
    /// Scrapes these ops ports five times a second; returns once it has scraped all of them. `limits` are replaced in the
    /// rules.
    pub fn start(targets: &[SocketAddr], rules: &str, limits: &[(&str, &str)]) -> Prometheus {
        let (dir, count) = (tempfile::tempdir().expect("a folder"), targets.len());
        let targets: Vec<String> = targets.iter().map(|addr| format!("\"{addr}\"")).collect();
        let config = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\nrule_files: [rules.yaml]\nscrape_configs:\n\
             - job_name: tidegate\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("the configuration");
        std::fs::write(dir.path().join("rules.yaml"), in_a_hurry(rules, limits)).expect("the rules");
        let (process, addr) = begun(dir.path());
        let mut prometheus = Prometheus { process, addr, dir };
        // It begins some seconds after it has evaluated its rules for the first time.
        eventually("all servers are scraped", || {
            // Somebody has taken its port before it did.
            if prometheus.process.try_wait().expect("its state").is_some() {
                (prometheus.process, prometheus.addr) = begun(prometheus.dir.path());
            }
            prometheus.up() == count
        });
        prometheus
    }

    /// Servers that it finds up.
    fn up(&self) -> usize {
        let answer = self.get("/api/v1/query?query=sum(up)").unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The body of an answer; HTTP/1.0, so that it comes in one piece and ends with the connection.
    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.addr)?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }

    /// The labels of those alerts of a name that are firing now.
    pub fn firing(&self, alert: &str) -> Vec<Value> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/alerts").unwrap_or_default()).unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let is = |found: &Value| found["labels"]["alertname"] == alert && found["state"] == "firing";
        alerts.into_iter().filter(is).map(|found| found["labels"].clone()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}
