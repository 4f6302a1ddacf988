//! What a rank's groups are and what is written into them, for the controllers that the machine has.

use super::{CPUSET, Groups, Limits};
use crate::processors;
use std::path::{Path, PathBuf};

/// Grows by what is asked for.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) groups: Groups,
    pub(super) lacking: Vec<&'static str>,
}

impl Plan {
    fn join(&mut self, what: &'static str, group: Option<PathBuf>, limit: u64) -> Option<PathBuf> {
        match group {
            _ if limit == 0 => None,
            None => {
                self.lacking.push(what);
                None
            }
            Some(group) => {
                self.groups.controllers.push(group.clone());
                Some(group)
            }
        }
    }

    fn set(&mut self, file: PathBuf, value: impl ToString) {
        self.groups.settings.push((file, value.to_string()));
    }

    pub(super) fn memory_v1(&mut self, group: Option<PathBuf>, bytes: u64) {
        let Some(group) = self.join("memory", group, bytes) else { return };
        self.set(group.join("memory.limit_in_bytes"), bytes);
        // Where swap is accounted, it must not double the limit; where it is not, the file is absent.
        let swap = group.join("memory.memsw.limit_in_bytes");
        if group.parent().is_some_and(|parent| parent.join("memory.memsw.limit_in_bytes").exists()) {
            self.set(swap, bytes);
        }
        self.groups.oom_events = Some(group.join("memory.oom_control"));
    }

    pub(super) fn cpu_v1(&mut self, group: Option<PathBuf>, limits: Limits) {
        // A share is no limit: where it cannot be had nothing is lacking.
        let wanted = if group.is_some() { limits.cpu_percent.max(limits.cpu_weight) } else { limits.cpu_percent };
        let Some(group) = self.join("cpu", group, wanted) else { return };
        if limits.cpu_weight > 0 {
            let shares = limits.cpu_weight.saturating_mul(CPU_SHARES) / 100;
            self.set(group.join("cpu.shares"), shares.clamp(2, CPU_SHARES_MAX));
        }
        if limits.cpu_percent > 0 {
            self.set(group.join("cpu.cfs_quota_us"), limits.cpu_percent * CPU_PERIOD_US / 100);
        }
    }

    pub(super) fn pids_v1(&mut self, group: Option<PathBuf>, pids: u64) {
        let Some(group) = self.join("pids", group, pids) else { return };
        self.set(group.join("pids.max"), pids);
        self.groups.pids_events = Some(group.join("pids.events"));
    }

    /// Without such a group they are a start, and no limit.
    pub(super) fn cpuset_v1(&mut self, group: Option<PathBuf>, processors: &[u32]) {
        let Some(group) = group.filter(|_| !processors.is_empty()) else { return };
        let nodes = group.parent().and_then(|parent| std::fs::read_to_string(parent.join(MEMORY_NODES)).ok());
        self.groups.controllers.push(group.clone());
        self.set(group.join(MEMORY_NODES), nodes.unwrap_or_default().trim());
        self.set(group.join(PROCESSORS), processors::list(processors));
    }
}

const PROCESSORS: &str = "cpuset.cpus";
const MEMORY_NODES: &str = "cpuset.mems";

/// A new group of version 1 has none, and so have those below it.
pub(super) fn has_all_processors(group: &Path) -> bool {
    [PROCESSORS, MEMORY_NODES].into_iter().all(|name| {
        let all = group.parent().and_then(|parent| std::fs::read(parent.join(name)).ok());
        all.is_some_and(|all| std::fs::write(group.join(name), all).is_ok())
    })
}

const CPU_PERIOD_US: u64 = 100_000;
const CPU_WEIGHT_MAX: u64 = 10_000;
/// What v1 gives a group, and a session, that nothing is said of.
const CPU_SHARES: u64 = 1_024;
const CPU_SHARES_MAX: u64 = 262_144;
/// Daemons have three times as much of a processor as the ranks on it, as they have by the niceness of ranks' sessions where there are
/// no groups.
pub(super) const CPU_SHARES_OF_RANKS: u64 = CPU_SHARES / 3;

pub(super) fn plan_v2(
    group: &Path,
    controllers: &[String],
    limits: Limits,
    processors: &[u32],
) -> (Groups, Vec<&'static str>) {
    let mut plan = Plan::default();
    plan.groups.unified = Some(group.to_owned());
    let mut wants = |what: &'static str, value: u64| {
        let has = controllers.iter().any(|controller| controller == what);
        if value > 0 && !has {
            plan.lacking.push(what);
        }
        value > 0 && has
    };
    let (memory, cpu, pids) =
        (wants("memory", limits.memory_bytes), wants("cpu", limits.cpu_percent), wants("pids", limits.pids));
    if memory {
        plan.set(group.join("memory.max"), limits.memory_bytes);
        plan.set(group.join("memory.swap.max"), 0);
        // One process over the limit makes the rank useless: all of it goes at once.
        plan.set(group.join("memory.oom.group"), 1);
        plan.groups.oom_events = Some(group.join("memory.events"));
    }
    if cpu {
        plan.set(group.join("cpu.max"), format!("{} {CPU_PERIOD_US}", limits.cpu_percent * CPU_PERIOD_US / 100));
    }
    if limits.cpu_weight > 0 && controllers.iter().any(|controller| controller == "cpu") {
        plan.set(group.join("cpu.weight"), limits.cpu_weight.min(CPU_WEIGHT_MAX));
    }
    if pids {
        plan.set(group.join("pids.max"), limits.pids);
        plan.groups.pids_events = Some(group.join("pids.events"));
    }
    if !processors.is_empty() && controllers.iter().any(|controller| controller == CPUSET) {
        plan.set(group.join(PROCESSORS), processors::list(processors));
    }
    (plan.groups, plan.lacking)
}
