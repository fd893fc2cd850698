//! What can be run, and the queues in which it waits.

use super::Api;
use super::read::Page;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use storage::model::Timestamp;
use storage::store::{InJobs, QueueRow};

#[derive(Serialize)]
struct TaskView<'a> {
    name: &'a str,
    kind: &'a str,
    queue: &'a str,
    max_attempts: i64,
    max_duration_seconds: Option<f64>,
}

/// `GET /tasks`
pub async fn tasks(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let view = |(name, task)| {
        let task: &actors::runs::Task = task;
        TaskView {
            name,
            kind: task.word,
            queue: &task.queue,
            max_attempts: task.max_attempts,
            max_duration_seconds: task.max_duration.map(|span| span.as_secs_f64()),
        }
    };
    Ok(HttpResponse::Ok().json(Page::whole(api.runs.tasks.iter().map(view).collect())))
}

#[derive(Serialize)]
struct QueueView<'a> {
    name: &'a str,
    queued: i64,
    delayed: i64,
    running: i64,
    in_jobs: Option<InJobsView>,
    oldest_age_seconds: Option<f64>,
    paused: bool,
    paused_at: Option<String>,
    max_running: Option<i64>,
    max_running_per_key: Option<i64>,
}

/// What jobs have of a queue.
#[derive(Serialize)]
struct InJobsView {
    queued: i64,
    running: i64,
}

fn view<'a>(api: &Api, row: &'a QueueRow, now: Timestamp) -> QueueView<'a> {
    let settings = api.runs.settings.now().queue(&row.name);
    QueueView {
        name: &row.name,
        queued: row.queued,
        delayed: row.delayed,
        running: row.running,
        in_jobs: row.in_jobs.map(|jobs| InJobsView { queued: jobs.queued, running: jobs.running }),
        oldest_age_seconds: row.oldest_at.map(|at| now.since(at).as_secs_f64()),
        paused: row.paused_at.is_some(),
        paused_at: row.paused_at.map(|at| at.to_string()),
        max_running: settings.max_running,
        max_running_per_key: settings.max_running_per_key,
    }
}

/// A queue that is configured is there before a run names it.
fn with_configured<'a>(mut rows: Vec<QueueRow>, names: impl Iterator<Item = &'a String>) -> Vec<QueueRow> {
    let in_jobs = rows.iter().all(|row| row.in_jobs.is_some()).then(InJobs::default);
    let unused: Vec<&String> = names.filter(|name| rows.iter().all(|row| row.name != **name)).collect();
    rows.extend(unused.into_iter().map(|name| QueueRow { name: name.clone(), in_jobs, ..QueueRow::default() }));
    rows.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    rows
}

/// `GET /queues`
pub async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::RunsRead)?;
    let rows = api.store(move |runs| async move { runs.store.queues(caller.env.as_str()).await }).await?;
    let rows = with_configured(rows, api.runs.settings.now().queues.keys());
    let now = api.now();
    Ok(HttpResponse::Ok().json(Page::whole(rows.iter().map(|row| view(&api, row, now)).collect())))
}

/// `POST /queues/{queue}/pause`: what runs goes on to its end, nothing more is started.
pub async fn pause(
    api: web::Data<Api>,
    caller: Caller,
    queue: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::QueuesWrite)?;
    api.no_fields(payload, &request).await?;
    let now = api.now();
    set(&api, caller, queue.into_inner(), Some(now)).await
}

/// `POST /queues/{queue}/resume`
pub async fn resume(
    api: web::Data<Api>,
    caller: Caller,
    queue: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::QueuesWrite)?;
    api.no_fields(payload, &request).await?;
    set(&api, caller, queue.into_inner(), None).await
}

async fn set(api: &Api, caller: Caller, queue: String, since: Option<Timestamp>) -> Result<HttpResponse, Problem> {
    if !crate::tasks::is_name(&queue) {
        return Err(Problem::not_found("queue"));
    }
    let action = if since.is_some() { "queue.pause" } else { "queue.resume" };
    api.tell(&caller, action, &queue, &serde_json::json!({})).await?;
    let (env, name) = (caller.env.to_string(), queue.clone());
    let paused = api
        .store(move |runs| async move {
            runs.store.pause_queue(&env, &name, since).await?;
            runs.store.paused_queues().await
        })
        .await?;
    api.runs.gates.set_paused(paused);
    api.runs.doorbell.notify_one();
    let rows = api.store(move |runs| async move { runs.store.queues(caller.env.as_str()).await }).await?;
    let row = rows.into_iter().find(|row| row.name == queue).unwrap_or_default();
    Ok(HttpResponse::Ok().json(view(api, &row, api.now())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_are_configured_are_listed_by_name_with_those_in_use() {
        let used = |name: &str| QueueRow { name: name.to_owned(), queued: 3, ..QueueRow::default() };
        let names = ["mail".to_owned(), "slow".to_owned()];
        let rows = with_configured(vec![used("slow"), used("video")], names.iter());
        let listed: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.queued, row.in_jobs)).collect();
        assert_eq!(listed, [("mail", 0, None), ("slow", 3, None), ("video", 3, None)]);
        assert_eq!(with_configured(Vec::new(), names.iter())[0].in_jobs, Some(InJobs { queued: 0, running: 0 }));
    }
}
