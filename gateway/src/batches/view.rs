//! A batch as it is shown: the cells of a table, and the object that programs read.

use crate::output::{Cell, Column, Record, Room, Row, Section};
use actors::provider::request::model_of_pack;
use serde_json::{Value, json};
use storage::model::{BatchState, Money, Timestamp};
use storage::store::{BatchRow, Stray};

pub const COLUMNS: &[Column] = &[
    Column::new("ID", Room::Whole),
    Column::new("STATE", Room::Whole),
    Column::new("REQUESTS", Room::Whole),
    Column::new("OK", Room::Whole),
    Column::new("ERR", Room::Whole),
    Column::new("SPENT", Room::Whole),
    Column::new("CREATED", Room::Spare),
    Column::new("PROVIDER", Room::Spare),
    Column::new("MODEL", Room::Spare),
    Column::new("PROVIDER BATCH", Room::Spare),
    Column::new("JOB", Room::Spare),
    Column::new("REASON", Room::Cut),
];

const EVENTS: &[Column] = &[
    Column::new("AT", Room::Whole),
    Column::new("EVENT", Room::Whole),
    Column::new("EPOCH", Room::Whole),
    Column::new("DATA", Room::Cut),
];

const STRAYS: &[Column] =
    &[Column::new("STRAY", Room::Whole), Column::new("STATE", Room::Whole), Column::new("REQUESTS", Room::Whole)];

/// When, under which epoch, what, and what was told with it.
pub type Event = (i64, i64, String, String);

/// What the batch cost, once that is computed: when all its requests are settled, and each of known price.
pub fn spent(row: &BatchRow, priced: bool) -> Option<Money> {
    match row.state {
        BatchState::Planned => Some(row.spent),
        BatchState::Collected | BatchState::Abandoned => Some(row.spent).filter(|_| priced),
        BatchState::Submitting | BatchState::Unknown | BatchState::Submitted => None,
        BatchState::Cancelling | BatchState::Ended => None,
    }
}

pub fn row(row: &BatchRow, priced: bool) -> Row {
    let cells = vec![
        Cell::text(row.id.as_str()),
        Cell::text(row.state.word()),
        Cell::Number(row.requests),
        Cell::Number(row.succeeded),
        Cell::Number(row.errored),
        Cell::Usd(spent(row, priced)),
        Cell::Time(Some(row.created_at)),
        Cell::text(&row.provider),
        Cell::text(model_of_pack(&row.pack)),
        Cell::maybe(row.provider_batch_id.as_deref()),
        Cell::text(row.job.as_str()),
        Cell::maybe(row.reason.as_deref()),
    ];
    Row { cells, json: object(row, priced) }
}

/// The batch with its events and the duplicates that were found of it.
pub fn whole(row: &BatchRow, priced: bool, events: &[Event], strays: &[Stray]) -> Record {
    let mut object = object(row, priced);
    object["events"] = events.iter().map(json_event).collect();
    object["strays"] = strays
        .iter()
        .map(|stray| {
            json!({ "provider_batch_id": stray.provider_batch_id, "state": stray.state, "requests": stray.requests })
        })
        .collect();
    let events = events.iter().map(|event| event_cells(event).to_vec());
    let strays = strays.iter().map(|stray| {
        vec![Cell::text(&stray.provider_batch_id), Cell::text(&stray.state), Cell::Number(stray.requests)]
    });
    let sections = vec![
        Section { name: "event", columns: EVENTS, rows: events.collect() },
        Section { name: "stray", columns: STRAYS, rows: strays.collect() },
    ];
    Record { fields: fields(row, priced), sections, json: object }
}

fn fields(row: &BatchRow, priced: bool) -> Vec<(&'static str, Cell)> {
    vec![
        ("id", Cell::text(row.id.as_str())),
        ("state", Cell::text(row.state.word())),
        ("mode", Cell::text(row.mode.word())),
        ("reason", Cell::maybe(row.reason.as_deref())),
        ("job", Cell::text(row.job.as_str())),
        ("env", Cell::text(&row.env)),
        ("source", Cell::text(row.source.word())),
        ("round", Cell::Number(row.round)),
        ("provider", Cell::text(&row.provider)),
        ("account", Cell::text(&row.account)),
        ("url", Cell::text(url(row))),
        ("model", Cell::text(model_of_pack(&row.pack))),
        ("requests", Cell::Number(row.requests)),
        ("succeeded", Cell::Number(row.succeeded)),
        ("errored", Cell::Number(row.errored)),
        ("uncounted", Cell::Number(row.uncounted)),
        ("open", Cell::Number(open(row))),
        ("spent", Cell::Usd(spent(row, priced))),
        ("reserved", Cell::Usd(Some(row.reserved))),
        ("provider batch", Cell::maybe(row.provider_batch_id.as_deref())),
        ("provisional", Cell::text(if row.provisional { "yes" } else { "no" })),
        ("provider status", Cell::maybe(row.provider_status.as_deref())),
        ("input file", Cell::maybe(row.input_file_id.as_deref())),
        ("key on the wire", Cell::text(row.create_key())),
        ("creates", Cell::Number(row.create_no)),
        ("epoch", Cell::Number(row.epoch.number())),
        ("holder", Cell::maybe(row.holder.as_deref())),
        ("created", Cell::Time(Some(row.created_at))),
        ("create intended", Cell::Time(row.intent_at)),
        ("submitted", Cell::Time(row.submitted_at)),
        ("first absent", Cell::Time(row.first_absent_at)),
        ("ended", Cell::Time(row.ended_at)),
        ("next look", Cell::Time(next_look(row))),
        ("finished", Cell::Time(row.finished_at)),
    ]
}

pub fn object(row: &BatchRow, priced: bool) -> Value {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "id": row.id.as_str(),
        "state": row.state.word(),
        "mode": row.mode.word(),
        "reason": row.reason,
        "env": row.env,
        "job_id": row.job.as_str(),
        "source": row.source.word(),
        "round": row.round,
        "provider": row.provider,
        "account": row.account,
        "url": url(row),
        "model": model_of_pack(&row.pack),
        "requests": counts(row),
        "spend_usd": spent(row, priced).map(|spent| spent.to_string()),
        "reserved_usd": row.reserved.to_string(),
        "provider_batch_id": row.provider_batch_id,
        "provisional": row.provisional,
        "provider_status": row.provider_status,
        "input_file_id": row.input_file_id,
        "create_key": row.create_key(),
        "creates": row.create_no,
        "epoch": row.epoch.number(),
        "holder": row.holder,
        "created_at": time(Some(row.created_at)),
        "intent_at": time(row.intent_at),
        "submitted_at": time(row.submitted_at),
        "first_absent_at": time(row.first_absent_at),
        "ended_at": time(row.ended_at),
        "next_look_at": time(next_look(row)),
        "finished_at": time(row.finished_at),
    })
}

pub fn counts(row: &BatchRow) -> Value {
    json!({
        "total": row.requests,
        "succeeded": row.succeeded,
        "errored": row.errored,
        "uncounted": row.uncounted,
        "open": open(row),
    })
}

pub fn event_cells((at, epoch, event, data): &Event) -> [Cell; 4] {
    let data = if data == "{}" { Cell::Absent } else { Cell::text(data) };
    [Cell::Time(Some(Timestamp::from_millis(*at))), Cell::text(event), Cell::Number(*epoch), data]
}

pub fn json_event((at, epoch, event, data): &Event) -> Value {
    // Data that is not JSON would be our own error; it is shown as it stands.
    let data = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data.as_str()));
    json!({ "at": Timestamp::from_millis(*at).to_string(), "epoch": epoch, "event": event, "data": data })
}

fn url(row: &BatchRow) -> &str {
    row.pack.split_once(' ').map_or("", |(url, _)| url)
}

pub fn open(row: &BatchRow) -> i64 {
    row.requests - row.succeeded - row.errored - row.uncounted
}

/// Terminal batches are never looked at again, and `0` stands for "at once".
fn next_look(row: &BatchRow) -> Option<Timestamp> {
    Some(row.next_at).filter(|at| !row.state.is_terminal() && at.millis() > 0)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;
    use storage::model::{BatchId, Epoch, JobId, Mode, Source};

    pub fn batch(state: BatchState) -> BatchRow {
        let at = Timestamp::from_millis(1_000);
        BatchRow {
            id: BatchId::from_text("bat_1"),
            env: "default/dev".into(),
            pool: "p".into(),
            job: JobId::from_text("job_1"),
            source: Source::Backfill,
            round: 1,
            provider: "openai".into(),
            account: "a".into(),
            pack: "/v1/responses m-1".into(),
            mode: Mode::Batch,
            state,
            epoch: Epoch::from_number(3),
            holder: None,
            wire_key: "01k".into(),
            create_no: 2,
            requests: 9,
            body_bytes: 70,
            upload_started_at: None,
            input_file_id: None,
            lane_cursor: None,
            intent_at: Some(at),
            provider_batch_id: None,
            provisional: false,
            submitted_at: None,
            provider_status: None,
            output_ref: None,
            error_ref: None,
            ended_at: None,
            first_absent_at: None,
            next_at: Timestamp::from_millis(0),
            strikes: 0,
            reserved: Money::from_nanos(1_500_000_000),
            spent: Money::ZERO,
            succeeded: 4,
            errored: 2,
            uncounted: 1,
            reason: None,
            cancel_wanted: false,
            imported: false,
            created_at: at,
            finished_at: None,
        }
    }

    #[test]
    fn money_that_is_not_computed_is_null() {
        for state in BatchState::ALL {
            let known = spent(&batch(*state), true).is_some();
            assert_eq!(known, *state == BatchState::Planned || state.is_terminal(), "{state}");
        }
        assert_eq!(spent(&batch(BatchState::Collected), false), None, "a request has no known price");
        let object = object(&batch(BatchState::Unknown), true);
        assert_eq!((&object["spend_usd"], &object["reserved_usd"]), (&Value::Null, &Value::from("1.50")));
    }

    #[test]
    fn an_object_has_its_counts_key_and_times() {
        let object = object(&batch(BatchState::Unknown), true);
        let counts = json!({ "total": 9, "succeeded": 4, "errored": 2, "uncounted": 1, "open": 2 });
        assert_eq!(object["requests"], counts);
        assert_eq!((object["create_key"].as_str(), object["model"].as_str()), (Some("01k-2"), Some("m-1")));
        assert_eq!(object["intent_at"], "1970-01-01T00:00:01.000Z");
        assert_eq!((&object["ended_at"], &object["next_look_at"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn events_and_strays_follow_the_fields() {
        let events = [(1_000, 1, "planned".to_owned(), r#"{"requests":9}"#.to_owned())];
        let stray = Stray {
            account: "a".into(),
            provider_batch_id: "batch_x".into(),
            batch_id: "bat_1".into(),
            requests: 9,
            state: "found".into(),
        };
        let record = whole(&batch(BatchState::Submitted), true, &events, &[stray]);
        let text = record.render(Output::Table, Style::Plain);
        assert!(text.starts_with("id\tbat_1\nstate\tsubmitted\n"), "{text}");
        assert!(text.contains("event\t1970-01-01T00:00:01.000Z\tplanned\t1\t{\"requests\":9}\n"), "{text}");
        assert!(text.ends_with("stray\tbatch_x\tfound\t9\n"), "{text}");
        assert_eq!(record.json["events"][0]["data"]["requests"], 9);
        assert_eq!(record.json["strays"][0]["provider_batch_id"], "batch_x");
    }

    #[test]
    fn every_column_has_its_cell() {
        assert_eq!(row(&batch(BatchState::Planned), true).cells.len(), COLUMNS.len());
    }
}
