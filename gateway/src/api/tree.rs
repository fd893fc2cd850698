//! This node's supervision tree, and killing a part of it on purpose.

use super::Api;
use super::read::Page;
use crate::http::fields::Fields;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::{Code, Problem};
use actix_web::{HttpRequest, HttpResponse, web};
use actors::supervisor::{ChildStatus, Exit, KillChild, Killed, Misbehave, Tree};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

#[derive(Serialize)]
struct ActorView {
    name: &'static str,
    up: bool,
    generation: u64,
    restarts: u64,
    injected: u64,
    recent_deaths: usize,
    restart_p99_seconds: Option<f64>,
    mailbox_depth: usize,
    silent_seconds: Option<f64>,
    last_exit: Option<&'static str>,
    last_panic: Option<String>,
}

impl ActorView {
    fn of(child: ChildStatus) -> ActorView {
        ActorView {
            restart_p99_seconds: p99(child.latencies.iter().map(|(_, span)| *span).collect()),
            mailbox_depth: child.mailbox_depth,
            silent_seconds: child.silent_for.map(|span| span.as_secs_f64()),
            name: child.name,
            up: child.up,
            generation: child.generation,
            restarts: child.restarts,
            injected: child.injected,
            recent_deaths: child.recent_deaths,
            last_exit: child.last_exit.as_ref().map(Exit::word),
            last_panic: child.last_panic,
        }
    }
}

/// The nearest rank, so that it is one that was measured.
fn p99(mut spans: Vec<Duration>) -> Option<f64> {
    spans.sort_unstable();
    let rank = (spans.len() * 99).div_ceil(100);
    spans.get(rank.saturating_sub(1)).map(Duration::as_secs_f64)
}

/// `GET /actors`
pub async fn list(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let tree = api.supervisor.send(Tree).await.map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().json(Page::whole(tree.into_iter().map(ActorView::of).collect())))
}

/// `POST /actors/{name}/kill`: it dies in the way that is asked for and is rebuilt, without this counting as a fault of
/// its own. Written down before it is done.
pub async fn kill(
    api: web::Data<Api>,
    caller: Caller,
    name: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Chaos)?;
    let body = api.optional_body(payload, &request).await?;
    let mut fields = Fields::parse_or_empty(&body)?;
    let mode = fields.one_of("mode", &[Misbehave::Panic.word(), Misbehave::Stop.word(), Misbehave::Hang.word()]);
    fields.reject_unknown();
    fields.finish()?;
    if !api.chaos {
        return Err(Problem::new(Code::Conflict, "nothing is killed on purpose here: `chaos.enabled` is false"));
    }
    let mode = mode.and_then(Misbehave::from_word).unwrap_or(Misbehave::Panic);
    let tree = api.supervisor.send(Tree).await.map_err(Problem::internal)?;
    let child = tree.iter().find(|child| child.name == name.as_str()).ok_or_else(|| Problem::not_found("actor"))?;
    let (name, down) = (child.name, format!("{} is down already and is being rebuilt", child.name));
    if !child.up {
        return Err(Problem::new(Code::Conflict, down));
    }
    let data = json!({ "mode": mode.word() });
    api.tell(&caller, "actor.kill", name, &data).await?;
    let kill = KillChild { name: name.to_owned(), mode, counts: false };
    match api.supervisor.send(kill).await.map_err(Problem::internal)? {
        Killed::Told { generation } => {
            let node = api.runs.store.node().as_str();
            let told = json!({ "name": name, "mode": mode.word(), "generation": generation, "node": node });
            Ok(HttpResponse::Accepted().json(told))
        }
        Killed::Down | Killed::NoSuchChild => {
            // It died of something else in between: nobody was killed.
            api.tell(&caller, "actor.kill.missed", name, &data).await?;
            Err(Problem::new(Code::Conflict, down))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p99_is_one_that_was_measured() {
        let millis = |spans: &[u64]| p99(spans.iter().map(|span| Duration::from_millis(*span)).collect());
        assert_eq!(millis(&[]), None);
        assert_eq!(millis(&[7]), Some(0.007));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(millis(&hundred), Some(0.099));
    }
}
