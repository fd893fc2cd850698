//! Requests that are called by themselves: the same answers as in a batch, at once, and on the bill at once.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::value::RawValue;

use super::bodies::Body;
use super::error::ApiError;
use super::event::{Accepted, Answer, Dialect, Event, Fate};
use super::faults::Faults;
use super::http::{Caller, hang_up};
use super::ids;
use super::lines::{self, Item};
use super::outcome::{Cause, Judge, Outcome};
use super::world::{World, held};

/// What strikes a call before its content is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    None,
    Lost,
    Busy,
    SpendLimit,
}

pub(super) async fn call(request: HttpRequest, caller: Caller, body: web::Bytes) -> Result<HttpResponse, ApiError> {
    let dialect = caller.dialect;
    let invalid = |message: String| ApiError::invalid(dialect, message);
    let body: &RawValue = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let item = lines::called(body, dialect, caller.version.unwrap_or_default());
    let refused = caller.faults.refuse_parameter.as_deref().filter(|name| lines::has_parameter(body, name));
    let batch = batch_of_one(&caller, request.path());
    let outcome = Judge { batch: &batch, ran: None, in_time: 1 }.outcome(0, &item);
    let strike = caller.world.strike_call(&caller, &item, refused.is_none() && outcome.is_billed())?;
    match (strike, refused, outcome) {
        (Strike::Busy, ..) => Err(ApiError::rate_limited(dialect)),
        (Strike::SpendLimit, ..) => Err(ApiError::spend_limit(dialect)),
        (Strike::Lost, ..) => Ok(hang_up(caller.connection.as_ref())),
        (Strike::None, Some(name), _) => {
            Err(invalid(lines::unsupported(name)).param(name).code("unsupported_parameter"))
        }
        (Strike::None, None, Outcome::Errored(Cause::Server)) => Err(ApiError::internal(dialect)),
        (Strike::None, None, Outcome::Errored(_)) => {
            Err(invalid(item.params.problem.unwrap_or_else(|| "The request was rejected.".to_owned())))
        }
        (Strike::None, None, _) => answer(&batch, &item),
    }
}

fn answer(batch: &Accepted, item: &Item) -> Result<HttpResponse, ApiError> {
    let tag = format!("{:016x}", batch.seed);
    let body = Body { batch, item, tag: &tag };
    let mut out = Vec::new();
    let written = match batch.dialect {
        Dialect::Openai => body.openai(&mut out),
        Dialect::Anthropic => body.anthropic(&mut out),
    };
    written.map_err(|_| ApiError::internal(batch.dialect))?;
    Ok(HttpResponse::Ok().content_type("application/json").body(out))
}

/// What decides about a batch's items decides about a call.
fn batch_of_one(caller: &Caller, endpoint: &str) -> Accepted {
    Accepted {
        id: ids::mint("call_"),
        dialect: caller.dialect,
        at_ms: ids::now_ms(),
        endpoint: endpoint.to_owned(),
        requests: 1,
        input_file: None,
        metadata: None,
        version: caller.version.map(str::to_owned),
        latency_ms: 0,
        fate: Fate::Normal,
        answer: Answer::Delivered,
        seed: ids::seed(),
        // A call has no results file: what happens to its lines does not happen to it.
        faults: Faults {
            item_error_rate: caller.faults.item_error_rate,
            item_error_always_rate: caller.faults.item_error_always_rate,
            ..Faults::default()
        },
    }
}

impl World {
    /// Puts a call on the bill, unless a fault keeps it from being carried out.
    fn strike_call(&self, caller: &Caller, item: &Item, billed: bool) -> Result<Strike, ApiError> {
        let shared = self.account(&caller.account);
        let mut account = held(&shared);
        let faults = &caller.faults;
        let (strike, fault) = if account.has_left("lose_call_answers", faults.lose_call_answers) {
            (Strike::Lost, Some("lose_call_answers"))
        } else if account.has_left("busy_calls", faults.busy_calls) {
            (Strike::Busy, Some("busy_calls"))
        } else if faults.spend_limit == Some(true) {
            (Strike::SpendLimit, None)
        } else {
            (Strike::None, None)
        };
        let carried_out = matches!(strike, Strike::None | Strike::Lost);
        let (at_ms, sha, fault) = (ids::now_ms(), ids::hex(&item.sha), fault.map(str::to_owned));
        let event = Event::Called { at_ms, sha, billed: billed && carried_out, fault };
        let recorded = self.record(&caller.account, &mut account, event);
        recorded.map_err(|error| ApiError::broken(caller.dialect, &error))?;
        Ok(strike)
    }
}
