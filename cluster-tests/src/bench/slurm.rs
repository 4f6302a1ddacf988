//! Slurm with its munge, one controller and four slurmds on this host.

use super::peer::{self, Peers, find, free_ports};
use crate::wait::{PATIENCE, until};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// It, running.
pub(crate) struct Slurm {
    config: PathBuf,
    pub(crate) peers: Peers,
}

impl Slurm {
    /// Starts it; nothing where it is not installed, or where this user may not run it.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let programs = ["munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue"].map(find);
        let [Some(munged), Some(slurmctld), Some(slurmd), Some(_), Some(_), Some(_)] = programs else {
            return Ok(None);
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let mut peers = Peers::new(folder, "slurm")?;
        let at = |name: &str| peers.folder.join(name).display().to_string();
        std::fs::write(at("key"), [7_u8; 128])?;
        private(Path::new(&at("key")))?;
        let option = |name: &str, file: &str| format!("--{name}={}", at(file));
        let arguments = [
            "--foreground".to_owned(),
            "--force".to_owned(),
            option("key-file", "key"),
            option("socket", "munge.socket"),
            option("pid-file", "munge.pid"),
            option("log-file", "munge.log"),
            option("seed-file", "munge.seed"),
        ];
        peers.start("munged", &munged, &arguments)?;
        let socket = peers.folder.join("munge.socket");
        until("munge", PATIENCE, async || socket.exists().then_some(())).await?;
        let config = peers.folder.join("slurm.conf");
        std::fs::write(&config, configuration(&peers.folder)?)?;
        let path = config.display().to_string();
        peers.start("slurmctld", &slurmctld, &["-D", "-f", &path])?;
        for index in 1..=4 {
            peers.start(&format!("slurmd-{index}"), &slurmd, &["-D", "-f", &path, "-N", &format!("n{index}")])?;
        }
        let started = Self { config, peers };
        let four = async || {
            let idle = started.call("sinfo", &["--noheader", "--states=idle", "--format=%D"]).await.ok()?;
            (idle.trim() == "4").then_some(())
        };
        until("Slurm's nodes", PATIENCE, four).await.map_err(|error| error.context(started.peers.said()))?;
        Ok(Some(started))
    }

    /// Runs one of its commands.
    pub(crate) async fn call(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        peer::run(Path::new(name), arguments, &[("SLURM_CONF", self.config.as_os_str())]).await
    }

    /// The variable that its commands need.
    pub(crate) fn variable(&self) -> (&'static str, &OsStr) {
        ("SLURM_CONF", self.config.as_os_str())
    }

    /// Four ranks on four nodes, from start to end of the command.
    pub(crate) async fn gang(&self) -> anyhow::Result<()> {
        self.call("srun", &["-N4", "-n4", "/bin/true"]).await.map(drop)
    }

    /// The script that `sbatch` submits.
    pub(crate) fn script(&self) -> anyhow::Result<PathBuf> {
        let script = self.peers.folder.join("job.sh");
        std::fs::write(&script, "#!/bin/sh\nexec /bin/true\n")?;
        Ok(script)
    }

    /// Waits until nothing is queued or runs.
    pub(crate) async fn drain(&self) -> anyhow::Result<()> {
        until("Slurm's queue to be empty", PATIENCE * 3, async || {
            let left = self.call("squeue", &["--noheader", "--format=%i"]).await.ok()?;
            left.trim().is_empty().then_some(())
        })
        .await
    }
}

fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

/// Everything as it comes, but for four nodes on one host and no control groups.
fn configuration(folder: &Path) -> anyhow::Result<String> {
    let ports = free_ports(5)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let home = folder.display();
    let mut text = format!(
        "ClusterName=bench\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\nAuthType=auth/munge\n\
         AuthInfo=socket={home}/munge.socket\nCredType=cred/munge\nSlurmUser=root\nSlurmdUser=root\n\
         StateSaveLocation={home}/state\nSlurmdSpoolDir={home}/spool-%n\nSlurmctldPidFile={home}/slurmctld.pid\n\
         SlurmdPidFile={home}/slurmd-%n.pid\nSlurmdLogFile={home}/slurmd-%n.log\nSlurmctldLogFile={home}/slurmctld.log\n\
         ProctrackType=proctrack/pgid\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
         SelectTypeParameters=CR_Core\nSlurmdParameters=config_overrides\nMpiDefault=none\nReturnToService=2\n\
         MaxJobCount=20000\n",
        ports[0]
    );
    for (index, port) in (1..=4).zip(&ports[1..]) {
        let place = format!("NodeHostname={host} NodeAddr=127.0.0.1 Port={port}");
        let _ = writeln!(text, "NodeName=n{index} {place} CPUs=4 State=UNKNOWN");
    }
    text += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n";
    std::fs::create_dir_all(folder.join("state"))?;
    Ok(text)
}
