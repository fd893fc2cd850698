//! The nodes, and how much waits for more of them.

use super::Api;
use super::read::Page;
use crate::http::fields::Charset;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use storage::model::{NodeId, Timestamp};
use storage::store::NodeRow;

#[derive(Serialize)]
struct NodeView {
    id: String,
    host: String,
    pid: i64,
    state: String,
    level: i64,
    lease_until: String,
    this: bool,
}

impl NodeView {
    fn of(row: NodeRow, own: &NodeId) -> NodeView {
        NodeView {
            this: row.id == own.as_str(),
            id: row.id,
            host: row.host,
            pid: row.pid,
            state: row.state,
            level: row.level,
            lease_until: Timestamp::from_millis(row.lease_until).to_string(),
        }
    }
}

/// `GET /nodes`
pub async fn nodes(api: web::Data<Api>, caller: Caller) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let rows = api.store(|runs| async move { runs.store.nodes_alive().await }).await?;
    let view = |row| NodeView::of(row, api.runs.store.node());
    Ok(HttpResponse::Ok().json(Page::whole(rows.into_iter().map(view).collect())))
}

/// `POST /nodes/{id}/drain`: it finishes what it has and takes nothing on. Once asked, asking again changes nothing.
pub async fn drain(
    api: web::Data<Api>,
    caller: Caller,
    id: web::Path<String>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    api.no_fields(payload, &request).await?;
    let node = NodeId::from_text(id.into_inner());
    let is_there =
        |row: Option<NodeRow>| row.filter(|row| row.state != "gone").ok_or_else(|| Problem::not_found("node"));
    let named = node.clone();
    is_there(api.store(|runs| async move { runs.store.node_row(&named).await }).await?)?;
    api.tell(&caller, "node.drain", node.as_str(), &serde_json::json!({})).await?;
    let row = api
        .store(move |runs| async move {
            runs.store.drain_node(&node).await?;
            runs.store.node_row(&node).await
        })
        .await?;
    let row = is_there(row)?;
    Ok(HttpResponse::Ok().json(NodeView::of(row, api.runs.store.node())))
}

#[derive(Serialize)]
struct ScaleView {
    /// Runs that wait, in the buffer or past it.
    value: i64,
    /// Runs that one node carries out at once.
    target: usize,
}

/// `GET /autoscale?queue=`: how much waits, over all envs, and how much of it one more node would carry out at once.
pub async fn autoscale(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let mut query = Query::parse(request.query_string())?;
    let queue = query.text("queue", 1..=128, Charset::Name);
    query.reject_unknown();
    query.finish()?;
    let (ready, buffered) = api
        .store(|runs| async move { Ok((runs.store.ready_totals().await?, runs.store.buffered_totals().await?)) })
        .await?;
    let all = ready.iter().chain(&buffered);
    let of_queue = all.filter(|total| queue.as_ref().is_none_or(|queue| *queue == total.queue));
    let value = of_queue.map(|total| total.waiting).sum();
    Ok(HttpResponse::Ok().json(ScaleView { value, target: api.slots }))
}
