//! Text tables: numbers with a label column, quoted fields as in RFC 4180 (within one line), a header or none.
//!
//! The first faults are all reported, each with its line; lines are read one at a time and have a bound.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::{FAULTS_MAX, Samples, VALUES_MAX};
use crate::config::Column;
use crate::error::{Error, Fault};
use crate::files;

/// Longest line in bytes.
const LINE_MAX: u64 = 1 << 20;

/// How the table is written.
pub(super) struct Layout<'a> {
    pub(super) label: &'a Column,
    pub(super) header: Option<bool>,
    pub(super) delimiter: char,
}

struct Table<'a> {
    place: String,
    layout: &'a Layout<'a>,
    samples: Samples,
    faults: Vec<Fault>,
    /// Column of the label and number of columns, once the first line is read.
    shape: Option<(usize, usize)>,
}

pub(super) fn load(path: &Path, layout: &Layout<'_>) -> Result<Samples, Error> {
    let (file, _) = files::open_plain(path)?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let place = path.display().to_string();
    let mut table = Table { place, layout, samples: Samples::default(), faults: Vec::new(), shape: None };
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        number += 1;
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        let more = table.line(number, &bytes);
        if !more {
            break;
        }
    }
    if table.shape.is_none() && table.faults.is_empty() {
        table.fault(None, "has no samples");
    }
    if table.faults.is_empty() { Ok(table.samples) } else { Err(Error::Data { faults: table.faults }) }
}

impl Table<'_> {
    fn fault(&mut self, line: Option<usize>, message: impl Into<String>) {
        let (place, message) = (self.place.clone(), message.into());
        self.faults.push(Fault { place, line, field: String::new(), message });
    }

    /// Takes one line; false where there is no sense in reading on.
    fn line(&mut self, number: usize, bytes: &[u8]) -> bool {
        if bytes.len() as u64 == LINE_MAX && !bytes.ends_with(b"\n") {
            self.fault(Some(number), format!("the line is longer than {LINE_MAX} bytes"));
            return false;
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.fault(Some(number), "the line is not UTF-8 text");
            return self.faults.len() < FAULTS_MAX;
        };
        let text = text.strip_prefix('\u{feff}').filter(|_| number == 1).unwrap_or(text);
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            return true;
        }
        let taken = match split(text, self.layout.delimiter) {
            Ok(fields) => self.fields(&fields),
            Err(message) => Err(message),
        };
        if let Err(message) = taken {
            self.fault(Some(number), message);
            // Without a first line the columns are unknown.
            return self.shape.is_some() && self.faults.len() < FAULTS_MAX;
        }
        true
    }

    /// The first line settles the columns, and is a sample itself unless it is a header.
    fn first(&mut self, fields: &[String]) -> Result<(), String> {
        let label = label_column(self.layout.label, fields)?;
        self.shape = Some((label, fields.len()));
        self.samples.shape = vec![fields.len() - 1];
        let header = self.layout.header.unwrap_or_else(|| is_header(self.layout.label, label, fields));
        if header { Ok(()) } else { self.fields(fields) }
    }

    fn fields(&mut self, fields: &[String]) -> Result<(), String> {
        let Some((label, columns)) = self.shape else { return self.first(fields) };
        if fields.len() != columns {
            return Err(format!("has {} fields where the first line has {columns}", fields.len()));
        }
        if self.samples.features.len() + columns > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values"));
        }
        let mut bad = Vec::new();
        let before = self.samples.features.len();
        for (at, field) in fields.iter().enumerate().filter(|(at, _)| *at != label) {
            match value(field) {
                Some(value) => self.samples.features.push(value),
                None => bad.push(format!("field {} is {field:?}, not a finite number", at + 1)),
            }
        }
        let pushed = if bad.is_empty() { self.samples.labels.push(fields[label].trim()) } else { Err(bad.join("; ")) };
        if pushed.is_err() {
            self.samples.features.truncate(before);
        }
        debug_assert!(pushed.is_err() || self.samples.labels.len() * (fields.len() - 1) == self.samples.features.len());
        pushed
    }
}

fn value(field: &str) -> Option<f32> {
    field.trim().parse::<f32>().ok().filter(|value| value.is_finite())
}

fn label_column(label: &Column, first: &[String]) -> Result<usize, String> {
    if first.len() < 2 {
        return Err("has one column: a label and at least one feature are needed; is the delimiter right?".to_owned());
    }
    match label {
        Column::Last => Ok(first.len() - 1),
        Column::Index(at) if *at < first.len() => Ok(*at),
        Column::Index(at) => Err(format!("has {} columns: there is no column {at} for the label", first.len())),
        Column::Name(name) => first.iter().position(|field| field.trim() == name).ok_or_else(|| {
            let names: Vec<&str> = first.iter().map(|field| field.trim()).take(20).collect();
            format!("has no column {name:?} for the label, only {}", names.join(", "))
        }),
    }
}

/// A first line whose features are not all numbers can only be names.
fn is_header(label: &Column, at: usize, first: &[String]) -> bool {
    let features = first.iter().enumerate().filter(|(column, _)| *column != at);
    matches!(label, Column::Name(_)) || features.into_iter().any(|(_, field)| value(field).is_none())
}

/// The fields of one line.
fn split(line: &str, delimiter: char) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut characters = line.chars().peekable();
    loop {
        if characters.peek() == Some(&'"') {
            characters.next();
            quoted(&mut characters, &mut field)?;
        }
        match characters.next() {
            None => {
                fields.push(field);
                return Ok(fields);
            }
            Some(one) if one == delimiter => fields.push(std::mem::take(&mut field)),
            Some(one) => {
                field.push(one);
                // The rest of an unquoted field; a quote inside it is a character like any other.
                while let Some(one) = characters.next_if(|one| *one != delimiter) {
                    field.push(one);
                }
            }
        }
    }
}

fn quoted(characters: &mut std::iter::Peekable<std::str::Chars<'_>>, field: &mut String) -> Result<(), String> {
    loop {
        match characters.next() {
            None => return Err("a quote is not closed on its line".to_owned()),
            Some('"') if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            Some('"') => return Ok(()),
            Some(one) => field.push(one),
        }
    }
}
