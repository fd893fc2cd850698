//! `tidegate sessions …`: sessions of a server. Which one is meant is never guessed among several.

use crate::cli::{Common, Output, SessionsArgs, SessionsCommand, StatusArg};
use crate::client::{Client, Object, Page, Request, block_on, print_object, print_objects, segment};
use crate::exit::{Exit, Failure};
use crate::output::{Column, List, Record, Room, Row, Section};
use crate::runs::cell;
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use storage::model::{Clock, SystemClock};

const COLUMNS: &[Column] = &[
    Column::new("ID", Room::Whole),
    Column::new("TYPE", Room::Cut),
    Column::new("STATUS", Room::Whole),
    Column::new("OUTCOME", Room::Spare),
    Column::new("ROUND", Room::Whole),
    Column::new("PHASE", Room::Cut),
    Column::new("OPENED", Room::Spare),
    Column::new("MOVED", Room::Whole),
];

const EVENTS: &[Column] = &[
    Column::new("SEQ", Room::Whole),
    Column::new("AT", Room::Whole),
    Column::new("EVENT", Room::Whole),
    Column::new("ROUND", Room::Whole),
    Column::new("PHASE", Room::Cut),
    Column::new("DATA", Room::Spare),
];

/// The fields of a session, in the order in which they are told.
const FIELDS: &[(&str, &str)] = &[
    ("id", "id"),
    ("env", "env"),
    ("type", "type"),
    ("status", "status"),
    ("outcome", "outcome"),
    ("round", "round"),
    ("phase", "phase"),
    ("round completed", "round_completed"),
    ("allowed", "allowed"),
    ("remaining", "remaining"),
    ("driver", "driver_run_id"),
    ("resumes", "resumes"),
    ("max resumes", "max_resumes"),
    ("metadata", "metadata"),
    ("opened", "opened_at"),
    ("moved", "moved_at"),
    ("closed", "closed_at"),
];

/// Names the session that a program belongs to.
const OWN: &str = "TIDEGATE_SESSION_ID";
/// Of several active ones so many are named.
const CANDIDATES: usize = 10;
/// As the server has it.
const RESULT_MAX: u64 = 64 * 1024;

pub fn run(args: &SessionsArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    let output = common.output;
    block_on(async {
        match &args.command {
            SessionsCommand::Open { kind, metadata, driver, again } => {
                let metadata = metadata.as_deref().map(|text| object(text, "--metadata")).transpose()?;
                let body = json!({ "type": kind, "metadata": metadata, "driver_run_id": driver, "session_id": again });
                tell(&client, "/sessions".to_owned(), body, output).await
            }
            SessionsCommand::List { status, kind, limit } => {
                let rows = list(&client, *status, kind.as_deref(), *limit).await?;
                print_objects(&rows, output, SystemClock.now(), table)?;
                Ok(Exit::Done)
            }
            SessionsCommand::Get { id } => {
                let id = meant(&client, id.as_deref()).await?;
                let session = client.send(&Request::get(path(&id, ""))).await?.object()?;
                print_object(&session, output, SystemClock.now(), whole)?;
                Ok(Exit::Done)
            }
            SessionsCommand::Transition { phase, id } => {
                let id = meant(&client, id.as_deref()).await?;
                tell(&client, path(&id, "/transition"), json!({ "phase": phase }), output).await
            }
            SessionsCommand::CompleteRound { id, result } => {
                let result = result.as_deref().map(read).transpose()?;
                let result = result.map(|text| object(&text, "--result")).transpose()?;
                let id = meant(&client, id.as_deref()).await?;
                tell(&client, path(&id, "/complete-round"), json!({ "result": result }), output).await
            }
            SessionsCommand::Close { id, abort } => {
                let id = meant(&client, id.as_deref()).await?;
                let outcome = if *abort { "aborted" } else { "complete" };
                tell(&client, path(&id, "/close"), json!({ "outcome": outcome }), output).await
            }
        }
    })
}

fn path(id: &str, what: &str) -> String {
    format!("/sessions/{}{what}", segment(id))
}

fn object(text: &str, option: &str) -> Result<Value, Failure> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    value.filter(Value::is_object).ok_or_else(|| Failure::usage(format!("{option} must be a JSON object")))
}

fn read(file: &Path) -> Result<String, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", file.display()));
    let mut text = String::new();
    let source: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).map_err(cannot)?),
    };
    source.take(RESULT_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > RESULT_MAX {
        return Err(Failure::usage(format!("{} is larger than {RESULT_MAX} bytes", file.display())));
    }
    Ok(text)
}

/// Told twice, a session does it once; only a session without a driver would be opened twice.
async fn tell(client: &Client, path: String, body: Value, output: Output) -> Result<Exit, Failure> {
    let once = path == "/sessions" && body["driver_run_id"].is_null();
    let request = Request::post(path).json(body.to_string());
    let request = if once { request } else { request.repeatable() };
    let session = client.send(&request).await?.object()?;
    print_object(&session, output, SystemClock.now(), whole)?;
    Ok(Exit::Done)
}

async fn list(
    client: &Client,
    status: Option<StatusArg>,
    kind: Option<&str>,
    limit: u32,
) -> Result<Vec<Object>, Failure> {
    let status = status.map(|status| match status {
        StatusArg::Active => "active",
        StatusArg::Closed => "closed",
    });
    let request =
        Request::get("/sessions").query("limit", limit).maybe_query("status", status).maybe_query("type", kind);
    let page: Page = client.send(&request).await?.page()?;
    Ok(page.data)
}

/// The session that is meant: the one that is named, else the program's own, else the only active one. What was not
/// said is told on stderr; of several, none is taken (invariant 32). An own one that is not there is no other one.
async fn meant(client: &Client, named: Option<&str>) -> Result<String, Failure> {
    if let Some(id) = named {
        return Ok(id.to_owned());
    }
    if let Some(own) = std::env::var(OWN).ok().filter(|own| !own.is_empty()) {
        say!("session {own}, named by {OWN}");
        return Ok(own);
    }
    let active = list(client, Some(StatusArg::Active), None, CANDIDATES as u32 + 1).await?;
    match active.as_slice() {
        [] => Err(Failure::new(Exit::NotFound, "no session is active").hint("name one, or open one")),
        [only] => {
            say!("session {}, the only active one", only.text("id"));
            Ok(only.text("id").to_owned())
        }
        several => {
            let shown = several.iter().take(CANDIDATES);
            let name = |one: &Object| {
                format!(
                    "\n  {} ({}, round {}, at {})",
                    one.text("id"),
                    one.text("type"),
                    one.value["round"],
                    one.text("phase")
                )
            };
            let more = if several.len() > CANDIDATES { "\n  …" } else { "" };
            let what = format!("several sessions are active:{}{more}", shown.map(name).collect::<String>());
            Err(Failure::new(Exit::Conflict, what).hint(format!("name the one that is meant, or set {OWN}")))
        }
    }
}

fn table(sessions: &[Object]) -> List {
    let cells = |session: &Object| {
        ["id", "type", "status", "outcome", "round", "phase", "opened_at", "moved_at"]
            .map(|name| cell(name, &session.value[name]))
            .to_vec()
    };
    let rows = sessions.iter().map(|session| Row { cells: cells(session), json: Value::Null });
    List { columns: COLUMNS, rows: rows.collect(), next_after: None }
}

fn whole(session: &Value) -> Record {
    let fields = FIELDS.iter().map(|(title, name)| (*title, cell(name, &session[*name]))).collect();
    let events = session["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row =
        |event: &Value| ["seq", "at", "event", "round", "phase", "data"].map(|name| cell(name, &event[name])).to_vec();
    let section = Section { name: "event", columns: EVENTS, rows: events.iter().map(row).collect() };
    let sections = if events.is_empty() { Vec::new() } else { vec![section] };
    Record { fields, sections, json: Value::Null }
}
