//! Result lines for items that no provider ever answered.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Form;

/// The error types that Anthropic's own clients know; anything else travels as a detail.
const ANTHROPIC_TYPES: [&str; 10] = [
    "api_error",
    "authentication_error",
    "billing_error",
    "invalid_request_error",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "request_too_large",
    "timeout_error",
];

/// Makes a line, without a line end, in the provider's own error form, for an item that never got one: missing
/// from the results, expired or cancelled here, or part of a batch that was refused as a whole.
///
/// `code` is what [`super::ResultLine::parse`] finds again. Anthropic has result types of their own for `expired`
/// and `canceled`, which carry no message.
pub fn synthetic_line(form: Form, original_custom_id: &str, code: &str, message: &str) -> String {
    let id = Value::from(original_custom_id);
    match form {
        Form::OpenAi => {
            let error = format!(r#"{{"code":{},"message":{}}}"#, Value::from(code), Value::from(message));
            let line_id = line_id(original_custom_id);
            format!(r#"{{"id":"{line_id}","custom_id":{id},"response":null,"error":{error}}}"#)
        }
        Form::Anthropic => format!(r#"{{"custom_id":{id},"result":{}}}"#, anthropic_result(code, message)),
    }
}

fn anthropic_result(code: &str, message: &str) -> String {
    match code {
        "expired" | "batch_expired" => return r#"{"type":"expired"}"#.to_owned(),
        "canceled" | "batch_cancelled" => return r#"{"type":"canceled"}"#.to_owned(),
        _ => {}
    }
    let message = Value::from(message);
    let error = if ANTHROPIC_TYPES.contains(&code) {
        format!(r#"{{"type":"{code}","message":{message}}}"#)
    } else {
        let code = Value::from(code);
        format!(r#"{{"type":"api_error","message":{message},"details":{{"error_code":{code}}}}}"#)
    };
    format!(r#"{{"type":"errored","error":{{"type":"error","error":{error},"request_id":null}}}}"#)
}

/// Stands where the provider's own line id would: stable, so that the same results give the same file.
fn line_id(custom_id: &str) -> String {
    let mut id = String::from("batch_req_");
    for byte in Sha256::digest(custom_id.as_bytes()).iter().take(12) {
        // Writing to a String cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}
