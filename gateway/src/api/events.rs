//! What happens to runs, as server-sent events. Every event has an id that is made of the run's own history, so
//! that a stream goes on where it broke off, on any node and after any restart.

use super::Api;
use super::read::find;
use super::view::RunView;
use crate::http::fields::Charset;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::metrics::SSE_CONNECTIONS;
use actors::runs::{Elsewhere, Following, RunParts, Settled};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use metrics::Gauge;
use std::collections::VecDeque;
use std::time::Duration;
use storage::model::{RunId, RunState, Timestamp};
use storage::store::{PastAttempt, RunRecord};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

/// How often a stream looks by itself; changes on this node are told at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A comment goes out after this long without an event, so that proxies keep the stream open.
const QUIET_LOOKS: u32 = 15;

/// One thing that happened to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    id: String,
    name: &'static str,
    data: String,
}

impl Event {
    fn frame(&self) -> String {
        format!("id: {}\nevent: {}\ndata: {}\n\n", self.id, self.name, self.data)
    }
}

/// A run's history in order, from what is stored of it.
fn history(record: &RunRecord, past: &[PastAttempt]) -> Vec<Event> {
    let past: Vec<&PastAttempt> = past.iter().filter(|attempt| attempt.batch_id.is_none()).collect();
    let at = |time: Timestamp| time.to_string();
    let event = |id: String, name: &'static str, data: serde_json::Value| Event { id, name, data: data.to_string() };
    let run = record.id.as_str();
    let mut events =
        vec![event("0-accepted".to_owned(), "accepted", serde_json::json!({"run": run, "at": at(record.accepted_at)}))];
    for attempt in &past {
        let epoch = attempt.epoch;
        let started = Timestamp::from_millis(attempt.leased_at);
        events.push(event(
            format!("{epoch}-started"),
            "started",
            serde_json::json!({"run": run, "attempt": epoch, "at": at(started)}),
        ));
        let ended = attempt.settled_at.map(|millis| at(Timestamp::from_millis(millis)));
        let data = serde_json::json!({"run": run, "attempt": epoch, "at": ended, "status": attempt.state,
            "code": attempt.code, "reason": attempt.reason});
        events.push(event(format!("{epoch}-requeued"), "requeued", data));
    }
    let epoch = record.epoch.number();
    let is_last = past.last().is_none_or(|last| last.epoch < epoch);
    if let Some(started) = record.started_at.filter(|_| epoch > 0 && is_last) {
        events.push(event(
            format!("{epoch}-started"),
            "started",
            serde_json::json!({"run": run, "attempt": epoch, "at": at(started)}),
        ));
    }
    if record.state.is_terminal() {
        let data = RunView::of(record).without_payload().json();
        events.push(Event { id: format!("{epoch}-{}", record.state), name: "finished", data });
    }
    events
}

/// `GET /runs/{id}/events`
pub async fn of_run(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    query.reject_unknown();
    query.finish()?;
    let record = find(&api, caller.env.as_str(), &id).await?;
    let follower = OfRun {
        news: api.runs.settler.follow(),
        runs: api.runs.clone(),
        env: caller.env.to_string(),
        run: record.id,
        seen: last_event_id(&request),
        resuming: last_event_id(&request).is_some(),
        quiet: 0,
        ended: false,
    };
    Ok(sse("run", stream::unfold(follower, OfRun::step)))
}

pub(super) fn last_event_id(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get("last-event-id")?.to_str().ok()?;
    Some(value.to_owned()).filter(|id| !id.is_empty())
}

/// A stream that is open, until it is dropped with its response.
struct Open(Gauge);

impl Open {
    fn new(stream: &'static str) -> Open {
        let open = metrics::gauge!(SSE_CONNECTIONS, "stream" => stream);
        open.increment(1.0);
        Open(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

pub(super) fn sse<S>(stream: &'static str, events: S) -> HttpResponse
where
    S: futures_util::Stream<Item = Result<Bytes, actix_web::Error>> + 'static,
{
    let open = Open::new(stream);
    let events = events.inspect(move |_| {
        let _as_long_as_the_stream = &open;
    });
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events)
}

struct OfRun {
    runs: RunParts,
    news: Receiver<Settled>,
    env: String,
    run: RunId,
    /// Id of the last event that went out, or that the client had before.
    seen: Option<String>,
    resuming: bool,
    quiet: u32,
    ended: bool,
}

impl OfRun {
    async fn step(mut self) -> Option<(Result<Bytes, actix_web::Error>, OfRun)> {
        if self.ended {
            return None;
        }
        loop {
            let (text, over) = self.look().await?;
            self.ended = over;
            if !text.is_empty() {
                self.quiet = 0;
                return Some((Ok(Bytes::from(text)), self));
            }
            self.wait().await;
            self.quiet += 1;
            if self.quiet >= QUIET_LOOKS {
                self.quiet = 0;
                return Some((Ok(Bytes::from_static(b": still here\n\n")), self));
            }
        }
    }

    /// The events that are new, and whether they are the last ones. `None` when the run is not there any more.
    async fn look(&mut self) -> Option<(String, bool)> {
        let (env, run) = (self.env.clone(), self.run.clone());
        let found = self
            .runs
            .on_runtime(move |runs| async move {
                let record = runs.store.run_record(&env, &run).await?;
                Ok::<_, storage::StoreError>((record, runs.store.past_attempts(&run).await?))
            })
            .await;
        let (record, past) = match found {
            Ok((Some(record), past)) => (record, past),
            Ok((None, _)) => return None,
            // The store is away: the stream stays, and looks again.
            Err(_) => return Some((String::new(), false)),
        };
        let events = history(&record, &past);
        // An id that is not in the history is from another run: then all of it is sent.
        let after = self.seen.as_ref().and_then(|seen| events.iter().position(|event| event.id == *seen));
        let fresh = &events[after.map_or(0, |index| index + 1)..];
        let mut text: String = fresh.iter().map(Event::frame).collect();
        if let Some(last) = fresh.last() {
            self.seen = Some(last.id.clone());
        }
        let over = record.state.is_terminal();
        if over {
            text += "event: end\ndata: {}\n\n";
        }
        self.resuming = false;
        Some((text, over))
    }

    /// Until something was said of this run, or it is time to look anyway.
    async fn wait(&mut self) {
        let run = self.run.clone();
        let heard = async {
            loop {
                match self.news.recv().await {
                    Ok(settled) if settled.run == run => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = timeout(LOOK_EVERY, heard).await;
    }
}

/// `GET /events?task=&status=`: what is settled from now on, on any node, of the caller's env.
pub async fn of_env(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let words: Vec<&'static str> = RunState::ALL.iter().map(|state| state.word()).collect();
    let status = query.one_of("status", &words).and_then(RunState::from_word);
    let task = query.text("task", 1..=128, Charset::Name);
    query.reject_unknown();
    query.finish()?;
    let resume = last_event_id(&request);
    let mut queue = VecDeque::new();
    if resume.is_some() {
        // What happened in between is not kept by time: the client reads the list for it.
        queue.push_back("event: resync\ndata: {\"read\":\"/api/v1/runs\"}\n\n".to_owned());
    } else {
        queue.push_back(": following\n\n".to_owned());
    }
    let follower = OfEnv {
        news: api.runs.settler.follow(),
        elsewhere: api.runs.neighbours.follow(caller.env.as_str()),
        runs: api.runs.clone(),
        env: caller.env.to_string(),
        status,
        task,
        queue,
    };
    Ok(sse("env", stream::unfold(follower, OfEnv::step)))
}

struct OfEnv {
    runs: RunParts,
    news: Receiver<Settled>,
    elsewhere: Option<Following>,
    env: String,
    status: Option<RunState>,
    task: Option<String>,
    queue: VecDeque<String>,
}

impl OfEnv {
    async fn step(mut self) -> Option<(Result<Bytes, actix_web::Error>, OfEnv)> {
        loop {
            if let Some(text) = self.queue.pop_front() {
                return Some((Ok(Bytes::from(text)), self));
            }
            let text = match timeout(Duration::from_secs(15), self.next()).await {
                Err(_) => ": still here\n\n".to_owned(),
                Ok(None) => return None,
                // How many, nobody knows.
                Ok(Some(Elsewhere::Missed)) => "event: resync\ndata: {\"missed\":null}\n\n".to_owned(),
                Ok(Some(Elsewhere::Settled(settled))) => match self.event(settled).await {
                    Some(event) => event.frame(),
                    None => continue,
                },
            };
            return Some((Ok(Bytes::from(text)), self));
        }
    }

    /// The next that was settled, here or elsewhere; `None` at the end of this node.
    async fn next(&mut self) -> Option<Elsewhere> {
        let elsewhere = async {
            match &mut self.elsewhere {
                Some(following) => following.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            settled = self.news.recv() => match settled {
                Ok(settled) => Some(Elsewhere::Settled(settled)),
                Err(RecvError::Lagged(_)) => Some(Elsewhere::Missed),
                Err(RecvError::Closed) => None,
            },
            told = elsewhere => Some(told),
        }
    }

    async fn event(&self, settled: Settled) -> Option<Event> {
        if settled.env != self.env || self.status.is_some_and(|status| status != settled.state) {
            return None;
        }
        let (env, run) = (self.env.clone(), settled.run.clone());
        let found = self.runs.on_runtime(move |runs| async move { runs.store.run_record(&env, &run).await }).await;
        let record = found.ok().flatten()?;
        if self.task.as_ref().is_some_and(|task| *task != record.task) {
            return None;
        }
        let name = if settled.state.is_terminal() { "finished" } else { "requeued" };
        let data = RunView::of(&record).without_payload().json();
        Some(Event { id: format!("{}:{}", settled.run, record.epoch), name, data })
    }
}
