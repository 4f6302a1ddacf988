//! The machine by `/proc`: what a kernel does not tell counts as nothing.

use crate::layout::Layout;
use proto::internal::Figures;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of one block in `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Everything but the GPUs.
pub(super) fn look(layout: &Layout) -> Figures {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (memory, pressure) = (read("/proc/meminfo"), |of: &str| stalled(&read(&format!("/proc/pressure/{of}"))));
    let (received, sent, errors) = network(&read("/proc/net/dev"));
    let (disk_bytes, disk_bytes_free) = disk(layout.root());
    Figures {
        cpu_seconds: busy(&read("/proc/stat")),
        cpus: std::thread::available_parallelism().map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        memory_bytes: kibibytes(&memory, "MemTotal:"),
        memory_bytes_available: kibibytes(&memory, "MemAvailable:"),
        disk_bytes,
        disk_bytes_free,
        network_bytes_received: received,
        network_bytes_sent: sent,
        network_errors: errors,
        tcp_retransmits: retransmits(&read("/proc/net/snmp")),
        oom_kills: field(&read("/proc/vmstat"), "oom_kill "),
        cpu_pressure_seconds: pressure("cpu"),
        memory_pressure_seconds: pressure("memory"),
        io_pressure_seconds: pressure("io"),
        spool_bytes: spooled(&layout.members()),
        gpus: Vec::new(),
    }
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0)
}

fn kibibytes(meminfo: &str, name: &str) -> u64 {
    field(meminfo, name) * 1_024
}

/// Seconds of `/proc/stat` that were neither idle nor spent in waiting for a disk.
fn busy(stat: &str) -> f64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in the first two already.
    let worked = ticks.iter().take(8).enumerate().filter(|(place, _)| !matches!(place, 3 | 4)).map(|(_, ticks)| ticks);
    worked.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Bytes received and sent, errors and drops, of all interfaces but loopback.
fn network(dev: &str) -> (u64, u64, u64) {
    let interfaces = dev.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    interfaces.fold((0, 0, 0), |(received, sent, errors), (_, fields)| {
        let fields: Vec<u64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let at = |place: usize| fields.get(place).copied().unwrap_or(0);
        (received + at(0), sent + at(8), errors + at(2) + at(3) + at(10) + at(11))
    })
}

/// `Tcp:` stands on two lines: names, then values.
fn retransmits(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "RetransSegs").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Seconds for which some task waited.
fn stalled(pressure: &str) -> Option<f64> {
    let line = pressure.lines().find(|line| line.starts_with("some "))?;
    let microseconds: u64 = line.rsplit_once("total=")?.1.trim().parse().ok()?;
    Some(microseconds as f64 / 1e6)
}

fn disk(folder: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(folder) {
        Ok(disk) => (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(_) => (0, 0),
    }
}

/// What lies in the ranks' folders: their spools, and a checkpoint's name.
fn spooled(members: &Path) -> u64 {
    let below = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ranks = below(members).flat_map(|member| below(&member.path()));
    let ranks = ranks.filter(|entry| entry.file_name().to_string_lossy().starts_with("rank-"));
    let files = ranks.flat_map(|rank| below(&rank.path())).filter_map(|file| file.metadata().ok());
    files.filter(std::fs::Metadata::is_file).map(|file| file.blocks() * BLOCK_BYTES).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_waits_is_not_at_work() {
        let second = rustix::param::clock_ticks_per_second();
        let stat = format!("cpu  {second} 0 {second} 9999 8888 0 0 {second} 77 0\ncpu0 1 2 3\n");
        assert!((busy(&stat) - 3.0).abs() < 1e-9);
        assert!(busy("") < f64::EPSILON);
    }

    #[test]
    fn interfaces_are_summed_without_loopback() {
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  eth0: 100 2 1 2 0 0 0 0 50 2 3 4 0 0 0 0\n\
                   eth1:1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n";
        assert_eq!(network(dev), (101, 52, 10));
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(retransmits("Ip: A\nIp: 1\nTcp: InSegs RetransSegs\nTcp: 10 3\n"), 3);
        assert_eq!(retransmits(""), 0);
        assert_eq!(kibibytes("MemTotal:       4 kB\nMemAvailable: 2 kB\n", "MemAvailable:"), 2_048);
        assert_eq!(field("oom_kill 7\n", "oom_kill "), 7);
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=3\n";
        assert_eq!(stalled(pressure), Some(1.5));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn spools_are_counted_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let rank = layout.members().join("1-1-0/rank-0");
        std::fs::create_dir_all(&rank).unwrap();
        std::fs::write(layout.members().join("1-1-0/manifest.json"), vec![b'x'; 100_000]).unwrap();
        assert_eq!(spooled(&layout.members()), 0);
        std::fs::write(rank.join("stdout"), vec![b'x'; 8_192]).unwrap();
        std::fs::File::open(rank.join("stdout")).unwrap().sync_all().unwrap();
        assert!(spooled(&layout.members()) >= 8_192);
        let seen = look(&layout);
        assert!(seen.cpus >= 1 && seen.memory_bytes > seen.memory_bytes_available && seen.disk_bytes > 0);
    }
}
