//! What queues hold, may hold and would have by their weights: gauges of the replicated tables, filled in when they are read.
//!
//! Labels are queues and device classes, as many as operators have made and machines have.

use super::figures::reals;
use crate::api::queues::statuses;
use cluster_state::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;
use proto::v1;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    queue: String,
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    queue: String,
}

/// Adds all of them.
pub(super) fn register(registry: &mut Registry, state: &State) {
    let all = statuses(state);
    let queues: Vec<(&v1::Queue, &v1::QueueStatus)> =
        all.iter().filter_map(|status| Some((status.queue.as_ref()?, status))).collect();
    let quotas =
        || queues.iter().flat_map(|(queue, _)| queue.quotas.iter().map(|(class, quota)| (label(queue, class), *quota)));
    let help = "What a queue may use at once and takes back from others, by class: devices, for cpu slots";
    reals(registry, "queue_quota_guaranteed", help, quotas().map(|(label, quota)| (label, quota.guaranteed as f64)));
    let ceilings = quotas().filter_map(|(label, quota)| Some((label, quota.ceiling? as f64)));
    reals(
        registry,
        "queue_quota_ceiling",
        "What a queue never goes beyond, by class, where it has such a bound",
        ceilings,
    );
    let used = queues.iter().flat_map(|(queue, status)| used(queue, status));
    reals(registry, "queue_quota_used", "What the jobs of a queue and of those below it hold, by class", used);
    let weights = queues.iter().map(|(queue, _)| (OfQueue { queue: queue.name.clone() }, f64::from(queue.weight)));
    reals(registry, "queue_weight", "A queue's weight among its siblings", weights);
    let there = capacity(state);
    let shares = queues.iter().map(|(queue, status)| {
        let entitled = entitled(queue, &queues);
        (OfQueue { queue: queue.name.clone() }, dominant(status, &there) / entitled)
    });
    let help = "The greatest part of a class that a queue holds, over the part that its weights give it among all queues: 1 is its own";
    reals(registry, "queue_fair_share_ratio", help, shares);
}

fn label(queue: &v1::Queue, class: &str) -> OfClass {
    let class = if class.is_empty() { "cpu" } else { class };
    OfClass { queue: queue.name.clone(), class: class.to_owned() }
}

/// Also where it is nothing, for each class with a quota: a series that comes and goes cannot be compared with it.
fn used(queue: &v1::Queue, status: &v1::QueueStatus) -> Vec<(OfClass, f64)> {
    let mut all: BTreeMap<&str, u64> = queue.quotas.keys().map(|class| (class.as_str(), 0)).collect();
    all.extend(status.used.iter().map(|(class, amount)| (class.as_str(), *amount)));
    all.into_iter().map(|(class, amount)| (label(queue, class), amount as f64)).collect()
}

/// What there is of each class on workers that are not lost: healthy devices by their name, and for jobs without devices all slots.
fn capacity(state: &State) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (_, worker) in state.workers().filter(|(_, worker)| !worker.lost) {
        let inventory = &worker.registration.inventory;
        *all.entry(String::new()).or_default() += u64::from(inventory.cpus);
        for device in inventory.devices.iter().filter(|device| device.healthy) {
            *all.entry(device.name.clone()).or_default() += 1;
        }
    }
    all
}

fn dominant(status: &v1::QueueStatus, there: &BTreeMap<String, u64>) -> f64 {
    let parts = status.used.iter().filter_map(|(class, used)| {
        let there = there.get(class).copied().filter(|there| *there > 0)?;
        Some(*used as f64 / there as f64)
    });
    parts.fold(0.0, f64::max)
}

/// By its weight among its siblings, and that of each queue above it.
fn entitled(queue: &v1::Queue, queues: &[(&v1::Queue, &v1::QueueStatus)]) -> f64 {
    let mut part = 1.0;
    let mut name = Some(queue.name.as_str());
    while let Some(at) = name {
        let above = above(at);
        let siblings = queues.iter().map(|(other, _)| other).filter(|other| self::above(&other.name) == above);
        let sum: u64 = siblings.map(|other| u64::from(other.weight)).sum();
        let own = queues.iter().find(|(other, _)| other.name == at).map_or(1, |(other, _)| other.weight);
        part *= f64::from(own) / (sum.max(1) as f64);
        name = above;
    }
    part
}

fn above(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(above, _)| above)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use cluster_state::{Command, Outcome, SetQueue};
    use types::{Queue, QueueQuota};

    #[test]
    fn quotas_and_shares_are_told_for_each_queue_of_the_tree() {
        let mut tables = Tables::default();
        let mut make = |name: &str, weight, quotas: &[(&str, QueueQuota)]| {
            let quotas = quotas.iter().map(|(class, quota)| ((*class).to_owned(), *quota)).collect();
            let queue = Queue { name: name.into(), weight, quotas };
            assert_eq!(tables.apply(&Command::SetQueue { queue, how: SetQueue::Create }), Outcome::Done);
        };
        make("research", 3, &[("gpu", QueueQuota { guaranteed: 2, ceiling: Some(3), lend: None })]);
        make("research/vision", 1, &[]);
        make("research/text", 1, &[("", QueueQuota { guaranteed: 4, ceiling: None, lend: None })]);
        tables.worker("a", 8, &[true, true, true, true]);
        for _ in 0..3 {
            tables.submit(|spec| {
                spec.queue = "research/vision".into();
                spec.gang.per_rank.gpus = 1;
            });
        }
        tables.submit(|_| {});
        assert_eq!(tables.plan().len(), 4);
        let mut registry = Registry::with_prefix("muster");
        register(&mut registry, &tables.state);
        let text = super::super::text::encode(&[&registry]).unwrap();
        for line in [
            "muster_queue_quota_guaranteed{queue=\"research\",class=\"gpu\"} 2.0",
            "muster_queue_quota_guaranteed{queue=\"research/text\",class=\"cpu\"} 4.0",
            "muster_queue_quota_ceiling{queue=\"research\",class=\"gpu\"} 3.0",
            "muster_queue_quota_used{queue=\"research\",class=\"gpu\"} 3.0",
            "muster_queue_quota_used{queue=\"research/vision\",class=\"gpu\"} 3.0",
            "muster_queue_quota_used{queue=\"research/text\",class=\"cpu\"} 0.0",
            "muster_queue_quota_used{queue=\"default\",class=\"cpu\"} 1.0",
            "muster_queue_weight{queue=\"research\"} 3.0",
            // 3 of 4 devices over 3 / (3 + 1), and over half of that.
            "muster_queue_fair_share_ratio{queue=\"research\"} 1.0",
            "muster_queue_fair_share_ratio{queue=\"research/vision\"} 2.0",
            "muster_queue_fair_share_ratio{queue=\"research/text\"} 0.0",
            // 1 of 8 slots over a quarter.
            "muster_queue_fair_share_ratio{queue=\"default\"} 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert_eq!(text.matches("muster_queue_quota_ceiling{").count(), 1);
    }
}
