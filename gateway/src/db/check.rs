//! `tidegate db check`: what must be true of a store at any time, and of how many it is not.

use crate::exit::{Exit, Failure};
use crate::output::{Cell, Column, List, Room, Row};
use serde_json::json;
use storage::store::{Answer, check, schema};

const COLUMNS: &[Column] = &[
    Column::new("STATUS", Room::Whole),
    Column::new("COUNT", Room::Whole),
    Column::new("WHAT MUST BE TRUE", Room::Whole),
    Column::new("FIRST", Room::Whole),
];

pub async fn answers(url: &str) -> Result<Vec<Answer>, Failure> {
    // It would ask for tables that are not there yet.
    if schema(url).await?.iter().any(|row| !row.applied) {
        let failure = Failure::new(Exit::Conflict, "the store's schema is older than this binary's questions");
        return Err(failure.hint("`tidegate db status` tells what is pending, `tidegate db migrate` applies it"));
    }
    Ok(check(url).await?)
}

/// Whether all is well.
pub fn verdict(answers: &[Answer]) -> Exit {
    if answers.iter().all(|answer| answer.wrong == 0) { Exit::Done } else { Exit::ItemsFailed }
}

pub fn list(answers: &[Answer]) -> List {
    let row = |Answer { claim, wrong, first }: &Answer| {
        let status = if *wrong == 0 { "ok" } else { "wrong" };
        let shown = if first.len() < *wrong as usize { ", …" } else { "" };
        Row {
            cells: vec![
                Cell::text(status),
                Cell::text(wrong.to_string()),
                Cell::text(*claim),
                Cell::text(format!("{}{shown}", first.join(", "))),
            ],
            json: json!({ "status": status, "claim": claim, "wrong": wrong, "first": first }),
        }
    };
    List { columns: COLUMNS, rows: answers.iter().map(row).collect(), next_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::output::Style;

    #[test]
    fn what_is_wrong_is_told_with_the_first_of_it() {
        let answer = |wrong, first: &[&str]| Answer {
            claim: "x is y",
            wrong,
            first: first.iter().map(|id| (*id).to_owned()).collect(),
        };
        let answers = [answer(0, &[]), answer(1, &["a"]), answer(3, &["a", "b"])];
        let text = list(&answers).render(Output::Table, Style::Plain);
        assert_eq!(text, "ok\t0\tx is y\t—\nwrong\t1\tx is y\ta\nwrong\t3\tx is y\ta, b, …\n");
        assert_eq!(verdict(&answers), Exit::ItemsFailed);
        assert_eq!(verdict(&answers[..1]), Exit::Done);
    }
}
