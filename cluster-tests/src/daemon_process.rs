//! One daemon: started, killed, stopped and started again, with its log in a file.

use crate::janitor;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Lines of its log that are shown when a test fails.
const TAIL_LINES: usize = 60;

/// One daemon, running or not.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    data: PathBuf,
    log: PathBuf,
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    child: Option<Child>,
}

impl Daemon {
    /// One that does not run yet; `folder` is the cluster's.
    pub(crate) fn new(folder: &Path, program: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            data: folder.join(name),
            log: folder.join(format!("{name}.log")),
            wrapper: Vec::new(),
            arguments: Vec::new(),
            environment: environment(folder, program),
            child: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it is started with.
    pub fn arguments_mut(&mut self) -> &mut Vec<OsString> {
        &mut self.arguments
    }

    /// What is run in front of it.
    pub fn wrapper_mut(&mut self) -> &mut Vec<OsString> {
        &mut self.wrapper
    }

    /// Adds a variable to its environment.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts it; its log goes on in the same file.
    pub fn start(&mut self, program: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut line = self.wrapper.iter().cloned().chain([program.as_os_str().to_owned()]);
        let mut command = Command::new(line.next().unwrap_or_default());
        command.args(line).args(&self.arguments).arg("--leash").env_clear().envs(self.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().and_then(Pid::from_raw).with_context(|| format!("{} does not run", self.name))?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Copies its folder as it is at one moment: the daemon stands still meanwhile, for a file that goes would be missed.
    pub(crate) fn copy_data(&self, to: &Path) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        let stopped = self.pid().and_then(Pid::from_raw).map(WaitId::Pid);
        // None = it does not run, which the signal would have said.
        let stopped = stopped.map(|pid| waitid(pid, WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT)).transpose();
        let copied = Command::new("cp").arg("-a").arg(&self.data).arg(to).status();
        self.signal(Signal::CONT)?;
        stopped?;
        anyhow::ensure!(copied?.success(), "cannot copy {}", self.data.display());
        Ok(())
    }

    /// How it ended, once it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it said, under its name.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        let state = if self.child.is_some() { "" } else { " (not running)" };
        format!("---- {}{state} ----\n{tail}\n", self.name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only then can its process be reaped; what it started is the janitor's.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The owner's credentials, which the first coordinator writes.
pub(crate) fn credentials(folder: &Path) -> PathBuf {
    folder.join("coordinator-1/admin.json")
}

/// The environment of every process of a cluster: nothing of ours but where programs and libraries are.
pub(crate) fn environment(folder: &Path, program: &Path) -> Vec<(OsString, OsString)> {
    let mut path = program.parent().map(|home| home.as_os_str().to_owned()).unwrap_or_default();
    path.push(":");
    path.push(daemon::environment::text("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
    let mut all = vec![
        (janitor::MARKER.into(), janitor::mark(folder)),
        ("PATH".into(), path),
        ("HOME".into(), folder.as_os_str().to_owned()),
        ("RUST_BACKTRACE".into(), "1".into()),
        ("MUSTER_CREDENTIALS".into(), credentials(folder).into_os_string()),
    ];
    if let Some(filter) = daemon::environment::text("MUSTER_LOG") {
        all.push(("MUSTER_LOG".into(), filter.into()));
    }
    #[cfg(feature = "plain-text")]
    if identity::plain_text::is_spoken() {
        all.push((identity::plain_text::VARIABLE.into(), "1".into()));
    }
    all
}
