//! What is around this coordinator: the disk that its data lies on, its newest snapshot, its certificate, its process.

use super::figures::{gauge, real, reals};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Proven {
    proven: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shut {
    reason: &'static str,
}

/// Where to look.
#[derive(Clone)]
pub(crate) struct Place {
    /// The coordinator's folder.
    pub(crate) data_dir: PathBuf,
    /// Who it is.
    pub(crate) own: identity::Node,
    /// The connections to its ports.
    pub(crate) connections: identity::Places,
}

impl Place {
    /// What cannot be read is left out: the rest is worth having.
    pub(super) fn register(&self, registry: &mut Registry) {
        let build = [(Build { version: env!("CARGO_PKG_VERSION") }, 1.0)];
        reals(registry, "build_info", "1, with what this coordinator was built from", build);
        let expiry = "When this coordinator's certificate ends";
        let ends = self.own.material().ends;
        real(
            registry,
            "certificate_expiry_timestamp_seconds",
            expiry,
            std::time::Duration::from_millis(ends.0).as_secs_f64(),
        );
        self.connections(registry);
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
            let free = "Free for this coordinator on the file system of its data";
            gauge(registry, "disk_free_bytes", free, bytes(disk.f_bavail));
            gauge(registry, "disk_size_bytes", "Size of the file system of its data", bytes(disk.f_blocks));
        }
        if let Some((written, bytes)) = newest_file(&self.data_dir.join("raft/snapshots")) {
            gauge(registry, "raft_snapshot_timestamp_seconds", "When the newest snapshot was written", written);
            gauge(registry, "raft_snapshot_bytes", "Size of the newest snapshot", bytes);
        }
    }

    fn connections(&self, registry: &mut Registry) {
        let (open, unproven) = self.connections.open();
        let help = "Connections to this coordinator's ports: of who has proven itself, and of who has not";
        let kinds = [("yes", open.saturating_sub(unproven)), ("no", unproven)];
        reals(registry, "connections", help, kinds.map(|(proven, count)| (Proven { proven }, count as f64)));
        let closed: Family<Shut, Counter> = Family::default();
        for why in identity::Closed::ALL {
            closed.get_or_create(&Shut { reason: why.name() }).inc_by(self.connections.closed(why));
        }
        registry.register("connections_closed", "Connections that were closed because there were too many", closed);
    }
}

/// When the newest file of a folder was written, in seconds since 1970, and its bytes.
fn newest_file(folder: &Path) -> Option<(u64, u64)> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.metadata().ok());
    let newest = files.filter(std::fs::Metadata::is_file).max_by_key(std::fs::Metadata::mtime)?;
    Some((u64::try_from(newest.mtime()).ok()?, newest.len()))
}

/// Of this process, under the names that Prometheus clients of all languages use.
pub(super) fn process(registry: &mut Registry) {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds: ConstCounter<f64> = ConstCounter::new(spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9);
    registry.register("process_cpu_seconds", "Processor time of this process", seconds);
    let page = rustix::param::page_size() as u64;
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    if let Some(pages) = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()) {
        gauge(registry, "process_resident_memory_bytes", "Resident memory of this process", pages * page);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge(registry, "process_open_fds", "Open file descriptors of this process", open.count() as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_file_counts_and_folders_do_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest_file(folder.path()), None);
        std::fs::create_dir(folder.path().join("below")).unwrap();
        std::fs::write(folder.path().join("a"), "12345").unwrap();
        assert_eq!(newest_file(folder.path()).map(|(_, bytes)| bytes), Some(5));
        assert_eq!(newest_file(&folder.path().join("nowhere")), None);
    }

    #[test]
    fn a_process_has_memory_and_files() {
        let mut registry = Registry::default();
        process(&mut registry);
        let text = super::super::text::encode(&[&registry]).unwrap();
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            assert!(value.parse::<f64>().unwrap() > 0.0, "{name} {value}");
        }
    }
}
