//! Tables that fit the terminal: the widest column gives way first, and what was cut ends in `…`.

use super::{Output, style};
use std::fmt::Write as _;

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    title: &'static str,
    right: bool,
    /// Never cut: ids must stay usable.
    whole: bool,
}

impl Column {
    /// Text, cut when there is no room.
    pub const fn text(title: &'static str) -> Self {
        Column { title, right: false, whole: false }
    }

    /// Text that is never cut.
    pub const fn whole(title: &'static str) -> Self {
        Column { title, right: false, whole: true }
    }

    /// A number, to the right, never cut.
    pub const fn number(title: &'static str) -> Self {
        Column { title, right: true, whole: true }
    }
}

/// One field.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    style: anstyle::Style,
}

impl Cell {
    /// A styled field.
    pub fn styled(text: impl Into<String>, style: anstyle::Style) -> Self {
        Cell { text: text.into(), style }
    }

    /// A phase or state in its colour.
    pub fn state(name: &str) -> Self {
        Cell::styled(name, style::state(name))
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell { text: text.into(), style: anstyle::Style::new() }
    }
}

/// Rows under titles.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

const GAP: usize = 2;
/// No column is cut below this many characters.
const SHRUNK_MIN: usize = 6;

impl Table {
    /// An empty table.
    pub fn new(columns: Vec<Column>) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; missing fields are empty.
    pub fn row(&mut self, cells: Vec<Cell>) {
        let mut cells = cells;
        for cell in &mut cells {
            cell.text = clean(&cell.text);
        }
        cells.resize(self.columns.len(), Cell::default());
        self.rows.push(cells);
    }

    /// The text, one line a row; `empty` instead when there are no rows.
    pub fn render(&self, output: &Output, empty: &str) -> String {
        if self.rows.is_empty() {
            return format!("{empty}\n");
        }
        let widths = self.widths(output.width);
        let mut text = String::new();
        let titles: Vec<Cell> = self.columns.iter().map(|column| Cell::styled(column.title, style::HEAD)).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            self.write_row(&mut text, row, &widths, output);
        }
        text
    }

    fn widths(&self, room: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let Some(room) = room else { return widths };
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let can_give = |i: &usize| !self.columns[*i].whole && widths[*i] > SHRUNK_MIN;
            let Some(widest) = (0..widths.len()).filter(can_give).max_by_key(|i| widths[*i]) else { break };
            widths[widest] -= 1;
        }
        widths
    }

    fn write_row(&self, text: &mut String, row: &[Cell], widths: &[usize], output: &Output) {
        let last = row.len().saturating_sub(1);
        for (i, ((cell, column), width)) in row.iter().zip(&self.columns).zip(widths).enumerate() {
            let shown = cut(&cell.text, *width);
            let pad = " ".repeat(width.saturating_sub(shown.chars().count()));
            let painted = output.paint(cell.style, &shown);
            let _ = match (column.right, i == last) {
                (true, _) => write!(text, "{pad}{painted}"),
                (false, true) => write!(text, "{painted}"),
                (false, false) => write!(text, "{painted}{pad}"),
            };
            if i < last {
                text.push_str(&" ".repeat(GAP));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
}

/// At most `width` characters, the last one `…` when something was cut.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut shown: String = text.chars().take(width.saturating_sub(1)).collect();
    shown.push('…');
    shown
}

/// One line without control characters: a job's name must not drive the operator's terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn output(width: Option<usize>, color: bool) -> Output {
        Output {
            format: Format::Table,
            color,
            width,
            height: None,
            is_terminal: width.is_some(),
            stderr_is_terminal: false,
            bars: false,
        }
    }

    fn table() -> Table {
        let mut table = Table::new(vec![Column::number("ID"), Column::text("NAME"), Column::text("REASON")]);
        table.row(vec!["7".into(), "a short one".into(), "x".repeat(200).into()]);
        table.row(vec!["1234".into(), "b".into()]);
        table
    }

    #[test]
    fn a_table_fits_the_terminal_and_the_widest_column_gives_way() {
        let text = table().render(&output(Some(60), false), "none");
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("a short one"), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.ends_with('…')), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("   7  ")), "{text}");
    }

    #[test]
    fn ids_are_never_cut_and_nothing_panics_in_a_tiny_terminal() {
        for width in 0..30 {
            assert!(table().render(&output(Some(width), false), "none").contains("1234"));
        }
    }

    #[test]
    fn a_pipe_gets_everything_and_no_colours() {
        let text = table().render(&output(None, false), "none");
        assert!(text.contains(&"x".repeat(200)) && !text.contains('\u{1b}'));
        assert!(table().render(&output(None, true), "none").contains('\u{1b}'));
    }

    #[test]
    fn a_jobs_name_cannot_drive_the_terminal() {
        let mut table = Table::new(vec![Column::text("NAME")]);
        table.row(vec!["evil\u{1b}[2J\nname\u{7}".into()]);
        let text = table.render(&output(None, false), "none");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}') && text.lines().count() == 2, "{text:?}");
    }

    #[test]
    fn no_rows_is_said_in_words() {
        let table = Table::new(vec![Column::text("NAME")]);
        assert_eq!(table.render(&output(None, false), "no jobs"), "no jobs\n");
    }
}
