//! Reads typed fields out of the node tree: each reader returns the value, or reports a fault and returns nothing.

use crate::distance::{nearest, plain};
use crate::faults::{Mark, Report};
use crate::quantity;
use crate::yaml::{Entry, Node, Scalar, Value};
use std::ops::RangeInclusive;

/// Fields that belong somewhere else than where people put them, for suggestions.
const ELSEWHERE: [&str; 32] = [
    "resources.instance_count",
    "resources.instance_type",
    "resources.shm_size",
    "resources.docker_args",
    "distribution.process_count_per_instance",
    "distribution.worker_count",
    "distribution.parameter_server_count",
    "limits.timeout",
    "queue_settings.job_tier",
    "x-muster.gpus_per_rank",
    "x-muster.cpus_per_rank",
    "x-muster.memory_per_rank",
    "x-muster.priority",
    "x-muster.queue",
    "x-muster.max_restarts",
    "x-muster.restart_backoff",
    "x-muster.grace",
    "x-muster.spread",
    "x-muster.checkpoint",
    "x-muster.required",
    "x-muster.preferred",
    "x-muster.worker_labels",
    "x-muster.devices",
    "x-muster.preemptible",
    "x-muster.estimate",
    "x-muster.keep_telemetry_for",
    "x-muster.group",
    "x-muster.away_from",
    "x-muster.secrets",
    "x-muster.workspace",
    "environment_variables",
    "experiment_name",
];

/// What people write, and what they mean by it.
const SYNONYMS: [(&str, &str); 12] = [
    ("env", "environment_variables"),
    ("envs", "environment_variables"),
    ("experiment", "experiment_name"),
    ("gpus", "x-muster.gpus_per_rank"),
    ("cpus", "x-muster.cpus_per_rank"),
    ("memory", "x-muster.memory_per_rank"),
    ("nodes", "resources.instance_count"),
    ("node_count", "resources.instance_count"),
    ("restarts", "x-muster.max_restarts"),
    ("retries", "x-muster.max_restarts"),
    ("instances", "resources.instance_count"),
    ("muster", "x-muster"),
];

/// A mapping and where it stands.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    /// Dotted path; empty for the whole file.
    pub(crate) path: String,
    /// Where faults about the mapping as a whole point.
    pub(crate) mark: Mark,
    entries: &'a [Entry],
}

/// One entry of a mapping.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    /// Dotted path (`resources.instance_count`).
    pub(crate) path: String,
    /// Its name.
    pub(crate) key: &'a str,
    /// Where the name stands.
    pub(crate) key_mark: Mark,
    /// Its value.
    pub(crate) node: &'a Node,
}

impl<'a> Fields<'a> {
    /// Opens a node that must be a mapping; `mark` is where faults about the whole of it point.
    pub(crate) fn open(report: &mut Report, path: &str, mark: Mark, node: &'a Node) -> Option<Self> {
        if let Value::Mapping(entries) = &node.value {
            return Some(Self { path: path.to_owned(), mark, entries });
        }
        report.fault(node.mark, path, format!("must be a mapping, but is {}", node.kind()));
        None
    }

    /// Reports each field that is not among the known ones.
    pub(crate) fn only(&self, report: &mut Report, known: &[&str]) {
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let path = join(&self.path, &entry.key);
            let meant = meant(&entry.key, known, &self.path);
            report.fault_with(entry.mark, &path, "unknown field", meant);
        }
    }

    /// A field that is there; one that is there without a value is a fault.
    pub(crate) fn get(&self, report: &mut Report, name: &str) -> Option<Field<'a>> {
        let field = self.get_nullable(name)?;
        if field.node.is_null() {
            report.fault(field.key_mark, &field.path, "has no value: give it one or leave the field out");
            return None;
        }
        Some(field)
    }

    /// A field that is there, be it null.
    pub(crate) fn get_nullable(&self, name: &str) -> Option<Field<'a>> {
        self.all().find(|field| field.key == name)
    }

    /// A field that must be there.
    pub(crate) fn required(&self, report: &mut Report, name: &str) -> Option<Field<'a>> {
        if self.get_nullable(name).is_none() {
            report.fault(self.mark, &join(&self.path, name), "is missing");
        }
        self.get(report, name)
    }

    /// Every field in file order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Field<'a>> {
        let path = self.path.clone();
        self.entries.iter().map(move |entry| Field {
            path: join(&path, &entry.key),
            key: &entry.key,
            key_mark: entry.mark,
            node: &entry.node,
        })
    }

    /// Number of fields.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<'a> Field<'a> {
    /// Its fields, if it is a mapping.
    pub(crate) fn fields(&self, report: &mut Report) -> Option<Fields<'a>> {
        Fields::open(report, &self.path, self.key_mark, self.node)
    }

    /// Any scalar, as written.
    pub(crate) fn scalar(&self, report: &mut Report) -> Option<&'a Scalar> {
        let scalar = self.node.scalar();
        if scalar.is_none() {
            self.fault(report, format!("must be text, but is {}", self.node.kind()));
        }
        scalar
    }

    /// Any scalar's text.
    pub(crate) fn text(&self, report: &mut Report) -> Option<&'a str> {
        self.scalar(report).map(|scalar| scalar.text.as_str())
    }

    /// A decimal whole number within bounds; quotes around it do not matter (as in Azure ML).
    pub(crate) fn integer(&self, report: &mut Report, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.node.scalar().and_then(|scalar| scalar.text.parse::<i64>().ok());
        match number {
            Some(number) if range.contains(&number) => return Some(number),
            Some(number) => {
                self.fault(report, format!("is {number}, but must be from {} to {}", range.start(), range.end()));
            }
            None => self.fault_with(
                report,
                format!("must be a whole number from {} to {}, but is {}", range.start(), range.end(), self.shown()),
                self.node.scalar().and_then(|scalar| without_underscores(&scalar.text)),
            ),
        }
        None
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self, report: &mut Report) -> Option<bool> {
        let text = self.node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => {
                let meant = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" => Some("true".to_owned()),
                    "no" | "off" | "n" => Some("false".to_owned()),
                    _ => None,
                };
                self.fault_with(report, format!("must be true or false, but is {}", self.shown()), meant);
                None
            }
        }
    }

    /// Seconds, with decimals, as milliseconds.
    pub(crate) fn milliseconds(&self, report: &mut Report, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.node.scalar().and_then(|scalar| quantity::milliseconds(&scalar.text));
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return Some(value);
        }
        let (least, most) = (decimal(*range.start()), decimal(*range.end()));
        self.fault(report, format!("must be a number of seconds from {least} to {most}, but is {}", self.shown()));
        None
    }

    /// An amount of memory in bytes.
    pub(crate) fn bytes(&self, report: &mut Report) -> Option<u64> {
        let scalar = self.scalar(report)?;
        match quantity::bytes(&scalar.text) {
            Ok(bytes) => Some(bytes),
            Err((message, meant)) => {
                self.fault_with(report, format!("{} is {message}", self.shown()), meant);
                None
            }
        }
    }

    /// One of some words; case does not matter (as in Azure ML).
    pub(crate) fn choice(&self, report: &mut Report, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(report)?;
        if let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
            return Some(word);
        }
        let meant = nearest(text, words.iter().copied()).map(str::to_owned);
        self.fault_with(report, format!("must be one of {}, but is {}", words.join(", "), self.shown()), meant);
        None
    }

    /// Reports a fault of the value.
    pub(crate) fn fault(&self, report: &mut Report, message: impl Into<String>) {
        report.fault(self.node.mark, &self.path, message);
    }

    /// Reports a fault of the value and what was probably meant.
    pub(crate) fn fault_with(&self, report: &mut Report, message: impl Into<String>, meant: Option<String>) {
        report.fault_with(self.node.mark, &self.path, message, meant);
    }

    /// Reports that there is nothing where an empty text would have to be quoted; points at the name.
    pub(crate) fn fault_null(&self, report: &mut Report) {
        report.fault(self.key_mark, &self.path, "has no value: write \"\" for an empty one");
    }

    /// Warns about the field.
    pub(crate) fn warn(&self, report: &mut Report, message: impl Into<String>) {
        report.warn(self.key_mark, &self.path, message);
    }

    /// The value for messages: quoted and short, or its kind.
    pub(crate) fn shown(&self) -> String {
        match self.node.scalar() {
            Some(scalar) => shorten(&scalar.text),
            None => self.node.kind().to_owned(),
        }
    }
}

/// Quoted, escaped, at most 60 characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A dotted path; keys that are not plain words are quoted.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.len() <= 100 && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-$".contains(c));
    let key = if plain { key.to_owned() } else { shorten(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn meant(key: &str, known: &[&str], path: &str) -> Option<String> {
    let letters = plain(key);
    let same = |other: &str| plain(other) == letters;
    if let Some(word) = known.iter().find(|word| same(word)) {
        return Some((*word).to_owned());
    }
    // A path that stands in this very mapping would be a circle.
    let not_here = |full: &&str| full.rsplit_once('.').map_or("", |(parent, _)| parent) != path;
    let elsewhere = ELSEWHERE.iter().filter(|full| not_here(full));
    let last = |full: &str| full.rsplit('.').next().unwrap_or_default().to_owned();
    if let Some(full) = elsewhere.clone().find(|full| same(&last(full))) {
        return Some((*full).to_owned());
    }
    if let Some(word) = nearest(key, known.iter().copied()) {
        return Some(word.to_owned());
    }
    if let Some((_, word)) = SYNONYMS.iter().find(|(synonym, _)| same(synonym)) {
        let here = word.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'));
        return Some(here.unwrap_or(word).to_owned());
    }
    elsewhere
        .filter(|full| full.contains('.'))
        .find(|full| nearest(key, [last(full).as_str()]).is_some())
        .map(|full| (*full).to_owned())
}

fn without_underscores(text: &str) -> Option<String> {
    let plain = text.replace('_', "");
    (plain != text && plain.parse::<i64>().is_ok()).then_some(plain)
}

fn decimal(milliseconds: u64) -> String {
    match milliseconds % 1_000 {
        0 => (milliseconds / 1_000).to_string(),
        rest => format!("{}.{rest:03}", milliseconds / 1_000),
    }
}
