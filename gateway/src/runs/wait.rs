//! `runs wait`, `runs watch` and `runs create --wait`: until runs have ended. Going away ends the waiting only.

use super::{now, path, print_one, view};
use crate::api::view::INCOMPLETE;
use crate::cli::Output;
use crate::client::{Client, Event, Follow, Object, Request, print_objects};
use crate::exit::{Exit, Failure};
use crate::output::{Reader, Style, send};
use crate::signals::Signals;
use serde_json::Value;
use std::time::Duration;
use storage::model::RunState;
use tokio::time::timeout;

/// Waits for all of them, however each ends.
pub async fn wait(
    client: &Client,
    ids: &[String],
    patience: Option<Duration>,
    output: Output,
) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut ended = Vec::new();
    let all = async {
        for id in ids {
            ended.push(end_of(client, id).await?);
        }
        Ok::<_, Failure>(None)
    };
    let waited = async {
        match patience {
            Some(patience) => timeout(patience, all).await.unwrap_or(Ok(Some(Exit::TimedOut))),
            None => all.await,
        }
    };
    let stopped = tokio::select! {
        waited = waited => waited,
        exit = signals.next() => Ok(Some(exit)),
    };
    print_objects(&ended, output, now(), view::list)?;
    match stopped? {
        None => Ok(exit_of(&ended)),
        Some(exit) => {
            let left = ids[ended.len()..].join(" ");
            say!("not waiting any more; the runs go on. To wait again: tidegate runs wait {left}");
            Ok(exit)
        }
    }
}

/// Waits for a run that was just made.
pub async fn created(client: &Client, run: &Object, output: Output) -> Result<Exit, Failure> {
    let id = run.text("id");
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = end_of(client, id) => ended?,
        exit = signals.next() => {
            print_one(run, output)?;
            say!("not waiting any more; the run goes on. To wait again: tidegate runs wait {id}");
            return Ok(exit);
        }
    };
    print_one(&ended, output)?;
    Ok(exit_of(&[ended]))
}

/// The run as it ended.
async fn end_of(client: &Client, id: &str) -> Result<Object, Failure> {
    let named = |failure: Failure| Failure { what: format!("{id}: {}", failure.what), ..failure };
    let mut follow = Follow::run(client, id);
    while follow.next().await.map_err(named)?.is_some() {}
    client.send(&Request::get(path(id, ""))).await.map_err(named)?.object()
}

fn exit_of(runs: &[Object]) -> Exit {
    if runs.iter().all(|run| succeeded(&run.value)) { Exit::Done } else { Exit::ItemsFailed }
}

/// A run that did not fail is no success while its session is unfinished.
fn succeeded(run: &Value) -> bool {
    run["status"] == RunState::Succeeded.word() && run["outcome"]["code"] != INCOMPLETE
}

/// Prints each event as it comes, the ones before included.
pub async fn watch(client: &Client, id: &str, output: Output) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut follow = Follow::run(client, id);
    let (mut texts, mut well) = (Vec::new(), false);
    let style = Style::of_stdout(now());
    loop {
        let event = tokio::select! {
            event = follow.next() => event?,
            exit = signals.next() => {
                say!("not watching any more; the run goes on. To watch again: tidegate runs watch {id}");
                return Ok(exit);
            }
        };
        let Some(event) = event else { break };
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        well |= succeeded(&data);
        let shown = match output {
            Output::Table => send(&line(&event, &data, style))?,
            Output::Jsonl => send(&format!("{}\n", object(&event)))?,
            Output::Json => {
                texts.push(object(&event));
                Reader::Listening
            }
        };
        if shown == Reader::Gone {
            return Ok(Exit::Done);
        }
    }
    if output == Output::Json {
        send(&format!("{{\"data\":[{}]}}\n", texts.join(",")))?;
    }
    Ok(if well { Exit::Done } else { Exit::ItemsFailed })
}

/// An event as an object, with its data as it came.
fn object(event: &Event) -> String {
    let (id, name) = (Value::from(event.id.clone()), Value::from(event.name.as_str()));
    format!("{{\"id\":{id},\"event\":{name},\"data\":{}}}", event.data.replace('\n', " "))
}

/// When, what, which attempt, and how it ended: always as many fields, so that programs can count them.
fn line(event: &Event, data: &Value, style: Style) -> String {
    let ended = event.name == "finished";
    let at = if ended { &data["finished_at"] } else { &data["at"] };
    let outcome = if ended { &data["outcome"] } else { data };
    let cells = [
        view::cell("at", at),
        view::cell("event", &Value::from(event.name.as_str())),
        view::cell("attempt", &data["attempt"]),
        view::cell("status", &data["status"]),
        view::cell("code", &outcome["code"]),
        view::cell("reason", &outcome["reason"]),
    ];
    let shown: Vec<String> = cells.iter().map(|cell| cell.show(Style::Plain)).collect();
    match style {
        Style::Plain => format!("{}\n", shown.join("\t")),
        Style::Terminal { .. } => {
            let said: Vec<&str> = shown[3..].iter().map(String::as_str).filter(|text| *text != "—").collect();
            format!("{}  {:9} attempt {:3} {}\n", shown[0], shown[1], shown[2], said.join("  "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> (Event, Value) {
        let event = Event { id: Some("1-x".to_owned()), name: name.to_owned(), data: data.to_owned() };
        (event, serde_json::from_str(data).expect("JSON"))
    }

    #[test]
    fn every_event_has_the_same_number_of_fields() {
        for (name, data, expected) in [
            ("accepted", r#"{"run":"run_1","at":"2026-11-21T00:00:00.000Z"}"#, "accepted\t—\t—\t—\t—"),
            ("started", r#"{"run":"run_1","attempt":1,"at":"2026-11-21T00:00:00.000Z"}"#, "started\t1\t—\t—\t—"),
            (
                "requeued",
                r#"{"attempt":1,"at":"2026-11-21T00:00:00.000Z","status":"failed","code":"exit_1","reason":"a\tb"}"#,
                "requeued\t1\tfailed\texit_1\ta\\tb",
            ),
            (
                "finished",
                r#"{"attempt":2,"finished_at":"2026-11-21T00:00:00.000Z","status":"succeeded","outcome":{"code":"ok"}}"#,
                "finished\t2\tsucceeded\tok\t—",
            ),
        ] {
            let (event, data) = event(name, data);
            assert_eq!(line(&event, &data, Style::Plain), format!("2026-11-21T00:00:00.000Z\t{expected}\n"));
        }
    }

    #[test]
    fn one_run_that_did_not_succeed_decides_about_the_exit_code() {
        let run = |status: &str| Object::parse(format!("{{\"status\":\"{status}\"}}").as_bytes()).expect("a run");
        assert_eq!(exit_of(&[run("succeeded"), run("succeeded")]), Exit::Done);
        for status in ["failed", "cancelled", "timed_out", "expired"] {
            assert_eq!(exit_of(&[run("succeeded"), run(status)]), Exit::ItemsFailed, "{status}");
        }
        let unfinished = r#"{"status":"succeeded","outcome":{"code":"incomplete"}}"#;
        let unfinished = Object::parse(unfinished.as_bytes()).expect("a run");
        assert_eq!(exit_of(&[unfinished]), Exit::ItemsFailed, "it is no success");
    }
}
