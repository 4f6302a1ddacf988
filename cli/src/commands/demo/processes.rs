//! The demo's daemons: children of one long-lived thread, on a leash, killed when the demo ends however it ends.
//!
//! Three things end them: the orderly stop; the leash (their stdin, closed by the kernel when the demo dies); and, unless
//! they are to outlive the demo, `PR_SET_PDEATHSIG`, which is tied to the thread that spawned them: so it is one thread.

use super::sweep;
use crate::commands::role::KEEP;
use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// One daemon to start.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Its name, and that of its log file.
    pub name: String,
    /// Arguments after the program.
    pub arguments: Vec<OsString>,
}

/// A daemon that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: i32,
}

enum Message {
    /// Starts a daemon.
    Start(Daemon, oneshot::Sender<anyhow::Result<()>>),
    /// SIGKILL, as a power cut of that daemon.
    Kill(String, oneshot::Sender<anyhow::Result<()>>),
    /// Names and endings of daemons that ended without being asked to.
    Fallen(oneshot::Sender<Vec<String>>),
    /// Sets all free: they outlive the demo from now on.
    Free(oneshot::Sender<anyhow::Result<Vec<Running>>>),
    /// Ends all in order, then by force, descendants too; answers how many had to be killed.
    Stop(oneshot::Sender<usize>),
}

/// Handle on the thread. Dropping it ends every daemon that was not set free, at once.
#[derive(Debug)]
pub struct Processes {
    sender: Option<mpsc::SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// Daemons get so long to end in order.
const GRACE: Duration = Duration::from_secs(8);
/// Requests under way; more makes the asker wait a moment.
const REQUESTS_MAX: usize = 16;

impl Processes {
    /// Starts the thread. `logs` is the folder of the log files; `outlive` leaves out the tie to the thread's life.
    pub fn start(program: PathBuf, logs: PathBuf, credentials: PathBuf, outlive: bool) -> anyhow::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the parent of orphans")?;
        let (sender, receiver) = mpsc::sync_channel(REQUESTS_MAX);
        let owner = Owner { program, logs, credentials, outlive, children: BTreeMap::new(), freed: false };
        let thread = std::thread::Builder::new()
            .name("processes".into())
            .spawn(move || owner.serve(&receiver))
            .context("cannot start a thread")?;
        Ok(Processes { sender: Some(sender), thread: Some(thread) })
    }

    /// Starts a daemon.
    pub async fn spawn(&self, daemon: Daemon) -> anyhow::Result<()> {
        self.ask(|reply| Message::Start(daemon, reply)).await?
    }

    /// Kills a daemon without warning.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.ask(|reply| Message::Kill(name.to_owned(), reply)).await?
    }

    /// Daemons that ended without being asked to, with how.
    pub async fn fallen(&self) -> anyhow::Result<Vec<String>> {
        self.ask(Message::Fallen).await
    }

    /// Lets all daemons outlive the demo.
    pub async fn free(&self) -> anyhow::Result<Vec<Running>> {
        self.ask(Message::Free).await?
    }

    /// Ends all daemons and everything that they started.
    pub async fn stop(&self) -> anyhow::Result<usize> {
        self.ask(Message::Stop).await
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        let sender = self.sender.as_ref().context("the thread that owns the daemons is gone")?;
        sender.send(message(reply)).context("the thread that owns the daemons is gone")?;
        answer.await.context("the thread that owns the daemons is gone")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Owner {
    program: PathBuf,
    logs: PathBuf,
    /// By which the daemons join.
    credentials: PathBuf,
    outlive: bool,
    children: BTreeMap<String, Child>,
    /// The daemons are nobody's children any more, though the kernel still says so.
    freed: bool,
}

impl Owner {
    fn serve(mut self, receiver: &mpsc::Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            match message {
                Message::Start(daemon, reply) => drop(reply.send(self.start(&daemon))),
                Message::Kill(name, reply) => drop(reply.send(self.kill(&name))),
                Message::Fallen(reply) => drop(reply.send(self.fallen())),
                Message::Free(reply) => drop(reply.send(self.free())),
                Message::Stop(reply) => drop(reply.send(self.stop(GRACE))),
            }
        }
        // The demo is over, perhaps by an error: nothing may be left.
        self.stop(Duration::ZERO);
    }

    fn start(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        let path = self.logs.join(format!("{}.log", daemon.name));
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&daemon.arguments).arg("--leash");
        if !self.outlive {
            command.arg("--parent").arg(std::process::id().to_string());
        }
        command.env("PATH", path_with(&self.program)).env("MUSTER_CREDENTIALS", &self.credentials);
        for other in ["MUSTER_COORDINATORS", "MUSTER_CONTEXT", "MUSTER_ACCESS_TOKEN", "MUSTER_JOIN_TOKEN"] {
            command.env_remove(other);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // On its leash it goes into a session of its own: Ctrl-C reaches the demo alone, which then ends them in order.
        let child = command.spawn().with_context(|| format!("cannot start {}", daemon.name))?;
        self.children.insert(daemon.name.clone(), child);
        Ok(())
    }

    fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let mut child = self.children.remove(name).with_context(|| format!("{name} is not running"))?;
        child.kill().with_context(|| format!("cannot kill {name}"))?;
        child.wait().with_context(|| format!("cannot wait for {name}"))?;
        Ok(())
    }

    fn fallen(&mut self) -> Vec<String> {
        let ended = |(name, child): (&String, &mut Child)| match child.try_wait() {
            Ok(Some(status)) => Some((name.clone(), format!("{name} ended by itself: {status}"))),
            _ => None,
        };
        let fallen: Vec<(String, String)> = self.children.iter_mut().filter_map(ended).collect();
        for (name, _) in &fallen {
            self.children.remove(name);
        }
        fallen.into_iter().map(|(_, text)| text).collect()
    }

    fn free(&mut self) -> anyhow::Result<Vec<Running>> {
        let mut running = Vec::new();
        for (name, mut child) in std::mem::take(&mut self.children) {
            let leash = child.stdin.as_mut().context("a daemon has no leash")?;
            leash.write_all(&[KEEP]).with_context(|| format!("{name} is gone"))?;
            running.push(Running { name, pid: i32::try_from(child.id()).unwrap_or(0) });
        }
        self.freed = true;
        Ok(running)
    }

    /// Workers before coordinators, so that they can still say what became of their ranks.
    fn stop(&mut self, grace: Duration) -> usize {
        if self.freed {
            return 0;
        }
        let mut killed = 0;
        for prefix in ["worker", ""] {
            let names: Vec<String> = self.children.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
            let mut group: Vec<Child> = names.iter().filter_map(|name| self.children.remove(name)).collect();
            if !grace.is_zero() {
                for child in &group {
                    send(child, Signal::TERM);
                }
                sweep::wait_until(grace, || group.iter_mut().all(|child| !matches!(child.try_wait(), Ok(None))));
            }
            for child in &mut group {
                if matches!(child.try_wait(), Ok(None)) {
                    killed += 1;
                    let _ = child.kill();
                }
                let _ = child.wait();
            }
        }
        killed + sweep::kill_descendants(rustix::process::getpid())
    }
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// `PATH` with the program's folder first: jobs say `muster train`, and mean this binary.
fn path_with(program: &Path) -> OsString {
    let mut path = program.parent().map(|folder| folder.as_os_str().to_owned()).unwrap_or_default();
    if let Some(rest) = daemon::environment::text("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Stopping sweeps every descendant of this process: one test at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn shell(name: &str, script: &str) -> Daemon {
        // The options that the thread adds become positional parameters of the script.
        Daemon { name: name.into(), arguments: vec!["-c".into(), script.into(), "daemon".into()] }
    }

    fn alive(pid: i32) -> bool {
        sweep::is_alive(pid)
    }

    fn pid_in(path: &Path) -> i32 {
        let mut pid = 0;
        sweep::wait_until(Duration::from_secs(10), || {
            pid = std::fs::read_to_string(path).unwrap_or_default().trim().parse().unwrap_or(0);
            pid > 0
        });
        pid
    }

    #[tokio::test]
    async fn nothing_outlives_a_dropped_demo_not_even_a_runaway_grandchild() {
        let _alone = ALONE.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grandchild");
        let processes = Processes::start("/bin/sh".into(), folder.path().to_owned(), PathBuf::new(), false).unwrap();
        // A session of its own, ignoring every polite signal, its parent gone.
        let script = format!(
            "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done' & exec sleep 1000",
            file.display()
        );
        processes.spawn(shell("worker-1", &script)).await.unwrap();
        let grandchild = pid_in(&file);
        assert!(alive(grandchild));
        drop(processes);
        assert!(!alive(grandchild));
    }

    #[tokio::test]
    async fn a_daemon_that_falls_is_named_once() {
        let _alone = ALONE.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::start("/bin/sh".into(), folder.path().to_owned(), PathBuf::new(), false).unwrap();
        processes.spawn(shell("coordinator-1", "echo why; exit 3")).await.unwrap();
        let mut fallen = Vec::new();
        while fallen.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            fallen = processes.fallen().await.unwrap();
        }
        assert!(fallen[0].contains("coordinator-1") && fallen[0].contains('3'), "{fallen:?}");
        assert!(processes.fallen().await.unwrap().is_empty());
        assert_eq!(std::fs::read_to_string(folder.path().join("coordinator-1.log")).unwrap(), "why\n");
    }

    #[tokio::test]
    async fn a_stubborn_daemon_is_killed_after_its_grace() {
        let _alone = ALONE.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let mut owner = Owner {
            program: "/bin/sh".into(),
            logs: folder.path().into(),
            credentials: PathBuf::new(),
            outlive: false,
            children: BTreeMap::new(),
            freed: false,
        };
        let file = folder.path().join("ready");
        let script =
            format!("trap '' TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done", file.display());
        owner.start(&shell("worker-1", &script)).unwrap();
        let pid = pid_in(&file);
        assert!(owner.stop(Duration::from_millis(50)) >= 1);
        assert!(!alive(pid));
    }
}
