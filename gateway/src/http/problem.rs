//! What a client is told when something is wrong: one table of errors, one JSON shape (RFC 9457).
//!
//! A problem never carries the words of a parser, of SQL or of a panic. What was behind it goes to the log,
//! under the request id that the client got.

use std::borrow::Cow;
use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use storage::{Class, StoreError};

/// The media type of every problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where the description of a code is served; its name follows.
const TYPE_PATH: &str = "/api/docs/errors/";

macro_rules! codes {
    ($($name:ident $word:literal $status:literal $retryable:literal $title:literal)*) => {
        /// Everything that can be wrong, by the stable word that clients may rely on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($name,)*
        }

        impl Code {
            /// All of them, in the order of their status.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            pub const fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// Whether the same request may succeed later, unchanged.
            pub const fn retryable(self) -> bool {
                match self { $(Code::$name => $retryable,)* }
            }

            const fn number(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 false "The body is not JSON of the right form"
    MalformedQuery "malformed_query" 400 false "The query string cannot be read"
    MalformedPath "malformed_path" 400 false "The path cannot be read"
    MalformedRequest "malformed_request" 400 false "The request cannot be read"
    HttpVersion "http_version" 400 false "This version of HTTP is not enough"
    BodyIncomplete "body_incomplete" 400 false "The body ended too early"
    InvalidField "invalid_field" 400 false "A value is not allowed"
    UnknownField "unknown_field" 400 false "A name is not known"
    InvalidCursor "invalid_cursor" 400 false "The cursor is not one of this list"
    KeyInQuery "key_in_query" 400 false "A key does not belong into a URL"
    Unauthenticated "unauthenticated" 401 false "A valid API key is needed"
    ForbiddenScope "forbidden_scope" 403 false "The key does not allow this"
    NotFound "not_found" 404 false "There is no such thing here"
    MethodNotAllowed "method_not_allowed" 405 false "The method is not allowed here"
    NotAcceptable "not_acceptable" 406 false "No acceptable form of the answer exists"
    BodyTimeout "body_timeout" 408 true "The body came too slowly"
    Conflict "conflict" 409 false "The present state does not allow this"
    IdempotencyInFlight "idempotency_in_flight" 409 true "The first request with this key is still under way"
    Gone "gone" 410 false "It is no longer here"
    PreconditionFailed "precondition_failed" 412 false "It has changed since it was read"
    BodyTooLarge "body_too_large" 413 false "The body is too large"
    TooManyItems "too_many_items" 413 false "There are too many items"
    UriTooLong "uri_too_long" 414 false "The URL is too long"
    UnsupportedMediaType "unsupported_media_type" 415 false "The body's media type is not supported"
    UnsupportedEncoding "unsupported_encoding" 415 false "The body's encoding is not supported"
    ExpectationFailed "expectation_failed" 417 false "The expectation cannot be met"
    Misdirected "misdirected" 421 false "This host is not served here"
    IdempotencyMismatch "idempotency_mismatch" 422 false "The key was used with another request"
    Unprocessable "unprocessable" 422 false "The request makes no sense here"
    Paused "paused" 423 true "An operator has paused this"
    PreconditionRequired "precondition_required" 428 false "The request must say which version it means"
    QuotaExceeded "quota_exceeded" 429 true "A quota is used up"
    RateLimited "rate_limited" 429 true "Too many requests"
    Overloaded "overloaded" 429 true "More is waiting than can be taken"
    HeadTooLarge "head_too_large" 431 false "The request's head is too large"
    Internal "internal" 500 false "Something went wrong here"
    StoreUnavailable "store_unavailable" 503 true "The store cannot be reached"
    Draining "draining" 503 true "This node is about to stop"
    StoreFull "store_full" 507 true "The store is full"
}

impl Code {
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.number()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Where this code is described, as a path on this server.
    pub fn type_path(self) -> String {
        format!("{TYPE_PATH}{}", self.word())
    }

    /// The code for an answer of which only the status is known; the framework gives some of these by itself.
    pub fn of_status(status: StatusCode) -> Code {
        match status.as_u16() {
            400 => Code::MalformedRequest,
            505 => Code::HttpVersion,
            number => Code::ALL.iter().copied().find(|code| code.number() == number).unwrap_or(Code::Internal),
        }
    }
}

/// One thing that is wrong with one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where: a JSON pointer into the body, `?name` for the query, or the name of a header.
    pub pointer: String,
    pub code: &'static str,
    pub detail: String,
}

/// An error as the client gets it. The guard adds the request id.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// Seconds, for `Retry-After`.
    pub retry_after: Option<u64>,
    allow: Option<&'static str>,
    /// What would be allowed in place of what was asked for.
    allowed: Option<Box<[String]>>,
    cause: Option<Box<str>>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            allow: None,
            allowed: None,
            cause: None,
        }
    }

    /// A failure of ours: the client learns that it happened, the log learns `cause`.
    pub fn internal(cause: impl fmt::Display) -> Problem {
        Problem::new(Code::Internal, "it is not the request's fault; the request id names it in the log").because(cause)
    }

    /// Also what another tenant's object is answered with, so that nobody learns that it exists.
    pub fn not_found(what: &'static str) -> Problem {
        Problem::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// The one answer to a credential that is absent, malformed, unknown, revoked or expired.
    pub fn unauthenticated() -> Problem {
        Problem::new(Code::Unauthenticated, "send a valid key as `Authorization: Bearer tg_…`")
    }

    pub fn forbidden_scope(scope: impl fmt::Display) -> Problem {
        Problem::new(Code::ForbiddenScope, format!("this needs a key with the scope `{scope}`"))
    }

    /// `allow` lists what the resource does have, as in `GET, POST`.
    pub fn method_not_allowed(allow: &'static str) -> Problem {
        let detail = format!("this resource has only {allow}");
        Problem { allow: Some(allow), ..Problem::new(Code::MethodNotAllowed, detail) }
    }

    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Problem {
        let error = FieldError { pointer: pointer.into(), code, detail: detail.into() };
        Problem::new(Code::InvalidField, format!("{}: {}", error.pointer, error.detail)).with_errors(vec![error])
    }

    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Problem {
        self.errors = errors;
        self
    }

    /// Lists what would be allowed.
    pub fn allowing(mut self, allowed: Vec<String>) -> Problem {
        self.allowed = Some(allowed.into());
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// Remembers for the log what the client is not told.
    pub fn because(mut self, cause: impl fmt::Display) -> Problem {
        self.cause = Some(cause.to_string().into_boxed_str());
        self
    }

    /// What was behind it; for the log only.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The answer's body, under the name that the request has in the log.
    pub fn body(&self, request_id: Option<&str>) -> Vec<u8> {
        let body = Body {
            r#type: self.code.type_path(),
            title: self.code.title(),
            status: self.code.number(),
            detail: &self.detail,
            code: self.code.word(),
            request_id,
            retryable: self.code.retryable(),
            errors: &self.errors,
            allowed: self.allowed.as_deref(),
        };
        // Strings, numbers and lists of them: there is nothing in it that cannot be written.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    pub fn respond(&self, request_id: Option<&str>) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)));
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, HeaderValue::from_static(allow)));
        }
        if self.code == Code::Unauthenticated {
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        response.body(self.body(request_id))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    retryable: bool,
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a [String]>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.word(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.respond(None)
    }
}

impl From<&StoreError> for Problem {
    fn from(error: &StoreError) -> Problem {
        match error {
            StoreError::Moved { entity, id, .. } => {
                return Problem::new(Code::Conflict, format!("{entity} {id} has changed in the meantime"));
            }
            StoreError::NulInText { entity, .. } => {
                let detail = format!("a name of the {entity} has a NUL character, which cannot be stored");
                return Problem::new(Code::InvalidField, detail);
            }
            // This node may not write now, which says nothing about the caller's object.
            StoreError::LeaseLost { .. } => return unavailable(error),
            _ if error.is_unreachable() => return unavailable(error),
            _ => {}
        }
        match error.class() {
            Class::Retryable => unavailable(error),
            Class::Conflict => Problem::new(Code::Conflict, "it exists already, or has changed in the meantime"),
            Class::Terminal | Class::Corrupt => Problem::internal(error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::from(&error)
    }
}

fn unavailable(error: &StoreError) -> Problem {
    let detail = if error.is_unreachable() && !error.did_nothing() {
        "the store broke off before it answered, and whether this was done is not known; try again soon"
    } else {
        "nothing was done; try again soon"
    };
    Problem::new(Code::StoreUnavailable, detail).retry_after(1).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::MessageBody;
    use std::collections::BTreeSet;
    use storage::model::Timestamp;

    fn body(response: HttpResponse) -> serde_json::Value {
        let bytes = response.into_body().try_into_bytes().expect("a body in memory");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn header(response: &HttpResponse, name: &str) -> String {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    #[test]
    fn every_code_has_a_word_of_its_own_and_a_status_that_exists() {
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.status().as_u16(), code.number());
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(code.word().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", code.word());
        }
        assert!(Code::ALL.is_sorted_by_key(|code| code.number()));
    }

    #[test]
    fn an_answer_says_all_that_a_client_may_rely_on() {
        let problem = Problem::field("/task", "required", "is missing").because("SELECT secret");
        let response = problem.respond(Some("req_1"));
        assert_eq!(response.status(), 400);
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let expected = serde_json::json!({
            "type": "/api/docs/errors/invalid_field", "title": "A value is not allowed", "status": 400,
            "detail": "/task: is missing", "code": "invalid_field", "request_id": "req_1", "retryable": false,
            "errors": [{"pointer": "/task", "code": "required", "detail": "is missing"}],
        });
        assert_eq!(body(response), expected);
    }

    #[test]
    fn headers_go_with_the_codes_that_need_them() {
        let unauthenticated = Problem::unauthenticated().respond(None);
        assert_eq!(header(&unauthenticated, "www-authenticate"), "Bearer");
        let method = Problem::method_not_allowed("GET, POST").respond(None);
        assert_eq!((method.status().as_u16(), header(&method, "allow").as_str()), (405, "GET, POST"));
        let limited = Problem::new(Code::RateLimited, "slowly").retry_after(7).respond(None);
        assert_eq!(header(&limited, "retry-after"), "7");
    }

    #[test]
    fn a_store_error_is_answered_by_its_class_and_without_its_words() {
        let moved = StoreError::Moved { entity: "run", id: "run_1".to_owned(), now: "succeeded".to_owned() };
        let corrupt = StoreError::Corrupt { entity: "run", id: "r".to_owned(), what: "state", value: "SQL".to_owned() };
        let bad_url = StoreError::BadUrl { url: "postgres://me:secret@host/db".to_owned() };
        let nul = StoreError::NulInText { entity: "run", id: "r".to_owned() };
        let lost = StoreError::LeaseLost { until: Timestamp::from_millis(0) };
        for (error, code, retry_after) in [
            (moved, Code::Conflict, None),
            (corrupt, Code::Internal, None),
            (bad_url, Code::Internal, None),
            (nul, Code::InvalidField, None),
            (lost, Code::StoreUnavailable, Some(1)),
            (StoreError::Away, Code::StoreUnavailable, Some(1)),
            (StoreError::Unanswered, Code::StoreUnavailable, Some(1)),
        ] {
            let problem = Problem::from(&error);
            assert_eq!((problem.code, problem.retry_after), (code, retry_after), "{error}");
            let shown = body(problem.respond(None)).to_string();
            assert!(!shown.contains("SQL") && !shown.contains("secret"), "{shown}");
            assert_eq!(problem.cause().is_some(), code.status().is_server_error(), "{error}");
        }
    }

    #[test]
    fn a_status_of_the_framework_finds_its_code() {
        for (status, code) in [(404, Code::NotFound), (400, Code::MalformedRequest), (418, Code::Internal)] {
            assert_eq!(Code::of_status(StatusCode::from_u16(status).expect("a status")), code);
        }
    }
}
