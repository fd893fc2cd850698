//! Refusals in the shape each vendor gives them.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use super::SimError;
use super::event::Dialect;
use super::ids;

#[derive(Debug)]
pub(super) struct ApiError {
    dialect: Dialect,
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    headers: Vec<(&'static str, String)>,
}

/// The header that names a request in each dialect.
pub(super) fn request_id_header(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Openai => "x-request-id",
        Dialect::Anthropic => "request-id",
    }
}

impl ApiError {
    fn new(dialect: Dialect, status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        let message = message.into();
        ApiError { dialect, status, kind, code: None, param: None, message, headers: Vec::new() }
    }

    pub fn invalid(dialect: Dialect, message: impl Into<String>) -> ApiError {
        ApiError::new(dialect, StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    pub fn not_found(dialect: Dialect, message: impl Into<String>) -> ApiError {
        let kind = match dialect {
            Dialect::Openai => "invalid_request_error",
            Dialect::Anthropic => "not_found_error",
        };
        ApiError::new(dialect, StatusCode::NOT_FOUND, kind, message)
    }

    pub fn unauthorized(dialect: Dialect) -> ApiError {
        match dialect {
            Dialect::Openai => {
                let message = "Incorrect API key provided.";
                ApiError::new(dialect, StatusCode::UNAUTHORIZED, "invalid_request_error", message)
                    .code("invalid_api_key")
            }
            Dialect::Anthropic => {
                ApiError::new(dialect, StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key")
            }
        }
    }

    /// The batch has ended and cannot be changed.
    pub fn conflict(dialect: Dialect, message: impl Into<String>) -> ApiError {
        match dialect {
            Dialect::Openai => ApiError::new(dialect, StatusCode::CONFLICT, "invalid_request_error", message)
                .header("x-should-retry", "false"),
            Dialect::Anthropic => ApiError::invalid(dialect, message),
        }
    }

    pub fn too_large(dialect: Dialect, message: impl Into<String>) -> ApiError {
        let kind = match dialect {
            Dialect::Openai => "invalid_request_error",
            Dialect::Anthropic => "request_too_large",
        };
        ApiError::new(dialect, StatusCode::PAYLOAD_TOO_LARGE, kind, message)
    }

    pub fn rate_limited(dialect: Dialect) -> ApiError {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let message = "Rate limit reached for batch creations.";
        match dialect {
            Dialect::Openai => ApiError::new(dialect, status, "requests", message)
                .code("rate_limit_exceeded")
                .header("x-ratelimit-limit-requests", "2000")
                .header("x-ratelimit-remaining-requests", "0")
                .header("x-ratelimit-reset-requests", "1s"),
            Dialect::Anthropic => ApiError::new(dialect, status, "rate_limit_error", message)
                .header("anthropic-ratelimit-requests-limit", "50")
                .header("anthropic-ratelimit-requests-remaining", "0")
                .header("anthropic-ratelimit-requests-reset", ids::rfc3339(ids::now_ms() + 1_000)),
        }
        .header("retry-after", "1")
    }

    pub fn spend_limit(dialect: Dialect) -> ApiError {
        let status = StatusCode::TOO_MANY_REQUESTS;
        match dialect {
            Dialect::Openai => {
                let message = "You exceeded your current quota, please check your plan and billing details.";
                ApiError::new(dialect, status, "insufficient_quota", message).code("insufficient_quota")
            }
            Dialect::Anthropic => {
                let message = "This workspace has reached its spend limit.";
                ApiError::new(dialect, status, "rate_limit_error", message).code("enforced_spend_limit_reached")
            }
        }
    }

    pub fn overloaded(dialect: Dialect) -> ApiError {
        match dialect {
            Dialect::Openai => ApiError::unavailable(dialect),
            Dialect::Anthropic => {
                let status = StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                ApiError::new(dialect, status, "overloaded_error", "Overloaded")
            }
        }
    }

    pub fn unavailable(dialect: Dialect) -> ApiError {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let message = "The server is overloaded or not ready yet.";
        match dialect {
            Dialect::Openai => ApiError::new(dialect, status, "server_error", message),
            Dialect::Anthropic => ApiError::new(dialect, status, "api_error", message),
        }
    }

    pub fn internal(dialect: Dialect) -> ApiError {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let message = "The server had an error while processing your request.";
        match dialect {
            Dialect::Openai => ApiError::new(dialect, status, "server_error", message),
            Dialect::Anthropic => ApiError::new(dialect, status, "api_error", message),
        }
    }

    /// The simulator itself failed; not a fault that was switched on.
    pub fn broken(dialect: Dialect, error: &SimError) -> ApiError {
        tracing::warn!(error = error as &dyn std::error::Error, "simulator could not answer");
        ApiError::internal(dialect)
    }

    pub fn code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    pub fn param(mut self, param: impl Into<String>) -> ApiError {
        self.param = Some(param.into());
        self
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> ApiError {
        self.headers.push((name, value.into()));
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}: {}", self.status.as_u16(), self.kind, self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let request = ids::mint("req_");
        let body = match self.dialect {
            Dialect::Openai => json!({"error": {
                "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
            }}),
            Dialect::Anthropic => {
                let mut error = json!({"type": self.kind, "message": self.message});
                if let Some(code) = self.code {
                    error["details"] = json!({"error_code": code});
                }
                json!({"type": "error", "error": error, "request_id": request})
            }
        };
        let mut response = HttpResponse::build(self.status);
        for (name, value) in &self.headers {
            response.insert_header((*name, value.as_str()));
        }
        response.insert_header((request_id_header(self.dialect), request)).json(body)
    }
}
