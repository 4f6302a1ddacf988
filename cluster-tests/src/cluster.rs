//! One cluster: brought up, looked at, broken and mended; nothing of it is left when it is dropped.

use crate::command::{Answer, Following};
use crate::daemon_process::{Daemon, environment};
use crate::janitor::Janitor;
use crate::network::Network;
use crate::shape::{Shape, WorkerShape};
use crate::wait::{PATIENCE, until};
use anyhow::Context as _;
use client::v1;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::process::Command;
use types::{CoordinatorId, JobId, JobPhase};

mod evidence;
mod hosts;
mod processes;
mod reach;

pub use processes::is_alive;

/// Coordinators and workers as processes on loopback, with a folder of their own.
#[derive(Debug)]
pub struct Cluster {
    coordinators: Vec<Daemon>,
    /// gRPC and HTTP address of each coordinator.
    addresses: Vec<(String, String)>,
    workers: Vec<Daemon>,
    program: PathBuf,
    folder: PathBuf,
    /// Hosts of their own for the daemons, and who is on which; none: all are on this one.
    network: Option<(Network, BTreeMap<String, usize>)>,
    /// After the daemons, so that they are reaped before it looks for what is left.
    _janitor: Janitor,
}

impl Cluster {
    /// Starts everything and waits until all coordinators vote and all workers are ready.
    pub async fn start(program: &Path, shape: Shape) -> anyhow::Result<Self> {
        Self::start_in(&std::env::temp_dir(), program, shape).await
    }

    /// The same with its folder in this one.
    pub async fn start_in(parent: &Path, program: &Path, shape: Shape) -> anyhow::Result<Self> {
        let mut cluster = Self::empty(parent, program)?;
        match cluster.come_up(&shape).await {
            Ok(()) => Ok(cluster),
            Err(error) => Err(error.context(cluster.logs())),
        }
    }

    /// A folder, a program and a janitor, and nothing that runs.
    pub fn empty(parent: &Path, program: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir_in(parent)?.keep();
        let janitor = Janitor::start(&folder)?;
        let program = under_its_name(program)?;
        Ok(Self {
            coordinators: Vec::new(),
            addresses: Vec::new(),
            workers: Vec::new(),
            program,
            folder,
            network: None,
            _janitor: janitor,
        })
    }

    /// Brings these up and waits until all coordinators vote and all workers are ready.
    pub async fn come_up(&mut self, shape: &Shape) -> anyhow::Result<()> {
        for id in 1..=shape.coordinators {
            self.add_coordinator(id, &shape.coordinator_arguments).await?;
        }
        for index in 1..=shape.workers {
            self.add_worker(&format!("worker-{index}"), &shape.worker)?;
        }
        for id in 2..=shape.coordinators {
            self.join(id).await?;
        }
        self.until_voters(usize::try_from(shape.coordinators)?).await?;
        self.until_ready(shape.workers).await
    }

    /// Starts a coordinator that is not a member yet (the first one begins the cluster) and waits until it listens.
    pub async fn add_coordinator(&mut self, id: u64, arguments: &[OsString]) -> anyhow::Result<()> {
        let mut daemon = Daemon::new(&self.folder, &self.program, &format!("coordinator-{id}"));
        let data = daemon.data().as_os_str().to_owned();
        let host = self.place(&mut daemon)?;
        let all = daemon.arguments_mut();
        all.extend(["coordinator", "--id", &id.to_string(), "--data"].map(OsString::from));
        all.push(data);
        all.extend_from_slice(arguments);
        // Any of them may be dead.
        let known: Vec<&str> = self.addresses.iter().map(|(grpc, _)| grpc.as_str()).collect();
        match known.as_slice() {
            [] => all.push("--bootstrap".into()),
            known => all.extend(["--join".into(), OsString::from(known.join(","))]),
        }
        let listen = format!("{host}:0");
        all.extend(["--listen", &listen, "--http", &listen].map(OsString::from));
        daemon.start(&self.program)?;
        let addresses = listening(&mut daemon).await;
        // From now on it is known under these.
        if let Ok((grpc, http)) = &addresses {
            let all = daemon.arguments_mut();
            all.truncate(all.len() - 4);
            all.extend(["--listen", grpc, "--http", http].map(OsString::from));
        }
        self.coordinators.push(daemon);
        self.addresses.push(addresses?);
        Ok(())
    }

    /// Makes a coordinator that runs a member.
    pub async fn join(&self, id: u64) -> anyhow::Result<()> {
        let (address, http_address) = self.addresses_of(id)?.clone();
        self.client().add_member(v1::AddMemberRequest { id, address, http_address }).await?;
        Ok(())
    }

    /// Starts a worker; `until_ready` waits for it.
    pub fn add_worker(&mut self, name: &str, shape: &WorkerShape) -> anyhow::Result<()> {
        let mut daemon = Daemon::new(&self.folder, &self.program, name);
        let data = daemon.data().as_os_str().to_owned();
        let host = self.place(&mut daemon)?;
        let addresses: Vec<&str> = self.addresses.iter().map(|(grpc, _)| grpc.as_str()).collect();
        let all = daemon.arguments_mut();
        all.extend(["worker", "--name", name, "--data"].map(OsString::from));
        all.push(data);
        all.extend(["--coordinators", &addresses.join(","), "--cpus", &shape.cpus.to_string()].map(OsString::from));
        if self.network.is_some() {
            all.extend(["--data-address", &host, "--insecure-listen"].map(OsString::from));
        }
        all.extend_from_slice(&shape.arguments);
        daemon.wrapper_mut().extend_from_slice(&shape.wrapper);
        daemon.start(&self.program)?;
        self.workers.push(daemon);
        Ok(())
    }

    /// Starts a second daemon with a copy of a worker's data folder, as who copies a machine does; here it is named `NAME-copy`.
    pub fn copy_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let original = self.worker(name)?;
        let (from, mut arguments) = (original.data().to_owned(), std::mem::take(original.arguments_mut()));
        original.arguments_mut().clone_from(&arguments);
        let mut daemon = Daemon::new(&self.folder, &self.program, &format!("{name}-copy"));
        self.worker(name)?.copy_data(daemon.data())?;
        for argument in arguments.iter_mut().filter(|argument| **argument == from.as_os_str()) {
            daemon.data().as_os_str().clone_into(argument);
        }
        daemon.arguments_mut().append(&mut arguments);
        daemon.start(&self.program)?;
        self.workers.push(daemon);
        Ok(())
    }

    /// Its folder; files for jobs may be put here.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The program under test, named `muster`.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Another program for all that is started from now on.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Processes of coordinators and of workers.
    pub fn pids(&self) -> (Vec<i32>, Vec<i32>) {
        let of = |daemons: &[Daemon]| daemons.iter().filter_map(Daemon::pid).collect();
        (of(&self.coordinators), of(&self.workers))
    }

    /// The coordinator of this number.
    pub fn coordinator(&mut self, id: u64) -> anyhow::Result<&mut Daemon> {
        let name = format!("coordinator-{id}");
        self.coordinators.iter_mut().find(|daemon| daemon.name() == name).with_context(|| format!("no {name}"))
    }

    /// The worker of this name.
    pub fn worker(&mut self, name: &str) -> anyhow::Result<&mut Daemon> {
        self.workers.iter_mut().find(|daemon| daemon.name() == name).with_context(|| format!("no {name}"))
    }

    /// Starts a coordinator again that was killed or stopped, at its old addresses.
    pub async fn restart_coordinator(&mut self, id: u64) -> anyhow::Result<()> {
        let program = self.program.clone();
        let daemon = self.coordinator(id)?;
        let _ = std::fs::remove_file(daemon.data().join("addresses"));
        daemon.start(&program)?;
        listening(daemon).await?;
        Ok(())
    }

    /// Starts a worker again that was killed or stopped.
    pub fn restart_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let program = self.program.clone();
        self.worker(name)?.start(&program)
    }

    /// gRPC and HTTP address of a coordinator.
    pub fn addresses_of(&self, id: u64) -> anyhow::Result<&(String, String)> {
        let name = format!("coordinator-{id}");
        let index = self.coordinators.iter().position(|daemon| daemon.name() == name);
        index.and_then(|index| self.addresses.get(index)).with_context(|| format!("no {name}"))
    }

    /// gRPC addresses of all coordinators.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(|(grpc, _)| grpc.clone()).collect()
    }

    /// Runs `muster` to its end.
    pub async fn muster<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Answer> {
        Answer::of(self.command(arguments)).await
    }

    /// Starts `muster` and reads along.
    pub fn follow<S: AsRef<OsStr>>(&self, arguments: &[S]) -> anyhow::Result<Following> {
        Following::start(self.command(arguments))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().envs(environment(&self.folder, &self.program));
        command.env("MUSTER_COORDINATORS", self.addresses().join(",")).current_dir(&self.folder);
        command
    }

    /// Writes a file into the cluster's folder, with its folders, and answers with its path.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("files").join(name);
        std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Submits a job file of this text with the command, and answers with its number.
    pub async fn submit(&self, name: &str, text: &str) -> anyhow::Result<JobId> {
        let path = self.write(name, text)?;
        let answer = self.muster(&[OsStr::new("submit"), path.as_os_str()]).await?.good()?;
        answer.stdout.trim().parse().with_context(|| format!("not a job: {:?}", answer.stdout))
    }

    /// Waits until some coordinator leads and answers with its number.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        let client = self.client();
        until("a leader", PATIENCE, async || {
            client.status(false).await.ok().map(|status| status.leader).filter(|leader| *leader > 0)
        })
        .await
    }

    /// Waits until so many coordinators vote.
    pub async fn until_voters(&self, count: usize) -> anyhow::Result<()> {
        let client = self.client();
        until(&format!("{count} coordinators that vote"), PATIENCE, async || {
            let members = client.members().await.ok()?;
            (members.iter().filter(|member| member.voter).count() == count).then_some(())
        })
        .await
    }

    /// Waits until so many workers are ready.
    pub async fn until_ready(&self, count: usize) -> anyhow::Result<()> {
        let client = self.client();
        until(&format!("{count} ready workers"), PATIENCE, async || {
            let workers = client.workers().await.ok()?;
            (workers.iter().filter(|worker| worker.state == "ready").count() == count).then_some(())
        })
        .await
    }

    /// Waits until the job is in this phase (or past it in a way that shows it never will be).
    pub async fn until_phase(&self, job: JobId, phase: JobPhase) -> anyhow::Result<v1::JobSummary> {
        let mut watch = self.client().watch(Some(job), 0);
        let mut last = String::new();
        let reached = async {
            while let Some(event) = watch.next().await? {
                let summary = event.job.context("an event without a job")?;
                last = format!("{}: {}", summary.phase, summary.reason);
                if summary.phase == phase.name() {
                    return Ok(summary);
                }
            }
            anyhow::bail!("job {job} ended without being {phase}: {last}")
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| Err(anyhow::anyhow!("job {job} is not {phase} in time: {last}")))
    }

    /// Waits until the job has ended and answers with everything that is known of it.
    pub async fn ended(&self, job: JobId) -> anyhow::Result<v1::Job> {
        self.ended_within(job, PATIENCE).await
    }

    /// As `ended`, with another patience.
    pub async fn ended_within(&self, job: JobId, patience: Duration) -> anyhow::Result<v1::Job> {
        let client = self.client();
        let waited = tokio::time::timeout(patience, client.wait(job)).await;
        match waited {
            Ok(summary) => summary?,
            Err(_) => anyhow::bail!("job {job} has not ended in time: {:?}", client.get(job).await?.summary),
        };
        Ok(client.get(job).await?)
    }

    /// Hands leadership to this coordinator.
    pub async fn transfer(&self, to: u64) -> anyhow::Result<()> {
        let client = self.client();
        until(&format!("coordinator {to} to lead"), PATIENCE, async || {
            let leader = client.status(false).await.ok()?.leader;
            if leader != to {
                // Refused while it is not caught up: asked again.
                let _ = client.transfer_leadership(Some(CoordinatorId(to))).await;
            }
            (leader == to).then_some(())
        })
        .await
    }

    /// The ends of all daemons' logs.
    pub fn logs(&self) -> String {
        self.coordinators.iter().chain(&self.workers).map(Daemon::log_tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print!("{}", self.logs());
        }
    }
}

/// Waits until a coordinator has said where it listens: gRPC, HTTP.
async fn listening(daemon: &mut Daemon) -> anyhow::Result<(String, String)> {
    let file = daemon.data().join("addresses");
    let look = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line("grpc=").zip(line("http="))
    };
    let name = daemon.name().to_owned();
    let mut ended = None;
    let found = until(&format!("{name} to listen"), PATIENCE, async || {
        ended = daemon.ended().ok().flatten();
        look().map(Some).or(ended.is_some().then_some(None))
    })
    .await?;
    found.with_context(|| format!("{name} ended: {ended:?}\n{}", daemon.log_tail()))
}

/// The program under the name that jobs know it by (`muster train`), in a folder of its own on the same disk.
fn under_its_name(program: &Path) -> anyhow::Result<PathBuf> {
    static LINKED: AtomicU64 = AtomicU64::new(0);
    let program = &program.canonicalize().with_context(|| format!("no program at {}", program.display()))?;
    if program.file_name() == Some(OsStr::new("muster")) {
        return Ok(program.clone());
    }
    let home = program.parent().context("the program has no folder")?.join("under-test");
    std::fs::create_dir_all(&home)?;
    let call = LINKED.fetch_add(1, Ordering::Relaxed); // Tests of one program start their clusters side by side.
    let (named, beside) = (home.join("muster"), home.join(format!("muster.{}.{call}", std::process::id())));
    // Linked beside and renamed: another test program may run it at this moment.
    let _ = std::fs::remove_file(&beside);
    std::fs::hard_link(program, &beside).or_else(|_| std::fs::copy(program, &beside).map(drop))?;
    std::fs::rename(&beside, &named)?;
    let _ = std::fs::remove_file(&beside); // Renaming one link of a file over another leaves both.
    Ok(named)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn many_may_link_the_program_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("built");
        std::fs::write(&program, "x").unwrap();
        let link =
            || (0..200).all(|_| under_its_name(&program).is_ok_and(|named| named.ends_with("under-test/muster")));
        std::thread::scope(|scope| {
            let threads = [scope.spawn(link), scope.spawn(link), scope.spawn(link)];
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert_eq!(std::fs::read_dir(folder.path().join("under-test")).unwrap().count(), 1);
    }
}
