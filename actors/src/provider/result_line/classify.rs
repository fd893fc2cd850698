//! What an answer means for its run: done, worth another try, or not.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Outcome;
use crate::price::Usage;
use crate::price::fields::{count, pick_lenient, text};

/// Codes longer than this are no codes.
const CODE_BYTES_MAX: usize = 128;

/// Codes that mean "no more money", whatever status they come with. Sending on buys nothing but more of them.
const OUT_OF_MONEY: [&str; 6] = [
    "billing_error",
    "billing_hard_limit_reached",
    "billing_not_active",
    "enforced_spend_limit_reached",
    "insufficient_quota",
    "credit_balance_too_low",
];

/// Errors that lie in the request itself, so that the same request meets them again.
const IN_THE_REQUEST: [&str; 5] =
    ["invalid_request_error", "invalid_request", "invalid_prompt", "not_found_error", "request_too_large"];

pub(super) struct Verdict<'a> {
    pub outcome: Outcome,
    pub code: Option<Cow<'a, str>>,
    pub usage: Option<Usage>,
}

pub(super) fn is_out_of_money(code: &str) -> bool {
    OUT_OF_MONEY.contains(&code)
}

/// `None` when the line says nothing at all about its request.
pub(super) fn openai<'a>(response: Option<&'a RawValue>, error: Option<&'a RawValue>) -> Option<Verdict<'a>> {
    let Some(response) = response else {
        return Some(openai_unanswered(error?));
    };
    let [status, body] = pick_lenient(Some(response), ["status_code", "body"]);
    let [body_error, state, choices, usage] = pick_lenient(body, ["error", "status", "choices", "usage"]);
    let usage = usage.and_then(Usage::from_openai_usage);
    let status = status.and_then(count).unwrap_or(0);
    let body_error = body_error.or(error);
    let code = body_error.and_then(openai_code);
    let failed = state.and_then(text).is_some_and(|state| state == "failed");

    if !(200..300).contains(&status) {
        let code = code.or_else(|| Some(Cow::Owned(format!("http_{status}"))));
        let retryable = status_is_retryable(status) || is_money(&code);
        return Some(Verdict { outcome: Outcome::Errored { retryable }, code, usage });
    }
    if body_error.is_some() || failed {
        let outcome = errored(code.as_deref(), body_error.and_then(openai_type).as_deref());
        return Some(Verdict { outcome, code: code.or(Some(Cow::Borrowed("failed"))), usage });
    }
    let outcome = if choices.is_some_and(all_refused) { Outcome::Refused } else { Outcome::Succeeded };
    Some(Verdict { outcome, code: None, usage })
}

/// A line without a response: the batch ended before, or the request never reached a model.
fn openai_unanswered(error: &RawValue) -> Verdict<'_> {
    let code = openai_code(error);
    let outcome = match code.as_deref() {
        Some("batch_expired") => Outcome::Expired,
        Some("batch_cancelled" | "batch_canceled") => Outcome::Canceled,
        Some(_) | None => errored(code.as_deref(), openai_type(error).as_deref()),
    };
    Verdict { outcome, code: code.or(Some(Cow::Borrowed("unknown_error"))), usage: None }
}

/// The code, which is the finer word, else the type.
fn openai_code(error: &RawValue) -> Option<Cow<'_, str>> {
    let [code, kind] = pick_lenient(Some(error), ["code", "type"]);
    code.and_then(machine_code).or_else(|| kind.and_then(machine_code))
}

fn openai_type(error: &RawValue) -> Option<Cow<'_, str>> {
    let [kind] = pick_lenient(Some(error), ["type"]);
    kind.and_then(machine_code)
}

/// Zero stands for a missing status: nothing was answered. Of the 4xx only those that speak about the moment or
/// the account, not about the request, are worth another try.
fn status_is_retryable(status: u64) -> bool {
    match status {
        401 | 402 | 403 | 408 | 409 | 425 | 429 => true,
        400..500 => false,
        _ => true,
    }
}

/// `None` when there is no `result` of a known type.
pub(super) fn anthropic(result: Option<&RawValue>) -> Option<Verdict<'_>> {
    let [kind, message, error] = pick_lenient(result, ["type", "message", "error"]);
    let without_usage = |outcome| Verdict { outcome, code: None, usage: None };
    match kind.and_then(text)?.as_ref() {
        "succeeded" => Some(anthropic_message(message)),
        "errored" => Some(anthropic_error(error)),
        "canceled" => Some(without_usage(Outcome::Canceled)),
        "expired" => Some(without_usage(Outcome::Expired)),
        _ => None,
    }
}

fn anthropic_message(message: Option<&RawValue>) -> Verdict<'_> {
    let [usage, stop_reason] = pick_lenient(message, ["usage", "stop_reason"]);
    let refused = stop_reason.and_then(text).is_some_and(|reason| reason == "refusal");
    Verdict {
        outcome: if refused { Outcome::Refused } else { Outcome::Succeeded },
        code: None,
        usage: usage.and_then(Usage::from_anthropic_usage),
    }
}

/// The error proper sits in an envelope of the same name; some relays leave the envelope out.
fn anthropic_error(envelope: Option<&RawValue>) -> Verdict<'_> {
    let [inner] = pick_lenient(envelope, ["error"]);
    let [kind, message, details] = pick_lenient(inner.or(envelope), ["type", "message", "details"]);
    let [fine_code] = pick_lenient(details, ["error_code"]);
    let kind = kind.and_then(machine_code);
    let fine_code = fine_code.and_then(machine_code).or_else(|| message.and_then(low_balance));
    let code = fine_code.or_else(|| kind.clone()).unwrap_or(Cow::Borrowed("unknown_error"));
    Verdict { outcome: errored(Some(&code), kind.as_deref()), code: Some(code), usage: None }
}

/// A balance that is too low has no code of its own: it comes as an invalid request that says so in words.
fn low_balance(message: &RawValue) -> Option<Cow<'static, str>> {
    message.get().contains("credit balance is too low").then_some(Cow::Borrowed("credit_balance_too_low"))
}

fn errored(code: Option<&str>, kind: Option<&str>) -> Outcome {
    let in_the_request = [code, kind].into_iter().flatten().any(|word| IN_THE_REQUEST.contains(&word));
    let retryable = !in_the_request || code.is_some_and(is_out_of_money);
    Outcome::Errored { retryable }
}

fn is_money(code: &Option<Cow<'_, str>>) -> bool {
    code.as_deref().is_some_and(is_out_of_money)
}

/// A word for machines, or a number in its place; never prose.
fn machine_code(raw: &RawValue) -> Option<Cow<'_, str>> {
    let code = text(raw).or_else(|| count(raw).map(|number| Cow::Owned(number.to_string())))?;
    let is_word = !code.is_empty() && code.len() <= CODE_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_graphic());
    is_word.then_some(code)
}

/// True when every choice of a chat answer ended in a refusal.
fn all_refused(choices: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        finish_reason: Option<&'a RawValue>,
    }
    // A cheap look first: nearly every answer stops for another reason.
    if !choices.get().contains(r#""refusal""#) {
        return false;
    }
    let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get()).unwrap_or_default();
    let is_refusal = |choice: &Choice<'_>| choice.finish_reason.is_some_and(|reason| reason.get() == r#""refusal""#);
    !choices.is_empty() && choices.iter().all(is_refusal)
}
