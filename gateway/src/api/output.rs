//! What a run has written, from whichever node it ran on.

use super::Api;
use super::read::find;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::runs::RunParts;
use bytes::Bytes;
use futures_util::stream;
use std::time::Duration;
use storage::Class;
use storage::model::{Epoch, RunId};
use storage::store::OutputEnd;
use tokio::time::timeout;

/// Pieces per look.
const PIECES: i64 = 16;
/// How often a follower looks by itself; a run's end is told at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `GET /runs/{id}/output?stream=stdout|stderr&tail=BYTES&follow=true&attempt=N`
pub async fn read(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let mut query = Query::parse(request.query_string())?;
    let stream = query.one_of("stream", &["stdout", "stderr"]).unwrap_or("stdout");
    let tail = query.integer("tail", 0..=i64::MAX);
    let follow = query.boolean("follow").unwrap_or(false);
    let epoch = query.integer("epoch", 1..=i64::MAX);
    query.reject_unknown();
    query.finish()?;
    let record = find(&api, caller.env.as_str(), &id).await?;
    let run = record.id.clone();
    let wrote = {
        let run = run.clone();
        api.store(move |runs| async move { runs.store.output_epoch(&run).await }).await?
    };
    let epoch = epoch.map(Epoch::from_number).or(wrote).unwrap_or(record.epoch);
    let (length, from, ends) = {
        let run = run.clone();
        api.store(move |runs| async move {
            let (length, from) = runs.store.output_tail(&run, epoch, stream, tail.unwrap_or(i64::MAX)).await?;
            Ok((length, from, runs.store.output_ends(&run, epoch).await?))
        })
        .await?
    };
    let skip = tail.map_or(0, |tail| (length - tail).max(0));
    let end = ends.iter().find(|end| end.stream == stream);
    let follower = Follower {
        runs: api.runs.clone(),
        env: caller.env.to_string(),
        run,
        epoch,
        stream,
        next: from,
        skip,
        ended: !follow || record.state.is_terminal(),
        done: false,
    };
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header(("X-Tidegate-Total-Bytes", total(length, end).to_string()))
        .insert_header(("X-Tidegate-Attempt", epoch.to_string()))
        .insert_header(("X-Tidegate-Truncated", end.is_some_and(|end| end.dropped > 0).to_string()));
    Ok(answer.streaming(stream::unfold(follower, Follower::step)))
}

/// All that the stream wrote, kept or not.
fn total(length: i64, end: Option<&OutputEnd>) -> i64 {
    length + end.map_or(0, |end| end.dropped)
}

struct Follower {
    runs: RunParts,
    env: String,
    run: RunId,
    epoch: Epoch,
    stream: &'static str,
    next: i64,
    /// Bytes of the stream before the part that is wanted.
    skip: i64,
    /// Nothing more will be written after what is there now.
    ended: bool,
    done: bool,
}

impl Follower {
    async fn step(mut self) -> Option<(Result<Bytes, actix_web::Error>, Follower)> {
        let mut news = self.runs.settler.follow();
        loop {
            if self.done {
                return None;
            }
            // Looked up before the pieces: what was written before the end is there then.
            let ended = self.ended || self.has_ended().await;
            let (run, epoch, stream, next) = (self.run.clone(), self.epoch, self.stream, self.next);
            let found = self
                .runs
                .on_runtime(
                    move |runs| async move { runs.store.output_chunks(&run, epoch, stream, next, PIECES).await },
                )
                .await;
            let chunks = match found {
                Ok(chunks) => chunks,
                // The store is away: the answer is not over, and is looked for again.
                Err(error) if error.class() == Class::Retryable => {
                    let _ = timeout(LOOK_EVERY, news.recv()).await;
                    continue;
                }
                // Broken off, so that nobody takes it for the whole.
                Err(error) => {
                    self.done = true;
                    return Some((Err(actix_web::error::ErrorInternalServerError(error.to_string())), self));
                }
            };
            if let Some(last) = chunks.last() {
                self.next = last.seq + 1;
                let mut text = Vec::new();
                for chunk in &chunks {
                    let begins = chunk.bytes - chunk.data.len() as i64;
                    let cut = usize::try_from((self.skip - begins).max(0)).unwrap_or(usize::MAX);
                    text.extend_from_slice(chunk.data.get(cut..).unwrap_or_default());
                }
                if text.is_empty() {
                    continue;
                }
                return Some((Ok(Bytes::from(text)), self));
            }
            if ended {
                self.done = true;
                return None;
            }
            // Another run's news, or none: it is looked again in any case.
            let _ = timeout(LOOK_EVERY, news.recv()).await;
        }
    }

    async fn has_ended(&mut self) -> bool {
        let (env, run) = (self.env.clone(), self.run.clone());
        let record = self.runs.on_runtime(move |runs| async move { runs.store.run_record(&env, &run).await }).await;
        // Without an answer nothing is known of an end.
        self.ended = record.is_ok_and(|record| record.is_none_or(|record| record.state.is_terminal()));
        self.ended
    }
}
