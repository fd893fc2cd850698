//! What a command ends with when the server cannot be reached, does not answer, or refuses.

use super::Request;
use crate::exit::{Exit, Failure};
use actors::provider::CallError;
use hyper::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// Characters of an answer in no known form that are shown.
const SHOWN: usize = 200;

/// Why one try brought nothing.
#[derive(Debug)]
pub enum Trouble {
    Call(CallError),
    Refused { status: StatusCode, retry_after: Option<Duration>, body: Vec<u8> },
}

impl Trouble {
    /// Whether another try may help, and can do no harm.
    pub fn may_try_again(&self, repeatable: bool) -> bool {
        match self {
            // Nothing was sent.
            Trouble::Call(CallError::Connect { .. }) => true,
            Trouble::Call(CallError::Broken { .. } | CallError::Timeout { .. }) => repeatable,
            Trouble::Call(_) => false,
            Trouble::Refused { status, .. } => repeatable && (status.is_server_error() || status.as_u16() == 429),
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Trouble::Call(_) => None,
            Trouble::Refused { retry_after, .. } => *retry_after,
        }
    }

    pub fn into_failure(self, server: &str) -> Failure {
        match self {
            Trouble::Call(error) => unreachable(server, &error),
            Trouble::Refused { status, body, .. } => refused(server, status, &body),
        }
    }
}

fn unreachable(server: &str, error: &CallError) -> Failure {
    match error {
        CallError::BadAnswer { .. } => unexpected("an answer of the API"),
        CallError::BadBase { .. } => Failure::usage(format!("--server {server}: the request cannot be written")),
        CallError::Timeout { .. } => {
            Failure::new(Exit::TimedOut, format!("the server at {server} does not answer")).cause(error)
        }
        _ => Failure::new(Exit::Unreachable, format!("the server at {server} cannot be reached"))
            .cause(error)
            .hint("start one with `tidegate serve` or `tidegate dev`, or name another with --server"),
    }
}

/// The patience for all tries has ended.
pub fn late(server: &str, patience: Duration, request: &Request) -> Failure {
    let what = format!("the server at {server} has not answered within {} s", patience.as_secs_f64());
    let failure = Failure::new(Exit::TimedOut, what);
    if request.repeatable {
        return failure.hint("give it longer with --request-timeout, or run the same command again");
    }
    failure.hint("it may have been carried out all the same; look before running it again")
}

/// An answer that is none of this API's.
pub fn unexpected(wanted: &str) -> Failure {
    Failure::new(Exit::Unexpected, format!("the server answered with something that is not {wanted}"))
        .hint("is --server the API of a Tidegate, and of this version?")
}

fn refused(server: &str, status: StatusCode, body: &[u8]) -> Failure {
    let problem: Option<Value> = serde_json::from_slice(body).ok().filter(|value: &Value| value["code"].is_string());
    let Some(problem) = problem else { return foreign(server, status, body) };
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let (code, title) = (text("code"), text("title"));
    let what = Some(text("detail")).filter(|detail| !detail.is_empty()).unwrap_or_else(|| title.clone());
    let hint = hint(&code, &what);
    let mut failure = Failure::new(exit(status, &code), what);
    failure = failure.cause(format!("{} {code}: {}{}", status.as_u16(), title, details(&problem)));
    if let Some(hint) = hint {
        failure = failure.hint(hint);
    }
    failure.problem = Some(Box::new(problem));
    failure
}

/// All that is wrong, where it is more than the first thing.
fn details(problem: &Value) -> String {
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    if errors.len() < 2 {
        return String::new();
    }
    let text = |error: &Value, name: &str| error[name].as_str().unwrap_or_default().to_owned();
    errors.iter().map(|error| format!("\n  {}: {}", text(error, "pointer"), text(error, "detail"))).collect()
}

/// A proxy's page, or another server's.
fn foreign(server: &str, status: StatusCode, body: &[u8]) -> Failure {
    let text: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    let failure = Failure::new(exit(status, ""), format!("the server at {server} answered {status}"))
        .hint("is --server the API of a Tidegate? its answer is not in the API's form");
    if text.trim().is_empty() { failure } else { failure.cause(text.trim()) }
}

fn exit(status: StatusCode, code: &str) -> Exit {
    match status.as_u16() {
        401 | 403 => Exit::NotAllowed,
        404 | 410 => Exit::NotFound,
        408 => Exit::TimedOut,
        409 | 412 | 423 | 428 => Exit::Conflict,
        422 if code == "idempotency_mismatch" => Exit::Conflict,
        429 | 500..=599 => Exit::Unreachable,
        400..=499 => Exit::Usage,
        _ => Exit::Unexpected,
    }
}

fn hint(code: &str, what: &str) -> Option<&'static str> {
    Some(match code {
        // Nodes and actors are of no env, and a path that is not there is of the server.
        "not_found" if what.ends_with("node") => "`tidegate nodes list` shows those that are there",
        "not_found" if what.ends_with("actor") => "`tidegate actors list` shows those that are there",
        "not_found" if what.ends_with("path") => "is the server of another version? it has no such call",
        "unauthenticated" => "put a key into TIDEGATE_API_KEY; `tidegate keys create` makes one",
        "forbidden_scope" => "make a key with this scope: `tidegate keys create --scope …`",
        "not_found" => "is it of this env? a key sees its own env only, and without keys --env names it",
        "idempotency_mismatch" => "use another --idempotency-key for another request",
        "idempotency_in_flight" => "run the same command again in a moment",
        "quota_exceeded" | "rate_limited" | "overloaded" => "run the same command again later",
        "store_unavailable" | "draining" => "nothing was done; run the same command again in a moment",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Failure {
        let status = StatusCode::from_u16(status).expect("a status");
        let body = body.as_bytes().to_vec();
        Trouble::Refused { status, retry_after: None, body }.into_failure("http://h:1")
    }

    #[test]
    fn every_status_has_its_exit_code() {
        for (status, code, exit) in [
            (400, "invalid_field", Exit::Usage),
            (401, "unauthenticated", Exit::NotAllowed),
            (403, "forbidden_scope", Exit::NotAllowed),
            (404, "not_found", Exit::NotFound),
            (409, "conflict", Exit::Conflict),
            (412, "precondition_failed", Exit::Conflict),
            (413, "body_too_large", Exit::Usage),
            (422, "idempotency_mismatch", Exit::Conflict),
            (422, "unprocessable", Exit::Usage),
            (429, "rate_limited", Exit::Unreachable),
            (500, "internal", Exit::Unreachable),
            (503, "store_unavailable", Exit::Unreachable),
        ] {
            let failure = refusal(status, &format!(r#"{{"code":"{code}","detail":"d","title":"t"}}"#));
            assert_eq!((failure.exit, failure.what.as_str()), (exit, "d"), "{status} {code}");
        }
    }

    #[test]
    fn a_problem_is_told_with_all_its_errors_and_the_request_id() {
        let failure = refusal(
            400,
            r#"{"code":"invalid_field","title":"A value is not allowed","detail":"/task: is missing (and 1 more)",
            "request_id":"req_1","errors":[{"pointer":"/task","detail":"is missing"},{"pointer":"/x","detail":"no"}]}"#,
        );
        let text = failure.to_string();
        let expected = "error: /task: is missing (and 1 more)\ncause: 400 invalid_field: A value is not allowed\n  \
                        /task: is missing\n  /x: no\nrequest id: req_1";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_there_is_looked_for_where_it_would_be() {
        for (detail, hint) in [
            ("there is no such run", "is it of this env?"),
            ("there is no such node", "`tidegate nodes list`"),
            ("there is no such actor", "`tidegate actors list`"),
            ("no resource has this path", "is the server of another version?"),
        ] {
            let failure = refusal(404, &format!(r#"{{"code":"not_found","detail":"{detail}","title":"t"}}"#));
            assert!(failure.hint.is_some_and(|given| given.starts_with(hint)), "{detail}");
        }
    }

    #[test]
    fn a_proxys_page_is_no_problem_document_and_cannot_write_to_the_terminal() {
        let failure = refusal(502, "<html>\u{1b}[31mBad Gateway</html>");
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(failure.cause.as_deref(), Some("<html>[31mBad Gateway</html>"));
        assert_eq!(refusal(404, "").exit, Exit::NotFound);
    }

    #[test]
    fn what_may_have_been_carried_out_is_not_repeated() {
        let busy = |status: u16| Trouble::Refused {
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: None,
            body: Vec::new(),
        };
        let connect = CallError::Connect { host: "h".to_owned(), source: std::io::ErrorKind::NotConnected.into() };
        assert!(Trouble::Call(connect).may_try_again(false));
        let late = CallError::Timeout { host: "h".to_owned(), within: Duration::ZERO };
        assert!(!Trouble::Call(late).may_try_again(false));
        assert!(busy(503).may_try_again(true) && busy(429).may_try_again(true));
        assert!(!busy(503).may_try_again(false) && !busy(409).may_try_again(true));
    }
}
