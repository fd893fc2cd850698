//! `tidegate repair`: whatever was left behind is put right now and not at its time, to the last of it.

use crate::cli::{Common, RepairArgs, RepairCommand};
use crate::client::{Client, Request, block_on, segment};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row, note};
use actors::sweeper::Kind;
use serde_json::{Value, json};
use storage::model::{Clock, SystemClock};

const DONE: &[Column] = &[Column::new("KIND", Room::Whole), Column::new("FOUND", Room::Whole)];
/// Goes of one kind, after which whatever makes it find more and more is looked for elsewhere.
const GOES: u32 = 100_000;

pub fn run(args: &RepairArgs, common: &Common, config: &Config) -> Result<Exit, Failure> {
    if let Some(RepairCommand::ImportBatches(import)) = &args.command {
        return crate::process::import_batches(import, args.dry_run, common, config);
    }
    let client = Client::new(&args.remote)?;
    block_on(async {
        let mut told = Vec::new();
        // What is deleted by its age is not in need of repair.
        for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Retention) {
            told.push(to_its_end(&client, *kind, args.dry_run).await?);
        }
        List { columns: DONE, rows: told, next_after: None }.print(common.output, SystemClock.now())?;
        if args.dry_run {
            note("nothing was changed");
        }
        Ok(Exit::Done)
    })
}

/// As many goes as it takes: a walk to its end, another kind until it finds nothing more.
async fn to_its_end(client: &Client, kind: Kind, dry_run: bool) -> Result<Row, Failure> {
    let mut found = 0;
    let mut body = json!({ "dry_run": dry_run });
    for _ in 0..GOES {
        // Done twice, it does nothing the second time.
        let path = format!("/sweeps/{}/run", segment(kind.word()));
        let answer = client.send(&Request::post(path).json(body.to_string()).repeatable()).await?.object()?;
        let now = answer.value["found"].as_u64().unwrap_or(0);
        found += now;
        let next = answer.value["next_after"].as_str();
        let more = next.is_some() || (kind.takes_away() && now > 0 && !dry_run);
        if !more {
            break;
        }
        if let Some(next) = next {
            body["after"] = Value::from(next);
        }
    }
    let json = json!({ "kind": kind.word(), "found": found, "dry_run": dry_run });
    Ok(Row { cells: vec![Cell::text(kind.word()), Cell::text(found.to_string())], json })
}
