//! What is wrong with a task by the file alone. What is of this machine, such as a program that is not there or a secret
//! that cannot be read, a start and `doctor` find.

use super::{Config, TaskConfig};
use crate::tasks::http_task;
use actors::executor::http::Http;
use std::sync::Arc;
use storage::model::SystemClock;

/// A line for each, which begins with the key.
pub(super) fn wrong(config: &Config) -> Vec<String> {
    let faults = config.tasks.iter().filter_map(|(name, task)| Some(format!("tasks.{name}{}", fault(config, task)?)));
    faults.collect()
}

fn fault(config: &Config, task: &TaskConfig) -> Option<String> {
    match task.kind.as_str() {
        "exec" => {
            let program = task.program.as_ref().filter(|program| !program.is_absolute())?;
            Some(format!(".program {program:?} is not an absolute path; no search path is looked at"))
        }
        "http" if task.url.is_some() => {
            let public = TaskConfig { secret_file: None, previous_secret_file: None, ..task.clone() };
            let fault = Http::new(http_task("", &public).ok()?, Arc::new(SystemClock)).err()?.to_string();
            Some(fault.strip_prefix("url: ").map_or_else(|| format!(": {fault}"), |why| format!(".url: {why}")))
        }
        "llm" => {
            let failure = crate::llm::protocol_of(config, task.provider.as_deref()?).err()?;
            let hint = failure.hint.unwrap_or_default();
            Some(format!(".provider: {}; {hint}", failure.what))
        }
        _ => None,
    }
}
