//! What was measured, as a table for people and as JSON for programs.

use super::Name;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Everything that one benchmark found.
#[derive(Clone, Debug)]
pub struct Report {
    name: Name,
    tables: Vec<Table>,
    notes: Vec<String>,
    /// Where it was measured.
    pub machine: String,
}

/// Rows under one title.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// For people.
    pub fn text(&self) -> String {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = format!("{}\n\n", self.title);
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} |"));
            format!("|{}\n", cells.collect::<String>())
        };
        text += &line(&self.columns);
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        text += &line(&rule);
        self.rows.iter().for_each(|row| text += &line(row));
        text
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<String>| {
            let cells = self.columns.iter().zip(row).map(|(column, cell)| (column.clone(), value(cell)));
            Value::Object(cells.collect())
        };
        json!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

/// Numbers as numbers.
fn value(cell: &str) -> Value {
    cell.replace(',', "").parse::<f64>().map_or_else(|_| json!(cell), |number| json!(number))
}

impl Report {
    /// An empty one.
    pub fn new(name: Name) -> Self {
        Self { name, tables: Vec::new(), notes: Vec::new(), machine: String::new() }
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Adds a sentence.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// For people: Markdown that also reads well on a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let _ = writeln!(text, "{}", table.text());
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        let _ = writeln!(text, "- measured on: {}", self.machine);
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "benchmark": format!("{:?}", self.name),
            "machine": self.machine,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_alike_for_people_and_programs() {
        let mut table = Table::new("speed", &["system", "per second"]);
        table.row(["a".to_owned(), "1,200".to_owned()]);
        assert_eq!(
            table.text(),
            "speed\n\n| system | per second |\n| ------ | ---------- |\n| a      | 1,200      |\n"
        );
        assert_eq!(table.json()["rows"][0], json!({ "system": "a", "per second": 1_200.0 }));
    }
}
