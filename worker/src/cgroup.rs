//! Control groups: which kind the machine has, and what a rank's supervisor shall make for its rank.
//!
//! Three drivers: `v2` (a delegated subtree with controllers), `hybrid` (controllers of v1 beside a bare v2 tree, whose
//! `cgroup.kill` still ends whole trees), `none` (process group and subreaper only; limits are then not enforced, and the
//! daemon says so at start). The daemon only plans: the supervisor makes, joins and removes the groups, so that
//! a rank's start costs the daemon nothing. A rank that asks for no limit joins the v2 tree only, at birth
//! (`CLONE_INTO_CGROUP`): moving a process later costs a global lock and up to 17 ms.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use types::{MemberKey, RankIndex};

/// What the machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Parent group of all ranks, and the controllers that its children have.
    V2 { parent: PathBuf, controllers: Vec<String> },
    /// Parent group in the bare v2 tree, if there is one, and the parents in each v1 controller's tree.
    Hybrid { kill: Option<PathBuf>, memory: Option<PathBuf>, cpu: Option<PathBuf>, pids: Option<PathBuf> },
    /// Nothing.
    None,
}

/// What a rank may use at most. Zero = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    /// Hundredths of a core.
    pub(crate) cpu_percent: u64,
    /// Share of a busy machine, 100 a slot. 0 = none.
    pub(crate) cpu_weight: u64,
    pub(crate) pids: u64,
}

/// Groups that a supervisor makes before its rank starts and removes after its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// Group in a v2 tree: killed as one, joined at birth.
    pub(crate) unified: Option<PathBuf>,
    /// Groups of v1 controllers: joined before exec.
    pub(crate) controllers: Vec<PathBuf>,
    /// Files to write once the groups are there; one that fails means that the limit cannot be kept.
    pub(crate) settings: Vec<(PathBuf, String)>,
    /// File with an `oom_kill N` line, if the memory limit is ours.
    pub(crate) oom_events: Option<PathBuf>,
    /// File with a `max N` line, if the limit of processes is ours.
    #[serde(default)]
    pub(crate) pids_events: Option<PathBuf>,
}

impl Driver {
    /// Looks at the machine and makes the parent groups. `name` tells this daemon's groups from others'.
    pub(crate) fn detect(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unified = mount_of(&mounts, "cgroup2", "");
        let v1 = |controller| mount_of(&mounts, "cgroup", controller).and_then(|root| make(&root.join(name)));
        let (memory, cpu, pids) = (v1("memory"), v1("cpu"), v1("pids"));
        if memory.is_some() || cpu.is_some() || pids.is_some() {
            let kill = unified.and_then(|root| make(&root.join(name)));
            if let Some(group) = &cpu {
                // A group's shares are spread over the processors that it keeps busy.
                let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
                let shares = (CPU_SHARES_OF_RANKS * cores).to_string();
                if let Err(error) = std::fs::write(group.join("cpu.shares"), shares) {
                    tracing::debug!(group = %group.display(), %error, "the share of all ranks is not set");
                }
            }
            return Driver::Hybrid { kill, memory, cpu, pids };
        }
        unified.and_then(|root| delegated(&root, &own, name)).unwrap_or(Driver::None)
    }

    /// Takes the parent groups away again; one that ranks still stand in stays.
    pub(crate) fn leave(&self) {
        let parents: Vec<&PathBuf> = match self {
            Driver::V2 { parent, .. } => vec![parent],
            Driver::Hybrid { kill, memory, cpu, pids } => [kill, memory, cpu, pids].into_iter().flatten().collect(),
            Driver::None => Vec::new(),
        };
        for parent in parents {
            let _ = std::fs::remove_dir(parent);
        }
    }

    /// One word for logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Driver::V2 { .. } => "v2",
            Driver::Hybrid { .. } => "hybrid",
            Driver::None => "none",
        }
    }

    /// The groups of one rank, and the limits that this machine cannot keep.
    pub(crate) fn plan(&self, key: MemberKey, rank: RankIndex, limits: Limits) -> (Groups, Vec<&'static str>) {
        let leaf = format!("{}-{}-{rank}", key.job, key.attempt);
        match self {
            Driver::V2 { parent, controllers } => plan_v2(&parent.join(leaf), controllers, limits),
            Driver::Hybrid { kill, memory, cpu, pids } => {
                let mut plan = Plan::default();
                plan.groups.unified = kill.as_ref().map(|parent| parent.join(&leaf));
                let join = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join(&leaf));
                plan.memory_v1(join(memory), limits.memory_bytes);
                plan.cpu_v1(join(cpu), limits);
                plan.pids_v1(join(pids), limits.pids);
                (plan.groups, plan.lacking)
            }
            Driver::None => (Groups::default(), lacking_all(limits)),
        }
    }
}

fn lacking_all(limits: Limits) -> Vec<&'static str> {
    let asked = [("memory", limits.memory_bytes), ("cpu", limits.cpu_percent), ("pids", limits.pids)];
    asked.into_iter().filter(|(_, value)| *value > 0).map(|(what, _)| what).collect()
}

#[derive(Default)]
struct Plan {
    groups: Groups,
    lacking: Vec<&'static str>,
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

    fn memory_v1(&mut self, group: Option<PathBuf>, bytes: u64) {
        let Some(group) = self.join("memory", group, bytes) else { return };
        self.set(group.join("memory.limit_in_bytes"), bytes);
        // Where swap is accounted, it must not double the limit; where it is not, the file is absent.
        let swap = group.join("memory.memsw.limit_in_bytes");
        if group.parent().is_some_and(|parent| parent.join("memory.memsw.limit_in_bytes").exists()) {
            self.set(swap, bytes);
        }
        self.groups.oom_events = Some(group.join("memory.oom_control"));
    }

    fn cpu_v1(&mut self, group: Option<PathBuf>, limits: Limits) {
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

    fn pids_v1(&mut self, group: Option<PathBuf>, pids: u64) {
        let Some(group) = self.join("pids", group, pids) else { return };
        self.set(group.join("pids.max"), pids);
        self.groups.pids_events = Some(group.join("pids.events"));
    }
}

const CPU_PERIOD_US: u64 = 100_000;
const CPU_WEIGHT_MAX: u64 = 10_000;
/// What v1 gives a group, and a session, that nothing is said of.
const CPU_SHARES: u64 = 1_024;
const CPU_SHARES_MAX: u64 = 262_144;
/// Daemons have three times as much of a processor as the ranks on it, as they have by the niceness of ranks' sessions where there are
/// no groups.
const CPU_SHARES_OF_RANKS: u64 = CPU_SHARES / 3;

fn plan_v2(group: &Path, controllers: &[String], limits: Limits) -> (Groups, Vec<&'static str>) {
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
    (plan.groups, plan.lacking)
}

/// Mount point of a file system of this type that has this option (v1 names its controllers in the options).
fn mount_of(mountinfo: &str, kind: &str, option: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind_here = right.next()?;
        let options = right.nth(1)?;
        let fits = kind_here == kind && (option.is_empty() || options.split(',').any(|o| o == option));
        fits.then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

fn make(group: &Path) -> Option<PathBuf> {
    match std::fs::create_dir(group) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            tracing::debug!(group = %group.display(), %error, "control group not to be had");
            return None;
        }
    }
    // Being able to make a group does not mean being able to fill it.
    let writable = rustix::fs::access(group.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok();
    writable.then(|| group.to_owned())
}

/// Takes the daemon's own subtree of a pure v2 machine, if it was delegated (systemd's `Delegate=yes`, or root).
fn delegated(root: &Path, own: &str, name: &str) -> Option<Driver> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A restarted daemon may stand in the group that its former life made.
    let base = root.join(path.trim_start_matches('/').trim_end_matches("muster-daemon").trim_end_matches('/'));
    let parent = make(&base.join(name))?;
    // Controllers go to children only where no process stands beside them, except at the root.
    if base != root {
        let daemon = make(&base.join("muster-daemon"))?;
        std::fs::write(daemon.join("cgroup.procs"), std::process::id().to_string()).ok()?;
    }
    for group in [&base, &parent] {
        for controller in ["memory", "cpu", "pids"] {
            if let Err(error) = std::fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")) {
                tracing::debug!(group = %group.display(), controller, %error, "controller not to be had");
            }
        }
    }
    let controllers = std::fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
    Some(Driver::V2 { parent, controllers: controllers.split_whitespace().map(str::to_owned).collect() })
}

impl Groups {
    /// Every group's folder.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(&self.controllers)
    }

    /// Kills every process of the v2 group at once. False when there is no such group.
    pub(crate) fn kill(&self) -> bool {
        self.unified.as_ref().is_some_and(|group| std::fs::write(group.join("cgroup.kill"), "1").is_ok())
    }

    /// How often the memory limit killed.
    pub(crate) fn oom_kills(&self) -> u64 {
        count_in(self.oom_events.as_deref(), "oom_kill ")
    }

    /// How often the limit of processes refused one.
    pub(crate) fn pids_refused(&self) -> u64 {
        count_in(self.pids_events.as_deref(), "max ")
    }

    /// Removes the emptied groups; one that is still in use stays.
    pub(crate) fn remove(&self) {
        for folder in self.folders() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// The number behind this name in a file of such lines; 0 without one.
fn count_in(file: Option<&Path>, name: &str) -> u64 {
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId};

    const KEY: MemberKey = MemberKey { job: JobId(1), attempt: AttemptNumber(2), node_rank: 0 };

    #[test]
    fn mounts_are_found_by_type_and_controller() {
        let info = "31 25 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    40 25 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of(info, "cgroup2", ""), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of(info, "cgroup", "cpu"), Some("/sys/fs/cgroup/cpu".into()));
        assert_eq!(mount_of(info, "cgroup", "memory"), None);
    }

    #[test]
    fn no_limit_means_no_controller_group() {
        let driver =
            Driver::Hybrid { kill: Some("/u".into()), memory: Some("/m".into()), cpu: Some("/c".into()), pids: None };
        let (groups, lacking) = driver.plan(KEY, RankIndex(3), Limits::default());
        assert_eq!(groups.unified, Some("/u/1-2-3".into()));
        assert!(groups.controllers.is_empty() && groups.settings.is_empty() && lacking.is_empty());
        let (groups, lacking) = driver.plan(
            KEY,
            RankIndex(3),
            Limits { memory_bytes: 1 << 20, cpu_percent: 150, cpu_weight: 100, pids: 9 },
        );
        assert_eq!(groups.controllers, [PathBuf::from("/m/1-2-3"), PathBuf::from("/c/1-2-3")]);
        assert!(groups.settings.contains(&("/c/1-2-3/cpu.cfs_quota_us".into(), "150000".into())));
        assert!(groups.settings.contains(&("/c/1-2-3/cpu.shares".into(), "1024".into())));
        assert_eq!(lacking, ["pids"]);
    }

    #[test]
    fn empty_groups_are_taken_away_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (empty, used) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::create_dir_all(&empty).unwrap();
        std::fs::create_dir_all(used.join("7-1-0")).unwrap();
        Driver::Hybrid { kill: Some(empty.clone()), memory: Some(used.clone()), cpu: None, pids: None }.leave();
        assert!(!empty.exists() && used.exists());
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_named() {
        let limits = Limits { memory_bytes: 1, ..Limits::default() };
        assert_eq!(Driver::None.plan(KEY, RankIndex(0), limits).1, ["memory"]);
        let v2 = Driver::V2 { parent: "/p".into(), controllers: vec!["pids".into()] };
        assert_eq!(v2.plan(KEY, RankIndex(0), limits).1, ["memory"]);
    }

    #[test]
    fn a_busy_machine_is_shared_by_slots_where_it_can() {
        let v2 = Driver::V2 { parent: "/p".into(), controllers: vec!["cpu".into()] };
        let limits = Limits { cpu_weight: 400, ..Limits::default() };
        let (groups, lacking) = v2.plan(KEY, RankIndex(0), limits);
        assert_eq!(groups.settings, [("/p/1-2-0/cpu.weight".into(), "400".to_owned())]);
        assert!(lacking.is_empty());
        let v1 = Driver::Hybrid { kill: None, memory: None, cpu: Some("/c".into()), pids: None };
        let (groups, _) = v1.plan(KEY, RankIndex(0), limits);
        assert_eq!(groups.settings, [("/c/1-2-0/cpu.shares".into(), "4096".to_owned())]);
        let without = Driver::Hybrid { kill: None, memory: None, cpu: None, pids: None };
        for driver in [Driver::None, without] {
            assert!(driver.plan(KEY, RankIndex(0), limits).1.is_empty(), "a share is no limit");
        }
    }
}
