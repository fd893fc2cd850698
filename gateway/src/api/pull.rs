//! Pull workers: programs in any language that take runs over HTTP. A lease is proven by its token, which only
//! its holder has; after the lease has lapsed the token proves nothing any more.

use super::Api;
use super::read::{Page, find, run_id};
use crate::http::fields::{Charset, Fields};
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::runs::{RunParts, Settled, tell_wait};
use actors::traces::{Elsewhere, Part};
use rand::RngExt;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use storage::StoreError;
use storage::model::{Epoch, RunId, Timestamp, TraceParent};
use storage::store::{Brief, Ending, Leased, NewChunk, PullLease, RunVerdict, Share, Taker};
use tokio::time::{Instant, timeout};

const WAIT_MAX: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(60);
const ITEMS_MAX: i64 = 100;
const OUTPUT_MAX: usize = 256 * 1024;
const RESULT_MAX: usize = 512 * 1024;
/// How often a waiting worker looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct LeaseView<'a> {
    run_id: &'a str,
    task: &'a str,
    queue: &'a str,
    attempt: i64,
    max_attempts: i64,
    payload: &'a RawValue,
    /// Only of a session's step, so that simple workers find the others' fields where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    /// Only of a run that is of a trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    lease_token: &'a str,
    lease_until: String,
    max_duration_seconds: Option<f64>,
}

/// What a worker asks for.
struct Ask {
    tasks: Vec<String>,
    worker: String,
    items: i64,
    wait: Duration,
    lease: Duration,
}

fn ask(body: &[u8], api: &Api) -> Result<Ask, Problem> {
    let mut fields = Fields::parse(body)?;
    let tasks = fields.tags("tasks", 50, 128).unwrap_or_default();
    fields.require("tasks");
    for task in &tasks {
        let is_pull = api.runs.tasks.get(task).is_some_and(|task| task.word == "pull");
        if !is_pull {
            fields.refuse_field("tasks", "unknown_task", format!("`{task}` is no task of the kind pull"));
        }
    }
    let worker = fields.text("worker", 1..=128, Charset::Name);
    let items = fields.integer("max_items", 1..=ITEMS_MAX).unwrap_or(1);
    let wait = fields.seconds("wait_seconds", Duration::ZERO..=WAIT_MAX).unwrap_or(Duration::ZERO);
    let lease = fields.seconds("lease_seconds", Duration::from_secs(1)..=Duration::from_secs(3_600)).unwrap_or(LEASE);
    fields.reject_unknown();
    fields.finish()?;
    Ok(Ask { tasks, worker, items, wait, lease })
}

/// `POST /workers/lease`: up to `max_items` runs; waits up to `wait_seconds` for the first.
pub async fn lease(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let ask = ask(&body, &api)?;
    let (env, worker, tasks) = (caller.env.to_string(), ask.worker.clone(), ask.tasks.join(" "));
    api.store(move |runs| async move { runs.store.pull_worker_seen(&env, &worker, &tasks, runs.store.now()).await })
        .await?;
    #[expect(clippy::disallowed_methods, reason = "spans how long the worker is ready to wait")]
    let until = Instant::now() + ask.wait;
    let mut news = api.runs.settler.follow();
    loop {
        let taken = take(&api, caller.env.as_str(), &ask).await?;
        #[expect(clippy::disallowed_methods, reason = "spans how long the worker is ready to wait")]
        let left = until.saturating_duration_since(Instant::now());
        if !taken.is_empty() || left.is_zero() || api.draining.load(std::sync::atomic::Ordering::Acquire) {
            return answer(&taken);
        }
        let _ = timeout(left.min(LOOK_EVERY), async {
            // A run that is accepted rings; one that is settled may have made room under a cap.
            tokio::select! {
                () = api.runs.intake.arrived() => {}
                _ = news.recv() => {}
            }
        })
        .await;
    }
}

/// A run in a worker's hands, with what it needs.
struct Taken {
    leased: Leased,
    brief: Brief,
    token: String,
    until: Timestamp,
    /// What the worker is told of it.
    trace: Option<TraceParent>,
}

fn answer(taken: &[Taken]) -> Result<HttpResponse, Problem> {
    let view = |taken: &Taken| -> Result<String, serde_json::Error> {
        let payload: &RawValue = serde_json::from_str(&taken.brief.payload)?;
        serde_json::to_string(&LeaseView {
            run_id: taken.leased.run.as_str(),
            task: &taken.leased.task,
            queue: taken.leased.lane.queue(),
            attempt: taken.leased.attempt,
            max_attempts: taken.leased.max_attempts,
            payload,
            session_id: taken.brief.session.as_deref(),
            traceparent: taken.trace.map(|trace| trace.to_string()),
            lease_token: &taken.token,
            lease_until: taken.until.to_string(),
            max_duration_seconds: Some(taken.leased.max_duration_ms)
                .filter(|millis| *millis > 0)
                .map(|millis| millis as f64 / 1_000.0),
        })
    };
    let items: Vec<String> = taken.iter().map(view).collect::<Result<_, _>>().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(format!("{{\"data\":[{}]}}", items.join(","))))
}

async fn take(api: &Api, env: &str, ask: &Ask) -> Result<Vec<Taken>, Problem> {
    let secret = secret();
    let (env, tasks, worker, items, lease) =
        (env.to_owned(), ask.tasks.clone(), ask.worker.clone(), ask.items, ask.lease);
    api.store(move |runs| async move {
        let now = runs.store.now();
        let until = now + lease;
        let shares = shares(&runs, &env, &tasks, items).await?;
        let caps = actors::drainer::caps(&runs.settings.now(), &shares);
        // A token of each run: a digest of what only this request knows and the run's id.
        let token = |run: &RunId| token_of(&secret, run);
        let taker = Taker::Pull { worker: &worker, until, token: &token };
        let mut leased = runs.store.claim_ready(&shares, &caps, taker, now).await?;
        leased.truncate(usize::try_from(items).unwrap_or(0));
        leased.iter().for_each(|leased| tell_wait(leased, now));
        let ids: Vec<(&str, &RunId)> = leased.iter().map(|leased| (leased.env.as_str(), &leased.run)).collect();
        let mut briefs = runs.store.briefs(&ids).await?;
        let taken = leased.into_iter().map(|leased| {
            let none = || Brief { payload: "null".to_owned(), ..Brief::default() };
            let brief = briefs.remove(&leased.run).unwrap_or_else(none);
            runs.traces.claimed(brief.trace, &leased, now);
            let trace = runs.traces.within(brief.trace, Part::Attempt, &leased.run, leased.epoch);
            Taken { token: token_of(&secret, &leased.run), brief, until, trace, leased }
        });
        Ok(taken.collect())
    })
    .await
}

/// The oldest lanes first, over all the tasks, until there is enough.
async fn shares(runs: &RunParts, env: &str, tasks: &[String], items: i64) -> Result<Vec<Share>, StoreError> {
    let paused = runs.store.paused_queues().await?;
    let mut heads = Vec::new();
    for task in tasks {
        heads.extend(runs.store.ready_lanes(&storage::model::Basin::pull(task, env), "", 100).await?);
    }
    heads.retain(|head| !paused.iter().any(|(of, queue)| of == env && queue == head.lane.queue()));
    heads.sort_by_key(|head| head.rank);
    let mut left = items;
    let mut shares = Vec::new();
    for head in heads {
        if left == 0 {
            break;
        }
        // One each at first, so that no lane takes all.
        shares.push(Share::new(head.basin, head.lane, 1));
        left -= 1;
    }
    if let (Some(first), true) = (shares.first_mut(), left > 0) {
        first.runs += left;
    }
    Ok(shares)
}

/// Known to this request only.
fn secret() -> String {
    let mut rng = rand::rng();
    format!("{:032x}{:032x}", rng.random::<u128>(), rng.random::<u128>())
}

fn token_of(secret: &str, run: &RunId) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new().chain_update(secret).chain_update(run.as_str()).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Run and token of a request about a lease.
fn proof(fields: &mut Fields<'_>) -> (String, String) {
    (fields.text("run_id", 1..=64, Charset::Name), fields.text("lease_token", 1..=128, Charset::Visible))
}

fn lapsed() -> Problem {
    Problem::new(Code::Conflict, "the lease is not held with this token any more; do not go on with this run")
}

/// The lease that the token proves now.
async fn proven(api: &Api, env: &str, run: &RunId, token: &str) -> Result<PullLease, Problem> {
    let (of, id, token) = (env.to_owned(), run.clone(), token.to_owned());
    let lease = api.store(move |runs| async move { runs.store.pull_lease(&of, &id, &token).await }).await?;
    match lease.filter(|lease| lease.lease_until >= api.now().millis()) {
        Some(lease) => Ok(lease),
        None => Err(not_held(api, env, run).await),
    }
}

/// Why a token proves nothing: its lease is over, or there is no such run in the caller's env.
async fn not_held(api: &Api, env: &str, run: &RunId) -> Problem {
    find(api, env, run.as_str()).await.map_or_else(|problem| problem, |_| lapsed())
}

/// `POST /workers/heartbeat`: keeps the lease, and tells whether the run is to be given up.
pub async fn heartbeat(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let (run, token) = proof(&mut fields);
    let lease = fields.seconds("lease_seconds", Duration::from_secs(1)..=Duration::from_secs(3_600)).unwrap_or(LEASE);
    fields.reject_unknown();
    fields.finish()?;
    let run = run_id(&run)?;
    let (env, id) = (caller.env.to_string(), run.clone());
    let kept = api
        .store(move |runs| async move {
            let now = runs.store.now();
            runs.store.beat(&env, &id, &token, now + lease, now).await
        })
        .await?;
    let Some(kept) = kept else { return Err(not_held(&api, caller.env.as_str(), &run).await) };
    Ok(HttpResponse::Ok().json(serde_json::json!({
        "lease_until": Timestamp::from_millis(kept.lease_until).to_string(),
        "cancel_requested": kept.cancel_requested != 0,
    })))
}

/// `POST /workers/output`: appends to a stream; `seq` counts from 0, and a piece that comes twice counts once.
pub async fn output(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let (run, token) = proof(&mut fields);
    let stream = fields.one_of("stream", &["stdout", "stderr"]).unwrap_or("stdout");
    let seq = fields.integer("seq", 0..=1_000_000_000);
    fields.require("seq");
    let text = fields.raw("data", OUTPUT_MAX).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    if text.is_none() {
        fields.refuse_field("data", "type", "must be a string");
    }
    fields.reject_unknown();
    fields.finish()?;
    let run = run_id(&run)?;
    let lease = proven(&api, caller.env.as_str(), &run, &token).await?;
    let (seq, data) = (seq.unwrap_or(0), text.unwrap_or_default().into_bytes());
    let limit = api.runs.settings.now().output_limit;
    let kept = api
        .store(move |runs| async move {
            let (length, _) = runs.store.output_tail(&run, lease.epoch(), stream, 0).await?;
            let next = runs.store.output_next(&run, lease.epoch(), stream).await?;
            if seq != next {
                return Ok(Some(next).filter(|next| seq > *next));
            }
            if length + data.len() as i64 > limit {
                let dropped = Some(data.len() as i64);
                let end = NewChunk { run, epoch: lease.epoch(), stream, seq, bytes: length, data: vec![], dropped };
                runs.store.append_output(&[end], runs.store.now()).await?;
                return Ok(None);
            }
            let bytes = length + data.len() as i64;
            let chunk = NewChunk { run, epoch: lease.epoch(), stream, seq, bytes, data, dropped: None };
            runs.store.append_output(&[chunk], runs.store.now()).await?;
            Ok(None)
        })
        .await?;
    match kept {
        None => Ok(HttpResponse::Ok().json(serde_json::json!({"next_seq": seq + 1}))),
        Some(next) => Err(Problem::new(Code::Conflict, format!("the next piece of this stream has seq {next}"))),
    }
}

/// `POST /workers/complete`
pub async fn complete(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let (run, token) = proof(&mut fields);
    let output = fields.raw("output", RESULT_MAX).map(|raw| raw.get().to_owned());
    fields.reject_unknown();
    fields.finish()?;
    settle(&api, &caller, &run, &token, Ending::Succeeded, None, None, output).await
}

/// `POST /workers/fail`: with `retry` (the default) it is tried again while attempts are left.
pub async fn fail(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let (run, token) = proof(&mut fields);
    let code = fields.optional_text("code", 1..=64, Charset::Name).unwrap_or_else(|| "failed".to_owned());
    let reason = fields.optional_text("reason", 0..=4_096, Charset::Line);
    let retry = fields.boolean("retry").unwrap_or(true);
    let after = fields.seconds("retry_after_seconds", Duration::ZERO..=Duration::from_secs(86_400));
    fields.reject_unknown();
    fields.finish()?;
    let wait = after.unwrap_or_else(|| api.runs.settings.now().retry.after(1, &mut rand::rng()));
    let ending = if retry { Ending::Retry(api.now() + wait) } else { Ending::Failed };
    settle(&api, &caller, &run, &token, ending, Some(code), reason, None).await
}

/// `POST /workers/release`: gives the run back untouched; it does not count as an attempt.
pub async fn release(
    api: web::Data<Api>,
    caller: Caller,
    payload: web::Payload,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Workers)?;
    let body = api.body(payload, &request).await?;
    let mut fields = Fields::parse(&body)?;
    let (run, token) = proof(&mut fields);
    fields.reject_unknown();
    fields.finish()?;
    settle(&api, &caller, &run, &token, Ending::Declined, Some("released".to_owned()), None, None).await
}

#[expect(clippy::too_many_arguments, reason = "the parts of one verdict, each from its own field")]
async fn settle(
    api: &Api,
    caller: &Caller,
    run: &str,
    token: &str,
    ending: Ending,
    code: Option<String>,
    reason: Option<String>,
    output: Option<String>,
) -> Result<HttpResponse, Problem> {
    let run = run_id(run)?;
    let lease = proven(api, caller.env.as_str(), &run, token).await?;
    let cancelled = lease.cancel_requested != 0 && ending != Ending::Succeeded;
    let failed = match ending {
        Ending::Succeeded => None,
        _ if cancelled => Some("cancelled".to_owned()),
        _ => Some(code.clone().unwrap_or_default()),
    };
    let verdict = RunVerdict {
        run: run.clone(),
        epoch: Epoch::from_number(lease.epoch),
        ending: if cancelled { Ending::Cancelled } else { ending },
        code,
        reason,
        output,
        started_at: Some(Timestamp::from_millis(lease.leased_at)),
    };
    let held = (Epoch::from_number(lease.epoch), Timestamp::from_millis(lease.leased_at));
    let (told, env) = (run.clone(), caller.env.to_string());
    // Told where it is done: whoever asked may have gone meanwhile.
    let settle = move |runs: RunParts| async move {
        let finished = runs.store.settle_runs(&[verdict], runs.store.now()).await?;
        let state = finished.first().and_then(|finished| finished.state);
        if let Some(state) = state {
            tell(&runs, (&env, &told), held, failed).await;
            runs.settler.announce(Settled { run: told, env, state });
        }
        Ok(state)
    };
    let state = api.store(settle).await?.ok_or_else(lapsed)?;
    Ok(HttpResponse::Ok().json(serde_json::json!({"run_id": run.as_str(), "status": state.word()})))
}

/// The span of a pull worker's attempt.
async fn tell(runs: &RunParts, run: (&str, &RunId), (epoch, since): (Epoch, Timestamp), failed: Option<String>) {
    for (_, traced) in runs.traces.of_runs(&runs.store, &[run]).await {
        let attempt = Elsewhere { run: run.1, env: run.0, epoch, since, failed: failed.clone() };
        runs.traces.ended_elsewhere(traced.trace, attempt, runs.store.now());
    }
}

/// `GET /workers`: pull workers that have asked for work in the last five minutes.
pub async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let after = api.now() - Duration::from_secs(300);
    let rows = api.store(move |runs| async move { runs.store.pull_workers(caller.env.as_str(), after).await }).await?;
    let view = |row: &storage::store::PullWorker| {
        serde_json::json!({
            "name": row.name,
            "kind": "pull",
            "tasks": row.tasks.split(' ').collect::<Vec<_>>(),
            "running": row.running,
            "last_seen_at": Timestamp::from_millis(row.last_seen_at).to_string(),
        })
    };
    Ok(HttpResponse::Ok().json(Page::whole(rows.iter().map(view).collect())))
}
