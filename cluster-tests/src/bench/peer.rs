//! Daemons of other systems: found or not, started, and killed when the benchmark is done with them.

use anyhow::Context as _;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The first place of a program: in `PATH`, or where Debian puts daemons.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = daemon::environment::text("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Ports that were free a moment ago; for daemons that cannot choose one themselves.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    // All at once, so that no two are the same.
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("no free port")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// Daemons of one system, in one folder.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) folder: PathBuf,
    children: Vec<(String, Child)>,
}

impl Peers {
    /// None yet.
    pub(crate) fn new(parent: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = parent.join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, children: Vec::new() })
    }

    /// Starts one; its output goes into a file of its name.
    pub(crate) fn start<S: AsRef<OsStr>>(&mut self, name: &str, program: &Path, arguments: &[S]) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: what it starts ends with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// Process ids.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.children.iter().filter_map(|(_, child)| i32::try_from(child.id()).ok()).collect()
    }

    /// SIGKILL for one.
    pub(crate) fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let index = self.children.iter().position(|(known, _)| known == name).with_context(|| format!("no {name}"))?;
        let (_, mut child) = self.children.remove(index);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The end of what they said, for errors.
    pub(crate) fn said(&self) -> String {
        let tail = |name: &String| {
            let text = std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("---- {name} ----\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        self.children.iter().map(|(name, _)| tail(name)).collect()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end; its failure is an error with what it said.
pub(crate) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    variables: &[(&str, &OsStr)],
) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{} ended with {}: {said}", program.display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
