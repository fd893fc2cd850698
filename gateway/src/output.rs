//! What goes to stdout: a table for a person, tab-separated lines for a pipe, or JSON.
//!
//! A reader that closes the pipe has seen enough: that is no error, here or in the exit code.

mod cell;
mod table;

pub use cell::Cell;
pub use table::{Column, Room};

use crate::cli::Output;
use crate::exit::{Exit, Failure};
use crate::stdout::print;
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use storage::model::Timestamp;

/// Whether anybody still reads stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Listening,
    Gone,
}

/// Writes a piece of a longer output; the caller stops when the reader has gone.
pub fn send(text: &str) -> Result<Reader, Failure> {
    send_bytes(text.as_bytes())
}

/// The same for what need not be text.
pub fn send_bytes(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(Exit::StoreFailed, format!("cannot write to stdout: {error}"))),
    }
}

/// Says something on stderr; a closed stderr loses the words, not the command.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How a table or record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Aligned, fitted to the width, times as distances from `now`.
    Terminal { width: usize, now: Timestamp },
    /// Tab-separated, whole, times in RFC 3339, no header.
    Plain,
}

impl Style {
    pub fn of_stdout(now: Timestamp) -> Style {
        if io::stdout().is_terminal() { Style::Terminal { width: terminal_width(), now } } else { Style::Plain }
    }
}

/// The terminal's width, or 100 when it does not tell. `clap` asks the terminal for its help already; what it
/// breaks a text of one-letter words into is as wide as the terminal, and no second crate has to ask.
fn terminal_width() -> usize {
    let mut probe =
        clap::Command::new("width").about("w ".repeat(500)).disable_help_flag(true).help_template("{about}");
    let longest = probe.render_help().to_string().lines().map(|line| line.trim_end().len()).max();
    // Letters alternate with spaces, so that an even width is missed by one.
    longest.map_or(100, |longest| longest + 1).clamp(40, 1_000)
}

/// One entry of a list, in both of its forms.
#[derive(Debug, Clone)]
pub struct Row {
    pub cells: Vec<Cell>,
    pub json: Value,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct List {
    pub columns: &'static [Column],
    pub rows: Vec<Row>,
    /// The id to go on after, when there is more.
    pub next_after: Option<String>,
}

impl List {
    pub fn print(&self, output: Output, now: Timestamp) -> Result<(), Failure> {
        let style = Style::of_stdout(now);
        print(&self.render(output, style))?;
        if let Some(remark) = self.remark(output, style) {
            note(remark);
        }
        if let Some(after) = self.next_after.as_ref().filter(|_| output != Output::Json) {
            note(format_args!("there are more: add --after {after}"));
        }
        Ok(())
    }

    /// For a person who would see nothing and not know whether it went well.
    fn remark(&self, output: Output, style: Style) -> Option<&'static str> {
        let is_seen = output == Output::Table && matches!(style, Style::Terminal { .. });
        (is_seen && self.rows.is_empty()).then_some("there are none")
    }

    pub fn render(&self, output: Output, style: Style) -> String {
        match output {
            Output::Table => {
                let rows: Vec<_> = self.rows.iter().map(|row| row.cells.as_slice()).collect();
                table::render(self.columns, &rows, style)
            }
            Output::Json => {
                let data: Vec<_> = self.rows.iter().map(|row| &row.json).collect();
                let has_more = self.next_after.is_some();
                document(&json!({ "data": data, "has_more": has_more, "next_after": self.next_after }), style)
            }
            Output::Jsonl => self.rows.iter().map(|row| format!("{}\n", row.json)).collect(),
        }
    }
}

/// A table inside a record, such as the events of a batch.
#[derive(Debug, Clone)]
pub struct Section {
    /// What one of its rows is; the first field of each of its lines off a terminal.
    pub name: &'static str,
    pub columns: &'static [Column],
    pub rows: Vec<Vec<Cell>>,
}

/// One object with all that is known about it.
#[derive(Debug, Clone)]
pub struct Record {
    pub fields: Vec<(&'static str, Cell)>,
    pub sections: Vec<Section>,
    pub json: Value,
}

impl Record {
    pub fn print(&self, output: Output, now: Timestamp) -> Result<(), Failure> {
        print(&self.render(output, Style::of_stdout(now)))
    }

    pub fn render(&self, output: Output, style: Style) -> String {
        match output {
            Output::Json => document(&self.json, style),
            Output::Jsonl => format!("{}\n", self.json),
            Output::Table => self.table(style),
        }
    }

    fn table(&self, style: Style) -> String {
        let widest = self.fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, cell) in &self.fields {
            match style {
                Style::Terminal { .. } => text += &format!("{name:widest$}  {}\n", cell.show(style)),
                Style::Plain => text += &format!("{name}\t{}\n", cell.show(style)),
            }
        }
        for section in self.sections.iter().filter(|section| !section.rows.is_empty()) {
            let rows: Vec<_> = section.rows.iter().map(Vec::as_slice).collect();
            let lines = table::render(section.columns, &rows, style);
            match style {
                Style::Terminal { .. } => text += &format!("\n{lines}"),
                Style::Plain => text.extend(lines.lines().map(|line| format!("{}\t{line}\n", section.name))),
            }
        }
        text
    }
}

/// One JSON document: laid out for a person, on one line for a program.
fn document(value: &Value, style: Style) -> String {
    match style {
        Style::Terminal { .. } => format!("{value:#}\n"),
        Style::Plain => format!("{value}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column::new("ID", Room::Whole), Column::new("CREATED", Room::Whole)];

    fn list(ids: &[&str], next_after: Option<&str>) -> List {
        let row = |id: &&str| Row {
            cells: vec![Cell::text(*id), Cell::Time(Some(Timestamp::from_millis(0)))],
            json: json!({ "id": id }),
        };
        List { columns: COLUMNS, rows: ids.iter().map(row).collect(), next_after: next_after.map(str::to_owned) }
    }

    #[test]
    fn a_list_is_one_document_with_its_page_or_an_object_a_line() {
        let both = list(&["a", "b"], Some("b"));
        let document = both.render(Output::Json, Style::Plain);
        assert_eq!(document, "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}],\"has_more\":true,\"next_after\":\"b\"}\n");
        assert_eq!(both.render(Output::Jsonl, Style::Plain), "{\"id\":\"a\"}\n{\"id\":\"b\"}\n");
        let none = list(&[], None);
        assert_eq!(none.render(Output::Json, Style::Plain), "{\"data\":[],\"has_more\":false,\"next_after\":null}\n");
        assert_eq!(none.render(Output::Jsonl, Style::Plain), "");
        assert_eq!(none.render(Output::Table, Style::Plain), "");
    }

    #[test]
    fn a_person_is_told_of_an_empty_list_and_a_program_is_not() {
        let terminal = Style::Terminal { width: 80, now: Timestamp::from_millis(0) };
        let (none, one) = (list(&[], None), list(&["a"], None));
        assert_eq!(none.remark(Output::Table, terminal), Some("there are none"));
        for (list, output, style) in
            [(&none, Output::Table, Style::Plain), (&none, Output::Jsonl, terminal), (&one, Output::Table, terminal)]
        {
            assert_eq!(list.remark(output, style), None, "{output:?} {style:?}");
        }
    }

    #[test]
    fn off_a_terminal_a_list_is_tab_separated_without_a_header() {
        let text = list(&["a", "b"], None).render(Output::Table, Style::Plain);
        assert_eq!(text, "a\t1970-01-01T00:00:00.000Z\nb\t1970-01-01T00:00:00.000Z\n");
    }

    #[test]
    fn a_record_names_each_field_and_each_row_of_its_sections() {
        let section = Section { name: "event", columns: COLUMNS, rows: vec![vec![Cell::text("x"), Cell::Absent]] };
        let fields = vec![("id", Cell::text("a")), ("spent", Cell::Usd(None))];
        let record = Record { fields, sections: vec![section], json: json!({ "id": "a" }) };
        assert_eq!(record.render(Output::Table, Style::Plain), "id\ta\nspent\t—\nevent\tx\t—\n");
        let style = Style::Terminal { width: 80, now: Timestamp::from_millis(0) };
        assert_eq!(record.render(Output::Table, style), "id     a\nspent  —\n\nID  CREATED\nx   —\n");
        assert_eq!(record.render(Output::Jsonl, style), "{\"id\":\"a\"}\n");
    }

    #[test]
    fn the_terminals_width_is_sensible_without_a_terminal() {
        assert!((40..=1_000).contains(&terminal_width()));
    }
}
