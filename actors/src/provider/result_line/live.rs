//! Result lines for requests that were called live, in the form that a batch would have given them.

use serde_json::Value;
use serde_json::value::RawValue;

use super::{Form, synthetic_line};
use crate::provider::Answer;

/// Puts a live answer into a line of its provider's batch results, without a line end. What the provider said
/// stays as it came, but for line breaks between its tokens; what is no JSON is named by its status alone.
pub fn live_line(form: Form, custom_id: &str, answer: &Answer) -> String {
    let Some(body) = one_line(&answer.body) else {
        let message = "the provider answered with something that is not JSON";
        return synthetic_line(form, custom_id, &format!("http_{}", answer.status), message);
    };
    let id = Value::from(custom_id);
    let well = (200..300).contains(&answer.status);
    match (form, well) {
        (Form::OpenAi, _) => {
            let status = answer.status;
            format!(
                r#"{{"id":"live_req_{custom_id}","custom_id":{id},"response":{{"status_code":{status},"request_id":{id},"body":{body}}},"error":null}}"#
            )
        }
        (Form::Anthropic, true) => {
            format!(r#"{{"custom_id":{id},"result":{{"type":"succeeded","message":{body}}}}}"#)
        }
        (Form::Anthropic, false) => format!(r#"{{"custom_id":{id},"result":{{"type":"errored","error":{body}}}}}"#),
    }
}

/// The text without its line breaks, if it is one JSON object. Within a string JSON has no line breaks.
fn one_line(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let value: &RawValue = serde_json::from_str(text).ok()?;
    value.get().starts_with('{').then(|| value.get().replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, ResultLine};
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn an_answer_over_many_lines_becomes_one_that_reads_like_a_batch_line() {
        let body = "{\n  \"choices\": [{\"message\": {\"content\": \"a\\nb\"}}],\r\n  \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 2}\n}\n";
        let line = live_line(Form::OpenAi, "k-1-0", &answer(200, body));
        assert!(!line.contains('\n') && line.contains("a\\nb"));
        let parsed = ResultLine::parse(Form::OpenAi, &line).unwrap();
        assert_eq!((parsed.custom_id.as_ref(), parsed.outcome), ("k-1-0", Outcome::Succeeded));
        assert_eq!(parsed.usage.unwrap().output, 2);
        let message = r#"{"type":"message","stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}"#;
        let line = live_line(Form::Anthropic, "k", &answer(200, message));
        assert_eq!(ResultLine::parse(Form::Anthropic, &line).unwrap().outcome, Outcome::Succeeded);
    }

    #[test]
    fn refusals_keep_their_code_in_both_forms() {
        let openai = r#"{"error":{"message":"no","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}"#;
        let line = live_line(Form::OpenAi, "k", &answer(400, openai));
        let parsed = ResultLine::parse(Form::OpenAi, &line).unwrap();
        assert_eq!(parsed.outcome, Outcome::Errored { retryable: false });
        assert_eq!(parsed.code.as_deref(), Some("unsupported_value"));
        let anthropic = r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#;
        let line = live_line(Form::Anthropic, "k", &answer(404, anthropic));
        let parsed = ResultLine::parse(Form::Anthropic, &line).unwrap();
        assert_eq!(parsed.outcome, Outcome::Errored { retryable: false });
        assert_eq!(parsed.code.as_deref(), Some("not_found_error"));
    }

    #[test]
    fn what_is_no_json_object_is_named_by_its_status() {
        for body in ["<html>bad gateway</html>", "", "[1]", "{\"cut\":"] {
            for form in [Form::OpenAi, Form::Anthropic] {
                let line = live_line(form, "k", &answer(502, body));
                let parsed = ResultLine::parse(form, &line).unwrap();
                assert_eq!(parsed.code.as_deref(), Some("http_502"), "{body}");
            }
        }
    }
}
