//! What one pass over a batch's input tells: whether it is valid, how its items end, and the bill.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::event::{Accepted, Dialect};
use super::lines::{self, Item, Problem};
use super::outcome::{self, Delivery, Judge, Outcome};

/// How many requests OpenAI takes in one file.
const OPENAI_MOST: u64 = 50_000;
/// How many errors of a failed batch are named.
const PROBLEMS_NAMED: usize = 100;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LineError {
    pub code: &'static str,
    pub message: String,
    pub param: Option<&'static str>,
    pub line: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Summary {
    /// Not empty means that the batch fails as a whole.
    pub problems: Vec<LineError>,
    pub succeeded: u64,
    pub errored: u64,
    pub expired: u64,
    pub canceled: u64,
    pub output_lines: u64,
    pub error_lines: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub model: Option<String>,
    /// What all custom ids begin with, up to the last `-`.
    pub prefix: String,
}

/// Reads the input once. The memory it takes while it reads is the custom ids.
pub(super) fn summarize(judge: &Judge, input: &Path) -> io::Result<Summary> {
    let batch = judge.batch;
    let mut summary = Summary::default();
    let mut check = Check { seen: HashSet::new(), summary: &mut summary };
    let mut prefix: Option<String> = None;
    lines::items(batch, input, |index, number, item| {
        let item = match item {
            Ok(item) => item,
            Err(problem) => {
                check.report(problem, Some(number));
                return Ok(());
            }
        };
        let shared = prefix.get_or_insert_with(|| item.custom_id.clone());
        shared.truncate(shared_length(shared, &item.custom_id));
        if batch.dialect == Dialect::Openai {
            check.line(&item, number);
        }
        check.summary.add(judge, index, &item);
        Ok(())
    })?;
    if batch.dialect == Dialect::Openai {
        check.size(batch);
    }
    let prefix = prefix.unwrap_or_default();
    summary.prefix = prefix.rfind('-').map_or(String::new(), |end| prefix[..end].to_owned());
    Ok(summary)
}

impl Summary {
    fn add(&mut self, judge: &Judge, index: u64, item: &Item) {
        match judge.outcome(index, item) {
            Outcome::Succeeded(delivery) => {
                self.succeeded += 1;
                self.output_lines += match delivery {
                    Delivery::Never => 0,
                    Delivery::Once => 1,
                    Delivery::Twice => 2,
                };
                self.input_tokens += item.params.prompt_tokens;
                self.output_tokens += outcome::answer_tokens(item).0;
            }
            Outcome::Errored(_) => self.errored += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Canceled => self.canceled += 1,
        }
        self.output_lines += u64::from(judge.unknown_follows(index));
        self.error_lines = self.errored + self.expired;
    }
}

/// The checks OpenAI makes before a batch runs.
struct Check<'a> {
    seen: HashSet<String>,
    summary: &'a mut Summary,
}

impl Check<'_> {
    fn report(&mut self, problem: Problem, line: Option<u64>) {
        if self.summary.problems.len() < PROBLEMS_NAMED {
            let Problem { code, message, param } = problem;
            self.summary.problems.push(LineError { code, message, param, line });
        }
    }

    fn line(&mut self, item: &Item, number: u64) {
        if !self.seen.insert(item.custom_id.clone()) {
            let message = format!("The custom_id {:?} is used more than once.", item.custom_id);
            let problem = Problem { code: "duplicate_custom_id", message, param: Some("custom_id") };
            self.report(problem, Some(number));
        }
        let model = self.summary.model.get_or_insert_with(|| item.params.model.clone());
        if *model != item.params.model {
            let message =
                format!("The model {:?} does not match the model of the first request, {model:?}.", item.params.model);
            let problem = Problem { code: "mismatched_model", message, param: Some("body.model") };
            self.report(problem, Some(number));
        }
    }

    fn size(&mut self, batch: &Accepted) {
        if batch.requests == 0 {
            let message = "The batch input file is empty.".to_owned();
            self.report(Problem { code: "empty_file", message, param: None }, None);
        }
        if batch.requests > OPENAI_MOST {
            let message = format!("The batch has {} requests, at most {OPENAI_MOST} are allowed.", batch.requests);
            self.report(Problem { code: "too_many_tasks", message, param: None }, None);
        }
    }
}

/// The length of the common beginning, at a character's border of both.
fn shared_length(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_beginning_ends_at_a_character() {
        assert_eq!(shared_length("job-1", "job-12"), 5);
        assert_eq!(shared_length("aé", "aè"), 1);
        assert_eq!(shared_length("", "x"), 0);
    }
}
