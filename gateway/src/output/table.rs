//! Lays a table out: aligned and fitted to the terminal, or tab-separated and whole.

use super::{Cell, Style};

const GAP: usize = 2;
/// A column that may be cut keeps at least this many characters.
const NARROWEST: usize = 8;

/// What happens to a column when the terminal is too narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Always shown whole: ids, states.
    Whole,
    /// May be cut with `…`.
    Cut,
    /// Left out when cutting does not suffice, the last one first.
    Spare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub title: &'static str,
    pub room: Room,
}

impl Column {
    pub const fn new(title: &'static str, room: Room) -> Column {
        Column { title, room }
    }
}

/// Renders rows of one cell per column. No rows make an empty text, without a header.
pub fn render(columns: &[Column], rows: &[&[Cell]], style: Style) -> String {
    let shown: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| cell.show(style)).collect()).collect();
    match style {
        Style::Plain => shown.iter().map(|row| format!("{}\n", row.join("\t"))).collect(),
        Style::Terminal { .. } if rows.is_empty() => String::new(),
        Style::Terminal { width, .. } => {
            // Numbers line up at their last digit.
            let right: Vec<bool> = (0..columns.len())
                .map(|at| rows.iter().any(|row| matches!(row.get(at), Some(Cell::Number(_) | Cell::Usd(Some(_))))))
                .collect();
            aligned(columns, &right, &shown, width)
        }
    }
}

fn aligned(columns: &[Column], right: &[bool], rows: &[Vec<String>], width: usize) -> String {
    let natural: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([column.title.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let rooms: Vec<Room> = columns.iter().map(|column| column.room).collect();
    let widths = fit(&natural, &rooms, width);
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(right) {
            let Some(width) = width else { continue };
            let cell = cut(cell, *width);
            let gap = if line.is_empty() { 0 } else { GAP };
            line += &" ".repeat(gap);
            line += &if *right { format!("{cell:>width$}") } else { format!("{cell:width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// The width of each column, `None` for those left out. Cuts the widest first, then leaves spare ones out; what
/// must stay whole may make the line longer than the terminal.
fn fit(natural: &[usize], rooms: &[Room], width: usize) -> Vec<Option<usize>> {
    let mut widths: Vec<Option<usize>> = natural.iter().copied().map(Some).collect();
    loop {
        let shown = widths.iter().flatten().count();
        let needed = widths.iter().flatten().sum::<usize>() + GAP * shown.saturating_sub(1);
        let Some(over) = needed.checked_sub(width).filter(|over| *over > 0) else { return widths };
        let cuttable = |at: &usize| rooms[*at] == Room::Cut && widths[*at].is_some_and(|width| width > NARROWEST);
        if let Some(at) = (0..widths.len()).filter(cuttable).max_by_key(|at| widths[*at]) {
            widths[at] = widths[at].map(|width| width - over.min(width - NARROWEST));
            continue;
        }
        match (0..widths.len()).rev().find(|at| rooms[*at] == Room::Spare && widths[*at].is_some()) {
            Some(at) => {
                widths[at] = None;
                // There may be room again for what was cut before.
                for (at, natural) in natural.iter().enumerate().filter(|(at, _)| rooms[*at] == Room::Cut) {
                    widths[at] = Some(*natural);
                }
            }
            None => return widths,
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::model::Timestamp;

    const COLUMNS: &[Column] = &[
        Column::new("ID", Room::Whole),
        Column::new("ITEMS", Room::Whole),
        Column::new("LABEL", Room::Cut),
        Column::new("ACCOUNT", Room::Spare),
    ];

    fn table(width: usize) -> String {
        let long = vec![
            Cell::text("bat_1"),
            Cell::Number(7),
            Cell::text("a label that is rather long"),
            Cell::text("openai:0011"),
        ];
        let short = vec![Cell::text("bat_22"), Cell::Number(1_000), Cell::text("é"), Cell::Absent];
        let style = Style::Terminal { width, now: Timestamp::from_millis(0) };
        render(COLUMNS, &[&long, &short], style)
    }

    #[test]
    fn a_wide_terminal_shows_all_of_it_aligned() {
        let expected = "\
ID      ITEMS  LABEL                        ACCOUNT
bat_1       7  a label that is rather long  openai:0011
bat_22   1000  é                            —
";
        assert_eq!(table(80), expected);
    }

    #[test]
    fn a_narrower_one_cuts_what_may_be_cut_and_then_leaves_spare_columns_out() {
        let expected = "\
ID      ITEMS  LABEL            ACCOUNT
bat_1       7  a label that i…  openai:0011
bat_22   1000  é                —
";
        assert_eq!(table(43), expected);
        assert_eq!(table(30).lines().nth(1), Some("bat_1       7  a label that i…"));
        assert_eq!(table(5).lines().nth(1), Some("bat_1       7  a label…"), "ids and numbers stay whole");
    }

    #[test]
    fn no_rows_make_no_table() {
        let style = Style::Terminal { width: 80, now: Timestamp::from_millis(0) };
        assert_eq!(render(COLUMNS, &[], style), "");
        assert_eq!(render(COLUMNS, &[], Style::Plain), "");
    }
}
