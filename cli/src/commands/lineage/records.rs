//! Records of lineage as lines, and what binds one to the next.

use crate::output::text;
use client::v1;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// One record on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// From 1, without gaps, in the order in which jobs ended.
    pub number: u64,
    /// Whose.
    pub job: u64,
    /// Hash of the record before.
    pub previous: String,
    /// SHA-256 of the 32 bytes of `previous` and the bytes of `text`.
    pub hash: String,
    /// JSON: what went into the job, where it ran, what came out of it.
    pub text: String,
    /// Of a job of another workspace, without text and number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

impl From<v1::LineageRecord> for Line {
    fn from(record: v1::LineageRecord) -> Self {
        Line {
            number: record.number,
            job: record.job_id,
            previous: text::hex(&record.previous),
            hash: text::hex(&record.hash),
            text: record.text,
            withheld: record.withheld,
        }
    }
}

impl Line {
    /// What is wrong with it by itself, if anything is.
    pub fn fault(&self) -> Option<String> {
        if self.withheld {
            return None;
        }
        if self.text.is_empty() {
            return Some("the job is no longer there".to_owned());
        }
        let Some(previous) = text::unhex(&self.previous) else {
            return Some("the hash of the record before it cannot be read".to_owned());
        };
        let hash = Sha256::new().chain_update(previous).chain_update(&self.text).finalize();
        if text::hex(&hash) != self.hash {
            return Some("it is not what was sealed when the job ended".to_owned());
        }
        let said: Value = serde_json::from_str(&self.text).unwrap_or_default();
        let is_so = said["number"] == self.number && said["job"] == self.job;
        (!is_so).then(|| "it was sealed as another job's, or under another number".to_owned())
    }
}

/// Walks along the records.
#[derive(Debug, Default)]
pub struct Chain {
    /// Number and hash of the last one.
    pub last: Option<(u64, String)>,
    /// How many there were.
    pub count: u64,
    /// Of these, those of which the hash alone was there.
    pub withheld: u64,
}

impl Chain {
    /// What is wrong with the next one, if anything is. The walk goes on behind it, so that each fault is found by itself.
    pub fn step(&mut self, line: &Line) -> Option<String> {
        let follows = match &self.last {
            Some((number, hash)) => line.number == number + 1 && line.previous == *hash,
            // Where it begins is known of the very first only.
            None => line.number != 1 || line.previous.bytes().all(|digit| digit == b'0'),
        };
        self.last = Some((line.number, line.hash.clone()));
        self.count += 1;
        self.withheld += u64::from(line.withheld);
        line.fault().or_else(|| {
            let why = "it does not follow the one before it: records were taken out, put in, exchanged or made again";
            (!follows).then(|| why.to_owned())
        })
    }
}

/// Where two JSON values differ: the place, and what each says there.
pub fn differences(before: &Value, after: &Value) -> Vec<(String, Option<String>, Option<String>)> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

fn compare(
    place: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    found: &mut Vec<(String, Option<String>, Option<String>)>,
) {
    if before == after {
        return;
    }
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let added = after.keys().filter(|name| !before.contains_key(*name));
            for name in before.keys().chain(added) {
                compare(&below(name), before.get(name), after.get(name), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                compare(&below(&index.to_string()), before.get(index), after.get(index), found);
            }
        }
        _ => {
            let said = |value: Option<&Value>| match value? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            found.push((place.to_owned(), said(before), said(after)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines() -> Vec<Line> {
        let mut previous = vec![0_u8; 32];
        let one = |number: u64| {
            let text = json!({ "number": number, "job": number + 10, "command": "true" }).to_string();
            let hash = Sha256::new().chain_update(&previous).chain_update(&text).finalize().to_vec();
            let before = std::mem::replace(&mut previous, hash.clone());
            Line {
                number,
                job: number + 10,
                previous: text::hex(&before),
                hash: text::hex(&hash),
                text,
                withheld: false,
            }
        };
        (1..6).map(one).collect()
    }

    /// Numbers of the records that are found to be wrong.
    fn wrong(lines: &[Line]) -> Vec<u64> {
        let mut chain = Chain::default();
        lines.iter().filter(|line| chain.step(line).is_some()).map(|line| line.number).collect()
    }

    #[test]
    fn each_altered_record_is_named_and_no_other() {
        assert_eq!(wrong(&lines()), [0; 0]);
        assert_eq!(wrong(&lines()[2..]), [0; 0], "a later part is sound in itself");
        let altered = |change: &dyn Fn(&mut Vec<Line>)| {
            let mut all = lines();
            change(&mut all);
            wrong(&all)
        };
        assert_eq!(altered(&|all| all[1].text = all[1].text.replace("true", "false")), [2]);
        assert_eq!(altered(&|all| all[1].text.clear()), [2]);
        assert_eq!(altered(&|all| all[1].job = 3), [2]);
        assert_eq!(altered(&|all| drop(all.remove(1))), [3]);
        assert_eq!(altered(&|all| drop(all.remove(0))), [0; 0], "as an export of what came later");
        assert_eq!(altered(&|all| all.swap(1, 2)), [3, 2, 4]);
        // Altered with a hash that fits: the next one does not follow.
        let forged = |all: &mut Vec<Line>| {
            all[1].text = all[1].text.replace("true", "false");
            let previous = text::unhex(&all[1].previous).unwrap();
            all[1].hash = text::hex(&Sha256::new().chain_update(previous).chain_update(&all[1].text).finalize());
        };
        assert_eq!(altered(&forged), [3]);
    }

    #[test]
    fn differences_are_told_by_their_place() {
        let before = json!({ "a": 1, "b": { "c": "x", "d": [1, 2] } });
        let after = json!({ "a": 1, "b": { "c": "y", "d": [1] }, "e": null });
        let places: Vec<String> = differences(&before, &after).into_iter().map(|(place, ..)| place).collect();
        assert_eq!(places, ["b.c", "b.d.1", "e"]);
        assert_eq!(differences(&before, &before), []);
    }
}
