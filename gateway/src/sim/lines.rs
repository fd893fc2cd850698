//! Reads input files line by line and tells what each line asks for, or what is wrong with it.
//!
//! An OpenAI input is kept as it was uploaded. An Anthropic create is stored as one line per request,
//! with the digest of the params as they were sent: whitespace between tokens may be changed for the
//! line's sake, the digest must not be.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::event::{Accepted, Dialect};
use super::ids::{self, Sha};

/// One request, reduced to what its answer and its bill depend on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub custom_id: String,
    pub sha: Sha,
    pub params: Params,
}

/// The parts of a request body that matter here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Params {
    pub model: String,
    pub prompt_tokens: u64,
    /// The caller's own limit on the answer.
    pub cap: Option<u64>,
    /// How many inputs an embedding request has.
    pub inputs: usize,
    pub streams: bool,
    /// A sampling parameter that newer Anthropic versions refuse.
    pub sampling: Option<&'static str>,
    /// What the vendor would say against the body.
    pub problem: Option<String>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    pub code: &'static str,
    pub message: String,
    pub param: Option<&'static str>,
}

/// A stored Anthropic request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored<'a> {
    pub custom_id: String,
    pub sha: String,
    #[serde(borrow)]
    pub params: &'a RawValue,
}

#[derive(Deserialize)]
struct OpenaiLine<'a> {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawParams<'a> {
    model: Option<Value>,
    stream: Option<Value>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
    max_output_tokens: Option<Value>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    top_k: Option<Value>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

/// Calls `each` with the number and the text of every line that is not blank.
pub(super) fn for_each(path: &Path, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        let text = line.trim_ascii();
        if !text.is_empty() {
            each(number, text)?;
        }
    }
}

/// Calls `each` with the position, the line number and the meaning of every request of a batch.
pub(super) fn items(
    batch: &Accepted,
    input: &Path,
    mut each: impl FnMut(u64, u64, Result<Item, Problem>) -> io::Result<()>,
) -> io::Result<()> {
    let mut index = 0;
    for_each(input, |number, line| {
        let mut item = match batch.dialect {
            Dialect::Openai => openai(line, &batch.endpoint),
            Dialect::Anthropic => Ok(anthropic(line, batch.version.as_deref().unwrap_or_default())?),
        };
        if let (Some(name), Ok(item)) = (&batch.faults.refuse_parameter, &mut item)
            && body_of(line).is_some_and(|body| has_parameter(body, name))
        {
            item.params.problem = Some(unsupported(name));
        }
        each(index, number, item)?;
        index += 1;
        Ok(())
    })
}

/// Classifies one line of an OpenAI input file.
pub(super) fn openai(line: &[u8], endpoint: &str) -> Result<Item, Problem> {
    let parsed: OpenaiLine = serde_json::from_slice(line).map_err(|_| {
        let message = "This line is not parseable as valid JSON.".to_owned();
        Problem { code: "invalid_json_line", message, param: None }
    })?;
    let custom_id = text("custom_id", parsed.custom_id)?;
    let method = text("method", parsed.method)?;
    if method != "POST" {
        let message = format!("Invalid method: {method:?}. Only 'POST' is supported.");
        return Err(Problem { code: "invalid_method", message, param: Some("method") });
    }
    let url = text("url", parsed.url)?;
    if url != endpoint {
        let message = "The URL provided for this request does not match the batch endpoint.".to_owned();
        return Err(Problem { code: "invalid_url", message, param: Some("url") });
    }
    let body = parsed.body.ok_or_else(|| missing("body"))?;
    if !body.get().starts_with('{') {
        let message = "'body' must be an object.".to_owned();
        return Err(Problem { code: "invalid_body", message, param: Some("body") });
    }
    let mut params = params(body);
    if params.model.is_empty() && params.problem.is_none() && endpoint != "/v1/moderations" {
        params.problem = Some("you must provide a model parameter".to_owned());
    }
    if params.streams {
        let message = "Batch requests cannot be streamed.".to_owned();
        return Err(Problem { code: "invalid_request", message, param: Some("body.stream") });
    }
    Ok(Item { custom_id, sha: ids::sha(body.get().as_bytes()), params })
}

/// Reads back one stored Anthropic request.
pub(super) fn anthropic(line: &[u8], version: &str) -> io::Result<Item> {
    let stored: Stored = serde_json::from_slice(line)?;
    let sha = ids::unhex(&stored.sha).ok_or_else(|| io::Error::other("a digest that is not hex"))?;
    let mut params = params(stored.params);
    if params.problem.is_none() {
        params.problem = anthropic_problem(&params, version);
    }
    Ok(Item { custom_id: stored.custom_id, sha, params })
}

/// Reads the body of a request that is called by itself.
pub(super) fn called(body: &RawValue, dialect: Dialect, version: &str) -> Item {
    let mut params = params(body);
    if params.problem.is_none() && dialect == Dialect::Anthropic {
        params.problem = anthropic_problem(&params, version);
    }
    if params.problem.is_none() && params.model.is_empty() {
        params.problem = Some("you must provide a model parameter".to_owned());
    }
    Item { custom_id: "call".to_owned(), sha: ids::sha(body.get().as_bytes()), params }
}

/// What is said against a parameter that the model does not take.
pub(super) fn unsupported(name: &str) -> String {
    format!("Unsupported parameter: '{name}' is not supported with this model.")
}

pub(super) fn has_parameter(body: &RawValue, name: &str) -> bool {
    let keys: Result<HashMap<&str, serde::de::IgnoredAny>, _> = serde_json::from_str(body.get());
    keys.is_ok_and(|keys| keys.contains_key(name))
}

fn body_of(line: &[u8]) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: Option<&'a RawValue>,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    line.body.or(line.params)
}

fn anthropic_problem(params: &Params, version: &str) -> Option<String> {
    if params.model.is_empty() {
        return Some("model: Field required".to_owned());
    }
    if params.streams {
        return Some("stream: Streaming is not supported in batches".to_owned());
    }
    match params.cap {
        None => return Some("max_tokens: Field required".to_owned()),
        Some(0) => return Some("max_tokens: Input should be greater than or equal to 1".to_owned()),
        Some(_) => {}
    }
    if params.inputs == 0 {
        return Some("messages: at least one message is required".to_owned());
    }
    let sampling = params.sampling.filter(|_| version >= "2026")?;
    Some(format!("{sampling}: Extra inputs are not permitted"))
}

fn missing(param: &'static str) -> Problem {
    let message = format!("Missing required parameter: '{param}'.");
    Problem { code: "missing_required_parameter", message, param: Some(param) }
}

fn text(param: &'static str, value: Option<Value>) -> Result<String, Problem> {
    match value {
        None => Err(missing(param)),
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => {
            let message = format!("Invalid type for '{param}': expected a non-empty string.");
            Err(Problem { code: "invalid_type", message, param: Some(param) })
        }
    }
}

fn params(body: &RawValue) -> Params {
    let raw: RawParams = match serde_json::from_str(body.get()) {
        Ok(raw) => raw,
        Err(error) => return Params { problem: Some(error.to_string()), ..Params::default() },
    };
    let mut problem = None;
    let model = match raw.model {
        Some(Value::String(model)) => model,
        None => String::new(),
        Some(_) => {
            problem = Some("model: Input should be a valid string".to_owned());
            String::new()
        }
    };
    let caps = [raw.max_completion_tokens, raw.max_output_tokens, raw.max_tokens];
    let given = caps.into_iter().flatten().find(|cap| !cap.is_null());
    let cap = given.as_ref().and_then(Value::as_u64);
    if given.is_some() && cap.is_none() {
        problem = Some("max_tokens: Input should be a valid integer".to_owned());
    }
    let asked = raw.messages.or(raw.input).or(raw.prompt);
    let sampling = [("temperature", raw.temperature), ("top_p", raw.top_p), ("top_k", raw.top_k)];
    Params {
        model,
        prompt_tokens: asked.map_or(1, |asked| asked.get().len() as u64 / 4 + 1),
        cap,
        inputs: asked.map_or(0, count),
        streams: raw.stream == Some(Value::Bool(true)),
        sampling: sampling.into_iter().find(|(_, value)| value.is_some()).map(|(name, _)| name),
        problem,
    }
}

/// How many inputs there are: a list of numbers is one input in tokens, any other list as many as it has.
fn count(input: &RawValue) -> usize {
    match serde_json::from_str::<Vec<&RawValue>>(input.get()) {
        Ok(list) if list.first().is_some_and(|first| first.get().parse::<f64>().is_ok()) => 1,
        Ok(list) => list.len(),
        Err(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "/v1/chat/completions";

    fn code(line: &str) -> &'static str {
        openai(line.as_bytes(), CHAT).unwrap_err().code
    }

    #[test]
    fn a_good_line_is_reduced_to_what_matters() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":7}"#;
        let line = format!(r#"{{"custom_id":"a","method":"POST","url":"{CHAT}","body":{body}}}"#);
        let item = openai(line.as_bytes(), CHAT).unwrap();
        assert_eq!((item.custom_id.as_str(), item.params.model.as_str()), ("a", "m"));
        assert_eq!(item.sha, ids::sha(body.as_bytes()));
        assert_eq!((item.params.cap, item.params.inputs), (Some(7), 1));
        assert_eq!(item.params.prompt_tokens, 9);
    }

    #[test]
    fn bad_lines_are_told_apart() {
        assert_eq!(code("{"), "invalid_json_line");
        assert_eq!(code(r#"{"method":"POST"}"#), "missing_required_parameter");
        assert_eq!(code(r#"{"custom_id":7}"#), "invalid_type");
        assert_eq!(code(r#"{"custom_id":"a","method":"GET"}"#), "invalid_method");
        assert_eq!(code(r#"{"custom_id":"a","method":"POST","url":"/v1/embeddings"}"#), "invalid_url");
        let with = |body: &str| format!(r#"{{"custom_id":"a","method":"POST","url":"{CHAT}","body":{body}}}"#);
        assert_eq!(code(&with("[]")), "invalid_body");
        assert_eq!(code(&with(r#"{"stream":true}"#)), "invalid_request");
    }

    #[test]
    fn anthropic_params_are_judged_by_version() {
        let sha = ids::hex(&ids::sha(b"x"));
        let problem = |params: &str, version: &str| {
            let line = format!(r#"{{"custom_id":"a","sha":"{sha}","params":{params}}}"#);
            anthropic(line.as_bytes(), version).unwrap().params.problem
        };
        let warm = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user"}],"temperature":1}"#;
        assert_eq!(problem(warm, "2023-06-01"), None);
        assert!(problem(warm, "2026-10-21").is_some_and(|text| text.starts_with("temperature")));
        assert!(problem(r#"{"model":"m","max_tokens":0,"messages":[1]}"#, "2023-06-01").is_some());
        assert!(problem(r#"{"model":"m","max_tokens":"5","messages":[1]}"#, "2023-06-01").is_some());
        assert!(problem(r#"{"max_tokens":1,"messages":["x"]}"#, "2023-06-01").is_some());
    }

    #[test]
    fn inputs_are_counted_as_the_vendor_counts_them() {
        let inputs = |json: &str| count(&RawValue::from_string(json.to_owned()).unwrap());
        assert_eq!((inputs(r#""one""#), inputs(r#"["a","b"]"#), inputs("[1,2,3]")), (1, 2, 1));
        assert_eq!(inputs("[[1,2],[3]]"), 2);
    }
}
