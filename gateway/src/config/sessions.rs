//! The sections about sessions and sweeps.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use storage::model::{Graph, GraphFault};
use storage::store::SessionRules;

/// What the sweeps may do. Each is a kill switch, with an environment variable of its own.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SweepsConfig {
    /// Whether this node sweeps for all (`TIDEGATE_SWEEPER_ENABLED`).
    pub enabled: bool,
    /// Whether duplicates at providers, and what contradicts the model, are mended (`TIDEGATE_REPAIR_ENABLED`).
    pub repair_enabled: bool,
    /// Whether sessions go on by themselves with a new driver (`TIDEGATE_RESUME_ENABLED`).
    pub resume_enabled: bool,
    /// How long ended runs are kept with all that they left, closed sessions, and served jobs that are over; 0 for ever.
    pub keep_runs_days: f64,
    /// How long the audit is kept; 0 for ever.
    pub keep_audit_days: f64,
}

impl Default for SweepsConfig {
    fn default() -> SweepsConfig {
        SweepsConfig {
            enabled: true,
            repair_enabled: true,
            resume_enabled: true,
            keep_runs_days: 0.0,
            keep_audit_days: 0.0,
        }
    }
}

/// A type of session: a typed phase graph.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// Where every round begins.
    pub initial: String,
    /// The phase that ends a round.
    #[serde(default = "terminal")]
    pub terminal: String,
    /// For each phase those that may follow it.
    pub edges: BTreeMap<String, Vec<String>>,
    /// Without an event and with nothing alive for so long it is closed as stale.
    #[serde(default = "stale_seconds")]
    pub stale_seconds: f64,
    /// Completed and with nothing alive for so long it is closed as complete.
    #[serde(default = "quiet_seconds")]
    pub quiet_seconds: f64,
    /// How often in a round a driver that ended without completing it is started again by itself.
    #[serde(default)]
    pub resumes: u32,
}

fn terminal() -> String {
    "complete".to_owned()
}

fn stale_seconds() -> f64 {
    7.0 * 86_400.0
}

fn quiet_seconds() -> f64 {
    300.0
}

impl SweepsConfig {
    pub fn keep_runs(&self) -> Option<Duration> {
        span(self.keep_runs_days)
    }

    pub fn keep_audit(&self) -> Option<Duration> {
        span(self.keep_audit_days)
    }
}

fn span(days: f64) -> Option<Duration> {
    (days > 0.0).then(|| Duration::from_secs_f64(days * 86_400.0))
}

impl SessionConfig {
    fn graph(&self) -> Result<Graph, GraphFault> {
        Graph::checked(&self.initial, &self.terminal, self.edges.clone())
    }

    pub fn rules(&self) -> Result<SessionRules, GraphFault> {
        Ok(SessionRules {
            graph: self.graph()?,
            resumes_max: i64::from(self.resumes),
            stale: Duration::from_secs_f64(self.stale_seconds),
            quiet: Duration::from_secs_f64(self.quiet_seconds),
        })
    }
}

/// What is wrong with types of sessions, a line each.
pub fn wrong(sessions: &BTreeMap<String, SessionConfig>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, session) in sessions {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(fits) {
            wrong.push(format!("sessions.{name}: a type must have 1 to 64 letters, digits, `.`, `_` or `-`"));
        }
        if let Err(fault) = session.graph() {
            wrong.push(format!("sessions.{name}: {fault}"));
        }
        for (key, seconds) in [("stale_seconds", session.stale_seconds), ("quiet_seconds", session.quiet_seconds)] {
            if !(0.1..=31_536_000.0).contains(&seconds) {
                wrong.push(format!("sessions.{name}.{key} must be between 0.1 and 31536000"));
            }
        }
        if session.resumes > 100 {
            wrong.push(format!("sessions.{name}.resumes must be 100 at most"));
        }
    }
    wrong
}
