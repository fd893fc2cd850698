//! A run as it is shown.

use crate::client::{Object, time_of};
use crate::output::{Cell, Column, List, Record, Room, Row, Section};
use serde_json::Value;

pub const COLUMNS: &[Column] = &[
    Column::new("ID", Room::Whole),
    Column::new("STATUS", Room::Whole),
    Column::new("TASK", Room::Cut),
    Column::new("QUEUE", Room::Spare),
    Column::new("ATTEMPT", Room::Spare),
    Column::new("ACCEPTED", Room::Whole),
    Column::new("FINISHED", Room::Spare),
    Column::new("CODE", Room::Spare),
    Column::new("REASON", Room::Cut),
    Column::new("TAGS", Room::Spare),
];

const ATTEMPTS: &[Column] = &[
    Column::new("ATTEMPT", Room::Whole),
    Column::new("STATUS", Room::Whole),
    Column::new("CODE", Room::Whole),
    Column::new("STARTED", Room::Whole),
    Column::new("ENDED", Room::Whole),
    Column::new("WORKER", Room::Spare),
    Column::new("REASON", Room::Cut),
    Column::new("BATCH", Room::Spare),
    Column::new("VERDICT", Room::Spare),
    Column::new("COST", Room::Spare),
];

/// The fields of a run in the order in which they are told; those of its outcome follow.
const FIELDS: &[(&str, &str)] = &[
    ("id", "id"),
    ("env", "env"),
    ("task", "task"),
    ("queue", "queue"),
    ("status", "status"),
    ("attempt", "attempt"),
    ("max attempts", "max_attempts"),
    ("priority", "priority"),
    ("source", "source"),
    ("worker", "worker"),
    ("cancel requested", "cancel_requested"),
    ("concurrency key", "concurrency_key"),
    ("idempotency key", "idempotency_key"),
    ("session", "session_id"),
    ("replay of", "replay_of"),
    ("trace", "trace_id"),
    ("max duration", "max_duration_seconds"),
    ("tags", "tags"),
    ("metadata", "metadata"),
    ("payload", "payload"),
    ("accepted", "accepted_at"),
    ("not before", "not_before"),
    ("expires", "expires_at"),
    ("started", "started_at"),
    ("finished", "finished_at"),
];

pub fn list(runs: &[Object]) -> List {
    let rows = runs.iter().map(|run| Row { cells: cells(&run.value), json: Value::Null });
    List { columns: COLUMNS, rows: rows.collect(), next_after: None }
}

pub fn cells(run: &Value) -> Vec<Cell> {
    vec![
        cell("id", &run["id"]),
        cell("status", &run["status"]),
        cell("task", &run["task"]),
        cell("queue", &run["queue"]),
        cell("attempt", &run["attempt"]),
        cell("accepted_at", &run["accepted_at"]),
        cell("finished_at", &run["finished_at"]),
        cell("code", &run["outcome"]["code"]),
        cell("reason", &run["outcome"]["reason"]),
        cell("tags", &run["tags"]),
    ]
}

pub fn whole(run: &Value) -> Record {
    let mut fields: Vec<(&'static str, Cell)> =
        FIELDS.iter().map(|(title, name)| (*title, cell(name, &run[*name]))).collect();
    for (title, name) in [("code", "code"), ("reason", "reason"), ("output", "output")] {
        fields.push((title, cell(name, &run["outcome"][name])));
    }
    let attempts = run["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |attempt: &Value| {
        ["epoch", "status", "code", "started_at", "ended_at", "worker", "reason", "batch_id", "verdict", "cost_usd"]
            .map(|name| cell(name, &attempt[name]))
            .to_vec()
    };
    let section = Section { name: "attempt", columns: ATTEMPTS, rows: attempts.iter().map(row).collect() };
    Record { fields, sections: vec![section], json: Value::Null }
}

/// A value of the API by the name of its field: times end in `_at`, `not_before` is one too.
pub fn cell(name: &str, value: &Value) -> Cell {
    if name.ends_with("_at") || name == "not_before" {
        return Cell::Time(time_of(value));
    }
    match value {
        Value::Null => Cell::Absent,
        Value::Bool(yes) => Cell::text(if *yes { "yes" } else { "no" }),
        Value::Number(number) => number.as_i64().map_or_else(|| Cell::text(number.to_string()), Cell::Number),
        Value::String(text) => Cell::text(text),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            Cell::text(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
        }
        Value::Array(_) | Value::Object(_) => Cell::text(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;

    fn run() -> Object {
        Object::parse(
            br#"{"id":"run_1","status":"failed","task":"t","queue":"q","attempt":2,"tags":["a","b"],"payload":{"x":1},
            "accepted_at":"1970-01-01T00:00:01.000Z","finished_at":null,"cancel_requested":false,
            "outcome":{"code":"exit_3","reason":"it said so"},
            "attempts":[{"epoch":1,"status":"failed","code":"exit_3","reason":null,"worker":"w",
                "started_at":"1970-01-01T00:00:02.000Z","ended_at":null}]}"#,
        )
        .expect("a run")
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        assert_eq!(cells(&run().value).len(), COLUMNS.len());
        let text = list(&[run()]).render(Output::Table, Style::Plain);
        let expected = "run_1\tfailed\tt\tq\t2\t1970-01-01T00:00:01.000Z\t—\texit_3\tit said so\ta,b\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_record_tells_the_outcome_and_every_attempt_before_it() {
        let text = whole(&run().value).render(Output::Table, Style::Plain);
        for line in [
            "payload\t{\"x\":1}\n",
            "reason\tit said so\n",
            "cancel requested\tno\n",
            "attempt\t1\tfailed\texit_3\t1970-01-01T00:00:02.000Z\t—\tw\t—\t—\t—\t—\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
    }
}
