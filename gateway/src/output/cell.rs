//! One value of a table. What was not computed is shown as a dash, never as zero.

use super::Style;
use std::time::Duration;
use storage::model::{Money, Timestamp};

const ABSENT: &str = "—";
/// Beyond this a date says more than a distance.
const LONGEST_DISTANCE: Duration = Duration::from_secs(60 * 86_400);

/// A value before it is known how it will be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Text(String),
    Number(i64),
    Time(Option<Timestamp>),
    Usd(Option<Money>),
    Absent,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    pub fn maybe(text: Option<impl Into<String>>) -> Cell {
        text.map_or(Cell::Absent, Cell::text)
    }

    pub fn show(&self, style: Style) -> String {
        match (self, style) {
            (Cell::Text(text), _) if text.is_empty() => ABSENT.to_owned(),
            (Cell::Text(text), _) => printable(text),
            (Cell::Number(number), _) => number.to_string(),
            (Cell::Time(Some(at)), Style::Terminal { now, .. }) => relative(*at, now),
            (Cell::Time(Some(at)), Style::Plain) => at.to_string(),
            (Cell::Usd(Some(money)), Style::Terminal { .. }) => format!("${money}"),
            (Cell::Usd(Some(money)), Style::Plain) => money.to_string(),
            (Cell::Time(None) | Cell::Usd(None) | Cell::Absent, _) => ABSENT.to_owned(),
        }
    }
}

/// File names and providers' messages may hold anything; a tab or a new line would tear the table, and a
/// terminal would obey an escape sequence.
fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A point in time as its distance from now; a date when it is far away.
fn relative(at: Timestamp, now: Timestamp) -> String {
    let (span, past) = if at <= now { (now.since(at), true) } else { (at.since(now), false) };
    if span > LONGEST_DISTANCE {
        return at.to_string().chars().take(10).collect();
    }
    let seconds = span.as_secs();
    let distance = match seconds {
        0 => return "now".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    };
    if past { format!("{distance} ago") } else { format!("in {distance}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn times_are_distances_on_a_terminal_and_dates_when_far_away() {
        for (seconds, text) in [
            (0, "now"),
            (-1, "1s ago"),
            (-59, "59s ago"),
            (-60, "1m ago"),
            (-3_599, "59m ago"),
            (-3_660, "1h 1m ago"),
            (-86_399, "23h 59m ago"),
            (-86_400, "1d ago"),
            (30, "in 30s"),
            (7_200, "in 2h 0m"),
            (-100 * 86_400, "2026-10-07"),
        ] {
            assert_eq!(relative(at(seconds), at(0)), text, "{seconds}");
        }
    }

    #[test]
    fn what_is_not_computed_is_a_dash_and_never_zero() {
        let terminal = Style::Terminal { width: 80, now: at(0) };
        for cell in [Cell::Usd(None), Cell::Time(None), Cell::Absent, Cell::text("")] {
            assert_eq!((cell.show(Style::Plain), cell.show(terminal)), ("—".to_owned(), "—".to_owned()));
        }
        assert_eq!(Cell::Usd(Some(Money::ZERO)).show(Style::Plain), "0.00");
        assert_eq!(Cell::Usd(Some(Money::ZERO)).show(terminal), "$0.00");
    }

    #[test]
    fn control_characters_neither_tear_the_table_nor_reach_the_terminal() {
        assert_eq!(Cell::text("a\tb\n\u{1b}[31m é").show(Style::Plain), "a\\tb\\n\\u{1b}[31m é");
    }
}
