//! A queue that jobs wait in: its place in the tree, its part among its siblings, and its quota for each device class.

use crate::Limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The queue of jobs that name none; always there.
pub const DEFAULT_QUEUE: &str = "default";

/// A queue. Its parent is what stands before the last `/` of its name; a name without `/` hangs under the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Full name, for example `research/vision`. Jobs wait in leaves only.
    pub name: String,
    /// Its part among siblings; at least 1.
    pub weight: u32,
    /// By device class, which is the devices' product name; empty text: CPU slots of workers without devices. A class that
    /// is not named has no guarantee, no ceiling, and lends all.
    pub quotas: BTreeMap<String, QueueQuota>,
}

/// A queue's bounds for one device class, in devices (CPU slots for the empty class).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueQuota {
    /// Its own: what it may use at once, taken back from borrowers when it needs it.
    pub guaranteed: u64,
    /// Never more than this, however much lies idle; none = no bound.
    pub ceiling: Option<u64>,
    /// How much of what it has guaranteed and does not use may be lent to others; none = all.
    pub lend: Option<u64>,
}

impl Queue {
    /// A queue of weight 1 without quotas.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), weight: 1, quotas: BTreeMap::new() }
    }

    /// The name of the queue above it.
    pub fn parent(&self) -> Option<&str> {
        self.name.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Everything that is wrong with it on its own.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_queue_name(&self.name) {
            faults.push(format!("{:?} is no name of a queue: {QUEUE_NAME_RULE}", self.name));
        }
        if self.weight == 0 || self.weight > Limits::QUEUE_WEIGHT_MAX {
            faults.push(format!("the weight is {}; 1 to {} are allowed", self.weight, Limits::QUEUE_WEIGHT_MAX));
        }
        if self.quotas.len() > Limits::QUEUE_CLASSES_MAX {
            let count = self.quotas.len();
            faults.push(format!("quotas for {count} classes; at most {} are allowed", Limits::QUEUE_CLASSES_MAX));
        }
        for (class, quota) in &self.quotas {
            let shown = if class.is_empty() { "cpu" } else { class };
            if class.len() > Limits::CLASS_BYTES_MAX || class.chars().any(char::is_control) {
                faults.push(format!(
                    "class {class:?} must have at most {} bytes and no control characters",
                    Limits::CLASS_BYTES_MAX
                ));
            }
            if let Some(ceiling) = quota.ceiling.filter(|ceiling| quota.guaranteed > *ceiling) {
                faults.push(format!("{shown}: {} guaranteed is more than the ceiling of {ceiling}", quota.guaranteed));
            }
            if let Some(lend) = quota.lend.filter(|lend| *lend > quota.guaranteed) {
                faults.push(format!("{shown}: cannot lend {lend} of {} guaranteed", quota.guaranteed));
            }
        }
        faults
    }
}

/// What a queue may be called, in words.
pub const QUEUE_NAME_RULE: &str = "parts of letters, digits, '.', '_' and '-', each starting with a letter or digit, joined by '/'; at most 63 bytes and 4 parts";

/// True for a name that a queue may have.
pub fn is_queue_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    name.len() <= Limits::QUEUE_BYTES_MAX
        && name.split('/').count() <= Limits::QUEUE_DEPTH_MAX
        && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_of_plain_words() {
        for good in ["default", "research/vision", "a.b/c_d/e-f/0"] {
            assert!(is_queue_name(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "-a", "a b", "a/b/c/d/e", "ü", &"x".repeat(64)] {
            assert!(!is_queue_name(bad), "{bad}");
        }
    }

    #[test]
    fn every_fault_of_a_queue_is_told() {
        let quota = QueueQuota { guaranteed: 9, ceiling: Some(8), lend: Some(10) };
        let bad = Queue { name: "a//b".into(), weight: 0, quotas: [(String::new(), quota)].into() };
        assert_eq!(bad.faults().len(), 4, "{:?}", bad.faults());
        assert!(Queue::named("a").faults().is_empty());
        assert_eq!(Queue::named("a/b/c").parent(), Some("a/b"));
    }
}
