//! What a cluster leaves for whoever wants to know what happened in it.

use super::Cluster;
use crate::daemon_process::Daemon;
use std::path::Path;
use std::process::Command;

impl Cluster {
    /// Copies data and logs of all daemons, which are killed before, so that somebody can look at them later.
    pub fn keep(&mut self, to: &Path) -> anyhow::Result<()> {
        for daemon in self.coordinators.iter_mut().chain(&mut self.workers).filter(|daemon| daemon.pid().is_some()) {
            daemon.kill()?;
        }
        let status = Command::new("cp").arg("-a").arg(self.folder.join(".")).arg(to).status()?;
        anyhow::ensure!(status.success(), "cannot copy {} to {}", self.folder.display(), to.display());
        Ok(())
    }

    /// Lines of daemons' logs with this text, each below its daemon's name.
    pub fn said(&self, text: &str) -> Vec<String> {
        let of = |daemon: &Daemon| -> Vec<String> {
            let log = daemon.log();
            let found = log.lines().filter(|line| line.contains(text));
            found.map(|line| format!("{}: {line}", daemon.name())).collect()
        };
        self.coordinators.iter().chain(&self.workers).flat_map(of).collect()
    }
}
