//! `tidegate buffer`: what is accepted and waits to be let through.

use crate::cli::{BufferArgs, BufferCommand, Common};
use crate::client::{Client, Object, Request, block_on, print_object, print_objects};
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Record, Room, Row, Section, note};
use crate::runs::cell;
use serde_json::Value;
use storage::model::{Clock, SystemClock};

const DEPTHS: &[Column] = &[
    Column::new("ENV", Room::Whole),
    Column::new("ENTRIES", Room::Whole),
    Column::new("PARKED", Room::Whole),
    Column::new("OLDEST (S)", Room::Whole),
];

const ENTRIES: &[Column] = &[
    Column::new("RUN", Room::Whole),
    Column::new("ENV", Room::Spare),
    Column::new("TASK", Room::Cut),
    Column::new("ACCEPTED", Room::Whole),
    Column::new("PARKED", Room::Cut),
];

pub fn run(args: &BufferArgs, common: &Common) -> Result<Exit, Failure> {
    let client = Client::new(&args.remote)?;
    let (output, now) = (common.output, SystemClock.now());
    block_on(async {
        match &args.command {
            BufferCommand::Status => {
                let status = client.send(&Request::get("/buffer")).await?.object()?;
                print_object(&status, output, now, whole)?;
            }
            BufferCommand::Entries { limit, after } => {
                let request =
                    Request::get("/buffer/entries").query("limit", limit).maybe_query("cursor", after.as_deref());
                let page = client.send(&request).await?.page()?;
                print_objects(&page.data, output, now, entries)?;
                if let Some(after) = page.next_cursor {
                    note(format_args!("there are more: add --after {after}"));
                }
            }
        }
        Ok(Exit::Done)
    })
}

fn row(object: &Value, names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| cell(name, &object[*name])).collect()
}

fn whole(status: &Value) -> Record {
    let fields = ["entries", "stale", "stale_after_seconds"];
    let depths = status["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = depths.iter().map(|depth| row(depth, &["env", "entries", "parked", "oldest_age_seconds"]));
    Record {
        fields: fields.iter().map(|name| (*name, cell(name, &status[*name]))).collect(),
        sections: vec![Section { name: "env", columns: DEPTHS, rows: rows.collect() }],
        json: Value::Null,
    }
}

fn entries(entries: &[Object]) -> List {
    let names = ["run_id", "env", "task", "accepted_at", "parked"];
    let row = |entry: &Object| Row { cells: row(&entry.value, &names), json: Value::Null };
    List { columns: ENTRIES, rows: entries.iter().map(row).collect(), next_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;

    #[test]
    fn the_status_has_a_line_for_each_env() {
        let status = serde_json::json!({"entries": 3, "stale": 1, "stale_after_seconds": 300.0,
            "data": [{"env": "acme/prod", "entries": 3, "parked": 0, "oldest_age_seconds": 1.5}]});
        let text = whole(&status).render(Output::Table, Style::Plain);
        assert_eq!(text, "entries\t3\nstale\t1\nstale_after_seconds\t300.0\nenv\tacme/prod\t3\t0\t1.5\n");
    }
}
