//! One file, one account, one store, and the binary run over them, killed and run again.

use crate::Account;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The binary under test: beside the test's own, built with it.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("the test's own path");
    let folder = own.parent().and_then(Path::parent).expect("target/PROFILE");
    let path = folder.join("tidegate");
    assert!(path.is_file(), "{} is missing: run `cargo build --release --workspace` first", path.display());
    path
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    OpenAi,
    Anthropic,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` when it was killed.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn was_killed(&self) -> bool {
        self.signal == Some(9)
    }

    /// The summary object; panics with all output when there is none.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no summary ({error}) in {self:?}"))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Everything of one test case; gone when dropped.
pub struct Case {
    pub dir: tempfile::TempDir,
    pub store: String,
    pub account: Account,
    pub protocol: Protocol,
    pub lines: usize,
    pub bodies: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

impl Case {
    /// A file of `lines` distinct requests, and batches of at most a third of them.
    pub fn new(database: Database, protocol: Protocol, lines: usize) -> Case {
        let dir = tempfile::tempdir().expect("a folder");
        let store = match database {
            Database::Sqlite => format!("sqlite:{}", dir.path().join("state.sqlite").display()),
            Database::Postgres => crate::postgres::cluster().fresh_database(),
        };
        let account = Account::open();
        let bodies = (0..lines).map(|line| body(protocol, &account, line)).collect();
        let batch = lines.div_ceil(3).max(1).to_string();
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut args = words("--poll 40ms --settle 300ms --max-attempts 12 -o json --progress plain");
        args.extend(["--max-batch-requests".to_owned(), batch]);
        // On SQLite the file's lock proves that the one before is dead; elsewhere its lease has to run out.
        let seconds = if database == Database::Postgres { "1.2" } else { "15" };
        let lease = ("TIDEGATE_NODES__LEASE_SECONDS".to_owned(), seconds.to_owned());
        let sweep = ("TIDEGATE_SUPERVISOR__SWEEP_SECONDS".to_owned(), "0.3".to_owned());
        let case = Case { dir, store, account, protocol, lines, bodies, args, env: vec![lease, sweep] };
        case.write_input();
        case
    }

    pub fn input(&self) -> PathBuf {
        self.dir.path().join("requests.jsonl")
    }

    pub fn out(&self) -> PathBuf {
        self.dir.path().join("results.jsonl")
    }

    pub fn custom_id(&self, line: usize) -> String {
        match self.protocol {
            Protocol::OpenAi => format!("line-{line}"),
            // Not an id that the provider would take: it has to be mapped there and back.
            Protocol::Anthropic => format!("an \u{e9}l\u{e8}ve's \"line\" {line}"),
        }
    }

    /// The first 16 hex digits of a request's digest, which the provider puts into its answer.
    pub fn fingerprint(&self, line: usize) -> String {
        Sha256::digest(self.bodies[line].as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn write_input(&self) {
        let mut file = std::fs::File::create(self.input()).expect("the input file");
        for (line, body) in self.bodies.iter().enumerate() {
            let id = serde_json::Value::from(self.custom_id(line));
            let text = match self.protocol {
                Protocol::OpenAi => {
                    format!(r#"{{"custom_id":{id},"method":"POST","url":"/v1/chat/completions","body":{body}}}"#)
                }
                Protocol::Anthropic => format!(r#"{{"custom_id":{id},"params":{body}}}"#),
            };
            writeln!(file, "{text}").expect("the input file is written");
        }
    }

    /// The binary with this case's environment and nothing else of ours.
    pub fn tidegate(&self) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.env("TIDEGATE_STORE", &self.store).current_dir(self.dir.path());
        command.env("TIDEGATE_LOG", "info");
        let addr = self.account.addr();
        match self.protocol {
            Protocol::OpenAi => {
                command.env("OPENAI_API_KEY", &self.account.key);
                command.env("OPENAI_BASE_URL", format!("http://{addr}/v1"));
            }
            Protocol::Anthropic => {
                command.env("ANTHROPIC_API_KEY", &self.account.key);
                command.env("ANTHROPIC_BASE_URL", format!("http://{addr}"));
            }
        }
        command.envs(self.env.iter().cloned());
        command.stdin(Stdio::null());
        command
    }

    /// `tidegate process` over the case's file with its arguments.
    pub fn process(&self) -> Command {
        self.process_with(&[])
    }

    /// The same with other arguments, in place of the case's own of the same name.
    pub fn process_with(&self, args: &[&str]) -> Command {
        self.process_to(&self.out(), args)
    }

    /// The same with the results in a file of another name.
    pub fn process_to(&self, out: &Path, args: &[&str]) -> Command {
        let mut command = self.tidegate();
        command.arg("process").arg(self.input()).arg("--out").arg(out);
        for pair in self.args.chunks(2).filter(|pair| !args.contains(&pair[0].as_str())) {
            command.args(pair);
        }
        command.args(args);
        command
    }

    pub fn run(&self) -> Ended {
        self.finish(self.process())
    }

    pub fn run_with(&self, args: &[&str]) -> Ended {
        self.finish(self.process_with(args))
    }

    /// Any other command on the case's store.
    pub fn look(&self, args: &[&str]) -> Ended {
        let mut command = self.tidegate();
        command.args(args);
        self.finish(command)
    }

    /// What such a command prints with `-o json`; panics unless it succeeded.
    pub fn look_json(&self, args: &[&str]) -> serde_json::Value {
        let ended = self.look(&[args, &["-o", "json"]].concat());
        assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
        ended.summary()
    }

    /// Runs a command to its end, however long it takes up to a minute and a half.
    pub fn finish(&self, command: Command) -> Ended {
        self.kill_after(command, Duration::from_secs(90))
    }

    /// A command inside a line of shell, where `"$@"` is the command: for limits and closed files.
    pub fn in_shell(&self, script: &str, inner: &Command) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
        shell.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir(self.dir.path()).stdin(Stdio::null());
        shell
    }

    /// Runs a command twice. Both times it ends by this code, with all these words on stderr and nothing on
    /// stdout; it does not panic, and it shows the key to nobody.
    #[track_caller]
    pub fn refuses(&self, command: impl Fn() -> Command, code: i32, words: &[&str]) -> Ended {
        let (first, second) = (self.finish(command()), self.finish(command()));
        assert_eq!(first.code, Some(code), "{words:?} expected: {first:?}");
        for words in words {
            assert!(first.stderr.contains(words), "{words:?} is missing: {first:?}");
        }
        assert_eq!(first.stdout, "", "{first:?}");
        assert_eq!((second.code, &second.stderr), (first.code, &first.stderr), "the answer changed");
        self.keeps_the_key(&first);
        first
    }

    /// Neither a panic, nor the account's key in what was said or in any file of the case.
    #[track_caller]
    pub fn keeps_the_key(&self, ended: &Ended) {
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        let key = self.account.key.as_bytes();
        let shows = |bytes: &[u8]| bytes.windows(key.len()).any(|window| window == key);
        assert!(!shows(ended.stdout.as_bytes()) && !shows(ended.stderr.as_bytes()), "the key is in {ended:?}");
        for path in self.files() {
            // Pipes are not read: nobody may be writing.
            let bytes = if path.is_file() { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
            assert!(!shows(&bytes), "the key is in {}", path.display());
        }
    }

    /// Everything in the case's folder and below it, except folders.
    pub fn files(&self) -> Vec<PathBuf> {
        let (mut folders, mut found) = (vec![self.dir.path().to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// Runs with a failpoint armed.
    pub fn run_to(&self, failpoint: &str) -> Ended {
        let mut command = self.process();
        command.env("TIDEGATE_FAILPOINT", failpoint);
        self.finish(command)
    }

    /// Runs, and sends SIGKILL once `after` has passed if it is still there.
    pub fn kill_after(&self, mut command: Command, after: Duration) -> Ended {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (done, ended) = std::sync::mpsc::channel();
        let pid = child.id().to_string();
        let waiting = std::thread::spawn(move || {
            let output = child.wait_with_output();
            let _ = done.send(());
            output
        });
        if ended.recv_timeout(after).is_err() {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
        waiting.join().expect("the waiter").expect("the binary's output").into()
    }
}

fn body(protocol: Protocol, account: &Account, line: usize) -> String {
    // Spaces, escapes and a long number: what is sent must be these very bytes.
    let text = format!("item {line} of {} \\u00e9 {}", account.key.len(), "x".repeat(40));
    let tag = &account.key["sk-canary-".len()..account.key.len() - 5];
    match protocol {
        Protocol::OpenAi => format!(
            r#"{{ "model":"gpt-4o-mini", "max_tokens":20,"seed":12345678901234567,"messages":[{{"role":"user","content":"{tag} {text}"}}]}}"#
        ),
        Protocol::Anthropic => format!(
            r#"{{ "model":"claude-sonnet-4-5", "max_tokens":20,"messages":[{{"role":"user","content":"{tag} {text}"}}]}}"#
        ),
    }
}
