//! Strict reading of a table: every field is asked for by name and type, whatever was not asked for is a fault, and
//! reading goes on after a fault so that all are found at once.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use super::document::{Entry, Node, Origin, Value};
use crate::error::Fault;

/// Where faults of one file are collected.
#[derive(Debug)]
pub(crate) struct Faults {
    file: String,
    list: RefCell<Vec<Fault>>,
}

impl Faults {
    pub(crate) fn new(file: String) -> Self {
        Faults { file, list: RefCell::new(Vec::new()) }
    }

    /// Adds one; a value from the command line is named by its option.
    pub(crate) fn add(&self, origin: &Origin, field: &str, message: impl Into<String>) {
        let (place, line, field) = match origin {
            Origin::Line(line) => (self.file.clone(), Some(*line), field.to_owned()),
            Origin::Override => (format!("--{field}"), None, String::new()),
        };
        self.list.borrow_mut().push(Fault { place, line, field, message: message.into() });
    }

    /// In the order of the file, those of the command line last.
    pub(crate) fn into_sorted(self) -> Vec<Fault> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        list
    }
}

/// One table being read.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    faults: &'a Faults,
    path: String,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    origin: Origin,
}

impl<'a> Fields<'a> {
    /// The whole document.
    pub(crate) fn root(node: &'a Node, faults: &'a Faults) -> Self {
        Self::of(Some(node), String::new(), Origin::Line(1), faults)
    }

    fn of(node: Option<&'a Node>, path: String, origin: Origin, faults: &'a Faults) -> Self {
        let (entries, origin): (&[Entry], _) = match node {
            None => (&[], origin),
            Some(Node { value: Value::Table(entries), origin }) => (entries, origin.clone()),
            Some(Node { value: Value::Null, origin }) => (&[], origin.clone()),
            Some(Node { value, origin }) => {
                faults.add(origin, &path, format!("expected a group of fields, found {}", value.describe()));
                (&[], origin.clone())
            }
        };
        Fields { faults, path, entries, known: Vec::new(), origin }
    }

    /// The table under `key`; an absent one reads as empty.
    pub(crate) fn table(&mut self, key: &'static str) -> Fields<'a> {
        let node = self.take(key);
        Self::of(node, self.name(key), self.origin.clone(), self.faults)
    }

    /// The value under `key`, if there is one that is not null.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        let node = &self.entries.iter().find(|entry| entry.key == key)?.node;
        (node.value != Value::Null).then_some(node)
    }

    /// A fault of `key`, at its value if it has one.
    pub(crate) fn fault(&self, key: &str, message: impl Into<String>) {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let origin = entry.map_or(&self.origin, |entry| &entry.node.origin);
        self.faults.add(origin, &self.name(key), message);
    }

    /// Whether the table has this field at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.node.value != Value::Null)
    }

    /// A whole number.
    pub(crate) fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let node = self.take(key)?;
        let read = whole(&node.value, &range);
        if read.is_none() {
            self.fault(key, whole_wanted(&range, &node.value));
        }
        read
    }

    /// A list of whole numbers.
    pub(crate) fn wholes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Vec<u64>> {
        let node = self.take(key)?;
        let Value::List(items) = &node.value else {
            self.fault(key, format!("expected a list of whole numbers, found {}", node.value.describe()));
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match whole(&item.value, &range) {
                Some(number) => list.push(number),
                None => self.faults.add(&item.origin, &self.name(key), whole_wanted(&range, &item.value)),
            }
        }
        Some(list)
    }

    /// A finite number that `fits`; `wanted` says which do.
    pub(crate) fn number(&mut self, key: &'static str, wanted: &str, fits: impl Fn(f64) -> bool) -> Option<f64> {
        let node = self.take(key)?;
        let read = match &node.value {
            Value::Scalar { text, plain: true } => text.parse::<f64>().ok(),
            _ => None,
        };
        let good = read.filter(|number| number.is_finite() && fits(*number));
        if good.is_none() {
            self.fault(key, format!("expected {wanted}, found {}", node.value.describe()));
        }
        good
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            other => {
                self.fault(key, format!("expected true or false, found {}", other.describe()));
                None
            }
        }
    }

    /// Any text of at least one character.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        match &node.value {
            Value::Scalar { text, .. } if !text.is_empty() && !text.contains('\0') => Some(text.clone()),
            other => {
                self.fault(key, format!("expected a text, found {}", other.describe()));
                None
            }
        }
    }

    /// As [`Fields::text`], and its absence is a fault.
    pub(crate) fn text_required(&mut self, key: &'static str, why: &str) -> Option<String> {
        if !self.has(key) {
            self.known.push(key);
            self.fault(key, format!("is missing: {why}"));
            return None;
        }
        self.text(key)
    }

    /// One word of a few.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let node = self.take(key)?;
        if let Value::Scalar { text, .. } = &node.value
            && let Some((_, choice)) = choices.iter().find(|(word, _)| word == text)
        {
            return Some(*choice);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.fault(key, format!("expected one of {}, found {}", words.join(", "), node.value.describe()));
        None
    }

    /// Every field that was not asked for is a fault.
    pub(crate) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let near = self.known.iter().min_by_key(|known| distance(known, &entry.key));
            let message = match near.filter(|near| distance(near, &entry.key) <= 2) {
                Some(near) => format!("unknown field; did you mean {near:?}?"),
                None => format!("unknown field; known here: {}", self.known.join(", ")),
            };
            self.faults.add(&entry.origin, &self.name(&entry.key), message);
        }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn whole(value: &Value, range: &RangeInclusive<u64>) -> Option<u64> {
    match value {
        Value::Scalar { text, plain: true } => text.parse().ok().filter(|number| range.contains(number)),
        _ => None,
    }
}

fn whole_wanted(range: &RangeInclusive<u64>, found: &Value) -> String {
    let found = found.describe();
    match *range.end() {
        u64::MAX => format!("expected a whole number of at least {}, found {found}", range.start()),
        end => format!("expected a whole number from {} to {end}, found {found}", range.start()),
    }
}

/// Edit distance (Wagner and Fischer, 1974), for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
