//! A run in this worker's hands, and what can be said about it to the server.

use crate::client::{Answer, Client, Object, Page, Request};
use crate::exit::{Exit, Failure};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::time::Duration;

/// What a lease gives.
#[derive(Debug, Clone)]
pub struct Lease {
    pub run: String,
    pub task: String,
    pub attempt: i64,
    /// The session whose step it is.
    pub session: Option<String>,
    /// Of which trace it is, for the program to pass on.
    pub traceparent: Option<String>,
    /// The payload as its sender wrote it.
    pub payload: Box<RawValue>,
    pub max_duration: Option<Duration>,
    token: String,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct Wish {
    pub tasks: Vec<String>,
    pub worker: String,
    pub lease: Duration,
    pub wait: Duration,
}

#[derive(serde::Deserialize)]
struct Payload {
    payload: Box<RawValue>,
}

/// Asks for up to `items` runs. Never sent twice: a lease whose answer is lost has to lapse.
pub async fn ask(client: &Client, wish: &Wish, items: usize) -> Result<Vec<Lease>, Failure> {
    let body = json!({
        "tasks": wish.tasks,
        "worker": wish.worker,
        "max_items": items,
        "wait_seconds": wish.wait.as_secs_f64(),
        "lease_seconds": wish.lease.as_secs_f64(),
    });
    let page: Page = client.send(&Request::post("/workers/lease").json(body.to_string())).await?.page()?;
    page.data.iter().map(Lease::of).collect()
}

impl Lease {
    fn of(object: &Object) -> Result<Lease, Failure> {
        let payload: Payload =
            serde_json::from_str(object.text.get()).map_err(|_| crate::client::unexpected("a lease"))?;
        Ok(Lease {
            run: object.text("run_id").to_owned(),
            task: object.text("task").to_owned(),
            attempt: object.value["attempt"].as_i64().unwrap_or(0),
            session: object.value["session_id"].as_str().map(str::to_owned),
            traceparent: object.value["traceparent"].as_str().map(str::to_owned),
            payload: payload.payload,
            max_duration: object.value["max_duration_seconds"]
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            token: object.text("lease_token").to_owned(),
        })
    }

    /// Says something about the lease. The server takes each of these again without harm: a piece of output by
    /// its number, a heartbeat as it is, and an end that was taken already is refused as no longer ours.
    pub async fn say(&self, client: &Client, what: &str, mut fields: Value) -> Result<Answer, Failure> {
        fields["run_id"] = Value::from(self.run.as_str());
        fields["lease_token"] = Value::from(self.token.as_str());
        client.send(&Request::post(format!("/workers/{what}")).json(fields.to_string()).repeatable()).await
    }
}

/// Whether the server says that the run is not this worker's any more.
pub fn is_lost(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::Conflict | Exit::NotFound)
}
