//! What queues use, in the simulator's own books: how much of it is borrowed, and whether a ceiling was ever passed.

use super::driver::Inputs;
use super::gangs;
use crate::model::{Placed, QueueSpec, Quota};
use std::collections::BTreeMap;

/// One queue.
struct Share {
    above: Option<usize>,
    /// By the cluster's classes.
    quotas: Vec<Quota>,
    used: Vec<u64>,
}

/// All queues.
pub(crate) struct Shares {
    queues: Vec<Share>,
    /// By the trace's numbers.
    leaf_of: Vec<Option<usize>>,
    /// By machine.
    class_of: Vec<usize>,
    /// What queues that hang under the root use beyond what they are guaranteed, now.
    borrowed: u64,
    /// How often a gang's start left a queue beyond its ceiling.
    pub(crate) violations: u64,
}

impl Shares {
    pub(crate) fn new(inputs: &Inputs<'_>) -> Self {
        let classes = &inputs.cluster.classes;
        let at: BTreeMap<&str, usize> =
            inputs.queues.iter().enumerate().map(|(at, queue)| (queue.name.as_str(), at)).collect();
        let share = |queue: &QueueSpec| Share {
            above: queue.name.rsplit_once('/').and_then(|(above, _)| at.get(above).copied()),
            quotas: classes.iter().map(|class| queue.quotas.get(class).copied().unwrap_or_default()).collect(),
            used: vec![0; classes.len()],
        };
        let names = gangs::queue_names(inputs.trace, inputs.queues);
        Self {
            queues: inputs.queues.iter().map(share).collect(),
            leaf_of: names.iter().map(|name| at.get(name.as_str()).copied()).collect(),
            class_of: inputs.cluster.machines.iter().map(|machine| machine.class as usize).collect(),
            borrowed: 0,
            violations: 0,
        }
    }

    pub(crate) fn borrowed(&self) -> u64 {
        self.borrowed
    }

    /// A gang of a queue starts on these.
    pub(crate) fn take(&mut self, queue: u32, members: &[Placed]) {
        self.change(queue, members, true);
        let mut at = self.leaf_of.get(queue as usize).copied().flatten();
        while let Some(share) = at.and_then(|at| self.queues.get(at)) {
            if share.used.iter().zip(&share.quotas).any(|(used, quota)| *used > quota.ceiling) {
                self.violations += 1;
                return;
            }
            at = share.above;
        }
    }

    /// It leaves them.
    pub(crate) fn give(&mut self, queue: u32, members: &[Placed]) {
        self.change(queue, members, false);
    }

    fn change(&mut self, queue: u32, members: &[Placed], more: bool) {
        let leaf = self.leaf_of.get(queue as usize).copied().flatten();
        for placed in members {
            let Some(class) = self.class_of.get(placed.worker.0 as usize).copied() else { continue };
            let devices = u64::from(placed.devices.count_ones());
            let mut at = leaf;
            while let Some(share) = at.and_then(|at| self.queues.get_mut(at)) {
                at = share.above;
                let (Some(used), Some(quota)) = (share.used.get_mut(class), share.quotas.get(class)) else { break };
                let before = used.saturating_sub(quota.guaranteed);
                *used = if more { *used + devices } else { used.saturating_sub(devices) };
                if at.is_none() {
                    self.borrowed = self.borrowed + used.saturating_sub(quota.guaranteed) - before;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerIndex;
    use crate::simulator::trace::{Trace, TraceJob};
    use crate::simulator::{Cluster, Settings, Standard};

    #[test]
    fn what_is_used_beyond_the_guarantee_is_borrowed_and_beyond_the_ceiling_a_violation() {
        let quota = |guaranteed, ceiling| {
            BTreeMap::from([("gpu".to_owned(), Quota { guaranteed, ceiling, ..Quota::default() })])
        };
        let spec = |name: &str, quotas| QueueSpec { name: name.to_owned(), weight: 1, quotas };
        let queues = [spec("a", quota(8, 24)), spec("a/b", quota(0, 24)), spec("c", quota(4, 4))];
        let job = |queue| TraceJob { queue, ..TraceJob::default() };
        let names = ["a/b".to_owned(), "c".to_owned()].to_vec();
        let trace = Trace { jobs: vec![job(0), job(1)], queues: names, ..Trace::default() };
        let (cluster, settings, model) = (Cluster::named("4x8").unwrap(), Settings::default(), Standard::default());
        let inputs = Inputs { cluster: &cluster, trace: &trace, queues: &queues, settings: &settings, model: &model };
        let mut shares = Shares::new(&inputs);
        let on = |worker| Placed { worker: WorkerIndex(worker), devices: 0xff };
        shares.take(0, &[on(0)]);
        assert_eq!((shares.borrowed(), shares.violations), (0, 0));
        shares.take(0, &[on(1), on(2)]);
        assert_eq!((shares.borrowed(), shares.violations), (16, 0));
        shares.take(1, &[on(3)]);
        assert_eq!((shares.borrowed(), shares.violations), (20, 1));
        shares.give(0, &[on(0), on(1)]);
        shares.give(1, &[on(3)]);
        assert_eq!((shares.borrowed(), shares.violations), (0, 1));
    }
}
