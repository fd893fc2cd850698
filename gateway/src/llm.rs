//! The `llm` tasks of the configuration: a run's payload is a request to the task's provider.
//!
//! It may be the request's body alone, or a line as `process` takes it but for the id: `{url, body}` for a provider that
//! speaks OpenAI's protocol, `{params}` for one that speaks Anthropic's. The id on the wire is ours.

use crate::config::Config;
use crate::exit::Failure;
use crate::input::one_request;
use crate::providers::Configured;
use actors::LlmTask;
use actors::price::PriceTable;
use actors::provider::Protocol;
use actors::provider::request::pack_of;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use storage::store::Dressed;

/// Where a body goes that does not say so.
const DEFAULT_URL: &str = "/v1/chat/completions";

/// Those tasks whose provider this process has a key for.
pub fn tasks(config: &Config, providers: &Configured) -> HashMap<String, LlmTask> {
    let llm = config.tasks.iter().filter(|(_, task)| task.kind == "llm");
    let task = |(name, task): (&String, &crate::config::TaskConfig)| {
        let provider = task.provider.clone()?;
        let (account, protocol) = providers.accounts.get(&provider)?.clone();
        let max_attempts = task.max_attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(3);
        let make_request = Arc::new(move |payload: &str, prices: &PriceTable| dressed(payload, protocol, prices));
        Some((name.clone(), LlmTask { provider, account, max_attempts, make_request }))
    };
    llm.filter_map(task).collect()
}

/// The protocol of a task's provider, by the configuration alone: a node that takes runs in needs no key for it.
pub fn protocol_of(config: &Config, provider: &str) -> Result<Protocol, Failure> {
    let own = config.providers.get(provider);
    match (own.and_then(|own| own.protocol.as_deref()), provider) {
        (Some("anthropic"), _) | (None, "anthropic") => Ok(Protocol::Anthropic),
        (Some(_), _) | (None, "openai") => Ok(Protocol::OpenAi),
        (None, _) => {
            let failure = Failure::usage(format!("there is no provider `{provider}` with a protocol"));
            Err(failure.hint("use openai or anthropic, or add `protocol` to its [providers.NAME]"))
        }
    }
}

/// What is wrong with a payload, if anything is.
pub fn check(payload: &str, protocol: Protocol) -> Result<(), String> {
    let line = line_of(payload, protocol)?;
    one_request(&line).map(drop).map_err(|fault| fault.to_string())
}

fn dressed(payload: &str, protocol: Protocol, prices: &PriceTable) -> Result<Dressed, String> {
    let line = line_of(payload, protocol)?;
    let request = one_request(&line).map_err(|fault| fault.to_string())?;
    Ok(Dressed {
        pack: pack_of(request.url, &request.model, None),
        reserve_nanos: crate::process::reserve(&request, prices).map(|bound| bound.nanos()),
        body: request.body.to_owned(),
    })
}

/// The payload as a line of a request file.
fn line_of(payload: &str, protocol: Protocol) -> Result<String, String> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(payload).map_err(|_| "must be an object: a request to the provider".to_owned())?;
    let (wraps, other) = match protocol {
        Protocol::OpenAi => ("body", "params"),
        Protocol::Anthropic => ("params", "body"),
    };
    if members.contains_key(other) && !members.contains_key("model") {
        return Err(format!("has `{other}`, which is not the form of this task's provider; use `{wraps}`"));
    }
    let mut line = "{\"custom_id\":\"run\"".to_owned();
    let mut add = |key: &str, value: &str| {
        for part in [",", &serde_json::Value::from(key).to_string(), ":", value] {
            line.push_str(part);
        }
    };
    if !members.contains_key(wraps) {
        add(wraps, payload);
    }
    for (key, value) in members.iter().filter(|_| members.contains_key(wraps)) {
        if key == "custom_id" {
            return Err("has `custom_id`; a run's id is made by the server".to_owned());
        }
        add(key, value.get());
    }
    if protocol == Protocol::OpenAi {
        let wrapped = |key: &str| members.contains_key(wraps) && members.contains_key(key);
        if !wrapped("method") {
            add("method", "\"POST\"");
        }
        if !wrapped("url") {
            add("url", &format!("\"{DEFAULT_URL}\""));
        }
    }
    line.push('}');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Anthropic, OpenAi};

    fn dress(payload: &str, protocol: Protocol) -> Result<Dressed, String> {
        dressed(payload, protocol, PriceTable::builtin())
    }

    #[test]
    fn a_body_alone_and_a_whole_line_are_the_same_request() {
        let body = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
        let alone = dress(body, OpenAi).expect("a request");
        assert_eq!((alone.pack.as_str(), alone.body.as_str()), ("/v1/chat/completions gpt-4o-mini", body));
        assert!(alone.reserve_nanos.is_some_and(|nanos| nanos > 0));
        assert_eq!(dress(&format!(r#"{{"body":{body}}}"#), OpenAi), Ok(alone.clone()));
        let whole = format!(r#"{{"method":"POST","url":"/v1/chat/completions","body":{body}}}"#);
        assert_eq!(dress(&whole, OpenAi), Ok(alone));
        let elsewhere = dress(&format!(r#"{{"url":"/v1/responses","body":{body}}}"#), OpenAi).expect("a request");
        assert_eq!(elsewhere.pack, "/v1/responses gpt-4o-mini");
        let params = r#"{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}"#;
        let alone = dress(params, Anthropic).expect("a request");
        assert_eq!((alone.pack.as_str(), alone.body.as_str()), ("/v1/messages claude-haiku-4-5", params));
        assert_eq!(dress(&format!(r#"{{"params":{params}}}"#), Anthropic), Ok(alone));
    }

    #[test]
    fn what_is_no_request_says_why() {
        for (payload, protocol, why) in [
            ("null", OpenAi, "must be an object"),
            ("[1]", OpenAi, "must be an object"),
            (r#"{"messages":[]}"#, OpenAi, "model"),
            (r#"{"params":{"model":"m","max_tokens":1}}"#, OpenAi, "use `body`"),
            (r#"{"body":{"model":"m"}}"#, Anthropic, "use `params`"),
            (r#"{"model":"m","messages":[]}"#, Anthropic, "max_tokens"),
            (r#"{"custom_id":"x","body":{"model":"m"}}"#, OpenAi, "custom_id"),
            (r#"{"url":"/v1/nowhere","body":{"model":"m"}}"#, OpenAi, "/v1/nowhere"),
            (r#"{"extra":1,"body":{"model":"m"}}"#, OpenAi, "extra"),
        ] {
            let found = check(payload, protocol).expect_err(payload);
            assert!(found.contains(why), "{payload}: {found}");
        }
    }
}
