//! The tasks of the configuration, checked and made.

use crate::config::{Config, TaskConfig};
use crate::exit::Failure;
use actors::backoff::Backoff;
use actors::executor::exec::{Exec, ExecTask, Hidden, Limits, Sandbox};
use actors::executor::http::{Http, HttpTask, WebhookSecret};
use actors::executor::noop::Noop;
use actors::runs::{PayloadCheck, Task, TaskKind, Tasks};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::model::SystemClock;

const KINDS: [&str; 5] = ["noop", "exec", "http", "pull", "llm"];

/// Names of tasks and queues stand in URLs, metrics and the database.
pub fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Everything that is wrong with the tasks, a line each.
pub fn wrong(tasks: &BTreeMap<String, TaskConfig>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, task) in tasks {
        let mut add = |what: String| wrong.push(format!("tasks.{name}{what}"));
        if !is_name(name) {
            add(": a name may have 1 to 128 ASCII letters, digits, `.`, `_` and `-`".to_owned());
        }
        if !KINDS.contains(&task.kind.as_str()) {
            add(format!(".kind is `{}`; use one of {}", task.kind, KINDS.join(", ")));
        }
        if task.queue.as_deref().is_some_and(|queue| !is_name(queue)) {
            add(".queue: a name may have 1 to 128 ASCII letters, digits, `.`, `_` and `-`".to_owned());
        }
        if task.max_attempts.is_some_and(|attempts| !(1..=1_000).contains(&attempts)) {
            add(".max_attempts must be between 1 and 1000".to_owned());
        }
        for (key, value) in [
            ("max_duration_seconds", task.max_duration_seconds),
            ("grace_seconds", task.grace_seconds),
            ("timeout_seconds", task.timeout_seconds),
            ("retry_base_seconds", task.retry_base_seconds),
            ("retry_cap_seconds", task.retry_cap_seconds),
        ] {
            if value.is_some_and(|value| !(0.001..=2_592_000.0).contains(&value)) {
                add(format!(".{key} must be between 0.001 and 2592000"));
            }
        }
        match task.kind.as_str() {
            "exec" if task.program.is_none() => add(".program is missing".to_owned()),
            "http" if task.url.is_none() => add(".url is missing".to_owned()),
            "llm" if task.provider.is_none() => add(".provider is missing: who carries it out".to_owned()),
            _ => {}
        }
        if task.kind != "exec" && (task.program.is_some() || !task.args.is_empty()) {
            add(".program and .args belong to tasks of the kind exec".to_owned());
        }
        let listed = [&task.read_paths, &task.write_paths].iter().any(|paths| paths.is_some());
        if task.kind != "exec" && (task.sandbox.is_some() || listed || task.connect_ports.is_some()) {
            add(".sandbox, .read_paths, .write_paths and .connect_ports belong to tasks of the kind exec".to_owned());
        }
        if task.kind != "http" && (task.url.is_some() || task.secret_file.is_some()) {
            add(".url and .secret_file belong to tasks of the kind http".to_owned());
        }
    }
    wrong
}

/// Makes the tasks; a program that is not there or a secret that cannot be read is named. Programs are kept from what
/// is hidden.
pub fn make(config: &Config, hidden: &Hidden) -> Result<Tasks, Failure> {
    let retry = config.sections().retry();
    let mut tasks = BTreeMap::new();
    for (name, task) in &config.tasks {
        let (word, kind) = kind_of(config, hidden, name, task)?;
        let seconds = |value: Option<f64>| value.map(Duration::from_secs_f64);
        tasks.insert(
            name.clone(),
            Task {
                word,
                reads_payload: word != "noop",
                kind,
                queue: task.queue.clone().unwrap_or_else(|| name.clone()),
                max_attempts: task.max_attempts.unwrap_or(3),
                max_duration: seconds(task.max_duration_seconds),
                retry: Backoff {
                    base: seconds(task.retry_base_seconds).unwrap_or(retry.base),
                    cap: seconds(task.retry_cap_seconds).unwrap_or(retry.cap),
                },
            },
        );
    }
    Ok(Tasks::new(tasks, retry))
}

fn kind_of(
    config: &Config,
    hidden: &Hidden,
    name: &str,
    task: &TaskConfig,
) -> Result<(&'static str, TaskKind), Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("tasks.{name}: {error}"));
    Ok(match task.kind.as_str() {
        "pull" => ("pull", TaskKind::Pull),
        "llm" => {
            let provider = task.provider.as_deref().unwrap_or_default();
            let protocol = crate::llm::protocol_of(config, provider)?;
            ("llm", TaskKind::Llm(PayloadCheck(Arc::new(move |payload| crate::llm::check(payload, protocol)))))
        }
        "exec" => {
            let exec = Exec::new(exec_task(task)).map_err(|error| bad(&error))?;
            ("exec", TaskKind::Own(Arc::new(exec.with_hidden(hidden.clone()))))
        }
        "http" => {
            let http = Http::new(http_task(name, task)?, Arc::new(SystemClock)).map_err(|error| bad(&error))?;
            ("http", TaskKind::Own(Arc::new(http)))
        }
        _ => ("noop", TaskKind::Own(Arc::new(Noop))),
    })
}

pub(crate) fn exec_task(task: &TaskConfig) -> ExecTask {
    let default = ExecTask::default();
    ExecTask {
        program: task.program.clone().unwrap_or_default(),
        args: task.args.clone(),
        cwd: task.cwd.clone(),
        env: task.env.clone(),
        pass_env: task.pass_env.clone(),
        grace: task.grace_seconds.map_or(default.grace, Duration::from_secs_f64),
        limits: Limits {
            cpu_seconds: task.cpu_seconds,
            memory_bytes: task.memory_bytes,
            open_files: task.open_files,
            processes: task.processes,
            file_bytes: task.file_bytes,
            ..default.limits
        },
        sandbox: Sandbox {
            enabled: task.sandbox.unwrap_or(true),
            read: task.read_paths.clone(),
            write: task.write_paths.clone(),
            connect: task.connect_ports.clone(),
        },
        success_codes: task.success_codes.clone().unwrap_or(default.success_codes),
        no_retry_codes: task.no_retry_codes.clone(),
    }
}

pub(crate) fn http_task(name: &str, task: &TaskConfig) -> Result<HttpTask, Failure> {
    let default = HttpTask::default();
    let secret = |key: &str, path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => {
            let cannot = |why: String| Failure::usage(format!("tasks.{name}.{key} {}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
            text.trim().parse::<WebhookSecret>().map(Some).map_err(|error| cannot(error.to_string()))
        }
    };
    Ok(HttpTask {
        url: task.url.clone().unwrap_or_default(),
        secret: secret("secret_file", &task.secret_file)?,
        previous_secret: secret("previous_secret_file", &task.previous_secret_file)?,
        headers: task.headers.clone(),
        allow_private: task.allow_private,
        timeout: task.timeout_seconds.map_or(default.timeout, Duration::from_secs_f64),
        max_response_bytes: default.max_response_bytes,
    })
}
