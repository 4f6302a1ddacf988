//! What a rank reports on its metrics pipe, as far as its supervisor must know it: the last value of each metric, for the
//! record of its end with the rank that it blames for it, and the last checkpoint, for the daemon. The bytes themselves go to the spool untouched.

mod fuzzed;

pub use fuzzed::{metric_texts, metrics};

use super::protobuf::Number;
use super::spec::{CheckpointNotice, write_record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use types::RankIndex;

/// Longest line that is read; a longer one is kept in the stream only.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Metrics whose last values are kept.
const NAMES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 250;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Checkpoint(CheckpointNotice),
    Blame { kind: Blame, rank: u32 },
    Point { name: String, value: serde_json::Number },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Blame {
    Blame,
}

/// As a rank writes it: see `docs/job-file.md`.
#[derive(Serialize)]
struct NewPoint<'a> {
    name: &'a str,
    value: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
}

/// Adds the line of a point that came another way; `time` is in seconds since 1970.
pub(super) fn write_point(lines: &mut Vec<u8>, name: &str, value: Number, step: Option<u64>, time: Option<f64>) {
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, &NewPoint { name, value, step, time }) {
        Ok(()) => lines.push(b'\n'),
        Err(_) => lines.truncate(before),
    }
}

/// Reads lines as they come.
pub(super) struct Metrics {
    line: Vec<u8>,
    /// The current line is too long: dropped up to its end.
    skipping: bool,
    last: BTreeMap<String, String>,
    notice: PathBuf,
    blamed: Option<RankIndex>,
    used: bool,
}

impl Metrics {
    /// `notice` is where a checkpoint is announced to the daemon.
    pub(super) fn new(notice: PathBuf) -> Self {
        Self { line: Vec::new(), skipping: false, last: BTreeMap::new(), notice, blamed: None, used: false }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.used = true;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            let line = std::mem::take(&mut self.line);
            if !std::mem::take(&mut self.skipping) {
                self.read(&line);
            }
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.skipping || self.line.len() + bytes.len() > LINE_BYTES_MAX {
            self.skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn read(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Line::Checkpoint(notice)) if notice.is_sound() => {
                if let Err(error) = write_record(&self.notice, &notice) {
                    super::say(format_args!("checkpoint {:?} cannot be announced: {error}", notice.checkpoint));
                }
            }
            Ok(Line::Point { name, value }) if self.keeps(&name) => {
                self.last.insert(name, value.to_string());
            }
            // The first word counts: what comes after it is mostly a consequence.
            Ok(Line::Blame { kind: Blame::Blame, rank }) => drop(self.blamed.get_or_insert(RankIndex(rank))),
            // Lines of another kind are the reader's business.
            _ => {}
        }
    }

    fn keeps(&self, name: &str) -> bool {
        name.len() <= NAME_BYTES_MAX && (self.last.len() < NAMES_MAX || self.last.contains_key(name))
    }

    /// The rank has written here.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// No line is begun: one of the supervisor's own may come in between.
    pub(super) fn is_between_lines(&self) -> bool {
        self.line.is_empty() && !self.skipping
    }

    /// The rank that it said it ends because of.
    pub(super) fn blamed(&self) -> Option<RankIndex> {
        self.blamed
    }

    /// The last value of each metric, by name.
    pub(super) fn last(&self) -> Vec<(String, String)> {
        self.last.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::spec::read_record;
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.json");
        let mut metrics = Metrics::new(path.clone());
        let text = concat!(
            r#"{"name":"loss","value":0.5,"step":1}"#,
            "\nnot json\n",
            r#"{"checkpoint":"step-1","step":1}"#,
            "\n",
            r#"{"name":"loss","value":0.25,"step":2,"time":1.5}"#,
            "\n",
            r#"{"checkpoint":"../../etc","step":9}"#,
            "\n",
            r#"{"kind":"stall","rank":1}"#,
            "\n",
            r#"{"kind":"blame","rank":2}"#,
            "\n",
            r#"{"kind":"blame","rank":3}"#,
            "\n",
        );
        for byte in text.as_bytes() {
            metrics.push(&[*byte]);
        }
        assert_eq!(metrics.last(), [("loss".to_owned(), "0.25".to_owned())]);
        assert_eq!(metrics.blamed(), Some(RankIndex(2)));
        let notice: CheckpointNotice = read_record(&path).unwrap();
        assert_eq!((notice.checkpoint.as_str(), notice.step), ("step-1", 1));
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::new(folder.path().join("c"));
        for _ in 0..100 {
            metrics.push(&[b'x'; 10_000]);
        }
        assert!(metrics.line.capacity() <= 4 * LINE_BYTES_MAX);
        metrics.push(b"\n{\"name\":\"a\",\"value\":1}\n");
        assert_eq!(metrics.last().len(), 1);
    }
}
