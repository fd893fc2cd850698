//! The result lines that one batch brought, in the order of its requests.

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::output::{Reader, note, send};
use crate::stdout::print;
use std::collections::BTreeMap;
use storage::model::{BatchId, RequestState};
use storage::store::{ResultRow, Store};

const PAGE: i64 = 1_000;

/// Streams the lines page by page; a reader that has gone ends it quietly.
pub async fn stream(store: &Store, batch: &BatchId, output: Output) -> Result<Exit, Failure> {
    let one_document = output == Output::Json;
    let (mut after, mut lines) = (-1, 0_u64);
    let mut without = Without::default();
    if one_document && send("{\"data\":[")? == Reader::Gone {
        return Ok(Exit::Done);
    }
    loop {
        let page = store.batch_results(batch, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        let mut text = String::new();
        for row in &page {
            let Some(line) = &row.line else {
                without.count(row);
                continue;
            };
            if one_document && lines > 0 {
                text.push(',');
            }
            text += line;
            if !one_document {
                text.push('\n');
            }
            lines += 1;
        }
        if send(&text)? == Reader::Gone {
            return Ok(Exit::Done);
        }
    }
    if one_document {
        print("],\"has_more\":false,\"next_after\":null}\n")?;
    }
    if let Some(words) = without.words() {
        note(words);
    }
    Ok(Exit::Done)
}

/// Requests that this batch has no line for, by why.
#[derive(Debug, Default)]
struct Without(BTreeMap<&'static str, u64>);

impl Without {
    fn count(&mut self, row: &ResultRow) {
        let why = match RequestState::from_word(&row.state) {
            Some(RequestState::Open) => "not settled yet",
            Some(RequestState::Canceled) => "canceled",
            // Only the last line of a run is kept: a later batch has tried it again.
            Some(_) | None => "replaced by a later batch's line",
        };
        *self.0.entry(why).or_default() += 1;
    }

    fn words(&self) -> Option<String> {
        let all: u64 = self.0.values().sum();
        let parts: Vec<_> = self.0.iter().map(|(why, count)| format!("{count} {why}")).collect();
        (all > 0).then(|| format!("{all} requests without a line here: {}", parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_line_are_counted_by_why() {
        let mut without = Without::default();
        assert_eq!(without.words(), None);
        for state in ["open", "errored", "open", "canceled"] {
            without.count(&ResultRow { seq: 0, custom_id: "a".into(), state: state.into(), line: None });
        }
        let words = "4 requests without a line here: 1 canceled, 2 not settled yet, 1 replaced by a later batch's line";
        assert_eq!(without.words().as_deref(), Some(words));
    }
}
