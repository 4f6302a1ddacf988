//! The demo's folder: the daemons' data and logs, the job's files, the model, and who runs here.

use super::processes::Running;
use super::sweep;
use crate::failure::bad_input;
use anyhow::Context as _;
use daemon::files::FolderLock;
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// The job, as it stands in `examples/digits`.
const JOB: &str = include_str!("../../../../examples/digits/job.yml");
const CONFIG: &str = include_str!("../../../../examples/digits/train.yml");
/// Its presence says that a demo made the folder and may clear it.
const MARKER: &str = "demo.json";

/// A folder that this process alone uses.
#[derive(Debug)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    _lock: FolderLock,
}

/// What the marker says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// Daemons that were left running: name, process, and its start in ticks since boot.
    pub running: Vec<(String, i32, u64)>,
}

/// Under the user's data folder, or a folder of this process where there is no home.
pub fn default_path() -> PathBuf {
    let data = daemon::environment::text("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| daemon::environment::text("HOME").map(|home| Path::new(&home).join(".local/share")));
    match data {
        Some(data) => data.join("muster/demo"),
        None => std::env::temp_dir().join(format!("muster-demo-{}", std::process::id())),
    }
}

impl Folder {
    /// Takes the folder and clears what a former demo left. A folder with other files is refused.
    pub fn take(path: &Path) -> anyhow::Result<Folder> {
        let path = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
        let is_ours = path.join(MARKER).exists();
        let is_empty = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
        if !is_ours && !is_empty {
            return Err(bad_input(format!("{} holds other files: name an empty folder with --dir", path.display())));
        }
        let lock = daemon::files::lock_folder(&path).context("another demo may be running: name another --dir")?;
        let folder = Folder { path, _lock: lock };
        let left = folder.left_running()?;
        if !left.is_empty() {
            let dir = folder.path.display();
            return Err(bad_input(format!("a demo is running in {dir}: end it with muster demo --stop --dir {dir}")));
        }
        folder.clear()?;
        folder.write_marker(&Marker::default())?;
        std::fs::create_dir_all(folder.logs()).context("cannot make the folder for logs")?;
        Ok(folder)
    }

    /// The marker of a folder that a demo made, without taking the folder.
    pub fn read_marker(path: &Path) -> anyhow::Result<Marker> {
        let path = path.join(MARKER);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("no demo has run here: {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Log files.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Notes who was left running.
    pub fn note_running(&self, coordinators: &[String], running: &[Running]) -> anyhow::Result<()> {
        let running =
            running.iter().filter_map(|one| Some((one.name.clone(), one.pid, sweep::started(one.pid)?))).collect();
        self.write_marker(&Marker { coordinators: coordinators.to_owned(), running })
    }

    /// The job file with what it names beside it: as shipped, so the demo works without the source tree.
    pub fn write_job(&self) -> anyhow::Result<PathBuf> {
        let folder = self.path.join("digits");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, text) in [("job.yml", JOB), ("train.yml", CONFIG)] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(folder.join("job.yml"))
    }

    /// Steps that the training will take; nothing when its configuration says it in other words.
    pub fn steps_total() -> Option<u64> {
        /// Of the built-in digits.
        const SAMPLES: f64 = 1_797.0;
        let number = |field: &str| -> Option<f64> {
            let line = CONFIG.lines().find_map(|line| line.trim().strip_prefix(field)?.strip_prefix(':'))?;
            line.split('#').next()?.trim().parse().ok()
        };
        let kept = (SAMPLES * (1.0 - number("test_fraction")?)).round();
        Some(((kept / number("batch_size")?).ceil() * number("epochs")?) as u64)
    }

    fn left_running(&self) -> anyhow::Result<Vec<String>> {
        if !self.path.join(MARKER).exists() {
            return Ok(Vec::new());
        }
        let running = Self::read_marker(&self.path)?.running;
        Ok(running.into_iter().filter(|(_, pid, start)| is_same(*pid, *start)).map(|(name, ..)| name).collect())
    }

    fn write_marker(&self, marker: &Marker) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(marker)?;
        daemon::files::write_atomically(&self.path.join(MARKER), &text).context("cannot write to the demo's folder")
    }

    /// Removes exactly what a demo makes.
    fn clear(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.path).context("cannot read the demo's folder")? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let known = ["digits", "model", "model-undisturbed", "logs"].contains(&name.as_str())
                || name.starts_with("coordinator-")
                || name.starts_with("worker-");
            if known && path.is_dir() {
                std::fs::remove_dir_all(&path).with_context(|| format!("cannot clear {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Is this still the process that was noted, and not a later one with its number?
pub fn is_same(pid: i32, start: u64) -> bool {
    sweep::is_alive(pid) && sweep::started(pid) == Some(start)
}

/// `count` loopback addresses that are free now, all different. Below the range that outgoing connections take from, so
/// that none of them takes one before its daemon does.
pub fn free_addresses(count: usize) -> anyhow::Result<Vec<String>> {
    let seed = daemon::random::seed().context("no randomness for ports")?;
    let mut held = Vec::new();
    for i in 0..2_000 {
        let port = 20_000 + u16::try_from((seed.wrapping_add(i)) % 12_000).unwrap_or(0);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
        }
        if held.len() == count {
            let addresses = held.iter().map(|one| Ok(one.local_addr()?.to_string())).collect::<std::io::Result<_>>();
            return addresses.context("cannot read an address");
        }
    }
    anyhow::bail!("fewer than {count} of the ports 20000 to 31999 are free on 127.0.0.1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("worker-1")).unwrap();
        assert!(Folder::take(folder.path()).unwrap_err().to_string().contains("--dir"));
        assert!(folder.path().join("worker-1").is_dir());
    }

    #[test]
    fn a_former_demo_is_cleared_and_other_files_stay() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("demo");
        drop(Folder::take(&path).unwrap());
        std::fs::create_dir(path.join("worker-1")).unwrap();
        std::fs::write(path.join("notes.txt"), "mine").unwrap();
        let folder = Folder::take(&path).unwrap();
        assert!(!path.join("worker-1").exists() && path.join("notes.txt").exists());
        assert!(Folder::take(&path).is_err(), "one demo a folder");
        assert!(folder.write_job().unwrap().is_file());
    }

    #[test]
    fn a_running_demo_keeps_its_folder() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("demo");
        let folder = Folder::take(&path).unwrap();
        let own = Running { name: "worker-1".into(), pid: rustix::process::getpid().as_raw_pid() };
        folder.note_running(&["a:1".to_owned()], &[own]).unwrap();
        drop(folder);
        assert!(Folder::take(&path).unwrap_err().to_string().contains("--stop"));
    }

    #[test]
    fn the_number_of_steps_is_known_for_the_shipped_configuration() {
        assert_eq!(Folder::steps_total(), Some(450));
    }

    #[test]
    fn free_addresses_differ() {
        let addresses = free_addresses(6).unwrap();
        let distinct: std::collections::BTreeSet<&String> = addresses.iter().collect();
        assert_eq!(distinct.len(), 6);
    }
}
