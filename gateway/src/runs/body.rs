//! What `runs create` asks the server for. JSON of the user's goes through as the text that it is.

use crate::cli::CreateArgs;
use crate::exit::Failure;
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// More than any server takes for one run.
const FILE_MAX: u64 = 64 << 20;

#[derive(Serialize)]
struct Body<'a> {
    task: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<f64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_duration_seconds: Option<f64>,
}

/// The body of `POST /runs`.
pub fn of(args: &CreateArgs, task: &str) -> Result<String, Failure> {
    let seconds = |span: Option<Duration>| span.map(|span| span.as_secs_f64());
    let body = Body {
        task,
        payload: args.payload.as_deref().map(payload).transpose()?,
        queue: args.queue.as_deref(),
        priority: args.priority,
        delay_seconds: seconds(args.delay),
        not_before: args.not_before.as_deref(),
        ttl_seconds: seconds(args.ttl),
        tags: &args.tags,
        metadata: args.metadata.as_deref().map(|text| json("--metadata", text)).transpose()?,
        concurrency_key: args.concurrency_key.as_deref(),
        session_id: args.session.as_deref(),
        max_attempts: args.max_attempts,
        max_duration_seconds: seconds(args.max_duration),
    };
    serde_json::to_string(&body).map_err(Failure::usage)
}

/// A payload in any of its three forms.
fn payload(given: &str) -> Result<Box<RawValue>, Failure> {
    if given == "-" {
        return json("the payload on stdin", &read("stdin", std::io::stdin().lock())?);
    }
    match given.strip_prefix('@') {
        Some(path) => {
            let cannot = |error| Failure::usage(format!("--payload: cannot read {path}: {error}"));
            let file = std::fs::File::open(Path::new(path)).map_err(cannot)?;
            json(path, &read(path, file)?)
        }
        None => json("--payload", given),
    }
}

fn read(name: &str, from: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    let cannot = |error| Failure::usage(format!("--payload: cannot read {name}: {error}"));
    from.take(FILE_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_MAX {
        return Err(Failure::usage(format!("--payload: {name} is larger than {FILE_MAX} bytes")));
    }
    Ok(text)
}

fn json(name: &str, text: &str) -> Result<Box<RawValue>, Failure> {
    let text = text.trim_start_matches('\u{feff}').trim();
    serde_json::from_str(text).map_err(|error| {
        let failure = Failure::usage(format!("{name} is not JSON: {error}"));
        let quoted = serde_json::Value::from(text.chars().take(40).collect::<String>());
        if text.starts_with(['{', '[', '"']) {
            failure
        } else {
            failure.hint(format!("a text is written as '{quoted}'"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, RunsCommand};
    use clap::Parser;

    fn args(words: &[&str]) -> Box<CreateArgs> {
        let cli = Cli::try_parse_from([&["tidegate", "runs", "create"], words].concat()).expect("arguments");
        match cli.command {
            Command::Runs(args) => match args.command {
                RunsCommand::Create(args) => args,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_given_is_not_sent() {
        assert_eq!(of(&args(&["noop"]), "noop").expect("a body"), r#"{"task":"noop"}"#);
    }

    #[test]
    fn json_of_the_user_goes_through_as_it_is_and_spans_are_seconds() {
        let words = "t --payload {\"b\":123456789012345678901234567890,\"a\":1.50} --priority -5 --delay 90m \
                     --tag x --tag y --max-attempts 2 --ttl 1500ms";
        let body = of(&args(&words.split_whitespace().collect::<Vec<_>>()), "t").expect("a body");
        let expected = r#"{"task":"t","payload":{"b":123456789012345678901234567890,"a":1.50},"priority":-5,"delay_seconds":5400.0,"ttl_seconds":1.5,"tags":["x","y"],"max_attempts":2}"#;
        assert_eq!(body, expected);
    }

    #[test]
    fn what_is_not_json_is_refused_before_anything_is_sent() {
        let failure = of(&args(&["t", "--payload", "hello"]), "t").expect_err("no JSON");
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
        assert_eq!(failure.hint.as_deref(), Some("a text is written as '\"hello\"'"));
        assert!(of(&args(&["t", "--payload", "@/nowhere/at/all"]), "t").is_err());
        assert!(of(&args(&["t", "--metadata", "{"]), "t").is_err());
    }

    #[test]
    fn a_file_of_runs_says_everything_itself() {
        for words in [&["--file", "f", "noop"][..], &["--file", "f", "--wait"], &[], &["a", "b"]] {
            assert!(Cli::try_parse_from([&["tidegate", "runs", "create"], words].concat()).is_err(), "{words:?}");
        }
        assert_eq!(args(&["--file", "-", "--idempotency-key", "k"]).idempotency_key.as_deref(), Some("k"));
    }
}
