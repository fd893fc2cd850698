//! What a request for a job asks for, read strictly.

use super::super::new_run::{KEY_CHARS, PRIORITY, TAG_CHARS, TAGS_MAX};
use crate::http::fields::{Charset, Fields};
use actors::LlmTask;
use actors::runs::{TaskKind, Tasks};
use std::time::Duration;
use storage::model::{Ceilings, Draw, LiveRules, Money, Policy, Scope, Source, Standing, Timestamp};

const DAY: Duration = Duration::from_secs(86_400);
/// As `process` has it.
const ROUNDS: i64 = 30;
const WALLCLOCK: Duration = Duration::from_secs(90 * 60);
const BATCH_REQUESTS: i64 = 50_000;
/// How often a standing job looks for more unless it says so.
const PERIOD: Duration = Duration::from_secs(60);

/// A job as it is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub source: Source,
    pub label: Option<String>,
    pub draw: Draw,
    pub ceilings: Ceilings,
    pub dry_run: bool,
}

impl Wish {
    /// Reads the fields of a request; what is wrong is kept in them, for `finish`.
    pub fn read(fields: &mut Fields<'_>, tasks: &Tasks, now: Timestamp) -> Wish {
        let task = fields.text("pool", 1..=128, Charset::Name);
        let is_llm = tasks.get(&task).is_some_and(|task| matches!(task.kind, TaskKind::Llm(_)));
        if !task.is_empty() && !is_llm {
            let llm = tasks.iter().filter(|(_, task)| matches!(task.kind, TaskKind::Llm(_)));
            let known: Vec<&str> = llm.map(|(name, _)| name).take(20).collect();
            let what = format!("must be the name of an `llm` task; known are: {}", known.join(", "));
            fields.refuse_field("pool", "unknown_pool", what);
        }
        let source = match fields.one_of("source", &["backfill", "daemon"]) {
            Some("daemon") => Source::Daemon,
            _ => Source::Backfill,
        };
        let label = fields.optional_text("label", 1..=128, Charset::Line);
        let policy = match fields.one_of("policy", &["disjoint", "exclusive"]) {
            Some("exclusive") => Policy::Exclusive,
            _ => Policy::Disjoint,
        };
        let mut draw = Draw {
            task,
            since_ms: None,
            // A backfill is bounded: what comes in after it was asked for is not its own.
            until_ms: (source == Source::Backfill).then_some(now.millis() + 1),
            queue: None,
            tags: Vec::new(),
            session_id: None,
            concurrency_key: None,
            priority_min: None,
            policy,
            standing: None,
        };
        if let Some(mut scope) = fields.section("scope") {
            draw.since_ms = scope.day_or_time("since").map(Timestamp::millis);
            draw.queue = scope.optional_text("queue", 1..=128, Charset::Name);
            filter(&mut scope, &mut draw);
            fields.absorb(scope);
        }
        draw.standing = period(fields, source);
        let ceilings = limits(fields, source);
        let dry_run = fields.boolean("dry_run").unwrap_or(false);
        fields.reject_unknown();
        Wish { source, label, draw, ceilings, dry_run }
    }

    /// How the job's runs are carried out.
    pub fn scope(&self, task: &LlmTask) -> Scope {
        Scope {
            input_sha256: String::new(),
            provider: task.provider.clone(),
            account: task.account.clone(),
            max_attempts: task.max_attempts,
            edition: 0,
        }
    }
}

/// All of it must be true of a run. The queue may stand here or beside it.
fn filter(scope: &mut Fields<'_>, draw: &mut Draw) {
    let Some(mut filter) = scope.section("filter") else { return };
    let queue = filter.optional_text("queue", 1..=128, Charset::Name);
    match (&draw.queue, &queue) {
        (Some(beside), Some(_)) if draw.queue != queue => {
            filter.refuse_field("queue", "conflict", format!("the scope names the queue `{beside}` already"));
        }
        _ => draw.queue = draw.queue.take().or(queue),
    }
    draw.tags = filter.tags("tags", TAGS_MAX, TAG_CHARS).unwrap_or_default();
    draw.session_id = filter.optional_text("session_id", 1..=64, Charset::Name);
    draw.concurrency_key = filter.optional_text("concurrency_key", 1..=KEY_CHARS, Charset::Visible);
    draw.priority_min = filter.integer("priority_min", -PRIORITY..=PRIORITY);
    scope.absorb(filter);
}

fn period(fields: &mut Fields<'_>, source: Source) -> Option<Standing> {
    let section = fields.section("period");
    if source == Source::Backfill {
        if section.is_some() {
            fields.refuse_field("period", "conflict", "a backfill ends; only a daemon has a period");
        }
        return None;
    }
    let mut standing = Standing { every_ms: PERIOD.as_millis() as u64, at_runs: None, at_bytes: None };
    if let Some(mut section) = section {
        let every = section.seconds("seconds", Duration::from_millis(100)..=30 * DAY).unwrap_or(PERIOD);
        standing.every_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        standing.at_runs = section.integer("runs", 1..=1_000_000).and_then(|runs| u32::try_from(runs).ok());
        standing.at_bytes = section.integer("bytes", 1..=1 << 40).map(i64::cast_unsigned);
        fields.absorb(section);
    }
    Some(standing)
}

/// A standing job has only those ceilings that it asks for.
fn limits(fields: &mut Fields<'_>, source: Source) -> Ceilings {
    let stands = source == Source::Daemon;
    let mut ceilings = Ceilings {
        max_rounds: if stands { u32::MAX } else { ROUNDS as u32 },
        max_wallclock_ms: (!stands).then_some(WALLCLOCK.as_millis() as u64),
        max_usd_nanos: None,
        max_batch_requests: BATCH_REQUESTS as u32,
        live: LiveRules::default(),
    };
    let Some(mut section) = fields.section("limits") else { return ceilings };
    if let Some(rounds) = section.integer("max_rounds", 1..=1_000_000) {
        ceilings.max_rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    }
    if let Some(span) = section.seconds("max_wallclock_seconds", Duration::from_secs(1)..=366 * DAY) {
        ceilings.max_wallclock_ms = u64::try_from(span.as_millis()).ok();
    }
    if let Some(text) = section.optional_text("max_usd", 1..=32, Charset::Visible) {
        match text.parse::<Money>() {
            Ok(money) => ceilings.max_usd_nanos = Some(money.nanos()),
            Err(_) => section.refuse_field("max_usd", "format", "must be decimal dollars in quotes, such as \"12.50\""),
        }
    }
    if let Some(requests) = section.integer("max_batch_requests", 1..=BATCH_REQUESTS) {
        ceilings.max_batch_requests = u32::try_from(requests).unwrap_or(u32::MAX);
    }
    fields.absorb(section);
    ceilings
}
