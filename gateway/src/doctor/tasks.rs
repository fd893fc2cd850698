//! Tasks: whether programs are there and may be run, and whether webhooks have an address.

use super::Check;
use crate::cli::Common;
use crate::config::{Config, TaskConfig};
use crate::hidden;
use crate::tasks::{exec_task, http_task};
use actors::executor::exec::Exec;
use actors::executor::http::Http;
use std::sync::Arc;
use std::time::Duration;
use storage::model::SystemClock;

const RESOLVED_WITHIN: Duration = Duration::from_secs(10);
const CORRECT: &str = "correct the task; a server does not start with it";

/// A line for each `exec` and `http` task, and one for what programs can see. Names are looked up only if `online`.
pub async fn checks(common: &Common, config: &Config, online: bool) -> Vec<Check> {
    let mut checks: Vec<Check> = sight(common, config).into_iter().collect();
    for (name, task) in &config.tasks {
        let label = format!("task {name}");
        match task.kind.as_str() {
            "exec" => checks.push(program(&label, task)),
            "http" => checks.push(webhook(&label, name, task, online).await),
            _ => {}
        }
    }
    checks
}

/// Whether programs can see the node's own files; nothing is said where there are no programs.
fn sight(common: &Common, config: &Config) -> Option<Check> {
    config.tasks.values().find(|task| task.kind == "exec")?;
    let hidden = hidden::from_programs(common, config).ok()?;
    let fix = "give the tasks read_paths and write_paths; or run the node as a user of its own, with its files in a \
               folder like /var/lib/tidegate; or as root, which may hide them";
    Some(match hidden::seen_because(&hidden, config) {
        None => Check::ok("programs", "they cannot read the store, the configuration, or files with secrets"),
        Some(why) => Check::warn("programs", format!("they can read the node's own files: {why}"), fix),
    })
}

fn program(label: &str, task: &TaskConfig) -> Check {
    match Exec::new(exec_task(task)) {
        Ok(_) => {
            let program = task.program.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            Check::ok(label, format!("{program} may be run"))
        }
        Err(error) => Check::fail(label, error.to_string(), CORRECT),
    }
}

/// A URL is never shown: its path may be a secret.
async fn webhook(label: &str, name: &str, task: &TaskConfig, online: bool) -> Check {
    let hook = match http_task(name, task) {
        Err(failure) => return Check::failed(label, failure, CORRECT),
        Ok(hook) => match Http::new(hook, Arc::new(SystemClock)) {
            Err(error) => return Check::fail(label, error.to_string(), CORRECT),
            Ok(hook) => hook,
        },
    };
    if !online {
        return Check::ok(label, "its URL and its secrets can be read");
    }
    let fix = "correct the URL or the name server; allow_private lets a private address be called";
    match tokio::time::timeout(RESOLVED_WITHIN, hook.look_up()).await {
        Ok(Ok(addresses)) => Check::ok(label, format!("its host has {addresses} addresses that may be called")),
        Ok(Err(error)) => Check::fail(label, error.to_string(), fix),
        Err(_) => Check::fail(label, format!("its host was not found in {} s", RESOLVED_WITHIN.as_secs()), fix),
    }
}
