//! What somebody did to the system itself.

use super::Api;
use super::read::{PAGE_MAX, Page};
use crate::http::cursor::{List, Position};
use crate::http::fields::Charset;
use crate::http::keys::{Caller, Scope};
use crate::http::problem::Problem;
use crate::http::query::Query;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use storage::model::Timestamp;
use storage::store::{Deed, DeedRow};

/// Deeds on a page.
const PAGE: i64 = 50;

impl Api {
    /// Writes down what a caller does to the system itself. What cannot be written down is not done.
    pub async fn tell(&self, caller: &Caller, action: &'static str, target: &str, data: &Value) -> Result<(), Problem> {
        let (env, key, target, data) = (
            caller.env.to_string(),
            caller.key_id.as_ref().map(ToString::to_string),
            target.to_owned(),
            data.to_string(),
        );
        self.store(move |runs| async move {
            let deed = Deed { env: &env, key_id: key.as_deref(), action, target: &target, data: &data };
            runs.store.tell(&deed, runs.store.now()).await
        })
        .await
    }
}

/// `GET /audit`: newest first, what callers of this env did.
pub async fn list(api: web::Data<Api>, caller: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    caller.needs(Scope::Admin)?;
    let mut query = Query::parse(request.query_string())?;
    let limit = query.integer("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    let cursor = query.text("cursor", 1..=1_024, Charset::Visible);
    query.reject_unknown();
    query.finish()?;
    let page_of = List { name: "audit", env: caller.env.as_str(), filter: "" };
    let before = cursor.map(|cursor| api.cursors.open(&cursor, &page_of)).transpose()?.map(|at| at.sort);
    let env = caller.env.to_string();
    let mut rows = api.store(move |runs| async move { runs.store.deeds(&env, before, limit + 1).await }).await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(0));
    let position = |last: &DeedRow| Position { sort: last.seq, id: String::new() };
    let next_cursor = rows.last().filter(|_| has_more).map(|last| api.cursors.seal(&position(last), &page_of));
    let data: Vec<Value> = rows.iter().map(view).collect();
    Ok(HttpResponse::Ok().json(Page { data, next_cursor, has_more }))
}

fn view(row: &DeedRow) -> Value {
    json!({
        "at": Timestamp::from_millis(row.at).to_string(),
        "node": row.node,
        "env": row.env,
        "key_id": row.key_id,
        "action": row.action,
        "target": row.target,
        "data": serde_json::from_str::<Value>(&row.data).unwrap_or(Value::Null),
    })
}
