//! `tidegate metrics catalogue`: every metric, from the one table of them. Also makes the page about them.

use crate::cli::{Common, MetricsCommand, Output};
use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row};
use crate::stdout::print;
use actors::metrics::{CATALOGUE, Label, Metric, NAMES_MAX, OTHER, Words};
use serde_json::{Value, json};
use storage::model::{Clock, SystemClock};

const COLUMNS: &[Column] = &[
    Column::new("NAME", Room::Whole),
    Column::new("TYPE", Room::Whole),
    Column::new("UNIT", Room::Spare),
    Column::new("LABELS", Room::Cut),
    Column::new("HELP", Room::Cut),
];

pub fn run(command: &MetricsCommand, common: &Common) -> Result<Exit, Failure> {
    let MetricsCommand::Catalogue { markdown: as_page } = command;
    match common.output {
        _ if *as_page => print(&markdown())?,
        Output::Json => print(&format!("{}\n", Value::from_iter(CATALOGUE.iter().map(object))))?,
        Output::Table | Output::Jsonl => list().print(common.output, SystemClock.now())?,
    }
    Ok(Exit::Done)
}

fn list() -> List {
    let row = |metric: &Metric| {
        let labels: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
        let words = [metric.name, metric.kind.word(), metric.unit.word(), &labels.join(","), metric.help];
        Row { cells: words.into_iter().map(Cell::text).collect(), json: object(metric) }
    };
    List { columns: COLUMNS, rows: CATALOGUE.iter().map(row).collect(), next_after: None }
}

fn object(metric: &Metric) -> Value {
    json!({
        "name": metric.name,
        "type": metric.kind.word(),
        "unit": metric.unit.word(),
        "labels": metric.labels.iter().map(label).collect::<Value>(),
        "help": metric.help,
        "buckets": metric.buckets,
    })
}

/// `values` are all that it may say; else `names` says what it names, and `max` how many of them.
fn label(label: &Label) -> Value {
    let (values, names, max) = match label.words {
        Words::Fixed(words) => (Some(words()), None, None),
        Words::Names(of) => (None, Some(of), None),
        Words::Capped(of) => (None, Some(of), Some(NAMES_MAX)),
    };
    json!({ "name": label.name, "values": values, "names": names, "max": max })
}

/// The page `ops/METRICS.md`.
pub fn markdown() -> String {
    let mut page = format!(
        "# Metrics\n\n\
        What `/metrics` on the ops port tells. This page is made of the same table as the metrics themselves: \
        `tidegate metrics catalogue --markdown`; as JSON: `tidegate metrics catalogue -o json`.\n\n\
        Labels say words that are known beforehand, or names that somebody has configured; never ids. Of names that \
        anybody can make, {NAMES_MAX} of each metric are told by themselves, and the rest as `{OTHER}`. Gauges of the \
        whole cluster are told by the one node that holds the role for it: take the `max` of all nodes, never the \
        sum. All histograms have buckets.\n\n\
        | metric | type | unit | labels | what it is |\n|---|---|---|---|---|\n"
    );
    for metric in CATALOGUE {
        let said = |label: &Label| format!("`{}`: {}", label.name, label.described());
        let labels: Vec<String> = metric.labels.iter().map(said).collect();
        let (kind, unit) = (metric.kind.word(), metric.unit.word());
        page += &format!("| `{}` | {kind} | {unit} | {} | {} |\n", metric.name, labels.join("<br>"), metric.help);
    }
    page += "\n## Buckets\n\n| metric | upper bounds |\n|---|---|\n";
    for metric in CATALOGUE.iter().filter(|metric| !metric.buckets.is_empty()) {
        let bounds: Vec<String> = metric.buckets.iter().map(f64::to_string).collect();
        page += &format!("| `{}` | {} |\n", metric.name, bounds.join(", "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    #[test]
    fn the_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/METRICS.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        let made = markdown();
        let differs = page.lines().zip(made.lines()).find(|(is, should)| is != should);
        assert!(page == made, "tidegate metrics catalogue --markdown > ops/METRICS.md; first difference: {differs:?}");
    }

    #[test]
    fn policies_are_the_codes_of_too_many_requests() {
        let policy = actors::metrics::HTTP_RATE_LIMITED;
        let label = CATALOGUE.iter().find(|metric| metric.name == policy).and_then(|metric| metric.labels.first());
        let label = label.expect("it has one");
        for code in Code::ALL {
            assert_eq!(label.allows(code.word()), code.status().as_u16() == 429, "{}", code.word());
        }
    }

    #[test]
    fn an_entry_has_all_that_there_is_to_know() {
        let depth = CATALOGUE.iter().find(|metric| metric.name == "tidegate_queue_depth").map(object);
        let depth = depth.expect("it is in the table");
        assert_eq!(depth["labels"], json!([{"name": "queue", "values": null, "names": "names of queues", "max": 200}]));
        assert_eq!((&depth["type"], &depth["buckets"]), (&json!("gauge"), &json!([])));
        for entry in CATALOGUE.iter().map(object) {
            let fields: Vec<&String> = entry.as_object().expect("an object").keys().collect();
            assert_eq!(fields.len(), 6, "{fields:?}");
        }
    }
}
