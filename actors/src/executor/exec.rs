//! Runs a program for each run: an allow-listed one by its absolute path, argv only, no shell, no search path,
//! a clean environment, a working folder of its own, limits, walls, and its whole process tree ended with it.
//!
//! The program is not a child of the node but of a guard (`tidegate exec-guard`), which holds a socket to the
//! node: when the node dies, even by SIGKILL, the socket closes and the guard ends the tree.

pub mod order;
pub mod guard;
mod template;
mod sandbox;
mod check;
mod attempt;
mod signal;

pub use check::BadTask;
pub use order::Limits;
pub use sandbox::{Hidden, Means, Sandbox};
pub use template::{BadPayload, BadTemplate};

use super::{Assignment, Executor, Outcome, Output, Stop};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use template::Template;
use tokio::sync::watch;

/// The binary that is running, also when its file was replaced meanwhile: node and guard are of one version.
pub const OURSELVES: &str = "/proc/self/exe";

/// How runs of one task are carried out.
#[derive(Clone)]
pub struct ExecTask {
    /// Absolute; nothing is looked up.
    pub program: PathBuf,
    /// May hold `{payload}`, `{payload.a.b}`, `{run.id}` and `{run.attempt}`, each for one scalar value.
    pub args: Vec<String>,
    /// Where the program starts; a private folder, removed afterwards, if not given.
    pub cwd: Option<PathBuf>,
    /// Set for the program, besides the few that it always has.
    pub env: BTreeMap<String, String>,
    /// Passed on from the node's own environment, where they are set.
    pub pass_env: Vec<String>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    pub limits: Limits,
    pub sandbox: Sandbox,
    pub success_codes: Vec<i32>,
    /// Exit codes after which another attempt cannot help.
    pub no_retry_codes: Vec<i32>,
}

impl Default for ExecTask {
    fn default() -> ExecTask {
        ExecTask {
            program: PathBuf::new(),
            args: Vec::new(),
            cwd: None,
            env: BTreeMap::new(),
            pass_env: Vec::new(),
            grace: Duration::from_secs(5),
            limits: Limits::default(),
            sandbox: Sandbox::default(),
            success_codes: vec![0],
            no_retry_codes: Vec::new(),
        }
    }
}

impl fmt::Debug for ExecTask {
    /// Variables by name only: their values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecTask")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys())
            .field("pass_env", &self.pass_env)
            .field("grace", &self.grace)
            .field("limits", &self.limits)
            .field("sandbox", &self.sandbox)
            .field("success_codes", &self.success_codes)
            .field("no_retry_codes", &self.no_retry_codes)
            .finish()
    }
}

impl ExecTask {
    /// Says why this cannot be carried out here, as far as that can be known beforehand.
    pub fn check(&self) -> Result<(), BadTask> {
        check::check(self).map(|_| ())
    }

    /// What the program of one run finds in its environment, but for HOME and TMPDIR, which the guard adds.
    fn environment(&self, assignment: &Assignment) -> BTreeMap<String, String> {
        let base = [("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")];
        let mut env: BTreeMap<String, String> = base.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let passed = self.pass_env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        env.extend(passed);
        env.extend(self.env.clone());
        env.insert("TIDEGATE_RUN_ID".to_owned(), assignment.run.to_string());
        env.insert("TIDEGATE_ATTEMPT".to_owned(), assignment.attempt.to_string());
        env.insert("TIDEGATE_TASK".to_owned(), assignment.task.clone());
        // Known from its first moment: a program of a session never has to guess which one it is of.
        env.extend(assignment.session.iter().map(|session| ("TIDEGATE_SESSION_ID".to_owned(), session.clone())));
        env.extend(assignment.trace.map(|trace| ("TRACEPARENT".to_owned(), trace.to_string())));
        env
    }
}

/// Closes this process's memory and environment to programs of its own user: for a node, before it runs any. It
/// leaves no core file then, and only root can trace it.
#[cfg(target_os = "linux")]
pub fn shield() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Carries out runs of one `exec` task.
#[derive(Debug, Clone)]
pub struct Exec {
    parts: Arc<Parts>,
}

/// What every attempt needs.
#[derive(Debug, Clone)]
struct Parts {
    task: ExecTask,
    args: Vec<Template>,
    /// The binary whose `exec-guard` is the guard.
    binary: PathBuf,
    /// Where the private folders are made.
    scratch: PathBuf,
    hidden: Hidden,
}

impl Exec {
    /// Checks the task.
    pub fn new(task: ExecTask) -> Result<Exec, BadTask> {
        let args = check::check(&task)?;
        let scratch = std::env::temp_dir();
        let scratch = std::path::absolute(&scratch).unwrap_or(scratch);
        let parts = Parts { task, args, binary: PathBuf::from(OURSELVES), scratch, hidden: Hidden::default() };
        Ok(Exec { parts: Arc::new(parts) })
    }

    /// With the guard of another binary than the running one.
    pub fn with_binary(mut self, binary: PathBuf) -> Exec {
        Arc::make_mut(&mut self.parts).binary = binary;
        self
    }

    /// With files that its programs are not to see.
    pub fn with_hidden(mut self, hidden: Hidden) -> Exec {
        Arc::make_mut(&mut self.parts).hidden = hidden;
        self
    }

    /// With the private folders of its programs made below this one.
    pub fn with_scratch(mut self, folder: PathBuf) -> Exec {
        Arc::make_mut(&mut self.parts).scratch = folder;
        self
    }
}

impl Executor for Exec {
    fn carry(
        &self,
        assignment: Assignment,
        stop: watch::Receiver<Option<Stop>>,
        output: Output,
    ) -> BoxFuture<'static, Outcome> {
        Box::pin(attempt::carry(self.parts.clone(), assignment, stop, output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_variables_are_never_shown() {
        let env = BTreeMap::from([("TOKEN".to_owned(), "canary-7f".to_owned())]);
        let task = ExecTask { program: PathBuf::from("/bin/sh"), env, ..ExecTask::default() };
        let exec = Exec::new(task).expect("a task");
        let shown = format!("{exec:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("canary-7f"), "{shown}");
    }
}
