//! Runs come in: one, or many at once. The answer goes out when they are durable.

use super::Api;
use super::gate::Decision;
use super::new_run::{KEY_CHARS, Wish};
use super::quota::Admitted;
use super::trace::RequestTrace;
use super::view::RunView;
use crate::http::body::{self, LineLimits, Lines, Media};
use crate::http::fields::Fields;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use crate::http::room::{Body, Seat, UNSAID};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::metrics::RUNS_REJECTED;
use actors::runs::{IntakeError, TaskKind};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use storage::model::{RunId, Timestamp};
use storage::store::{Accepted, Idempotency, NewRecord};

/// Of an answer that is the first one again.
const REPLAYED: (&str, &str) = ("Idempotency-Replayed", "true");
/// Runs in one request.
pub const BATCH_MAX: usize = 1_000;
/// Runs that a thread reads or answers before it looks after its other requests.
const TURN: usize = 32;

/// `POST /runs`
pub async fn one(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let trace = RequestTrace::begin(&api, &request, "POST /runs");
    let answer = make_one(&api, &caller, &request, payload, &trace).await;
    trace.end(answer)
}

async fn make_one(
    api: &Api,
    caller: &Caller,
    request: &HttpRequest,
    payload: web::Payload,
    trace: &RequestTrace,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let body = api.body(payload, request).await?;
    let now = api.now();
    let mut fields = Fields::parse(&body)?;
    let mut wish = Wish::read(&mut fields, &api.runs.tasks, now);
    if let Some(key) = header_key(request)? {
        if wish.idempotency_key.as_ref().is_some_and(|own| *own != key) {
            fields.refuse_field("idempotency_key", "conflict", "is another key than that of the header");
        }
        wish.idempotency_key = Some(key);
    }
    fields.finish()?;
    if let Some(refusal) = for_session(api, caller.env.as_str(), &[Asked::of(&wish)]).await?.pop().flatten() {
        return Err(refusal);
    }
    let _admitted = admit(api, caller.env.as_str(), &[wish.idempotency_key.as_deref()], now).await?;
    let buffered = diverted(api, caller.env.as_str(), 1);
    take_one(api, record_of(api, caller.env.as_str(), wish, (buffered, trace), now)?).await
}

/// Takes one run in and answers with it, or with what its key was answered with before.
pub async fn take_one(api: &Api, record: NewRecord) -> Result<HttpResponse, Problem> {
    let body = RunView::of_new(&record).json();
    let (id, buffered) = (record.id.clone(), record.buffered);
    match api.take_one(record).await? {
        Accepted::New => Ok(created(status_of(buffered), id.as_str(), body, false)),
        Accepted::Replayed { run, answer } => {
            let (status, body) = answer.split_once('\n').unwrap_or(("201", &answer));
            Ok(created(status.parse().unwrap_or(201), run.as_str(), body.to_owned(), true))
        }
        Accepted::Mismatch { run } => Err(mismatch(&run)),
    }
}

fn status_of(buffered: bool) -> u16 {
    if buffered { 202 } else { 201 }
}

fn created(status: u16, id: &str, body: String, replayed: bool) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or(actix_web::http::StatusCode::CREATED);
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::LOCATION, format!("/api/v1/runs/{id}")));
    if replayed {
        answer.insert_header(REPLAYED);
    }
    answer.content_type("application/json").body(body)
}

/// `Idempotency-Key`, quoted as the IETF draft has it, or bare.
pub fn header_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut values = request.headers().get_all("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |detail: &'static str| Problem::field("Idempotency-Key", "format", detail);
    if values.next().is_some() {
        return Err(refuse("was sent twice"));
    }
    let text = value.to_str().map_err(|_| refuse("must be printable ASCII"))?.trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let fits = (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(Some(key.to_owned()))
    } else {
        Err(refuse("must be 1 to 255 printable ASCII characters, without spaces"))
    }
}

/// Whether an env may have more runs waiting: one for each key or none. What was answered before is no more of them,
/// and gets that answer again however many wait.
pub async fn admit<'a>(
    api: &'a Api,
    env: &'a str,
    keys: &[Option<&str>],
    now: Timestamp,
) -> Result<Admitted<'a>, Problem> {
    let mut runs = keys.len();
    if api.draining.load(Ordering::Acquire) {
        return Err(Problem::new(Code::Draining, "this node is stopping; another one takes the request").retry_after(1));
    }
    if let Some(limiter) = &api.limiter
        && let Err(limited) = limiter.check(env, api.uptime.now())
    {
        metrics::counter!(RUNS_REJECTED, "reason" => "rate").increment(runs as u64);
        let detail = format!("{env} sends more requests a second than it may");
        return Err(Problem::new(Code::RateLimited, detail).retry_after(limited.retry_after_seconds()));
    }
    let most = api.runs.settings.now().env(env).max_waiting;
    let waiting = api.quota_used(env, now).await?;
    if waiting + runs as i64 > most {
        let known = known(api, env, keys.iter().flatten().map(|key| (*key).to_owned()).collect()).await?;
        runs = keys.iter().filter(|key| key.is_none_or(|key| !known.contains(key))).count();
    }
    if runs > 0 && waiting + runs as i64 > most {
        metrics::counter!(RUNS_REJECTED, "reason" => "limit").increment(runs as u64);
        let detail = format!("{waiting} runs of {env} wait already; at most {most} may");
        return Err(Problem::new(Code::QuotaExceeded, detail).retry_after(5));
    }
    Ok(api.quotas.admit(env, runs as i64))
}

/// Which of them are for a session that is not there, or closed. A request that was answered before gets that answer
/// again, whatever has become of its session.
pub async fn for_session(api: &Api, env: &str, asked: &[Asked<'_>]) -> Result<Vec<Option<Problem>>, Problem> {
    let sessions = asked.iter().map(|asked| asked.session_id.map(str::to_owned)).collect();
    let mut refusals = super::sessions::check(api, env, sessions).await?;
    let doubtful = refusals.iter().zip(asked).filter(|(refusal, _)| refusal.is_some());
    let keys = doubtful.filter_map(|(_, asked)| asked.key.map(str::to_owned));
    let known = known(api, env, keys.collect()).await?;
    for (refusal, asked) in refusals.iter_mut().zip(asked) {
        if asked.key.is_some_and(|key| known.contains(key)) {
            *refusal = None;
        }
    }
    Ok(refusals)
}

/// What a run to be made names that may be known already.
pub struct Asked<'a> {
    pub key: Option<&'a str>,
    pub session_id: Option<&'a str>,
}

impl Asked<'_> {
    fn of(wish: &Wish) -> Asked<'_> {
        Asked { key: wish.idempotency_key.as_deref(), session_id: wish.session_id.as_deref() }
    }
}

/// Those of the keys that were answered before.
async fn known(api: &Api, env: &str, keys: Vec<String>) -> Result<HashSet<String>, Problem> {
    if keys.is_empty() {
        return Ok(HashSet::new());
    }
    let env = env.to_owned();
    api.store(move |runs| async move { runs.store.known_keys(&env, &keys).await }).await
}

fn diverted(api: &Api, env: &str, runs: usize) -> bool {
    matches!(api.gate.decide(env, runs, api.runs.intake.health()), Decision::Divert(_))
}

fn record_of(
    api: &Api,
    env: &str,
    wish: Wish,
    (buffered, trace): (bool, &RequestTrace),
    now: Timestamp,
) -> Result<NewRecord, Problem> {
    let task = api.runs.tasks.get(&wish.task).ok_or_else(|| Problem::internal("a task has gone"))?;
    let idempotency = wish.idempotency(now + api.idempotency);
    let mut record = wish.record(api.mint(now), env, task, now);
    // A job draws such runs when it likes, so that they crowd out nobody.
    let buffered = buffered && !matches!(task.kind, TaskKind::Llm(_));
    record.buffered = buffered;
    record.trace = trace.of_runs();
    if let Some(idempotency) = idempotency {
        keep_answer(&mut record, idempotency);
    }
    Ok(record)
}

/// Gives a run its key, and the key the answer that it will always get.
pub fn keep_answer(record: &mut NewRecord, idempotency: Idempotency) {
    record.idempotency = Some(idempotency);
    let answer = format!("{}\n{}", status_of(record.buffered), RunView::of_new(record).json());
    if let Some(own) = &mut record.idempotency {
        own.answer = answer;
    }
}

/// Runs that were not taken in, counted and told.
pub fn refused(error: IntakeError, runs: usize) -> Problem {
    let reason = if matches!(error, IntakeError::Full) { "overload" } else { "store" };
    metrics::counter!(RUNS_REJECTED, "reason" => reason).increment(runs as u64);
    match error {
        IntakeError::Full => Problem::new(Code::Overloaded, error.to_string()).retry_after(1),
        IntakeError::Store(error) => Problem::from(&*error),
        IntakeError::NoAnswer => Problem::new(Code::StoreUnavailable, error.to_string()).retry_after(1),
    }
}

/// `POST /runs/batch`: `{runs: […]}`, or a run a line. A verdict for each.
pub async fn batch(
    api: web::Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let trace = RequestTrace::begin(&api, &request, "POST /runs/batch");
    let answer = make_many(&api, &caller, &request, payload, &trace).await;
    trace.end(answer)
}

async fn make_many(
    api: &Api,
    caller: &Caller,
    request: &HttpRequest,
    payload: web::Payload,
    trace: &RequestTrace,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsWrite)?;
    let now = api.now();
    let (mut sent, seat) = match body::media(request)? {
        Media::Json => sent_as_json(api.body(payload, request).await?, api, now).await?,
        Media::Ndjson => sent_as_lines(payload, request, api, now).await?,
    };
    if sent.verdicts.is_empty() {
        return Err(Problem::field("/runs", "too_few", "must have 1 item at least"));
    }
    if let Some(key) = header_key(request)? {
        sent.name_each(&key)?;
    }
    if !sent.wishes.is_empty() {
        take(api, caller.env.as_str(), &mut sent, trace, now).await?;
    }
    let mut answer = HttpResponse::Ok();
    if sent.is_replayed() {
        answer.insert_header(REPLAYED);
    }
    let answer = answer.content_type("application/json").body(answer_of(&sent.verdicts));
    // Up to here the request is in memory.
    drop(seat);
    Ok(answer)
}

/// Lets this thread's other requests have a turn now and then, while it is busy with a long one.
async fn breathe(done: usize) {
    if done % TURN == TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// What was sent at once: a verdict for each, and those that may be taken in with their index.
#[derive(Default)]
struct Sent {
    verdicts: Vec<Verdict>,
    wishes: Vec<(usize, Wish)>,
}

impl Sent {
    fn keep(&mut self, read: Result<Wish, Problem>) {
        match read {
            Ok(wish) => {
                self.wishes.push((self.verdicts.len(), wish));
                self.verdicts.push(Verdict::Taken { body: String::new(), status: 201, replayed: false });
            }
            Err(problem) => self.verdicts.push(Verdict::Refused(problem)),
        }
    }

    /// The key of a whole request makes one for each run by its place, as `runs create --file` does by the line. Runs
    /// that have a key keep it.
    fn name_each(&mut self, key: &str) -> Result<(), Problem> {
        let longest = KEY_CHARS - format!(":{BATCH_MAX}").len();
        if key.len() > longest {
            let detail = format!("must have {longest} characters at most here: each run gets it with its place");
            return Err(Problem::field("Idempotency-Key", "length", detail));
        }
        for (index, wish) in &mut self.wishes {
            wish.idempotency_key.get_or_insert_with(|| format!("{key}:{index}"));
        }
        Ok(())
    }

    /// Whether something was taken, and all of that before.
    fn is_replayed(&self) -> bool {
        let mut taken = self.verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Taken { replayed, .. } => Some(*replayed),
            Verdict::Refused(_) => None,
        });
        taken.next().is_some_and(|first| first && taken.all(|replayed| replayed))
    }
}

async fn sent_as_json(body: Body, api: &Api, now: Timestamp) -> Result<(Sent, Seat), Problem> {
    let mut fields = Fields::parse(&body)?;
    let mut sent = Sent::default();
    for (index, mut item) in fields.items("runs", 1..=BATCH_MAX).enumerate() {
        let wish = Wish::read(&mut item, &api.runs.tasks, now);
        sent.keep(item.finish().map(|()| wish));
        breathe(index).await;
    }
    fields.reject_unknown();
    fields.finish()?;
    Ok((sent, body.seat))
}

async fn sent_as_lines(
    payload: web::Payload,
    request: &HttpRequest,
    api: &Api,
    now: Timestamp,
) -> Result<(Sent, Seat), Problem> {
    let limits = LineLimits {
        line_bytes_max: api.body_limits.bytes_max,
        lines_max: BATCH_MAX as u64,
        whole: body::Limits::of(api.body_limits.bytes_max.saturating_mul(8)),
    };
    let mut seat = api.room.enter(body::expected(request, limits.whole.bytes_max)?.unwrap_or(UNSAID)).await?;
    let mut lines = Lines::open(payload, request, &limits)?;
    let mut sent = Sent::default();
    let mut came = 0;
    while let Some(line) = lines.next().await? {
        came += line.bytes.len();
        api.room.grow(&mut seat, came).await?;
        sent.keep(Fields::parse(&line.bytes).and_then(|mut fields| {
            let wish = Wish::read(&mut fields, &api.runs.tasks, now);
            fields.finish().map(|()| wish)
        }));
        breathe(sent.verdicts.len()).await;
    }
    Ok((sent, seat))
}

/// Takes in what may be. The whole request fails only if nothing of it was taken.
async fn take(api: &Api, env: &str, sent: &mut Sent, trace: &RequestTrace, now: Timestamp) -> Result<(), Problem> {
    let (indices, wishes): (Vec<usize>, Vec<Wish>) = std::mem::take(&mut sent.wishes).into_iter().unzip();
    let refusals = for_session(api, env, &wishes.iter().map(Asked::of).collect::<Vec<_>>()).await?;
    let mut wanted = Vec::with_capacity(wishes.len());
    for ((index, wish), refusal) in indices.into_iter().zip(wishes).zip(refusals) {
        match refusal {
            Some(problem) => sent.verdicts[index] = Verdict::Refused(problem),
            None => wanted.push((index, wish)),
        }
    }
    let wishes = wanted;
    if wishes.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = wishes.iter().map(|(_, wish)| wish.idempotency_key.as_deref()).collect();
    let _admitted = admit(api, env, &keys, now).await?;
    let buffered = diverted(api, env, wishes.len());
    let (mut indices, mut records) = (Vec::with_capacity(wishes.len()), Vec::with_capacity(wishes.len()));
    for (done, (index, wish)) in wishes.into_iter().enumerate() {
        breathe(done).await;
        let record = record_of(api, env, wish, (buffered, trace), now)?;
        let body = RunView::of_new(&record).without_payload().json();
        sent.verdicts[index] = Verdict::Taken { body, status: status_of(record.buffered), replayed: false };
        indices.push(index);
        records.push(record);
    }
    let count = records.len();
    let verdicts = api.take(records).await?;
    if verdicts.iter().all(Result::is_err)
        && let Some(Err(error)) = verdicts.first()
    {
        return Err(refused(error.clone(), count));
    }
    for (index, verdict) in indices.into_iter().zip(verdicts) {
        match verdict {
            Ok(Accepted::New) => {}
            Ok(Accepted::Replayed { answer, .. }) => {
                let (status, body) = answer.split_once('\n').unwrap_or(("201", &answer));
                let status = status.parse().unwrap_or(201);
                sent.verdicts[index] = Verdict::Taken { body: body.to_owned(), status, replayed: true };
            }
            Ok(Accepted::Mismatch { run }) => sent.verdicts[index] = Verdict::Refused(mismatch(&run)),
            Err(error) => sent.verdicts[index] = Verdict::Refused(refused(error, 1)),
        }
    }
    Ok(())
}

fn mismatch(run: &RunId) -> Problem {
    Problem::new(Code::IdempotencyMismatch, format!("the key was used for {run} with another body"))
}

enum Verdict {
    Taken { body: String, status: u16, replayed: bool },
    Refused(Problem),
}

/// One object an item, in the order in which they were sent.
fn answer_of(verdicts: &[Verdict]) -> String {
    let mut text = String::from("{\"data\":[");
    let mut taken = 0;
    for (index, verdict) in verdicts.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match verdict {
            Verdict::Taken { body, status, .. } => {
                taken += 1;
                text += &format!("{{\"index\":{index},\"status\":{status},\"run\":{body}}}");
            }
            Verdict::Refused(problem) => {
                let error = serde_json::json!({
                    "index": index,
                    "status": problem.code.status().as_u16(),
                    "error": {"code": problem.code.word(), "detail": problem.detail, "errors": problem.errors},
                });
                text += &error.to_string();
            }
        }
    }
    text + &format!("],\"accepted\":{taken},\"rejected\":{}}}", verdicts.len() - taken)
}
