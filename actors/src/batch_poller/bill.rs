//! Counts what settled results have cost, and of how many tokens they are.

use crate::metrics::{SPEND_NANOS, TOKENS, UNPRICED, told_as};
use crate::price::Usage;
use crate::provider::request::model_of_pack;
use crate::provider::result_line::{Form, ResultLine};
use std::collections::HashSet;
use storage::model::Money;
use storage::store::{BatchRow, Verdict};

/// The model of a batch whose requests somebody else has put together.
const UNKNOWN: &str = "unknown";

/// What some verdicts come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bill {
    spent: Money,
    unpriced: u64,
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
}

impl Bill {
    /// Of the verdicts at these positions: a line that is read again was counted before.
    fn of(form: Form, verdicts: &[Verdict], positions: &HashSet<i64>) -> Bill {
        let mut bill = Bill::default();
        for verdict in verdicts.iter().filter(|verdict| positions.contains(&verdict.pos)) {
            match verdict.cost {
                Some(cost) => bill.spent += cost,
                None => bill.unpriced += 1,
            }
            let usage = ResultLine::parse(form, &verdict.line).ok().and_then(|line| line.usage);
            bill.add(&usage.unwrap_or_default());
        }
        bill
    }

    fn add(&mut self, usage: &Usage) {
        self.input = self.input.saturating_add(usage.input);
        self.output = self.output.saturating_add(usage.output);
        self.cache_read = self.cache_read.saturating_add(usage.cached_input);
        self.cache_write = self.cache_write.saturating_add(usage.cache_write_5m).saturating_add(usage.cache_write_1h);
    }
}

/// Counts what was settled just now, which are the verdicts at these positions.
pub(super) fn count(row: &BatchRow, form: Form, verdicts: &[Verdict], positions: &HashSet<i64>) {
    let bill = Bill::of(form, verdicts, positions);
    metrics::counter!(SPEND_NANOS).increment(u64::try_from(bill.spent.nanos()).unwrap_or(0));
    let model = Some(model_of_pack(&row.pack)).filter(|model| !model.is_empty()).unwrap_or(UNKNOWN);
    let provider = &row.provider;
    if bill.unpriced > 0 {
        metrics::counter!(UNPRICED, "provider" => provider.clone(), "model" => told_as(UNPRICED, model))
            .increment(bill.unpriced);
    }
    let directions = [
        ("input", bill.input),
        ("output", bill.output),
        ("cache_read", bill.cache_read),
        ("cache_write", bill.cache_write),
    ];
    for (direction, tokens) in directions.into_iter().filter(|(_, tokens)| *tokens > 0) {
        let labels =
            [("provider", provider.clone()), ("model", told_as(TOKENS, model)), ("direction", direction.to_owned())];
        metrics::counter!(TOKENS, &labels).increment(tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::RequestState;

    fn verdict(pos: i64, cost: Option<i64>, usage: &str) -> Verdict {
        let line = format!(
            r#"{{"custom_id":"k-{pos}","response":{{"status_code":200,"body":{{"usage":{usage}}}}},"error":null}}"#
        );
        let cost = cost.map(Money::from_nanos);
        Verdict { pos, state: RequestState::Succeeded, code: None, cost, line, id_span: 0..0 }
    }

    #[test]
    fn only_what_was_settled_just_now_is_counted() {
        let cached = r#"{"prompt_tokens":10,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}"#;
        let verdicts = [verdict(0, Some(5), cached), verdict(1, None, "{}"), verdict(2, Some(7), cached)];
        let bill = Bill::of(Form::OpenAi, &verdicts, &HashSet::from([0, 1]));
        let spent = Money::from_nanos(5);
        assert_eq!(bill, Bill { spent, unpriced: 1, input: 6, output: 3, cache_read: 4, cache_write: 0 });
    }
}
