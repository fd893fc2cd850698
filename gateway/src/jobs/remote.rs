//! Jobs of a server: planned, started, followed, and told what to do.

use crate::cli::{Common, JobsCommand, Output, PolicyArg, Remote, SourceArg, StartArgs};
use crate::client::{Client, Event, Follow, Object, Request, block_on, print_object, segment};
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Reader, Record, Style, send};
use crate::runs::cell;
use crate::signals::Signals;
use serde_json::{Map, Value, json};
use storage::model::{Clock, StopReason, SystemClock, Timestamp};

/// The fields of a job, in the order in which they are told; a dot leads into an object.
const FIELDS: &[(&str, &str)] = &[
    ("id", "id"),
    ("pool", "pool"),
    ("source", "source"),
    ("state", "state"),
    ("stop reason", "stop_reason"),
    ("detail", "detail"),
    ("since", "scope.since"),
    ("queue", "scope.queue"),
    ("tags", "scope.filter.tags"),
    ("session", "scope.filter.session_id"),
    ("concurrency key", "scope.filter.concurrency_key"),
    ("priority from", "scope.filter.priority_min"),
    ("policy", "scope.policy"),
    ("items", "items.total"),
    ("succeeded", "items.succeeded"),
    ("failed", "items.failed"),
    ("queued", "items.queued"),
    ("running", "items.running"),
    ("residue", "residue"),
    ("rounds", "rounds"),
    ("spent", "spend_usd"),
    ("reserved", "reserved_usd"),
    ("max usd", "limits.max_usd"),
    ("holder", "holder"),
    ("created", "created_at"),
    ("started", "started_at"),
    ("finished", "finished_at"),
];

const PLAN: &[(&str, &str)] = &[
    ("pool", "pool"),
    ("source", "source"),
    ("since", "scope.since"),
    ("queue", "scope.queue"),
    ("tags", "scope.filter.tags"),
    ("session", "scope.filter.session_id"),
    ("concurrency key", "scope.filter.concurrency_key"),
    ("priority from", "scope.filter.priority_min"),
    ("items", "items"),
    ("more than looked at", "more_than_looked_at"),
    ("not requests", "not_requests"),
    ("unpriced", "unpriced"),
    ("body bytes", "body_bytes"),
    ("batches", "batches_planned"),
    ("worst usd", "worst_usd"),
];

pub fn run(command: &JobsCommand, remote: &Remote, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(remote)?;
    let output = common.output;
    block_on(async {
        match command {
            JobsCommand::Plan(args) => start(&client, args, true, output).await,
            JobsCommand::Start(args) => start(&client, args, args.dry_run, output).await,
            JobsCommand::Watch { id } => watch(&client, id, output).await,
            JobsCommand::Suspend { id } => tell(&client, id, "suspend", output).await,
            JobsCommand::Resume { id } => tell(&client, id, "resume", output).await,
            JobsCommand::Cancel { id } => tell(&client, id, "cancel", output).await,
            JobsCommand::List { .. } | JobsCommand::Get { .. } => Ok(Exit::Done),
        }
    })
}

async fn start(client: &Client, args: &StartArgs, dry_run: bool, output: Output) -> Result<Exit, Failure> {
    let request = Request::post("/jobs").json(body(args, dry_run).to_string());
    let job = client.send(&request).await?.object()?;
    print_object(&job, output, now(), |value| record(value, if dry_run { PLAN } else { FIELDS }))?;
    if !dry_run {
        say!("started; to follow it: tidegate jobs watch {}", job.text("id"));
    }
    Ok(Exit::Done)
}

fn body(args: &StartArgs, dry_run: bool) -> Value {
    let mut body = json!({
        "pool": args.pool,
        "source": match args.source { SourceArg::Backfill => "backfill", SourceArg::Daemon => "daemon" },
        "policy": match args.policy { PolicyArg::Disjoint => "disjoint", PolicyArg::Exclusive => "exclusive" },
        "label": args.label,
        "dry_run": dry_run,
        "scope": { "since": args.since, "queue": args.queue },
    });
    let filter = given([
        ("tags", (!args.tags.is_empty()).then(|| args.tags.as_slice().into())),
        ("session_id", args.session.as_deref().map(Value::from)),
        ("concurrency_key", args.concurrency_key.as_deref().map(Value::from)),
        ("priority_min", args.priority_min.map(Value::from)),
    ]);
    if !filter.is_empty() {
        // Left away where it says nothing, for a server that knows of none.
        body["scope"]["filter"] = Value::Object(filter);
    }
    let limits = given([
        ("max_usd", args.max_usd.map(|money| money.to_string().into())),
        ("max_rounds", args.max_rounds.map(Value::from)),
        ("max_wallclock_seconds", args.max_wallclock.map(|span| span.as_secs_f64().into())),
        ("max_batch_requests", args.max_batch_requests.map(Value::from)),
    ]);
    body["limits"] = Value::Object(limits);
    if args.every.is_some() || args.at_runs.is_some() || args.at_bytes.is_some() {
        body["period"] = json!({
            "seconds": args.every.map(|span| span.as_secs_f64()), "runs": args.at_runs, "bytes": args.at_bytes,
        });
    }
    body
}

/// Those that have a value.
fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

async fn tell(client: &Client, id: &str, what: &str, output: Output) -> Result<Exit, Failure> {
    // Told twice, a job does it once.
    let request = Request::post(format!("/jobs/{}/{what}", segment(id))).repeatable();
    let job = client.send(&request).await?.object()?;
    print_object(&job, output, now(), |value| record(value, FIELDS))?;
    Ok(Exit::Done)
}

/// Prints each event as it comes, the ones before included; then how the job ended decides about the exit code.
async fn watch(client: &Client, id: &str, output: Output) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut follow = Follow::job(client, id);
    loop {
        let event = tokio::select! {
            event = follow.next() => event?,
            exit = signals.next() => {
                say!("not watching any more; the job goes on. To watch again: tidegate jobs watch {id}");
                return Ok(exit);
            }
        };
        let Some(event) = event else { break };
        let shown = match output {
            Output::Table => send(&line(&event, Style::Plain))?,
            Output::Json | Output::Jsonl => {
                let name = Value::from(event.name.as_str());
                send(&format!("{{\"event\":{name},\"data\":{}}}\n", event.data.replace('\n', " ")))?
            }
        };
        if shown == Reader::Gone {
            return Ok(Exit::Done);
        }
    }
    let job = client.send(&Request::get(format!("/jobs/{}", segment(id)))).await?.object()?;
    Ok(exit_of(&job))
}

/// When, what, and what of it can be counted.
fn line(event: &Event, style: Style) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    let items = &data["items"];
    let said = match event.name.as_str() {
        "progress" => format!(
            "{} of {} succeeded, {} failed, {} queued, {} in batches",
            items["succeeded"], items["total"], items["failed"], items["queued"], items["running"]
        ),
        _ => data["data"]["reason"].as_str().or(data["data"]["why"].as_str()).unwrap_or("").to_owned(),
    };
    let at = cell("at", &data["at"]).show(style);
    format!("{at}\t{}\t{said}\n", event.name)
}

fn exit_of(job: &Object) -> Exit {
    let clean = job.value["stop_reason"].as_str().and_then(StopReason::from_word).is_some_and(StopReason::is_clean);
    match (clean, job.value["items"]["failed"].as_i64()) {
        (true, Some(0)) => Exit::Done,
        (true, _) => Exit::ItemsFailed,
        _ if job.text("state") == "finished" => Exit::Ceiling,
        _ => Exit::ItemsFailed,
    }
}

fn record(value: &Value, fields: &'static [(&str, &str)]) -> Record {
    let of = |(title, path): &(&'static str, &'static str)| {
        let found = path.split('.').fold(value, |value, key| &value[key]);
        let name = path.rsplit('.').next().unwrap_or(path);
        (*title, if found.is_null() { Cell::Absent } else { cell(name, found) })
    };
    Record { fields: fields.iter().map(of).collect(), sections: Vec::new(), json: Value::Null }
}

fn now() -> Timestamp {
    SystemClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Object {
        Object::parse(text.as_bytes()).expect("a job")
    }

    #[test]
    fn how_a_job_ended_decides_about_the_exit_code() {
        for (text, exit) in [
            (r#"{"state":"finished","stop_reason":"drained","items":{"failed":0}}"#, Exit::Done),
            (r#"{"state":"finished","stop_reason":"already_empty","items":{"failed":0}}"#, Exit::Done),
            (r#"{"state":"finished","stop_reason":"drained","items":{"failed":2}}"#, Exit::ItemsFailed),
            (r#"{"state":"finished","stop_reason":"spend_cap","items":{"failed":0}}"#, Exit::Ceiling),
            (r#"{"state":"cancelled","stop_reason":null,"items":{"failed":0}}"#, Exit::ItemsFailed),
        ] {
            assert_eq!(exit_of(&job(text)), exit, "{text}");
        }
    }

    #[test]
    fn every_event_has_the_same_number_of_fields() {
        let event = |name: &str, data: &str| Event { id: None, name: name.to_owned(), data: data.to_owned() };
        let progress = r#"{"items":{"succeeded":3,"total":9,"failed":1,"queued":5,"running":0},"rounds":1}"#;
        assert_eq!(
            line(&event("progress", progress), Style::Plain),
            "—\tprogress\t3 of 9 succeeded, 1 failed, 5 queued, 0 in batches\n"
        );
        let finished = r#"{"job":"j","at":"2026-11-21T00:00:00.000Z","data":{"reason":"drained"}}"#;
        assert_eq!(line(&event("stopping", finished), Style::Plain), "2026-11-21T00:00:00.000Z\tstopping\tdrained\n");
    }
}
