//! The nodes, and this node's supervision tree.

use super::Api;
use super::read::Page;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use actix_web::{HttpResponse, web};
use actors::supervisor::{Exit, Tree};
use serde::Serialize;
use storage::model::Timestamp;

#[derive(Serialize)]
struct NodeView {
    id: String,
    host: String,
    pid: i64,
    state: String,
    lease_until: String,
    this: bool,
}

/// `GET /nodes`
pub async fn nodes(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let rows = api.store(|runs| async move { runs.store.nodes_alive().await }).await?;
    let own = api.runs.store.node().as_str().to_owned();
    let view = |row: storage::store::NodeRow| NodeView {
        this: row.id == own,
        id: row.id,
        host: row.host,
        pid: row.pid,
        state: row.state,
        lease_until: Timestamp::from_millis(row.lease_until).to_string(),
    };
    Ok(HttpResponse::Ok().json(Page::whole(rows.into_iter().map(view).collect())))
}

#[derive(Serialize)]
struct ActorView {
    name: &'static str,
    up: bool,
    generation: u64,
    restarts: u64,
    last_exit: Option<&'static str>,
    last_panic: Option<String>,
}

/// `GET /actors`
pub async fn actors(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let tree = api.supervisor.send(Tree).await.map_err(Problem::internal)?;
    let view = |child: actors::supervisor::ChildStatus| ActorView {
        name: child.name,
        up: child.up,
        generation: child.generation,
        restarts: child.restarts,
        last_exit: child.last_exit.as_ref().map(Exit::word),
        last_panic: match child.last_exit {
            Some(Exit::Panicked(text)) => Some(text),
            _ => None,
        },
    };
    Ok(HttpResponse::Ok().json(Page::whole(tree.into_iter().map(view).collect())))
}
