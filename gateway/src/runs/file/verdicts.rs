//! What became of each line, told as soon as it is known.

use super::pieces::Line;
use crate::cli::Output;
use crate::client::{Object, unexpected};
use crate::exit::Failure;
use crate::output::{Cell, Column, List, Room, Row, Style, send};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// Refusals that one JSON document lists; all are counted, and `-o jsonl` has them all.
const LISTED_MAX: usize = 1_000;

const COLUMNS: &[Column] = &[
    Column::new("LINE", Room::Whole),
    Column::new("STATUS", Room::Whole),
    Column::new("CODE", Room::Whole),
    Column::new("WHY", Room::Cut),
];

#[derive(Debug, Clone)]
pub struct Verdict {
    pub line: u64,
    status: u16,
    /// The run's id and status, or the code and the words of the refusal.
    said: Result<(String, String), (String, String)>,
}

impl Verdict {
    /// Of a line that no server would take.
    pub fn unsent(line: &Line) -> Option<Verdict> {
        let why = line.refused.clone()?;
        Some(Verdict { line: line.number, status: 400, said: Err(("malformed_json".to_owned(), why)) })
    }

    /// Of a line for which its whole request was refused.
    pub fn whole(line: u64, failure: &Failure) -> Verdict {
        let problem = failure.problem.as_deref().unwrap_or(&Value::Null);
        let status = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(400);
        let code = problem["code"].as_str().unwrap_or("refused").to_owned();
        Verdict { line, status, said: Err((code, failure.what.clone())) }
    }

    fn object(&self) -> Value {
        match &self.said {
            Ok((id, status)) => json!({ "line": self.line, "status": self.status, "id": id, "run_status": status }),
            Err((code, detail)) => {
                json!({ "line": self.line, "status": self.status, "error": { "code": code, "detail": detail } })
            }
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Object>,
}

/// The server's verdicts on the lines that were sent, in their order.
pub fn read(body: &[u8], lines: &[Line]) -> Result<Vec<Verdict>, Failure> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| unexpected("verdicts"))?;
    if answer.data.len() != lines.len() {
        return Err(unexpected("a verdict for each line"));
    }
    let verdict = |(line, verdict): (&Line, &Object)| {
        let verdict = &verdict.value;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = verdict["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0);
        let said = if verdict["run"].is_object() {
            Ok((text(&verdict["run"]["id"]), text(&verdict["run"]["status"])))
        } else {
            Err((text(&verdict["error"]["code"]), text(&verdict["error"]["detail"])))
        };
        Verdict { line: line.number, status, said }
    };
    Ok(lines.iter().zip(&answer.data).map(verdict).collect())
}

/// Tells verdicts and counts them. A table shows the refused lines only: the others are as they should be.
pub struct Report {
    output: Output,
    pub accepted: u64,
    pub refused: u64,
    /// The last line with a verdict.
    pub answered: u64,
    listed: Vec<Value>,
}

impl Report {
    pub fn new(output: Output) -> Report {
        Report { output, accepted: 0, refused: 0, answered: 0, listed: Vec::new() }
    }

    pub fn take(&mut self, verdicts: Vec<Verdict>) -> Result<(), Failure> {
        let mut text = String::new();
        for verdict in &verdicts {
            let ok = verdict.said.is_ok();
            self.accepted += u64::from(ok);
            self.refused += u64::from(!ok);
            self.answered = self.answered.max(verdict.line);
            match self.output {
                Output::Jsonl => text += &format!("{}\n", verdict.object()),
                Output::Json if !ok && self.listed.len() < LISTED_MAX => self.listed.push(verdict.object()),
                Output::Json | Output::Table => {}
            }
        }
        if self.output == Output::Table {
            text = table(&verdicts);
        }
        // Whoever has stopped reading does not stop the runs from being made.
        send(&text).map(|_| ())
    }

    pub fn end(&self) -> Result<(), Failure> {
        if self.output != Output::Json {
            return Ok(());
        }
        let document = json!({ "accepted": self.accepted, "refused": self.refused, "errors": self.listed });
        send(&format!("{document}\n")).map(|_| ())
    }
}

fn table(verdicts: &[Verdict]) -> String {
    let row = |verdict: &Verdict| {
        let (code, why) = verdict.said.as_ref().err()?;
        let number = Cell::Number(i64::try_from(verdict.line).unwrap_or(i64::MAX));
        let cells = vec![number, Cell::Number(verdict.status.into()), Cell::text(code), Cell::text(why)];
        Some(Row { cells, json: Value::Null })
    };
    let list = List { columns: COLUMNS, rows: verdicts.iter().filter_map(row).collect(), next_after: None };
    let style = if std::io::stdout().is_terminal() { Style::of_stdout(super::now()) } else { Style::Plain };
    list.render(Output::Table, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Line {
        Line { number, text: String::new(), refused: None }
    }

    const BODY: &[u8] = br#"{"data":[{"index":0,"status":201,"run":{"id":"run_1","status":"queued"}},
        {"index":1,"status":400,"error":{"code":"invalid_field","detail":"/task: is missing","errors":[]}}],
        "accepted":1,"rejected":1}"#;

    #[test]
    fn verdicts_name_the_lines_of_the_file() {
        let verdicts = read(BODY, &[line(7), line(9)]).expect("verdicts");
        assert_eq!(verdicts[0].object(), json!({"line": 7, "status": 201, "id": "run_1", "run_status": "queued"}));
        let error = json!({"code": "invalid_field", "detail": "/task: is missing"});
        assert_eq!(verdicts[1].object(), json!({"line": 9, "status": 400, "error": error}));
        assert_eq!(table(&verdicts), "9\t400\tinvalid_field\t/task: is missing\n");
    }

    #[test]
    fn an_answer_that_does_not_fit_the_lines_is_not_believed() {
        assert!(read(BODY, &[line(1)]).is_err());
        assert!(read(b"{}", &[]).is_err());
    }
}
