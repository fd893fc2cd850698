//! What happens to a job, as server-sent events: its log, with the numbers of the log as ids, and its counts whenever
//! they have changed.

use super::super::Api;
use super::super::events::{last_event_id, sse};
use super::find;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use crate::jobs::view;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::runs::RunParts;
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use std::time::Duration;
use storage::StoreError;
use storage::model::{JobId, Timestamp};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often a stream looks: jobs change in seconds, on whichever node drives them.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A comment goes out after so many looks without an event, so that proxies keep the stream open.
const QUIET_LOOKS: u32 = 30;
const LOG_PAGE: i64 = 200;

/// `GET /jobs/{id}/events`
pub async fn of_job(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::JobsRead)?;
    let mut query = Query::parse(request.query_string())?;
    query.reject_unknown();
    query.finish()?;
    let job = find(&api, caller.env.as_str(), &id).await?;
    let mut pace = interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        runs: api.runs.clone(),
        env: caller.env.to_string(),
        job: job.id,
        after: last_event_id(&request).and_then(|id| id.parse().ok()).unwrap_or(0),
        counts: String::new(),
        pace,
        quiet: 0,
        ended: false,
    };
    Ok(sse("job", stream::unfold(follower, Follower::step)))
}

struct Follower {
    runs: RunParts,
    env: String,
    job: JobId,
    /// Number of the last entry of the log that went out.
    after: i64,
    /// The counts as they last went out.
    counts: String,
    pace: Interval,
    quiet: u32,
    ended: bool,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<Bytes, actix_web::Error>, Follower)> {
        if self.ended {
            return None;
        }
        loop {
            self.pace.tick().await;
            // The store may be away: the stream stays, and looks again.
            let text = self.look().await.unwrap_or_default();
            if !text.is_empty() {
                self.quiet = 0;
                return Some((Ok(Bytes::from(text)), self));
            }
            self.quiet += 1;
            if self.quiet >= QUIET_LOOKS {
                self.quiet = 0;
                return Some((Ok(Bytes::from_static(b": still here\n\n")), self));
            }
        }
    }

    async fn look(&mut self) -> Result<String, StoreError> {
        let (env, id, after) = (self.env.clone(), self.job.clone(), self.after);
        let found = self
            .runs
            .on_runtime(move |runs| async move {
                // The row before the log: whatever end it shows is in the log then.
                let Some(row) = runs.store.job_of_env(&env, &id).await? else { return Ok::<_, StoreError>(None) };
                let counts = runs.store.pool_counts(&row.pool).await?;
                Ok(Some((row, counts, runs.store.job_log(&id, after, LOG_PAGE).await?)))
            })
            .await?;
        let Some((row, counts, log)) = found else {
            self.ended = true;
            return Ok("event: end\ndata: {}\n\n".to_owned());
        };
        self.ended = row.state.is_terminal() && (log.len() as i64) < LOG_PAGE;
        let mut text = String::new();
        for entry in log {
            self.after = entry.seq;
            let data = json!({
                "job": self.job.as_str(),
                "at": Timestamp::from_millis(entry.at).to_string(),
                "data": serde_json::from_str::<serde_json::Value>(&entry.data).unwrap_or_default(),
            });
            text += &format!("id: {}\nevent: {}\ndata: {data}\n\n", entry.seq, entry.event);
        }
        let progress = json!({ "items": view::items(&row, &counts), "rounds": view::rounds(&row) }).to_string();
        if progress != self.counts {
            text += &format!("event: progress\ndata: {progress}\n\n");
            self.counts = progress;
        }
        if self.ended {
            text += "event: end\ndata: {}\n\n";
        }
        Ok(text)
    }
}
