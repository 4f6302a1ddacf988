//! What the figures were measured on, and what processes cost there, as the kernel tells.

use std::path::Path;
use std::time::Duration;

/// Cores, kind of processor, memory, file system of the data.
pub(crate) fn describe(folder: &Path) -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".into());
    let memory = field(&text("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let gibibytes = memory.unwrap_or(0) / (1 << 20);
    let disk = mount_of(&text("/proc/self/mounts"), folder).unwrap_or_default();
    format!("{cores} cores, {model}, {gibibytes} GiB, data on {disk}")
}

/// Device and kind of the longest mount point above the folder.
fn mount_of(mounts: &str, folder: &Path) -> Option<String> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|fields| fields.len() > 2 && folder.starts_with(fields[1]));
    above.max_by_key(|fields| fields[1].len()).map(|fields| format!("{} ({})", fields[2], fields[0]))
}

/// Processor time of a process and of those of its children that it has waited for.
pub(crate) fn cpu(pid: i32) -> Cpu {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces: fields are counted from its end; utime is the 12th after it.
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let ticks = |index: usize| fields.get(index).copied().unwrap_or(0);
    let time =
        |ticks: u64| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64);
    Cpu { own: time(ticks(11) + ticks(12)), children: time(ticks(13) + ticks(14)) }
}

/// Processor time, user and system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Of the process itself.
    pub(crate) own: Duration,
    /// Of children that ended and were waited for.
    pub(crate) children: Duration,
}

impl Cpu {
    /// Of all these together.
    pub(crate) fn sum(pids: &[i32]) -> Self {
        pids.iter()
            .map(|pid| cpu(*pid))
            .fold(Self::default(), |sum, one| Self { own: sum.own + one.own, children: sum.children + one.children })
    }

    /// Since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { own: self.own.saturating_sub(before.own), children: self.children.saturating_sub(before.children) }
    }
}

/// Memory of a process in MiB: resident, and its share of what it shares.
pub(crate) fn memory(pid: i32) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
    };
    (field("Rss:"), field("Pss:"))
}

/// The most memory that a process ever had resident, in MiB.
pub(crate) fn memory_peak(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(mount_of(mounts, Path::new("/tmp/x")).as_deref(), Some("tmpfs (tmpfs)"));
        assert_eq!(mount_of(mounts, Path::new("/home")).as_deref(), Some("ext4 (/dev/a)"));
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id().cast_signed();
        assert!(memory(pid).0 > 1.0 && memory_peak(pid) > 1.0);
        assert!(cpu(pid).own < Duration::from_hours(24));
    }
}
