//! How programs and webhooks are carried out: real processes, real signals, real sockets, the binary's own guard.

mod programs;
mod ends;
mod sandbox;
mod walls;
mod webhooks;

use actors::executor::exec::{Exec, ExecTask};
use actors::executor::{Assignment, Chunk, Executor, Outcome, Output, Stop, Stream};
use harness::eventually;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use storage::model::{Epoch, RunId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const PLENTY: u64 = 1 << 30;

/// One for all tests, so that it outlives each: it also waits for children whose futures were dropped.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime"))
}

fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// An argument of `sleep` that no other process on the machine has.
fn marker() -> String {
    format!("4000.{:07}{:04}", std::process::id(), unique())
}

fn assignment(payload: &str) -> Assignment {
    Assignment {
        run: RunId::from_text(format!("run_{}x{}", std::process::id(), unique())),
        env: "default/dev".to_owned(),
        task: "probe".to_owned(),
        attempt: 3,
        epoch: Epoch::from_number(7),
        payload: payload.to_owned(),
        session: None,
        trace: None,
        max_duration: None,
        start_by: std::time::Duration::MAX,
    }
}

/// A script of the shell, whose arguments are what follows its name.
fn shell(script: &str) -> ExecTask {
    program("/bin/sh", &["-c", script, "sh"])
}

fn program(path: &str, args: &[&str]) -> ExecTask {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    ExecTask { program: PathBuf::from(path), args, ..ExecTask::default() }
}

fn exec(task: ExecTask) -> Exec {
    Exec::new(task).expect("a task").with_binary(harness::case::binary())
}

/// A run under way.
struct Underway {
    outcome: JoinHandle<Outcome>,
    stop: watch::Sender<Option<Stop>>,
    chunks: mpsc::Receiver<Chunk>,
    seen: Vec<Chunk>,
}

/// How it ended, and what it said.
struct Ended {
    outcome: Outcome,
    chunks: Vec<Chunk>,
}

impl Underway {
    fn begin(executor: &dyn Executor, assignment: Assignment, limit: u64) -> Underway {
        let (stop, asked) = watch::channel(None);
        let (sender, chunks) = mpsc::channel(1);
        let outcome = runtime().spawn(executor.carry(assignment, asked, Output::new(limit, sender)));
        Underway { outcome, stop, chunks, seen: Vec::new() }
    }

    /// Waits until the program has said this on stdout.
    fn said(&mut self, words: &str) -> String {
        while !text(&self.seen, Stream::Stdout).contains(words) {
            let chunk = self.chunks.blocking_recv().unwrap_or_else(|| panic!("{words:?} never came: {:?}", self.seen));
            self.seen.push(chunk);
        }
        text(&self.seen, Stream::Stdout)
    }

    fn stop(&self, why: Stop) {
        self.stop.send_replace(Some(why));
    }

    fn end(mut self) -> Ended {
        while let Some(chunk) = self.chunks.blocking_recv() {
            self.seen.push(chunk);
        }
        let outcome = runtime().block_on(self.outcome).expect("it does not panic");
        Ended { outcome, chunks: self.seen }
    }
}

impl Ended {
    fn stdout(&self) -> String {
        text(&self.chunks, Stream::Stdout)
    }

    fn stderr(&self) -> String {
        text(&self.chunks, Stream::Stderr)
    }

    /// Its output, which must have come to an end of its own.
    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!(self.outcome, succeeded(0), "{} {}", self.stdout(), self.stderr());
        self.stdout()
    }
}

fn run(task: ExecTask, payload: &str) -> Ended {
    run_by(&exec(task), payload)
}

fn run_by(exec: &Exec, payload: &str) -> Ended {
    Underway::begin(exec, assignment(payload), PLENTY).end()
}

fn text(chunks: &[Chunk], stream: Stream) -> String {
    let data: Vec<u8> =
        chunks.iter().filter(|chunk| chunk.stream == stream).flat_map(|chunk| chunk.data.to_vec()).collect();
    String::from_utf8_lossy(&data).into_owned()
}

fn succeeded(code: i32) -> Outcome {
    Outcome::Succeeded { output: Some(format!(r#"{{"exit_code":{code}}}"#)) }
}

/// Processes with these words in their command lines.
fn alive(words: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(words.len()).any(|window| window == words.as_bytes())).count()
}

/// Processes with this parent that have ended and were not waited for.
fn zombies_below(parent: u32) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let fields = stats.filter_map(|stat| Some(stat.rsplit_once(')')?.1.trim().to_owned()));
    fields.filter(|fields| fields.starts_with(&format!("Z {parent} "))).count()
}

#[track_caller]
fn nothing_is_left_of(marker: &str) {
    eventually(&format!("every process with {marker} is gone"), || alive(marker) == 0);
}

/// Folders that were made for programs of this run and are still there.
fn folders_of(run: &RunId) -> usize {
    let entries = fs::read_dir(std::env::temp_dir()).expect("the folder").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().contains(run.as_str())).count()
}
