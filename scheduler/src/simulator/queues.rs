//! A file of queues: the tree with weights, guaranteed parts, ceilings and what is lent, in YAML. All faults are found at once,
//! each with its line.
//!
//! ```yaml
//! queues:
//!   research:
//!     weight: 2
//!     guaranteed: 48          # GPUs; by model where the cluster has several: {A100: 32, T4: 16}
//!     queues:
//!       vision: {ceiling: 24}
//!       text: {}
//!   default: {guaranteed: 16, lend: 8}
//! ```

use super::cluster::Cluster;
use super::gangs;
use super::trace::{Faults, Trace};
use super::yaml::{Node, Value, compose};
use crate::model::{QueueSpec, Quota};
use std::collections::{BTreeMap, BTreeSet};

const FIELDS: &str = "weight, guaranteed, ceiling, lend, queues";

/// Bounds of a queue by class.
type Quotas = BTreeMap<String, Quota>;

/// Reads a file of queues for the jobs of a trace on a cluster; each queue comes after the one above it.
pub fn read_queues(text: &str, trace: &Trace, cluster: &Cluster) -> Result<Vec<QueueSpec>, Faults> {
    let mut reader = Reader { cluster, faults: Faults::default(), queues: Vec::new() };
    match compose(text, &mut reader.faults) {
        Some(Node { value: Value::Map(entries), line }) => {
            for (key, key_line, node) in &entries {
                if key == "queues" {
                    reader.siblings("", node);
                } else {
                    reader.faults.at(*key_line, format!("there is no field `{key}` here; there is queues"));
                }
            }
            if entries.is_empty() {
                reader.faults.at(line, "there is no queue in it");
            }
        }
        Some(node) => reader.faults.at(node.line, "a file of queues begins with `queues:`"),
        None if reader.faults.0.is_empty() => reader.faults.at(0, "there is no queue in it"),
        None => {}
    }
    let Reader { mut faults, queues, .. } = reader;
    faults.0.sort_by_key(|fault| fault.line);
    if faults.0.is_empty() {
        missing(&queues, trace, &mut faults);
    }
    faults.or(queues)
}

/// Jobs wait in leaves only.
fn missing(queues: &[QueueSpec], trace: &Trace, faults: &mut Faults) {
    let names: BTreeSet<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
    let above: BTreeSet<&str> = names.iter().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
    let used: BTreeSet<u32> = trace.jobs.iter().map(|job| job.queue).collect();
    for queue in used {
        let name = gangs::queue_name(trace, queue, queues);
        if above.contains(name.as_str()) {
            faults.at(0, format!("jobs of the trace are in {name:?}, which has queues below it"));
        } else if !names.contains(name.as_str()) {
            faults.at(0, format!("jobs of the trace are in {name:?}, which is not in the file"));
        }
    }
}

struct Reader<'a> {
    cluster: &'a Cluster,
    faults: Faults,
    queues: Vec<QueueSpec>,
}

impl Reader<'_> {
    fn siblings(&mut self, above: &str, node: &Node) {
        let Value::Map(entries) = &node.value else {
            self.faults.at(node.line, "queues are written as `name: {...}`");
            return;
        };
        for (name, line, node) in entries {
            if name.is_empty() || name.contains('/') {
                self.faults
                    .at(*line, format!("{name:?} is no name of a queue: those below it stand under its `queues`"));
                continue;
            }
            let name = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
            self.queue(name, node);
        }
    }

    fn queue(&mut self, name: String, node: &Node) {
        let none = Vec::new();
        let entries = match &node.value {
            Value::Map(entries) => entries,
            // `name:` with nothing behind it.
            Value::Text(text) if text.is_empty() || text == "~" || text == "null" => &none,
            _ => {
                self.faults.at(node.line, format!("queue {name:?} is written as fields: {FIELDS}"));
                return;
            }
        };
        let (mut weight, mut quotas, mut below) = (1, Quotas::new(), None);
        for (field, line, node) in entries {
            match field.as_str() {
                "weight" => weight = self.number(node, 1..=u64::from(u32::MAX)).unwrap_or(1) as u32,
                "guaranteed" => self.by_class(node, &mut quotas, |quota, amount| quota.guaranteed = amount),
                "ceiling" => self.by_class(node, &mut quotas, |quota, amount| quota.ceiling = amount),
                "lend" => self.by_class(node, &mut quotas, |quota, amount| quota.lend = amount),
                "queues" => below = Some(node),
                other => self.faults.at(*line, format!("there is no field `{other}` of a queue; there are {FIELDS}")),
            }
        }
        for (class, quota) in quotas.iter().filter(|(_, quota)| quota.guaranteed > quota.ceiling) {
            let (own, most) = (quota.guaranteed, quota.ceiling);
            self.faults.at(
                node.line,
                format!("queue {name:?} is guaranteed {own} of {class:?}, more than its ceiling of {most}"),
            );
        }
        self.queues.push(QueueSpec { name: name.clone(), weight, quotas });
        if let Some(below) = below {
            self.siblings(&name, below);
        }
    }

    /// One number where the cluster has one model of GPU, or a number by model; `cpu` for CPU slots.
    fn by_class(&mut self, node: &Node, quotas: &mut Quotas, set: impl Fn(&mut Quota, u64)) {
        let classes = &self.cluster.classes;
        let known = || classes.iter().map(String::as_str).chain(["cpu"]).collect::<Vec<_>>().join(", ");
        match &node.value {
            Value::Map(entries) => {
                for (class, line, node) in entries {
                    if class != "cpu" && !classes.contains(class) {
                        self.faults.at(*line, format!("the cluster has no {class:?}; it has {}", known()));
                        continue;
                    }
                    let class = if class == "cpu" { String::new() } else { class.clone() };
                    if let Some(amount) = self.number(node, 0..=u64::MAX) {
                        set(quotas.entry(class).or_default(), amount);
                    }
                }
            }
            _ => match classes.as_slice() {
                [class] => {
                    if let Some(amount) = self.number(node, 0..=u64::MAX) {
                        set(quotas.entry(class.clone()).or_default(), amount);
                    }
                }
                _ => self.faults.at(node.line, format!("say of what: the cluster has {}", known())),
            },
        }
    }

    fn number(&mut self, node: &Node, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let number = if let Value::Text(text) = &node.value { text.parse::<u64>().ok() } else { None };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let text = if let Value::Text(text) = &node.value { format!("{text:?}") } else { "this".to_owned() };
            self.faults.at(node.line, format!("{text} is no whole number from {} on", range.start()));
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::trace::TraceJob;

    fn trace(queues: &[&str]) -> Trace {
        let jobs = (0..queues.len() as u32).map(|queue| TraceJob { queue, ..TraceJob::default() }).collect();
        Trace { jobs, queues: queues.iter().map(|name| (*name).to_owned()).collect(), ..Trace::default() }
    }

    fn faults(text: &str, queues: &[&str], cluster: &str) -> Vec<String> {
        let read = read_queues(text, &trace(queues), &Cluster::named(cluster).unwrap());
        read.unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tree_is_read_with_the_upper_queues_first() {
        let text = "queues:\n  research:\n    weight: 2\n    guaranteed: 48\n    queues:\n      vision: {ceiling: 24}\n      \
                    text:\n  default: {guaranteed: 16, lend: 8}\n";
        let trace = trace(&["research/vision", "research/text", ""]);
        let queues = read_queues(text, &trace, &Cluster::named("8x8").unwrap()).unwrap();
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["research", "research/vision", "research/text", "default"]);
        assert_eq!((queues[0].weight, queues[0].quotas["gpu"].guaranteed), (2, 48));
        assert_eq!(queues[1].quotas["gpu"], Quota { ceiling: 24, ..Quota::default() });
        assert_eq!(queues[3].quotas["gpu"], Quota { guaranteed: 16, lend: 8, ..Quota::default() });
    }

    #[test]
    fn quotas_are_by_model_where_there_are_several() {
        let cluster = Cluster::read("machines,gpus,model\n2,8,A100\n2,4,T4\n").unwrap();
        let text = "queues:\n  a: {guaranteed: {A100: 16, cpu: 9}}\n  b: {guaranteed: 4}\n  c: {lend: {H100: 1}}\n";
        let faults = read_queues(text, &trace(&["a"]), &cluster).unwrap_err().to_string();
        assert_eq!(faults.lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["3:", "4:"], "{faults}");
        let text = "queues:\n  a: {guaranteed: {A100: 16, cpu: 9}}\n";
        let queues = read_queues(text, &trace(&["a"]), &cluster).unwrap();
        assert_eq!((queues[0].quotas["A100"].guaranteed, queues[0].quotas[""].guaranteed), (16, 9));
    }

    #[test]
    fn every_fault_has_its_line() {
        let text = "queues:\n  a:\n    weight: 0\n    guarantee: 8\n  b: {guaranteed: 9, ceiling: 8}\n  c/d: {}\n  a: {}\nmore: 1\n";
        let found = faults(text, &["a"], "8x8");
        let lines: Vec<&str> = found.iter().filter_map(|fault| fault.split(':').next()).collect();
        assert_eq!(lines, ["3", "4", "5", "6", "7", "8"], "{found:?}");
    }

    #[test]
    fn what_is_no_file_of_queues_is_told_so() {
        for text in [
            "",
            "- a\n",
            "queues: [a]\n",
            "queues: {a: 1}\n",
            "a: b: c\n",
            "queues: *x\n",
            "queues:\n  a: {weight: -1}\n",
        ] {
            assert_eq!(faults(text, &["a"], "8x8").len(), 1, "{text:?}");
        }
        let deep = "queues: ".to_owned() + &"{queues: ".repeat(99) + &"}".repeat(99);
        assert!(!faults(&deep, &["a"], "8x8").is_empty());
    }

    #[test]
    fn jobs_wait_in_leaves_of_the_file() {
        let text = "queues:\n  a:\n    queues:\n      b:\n  c-d:\n";
        assert!(read_queues(text, &trace(&["a/b", "c/d"]), &Cluster::named("8x8").unwrap()).is_ok());
        assert_eq!(faults(text, &["a", "b", "a/b"], "8x8").len(), 2);
    }
}
