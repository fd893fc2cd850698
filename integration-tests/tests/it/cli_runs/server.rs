//! A server of the real binary, and commands that speak to it.

use harness::case::binary;
use harness::{Database, Ended, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// One task of each behaviour that the tests need.
const CONFIG: &str = r#"
[sessions.review]
initial = "context"
edges = { context = ["complete"] }
[workers]
slots = 4
[supervisor]
sweep_seconds = 0.3
[tasks.echo]
kind = "exec"
program = "/bin/cat"
[tasks.broken]
kind = "exec"
program = "/bin/false"
max_attempts = 1
[tasks.endless]
kind = "exec"
program = "/bin/sleep"
args = ["600"]
grace_seconds = 0.2
[tasks.work]
kind = "pull"
max_attempts = 2
retry_base_seconds = 0.05
retry_cap_seconds = 0.05
"#;

/// A server with a folder and a store of its own; killed when dropped.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub store: String,
    pub url: String,
    pub key: Option<String>,
    child: Option<Child>,
    said: Arc<Mutex<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub fn start(database: Database) -> Server {
        let mut server = Server::not_started(database);
        server.serve(&["--listen", "127.0.0.1:0"]);
        server
    }

    pub fn not_started(database: Database) -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let store = match database {
            Database::Sqlite => format!("sqlite:{}", dir.path().join("state.sqlite").display()),
            Database::Postgres => harness::postgres::cluster().fresh_database(),
        };
        std::fs::write(dir.path().join("tidegate.toml"), CONFIG).expect("the configuration");
        Server { dir, store, url: String::new(), key: None, child: None, said: Arc::default() }
    }

    /// Starts the server, and waits until it listens.
    pub fn serve(&mut self, args: &[&str]) {
        let mut command = self.bare();
        command.args(["serve", "--ops-listen", "127.0.0.1:0"]).args(args);
        self.begin(command);
        let said = self.said.clone();
        eventually("the server listens", || said.lock().expect("no panic").contains("listening on http://"));
        let said = self.said.lock().expect("no panic").clone();
        let line = said.lines().find_map(|line| line.strip_prefix("listening on ")).expect("the line");
        self.url = line.to_owned();
    }

    /// Starts any command of the binary as this server's process; what it says on stderr is kept.
    pub fn begin(&mut self, mut command: Command) {
        self.said.lock().expect("no panic").clear();
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let said = self.said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut said = said.lock().expect("no panic");
                said.push_str(&line);
                said.push('\n');
            }
        });
        self.child = Some(child);
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// What it has said on stderr.
    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The binary in this server's folder, with nothing else of ours in its environment.
    pub fn bare(&self) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/local/bin").env("HOME", self.dir.path());
        command.env("TIDEGATE_STORE", &self.store).current_dir(self.dir.path());
        command
    }

    /// A command that speaks to the server, as whoever has `key`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare();
        command.env("TIDEGATE_SERVER", &self.url).args(args).stdin(Stdio::null());
        if let Some(key) = &self.key {
            command.env("TIDEGATE_API_KEY", key);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        self.command(args).output().expect("the binary runs").into()
    }

    pub fn run_with_stdin(&self, args: &[&str], stdin: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the binary starts");
        child.stdin.take().expect("it is piped").write_all(stdin.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends").into()
    }

    /// What a command prints with `-o json`; panics unless it ended with 0.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(&[args, &["-o", "json"]].concat());
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        ended.summary()
    }

    /// The id of a new run.
    #[track_caller]
    pub fn create(&self, args: &[&str]) -> String {
        let run = self.json(&[&["runs", "create"], args].concat());
        run["id"].as_str().expect("an id").to_owned()
    }

    pub fn status(&self, id: &str) -> String {
        self.json(&["runs", "get", id])["status"].as_str().expect("a status").to_owned()
    }

    #[track_caller]
    pub fn becomes(&self, id: &str, status: &str) {
        eventually(&format!("{id} becomes {status}"), || self.status(id) == status);
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

pub fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
    assert!(killed.expect("kill is there").success());
}

/// Ends a command by this code, however long it takes within patience.
#[track_caller]
pub fn ends(child: &mut Child, code: i32) {
    eventually("the command ends", || child.try_wait().expect("a child").is_some());
    assert_eq!(child.wait().expect("it has ended").code(), Some(code));
}
