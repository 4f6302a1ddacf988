//! Control groups: which kind the machine has, and what a rank's supervisor shall make for its rank.
//!
//! Three drivers: `v2` (a delegated subtree with controllers), `hybrid` (controllers of v1 beside a bare v2 tree, whose
//! `cgroup.kill` still ends whole trees), `none` (process group and subreaper only; limits are then not enforced, and the
//! daemon says so at start). The daemon only plans: the supervisor makes, joins and removes the groups, so that
//! a rank's start costs the daemon nothing. A rank that asks for no limit joins the v2 tree only, at birth
//! (`CLONE_INTO_CGROUP`): moving a process later costs a global lock and up to 17 ms.

mod plan;

use plan::{CPU_SHARES_OF_RANKS, Plan, has_all_processors, plan_v2};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use types::{MemberKey, RankIndex};

/// What the machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Parent group of all ranks, and the controllers that its children have.
    V2 { parent: PathBuf, controllers: Vec<String> },
    /// Parent group in the bare v2 tree, if there is one, and the parents in each v1 controller's tree.
    Hybrid {
        kill: Option<PathBuf>,
        memory: Option<PathBuf>,
        cpu: Option<PathBuf>,
        pids: Option<PathBuf>,
        cpuset: Option<PathBuf>,
    },
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

const CPUSET: &str = "cpuset";

impl Driver {
    /// Looks at the machine and makes the parent groups. `name` tells this daemon's groups from others'; `pins`: ranks are to have processors
    /// of their own.
    pub(crate) fn detect(name: &str, pins: bool) -> Self {
        let driver = Self::found(name, pins);
        if pins && !driver.keeps_processors() {
            tracing::warn!(
                "ranks start on processors of their own, and nothing keeps them there: no control groups for it"
            );
        }
        driver
    }

    fn keeps_processors(&self) -> bool {
        match self {
            Driver::V2 { controllers, .. } => controllers.iter().any(|controller| controller == CPUSET),
            Driver::Hybrid { cpuset, .. } => cpuset.is_some(),
            Driver::None => false,
        }
    }

    fn found(name: &str, pins: bool) -> Self {
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
            let cpuset = pins.then(|| v1(CPUSET)).flatten().filter(|group| has_all_processors(group));
            return Driver::Hybrid { kill, memory, cpu, pids, cpuset };
        }
        unified.and_then(|root| delegated(&root, &own, name, pins)).unwrap_or(Driver::None)
    }

    /// Takes the parent groups away again; one that ranks still stand in stays.
    pub(crate) fn leave(&self) {
        let parents: Vec<&PathBuf> = match self {
            Driver::V2 { parent, .. } => vec![parent],
            Driver::Hybrid { kill, memory, cpu, pids, cpuset } => {
                [kill, memory, cpu, pids, cpuset].into_iter().flatten().collect()
            }
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

    /// The groups of one rank, and the limits that this machine cannot keep. No processors = all.
    pub(crate) fn plan(
        &self,
        key: MemberKey,
        rank: RankIndex,
        limits: Limits,
        processors: &[u32],
    ) -> (Groups, Vec<&'static str>) {
        let leaf = format!("{}-{}-{rank}", key.job, key.attempt);
        match self {
            Driver::V2 { parent, controllers } => plan_v2(&parent.join(leaf), controllers, limits, processors),
            Driver::Hybrid { kill, memory, cpu, pids, cpuset } => {
                let mut plan = Plan::default();
                plan.groups.unified = kill.as_ref().map(|parent| parent.join(&leaf));
                let join = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join(&leaf));
                plan.memory_v1(join(memory), limits.memory_bytes);
                plan.cpu_v1(join(cpu), limits);
                plan.pids_v1(join(pids), limits.pids);
                plan.cpuset_v1(join(cpuset), processors);
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
fn delegated(root: &Path, own: &str, name: &str, pins: bool) -> Option<Driver> {
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
        for controller in ["memory", "cpu", "pids"].into_iter().chain(pins.then_some(CPUSET)) {
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
        let driver = Driver::Hybrid {
            kill: Some("/u".into()),
            memory: Some("/m".into()),
            cpu: Some("/c".into()),
            pids: None,
            cpuset: None,
        };
        let (groups, lacking) = driver.plan(KEY, RankIndex(3), Limits::default(), &[]);
        assert_eq!(groups.unified, Some("/u/1-2-3".into()));
        assert!(groups.controllers.is_empty() && groups.settings.is_empty() && lacking.is_empty());
        let (groups, lacking) = driver.plan(
            KEY,
            RankIndex(3),
            Limits { memory_bytes: 1 << 20, cpu_percent: 150, cpu_weight: 100, pids: 9 },
            &[],
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
        Driver::Hybrid { kill: Some(empty.clone()), memory: Some(used.clone()), cpu: None, pids: None, cpuset: None }
            .leave();
        assert!(!empty.exists() && used.exists());
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_named() {
        let limits = Limits { memory_bytes: 1, ..Limits::default() };
        assert_eq!(Driver::None.plan(KEY, RankIndex(0), limits, &[]).1, ["memory"]);
        let v2 = Driver::V2 { parent: "/p".into(), controllers: vec!["pids".into()] };
        assert_eq!(v2.plan(KEY, RankIndex(0), limits, &[]).1, ["memory"]);
    }

    #[test]
    fn a_busy_machine_is_shared_by_slots_where_it_can() {
        let v2 = Driver::V2 { parent: "/p".into(), controllers: vec!["cpu".into()] };
        let limits = Limits { cpu_weight: 400, ..Limits::default() };
        let (groups, lacking) = v2.plan(KEY, RankIndex(0), limits, &[]);
        assert_eq!(groups.settings, [("/p/1-2-0/cpu.weight".into(), "400".to_owned())]);
        assert!(lacking.is_empty());
        let v1 = Driver::Hybrid { kill: None, memory: None, cpu: Some("/c".into()), pids: None, cpuset: None };
        let (groups, _) = v1.plan(KEY, RankIndex(0), limits, &[]);
        assert_eq!(groups.settings, [("/c/1-2-0/cpu.shares".into(), "4096".to_owned())]);
        let without = Driver::Hybrid { kill: None, memory: None, cpu: None, pids: None, cpuset: None };
        for driver in [Driver::None, without] {
            assert!(driver.plan(KEY, RankIndex(0), limits, &[]).1.is_empty(), "a share is no limit");
        }
    }

    #[test]
    fn a_rank_with_processors_of_its_own_is_kept_on_them_where_groups_are_for_that() {
        let v2 = Driver::V2 { parent: "/p".into(), controllers: vec!["cpuset".into()] };
        let own = v2.plan(KEY, RankIndex(0), Limits::default(), &[1, 5]).0;
        assert_eq!(own.settings, [("/p/1-2-0/cpuset.cpus".into(), "1,5".to_owned())]);
        assert!(v2.plan(KEY, RankIndex(0), Limits::default(), &[]).0.settings.is_empty());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cpuset.mems"), "0-1\n").unwrap();
        std::fs::write(folder.path().join("cpuset.cpus"), "0-7\n").unwrap();
        let group = folder.path().join("muster");
        std::fs::create_dir(&group).unwrap();
        assert!(has_all_processors(&group) && !has_all_processors(folder.path()));
        let v1 = Driver::Hybrid { kill: None, memory: None, cpu: None, pids: None, cpuset: Some(group.clone()) };
        let own = v1.plan(KEY, RankIndex(3), Limits::default(), &[1, 5]).0;
        let leaf = group.join("1-2-3");
        assert_eq!(own.controllers, std::slice::from_ref(&leaf));
        let wanted = [(leaf.join("cpuset.mems"), "0-1".to_owned()), (leaf.join("cpuset.cpus"), "1,5".to_owned())];
        assert_eq!(own.settings, wanted);
        assert!(v1.keeps_processors() && v2.keeps_processors() && !Driver::None.keeps_processors());
    }
}
