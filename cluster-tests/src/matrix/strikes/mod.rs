//! What is done to a cluster under load, by a seeded plan, and what is looked at right after it.

mod behind;
mod coordinators;
mod disks;
mod links;
mod moments;
mod overload;
mod pauses;
mod ranks;
mod repeats;
mod splits;
mod want;
mod workers;

use super::history::History;
use super::load::Gangs;
use crate::sim::Chance;
use crate::{Cluster, PATIENCE, SmallDisk, until};
use anyhow::Context as _;
pub(super) use repeats::Former;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;
use std::time::Duration;

/// Load before each fault: what is broken must have worked.
const BEFORE: Duration = Duration::from_millis(500);
/// How long after a fault the longest silence is looked for.
const AFTER: Duration = Duration::from_secs(3);

/// What a worker's lease is unless told otherwise, as these clusters' is.
const LEASE: Duration = Duration::from_secs(4);
/// A heartbeat every 667 ms, and its answer: by so much a lease may have run already when nobody is there any more to renew it.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    /// SIGKILL of a coordinator, which comes back within 3 s.
    KillCoordinator,
    /// SIGKILL of all coordinators at once, or each is stopped and started in its turn.
    RestartAll,
    /// SIGKILL of a worker's daemon, which comes back before its lease is over.
    KillDaemon,
    /// All processes of a worker are killed, or its host is cut off.
    LoseHost,
    /// SIGKILL of one rank of a gang.
    KillRank,
    /// SIGSTOP of a process for up to 8 s.
    Pause,
    /// Hosts that do not reach each other, for up to 8 s.
    Split,
    /// The same one way, or between two of three coordinators.
    HalfSplit,
    /// A cancel between 0 and 2 s after the submit.
    Cancel,
    /// Daemon and supervisors are killed together; the ranks have left orphans.
    Orphan,
    /// A coordinator's next flush fails with EIO.
    FlushFault,
    /// A coordinator's disk has no room left.
    FullDisk,
    /// A file of a coordinator that does not run is changed, cut, emptied or deleted.
    Damage,
    /// A coordinator is away until only a snapshot brings it back, under load.
    Behind,
    /// All connections of a daemon are reset, at one side or at both.
    Reset,
    /// Links that carry little, late, and not all of it, for up to 10 s.
    SlowLink,
    /// Flushes of a coordinator are slow or stand still, for up to 10 s.
    SlowFlush,
    /// A daemon lacks processor time, descriptors or threads, for up to 8 s.
    Starve,
    /// Calls that come several times, at once, late and out of order.
    Repeat,
    /// A daemon is killed at a durable step, or stands still in it for 5 s.
    Moment,
    /// Ten times as many clients as bring the cluster to its peak.
    Crush,
    /// Several of these, one after the other.
    Mixed,
}

/// What a mixture is made of, in turn.
const MIX: [Strike; 5] =
    [Strike::KillCoordinator, Strike::KillRank, Strike::Pause, Strike::KillDaemon, Strike::LoseHost];

/// A cluster under load.
#[derive(Debug)]
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) history: Arc<History>,
    pub(super) gangs: Gangs,
    pub(super) chance: Chance,
    /// Are its daemons on hosts of their own?
    pub(super) has_network: bool,
    /// The disk of the coordinator that has a small one.
    pub(super) disk: Option<SmallDisk>,
    /// How often it was struck.
    pub(super) turn: usize,
    /// Submits of this run that may come again.
    pub(super) former: Vec<Former>,
    /// Was a daemon away for so long that its lease may have ended?
    pub(super) may_be_fenced: bool,
}

/// What one strike did.
#[derive(Clone, Debug, Default)]
pub(super) struct Struck {
    /// Faults.
    pub(super) faults: usize,
    /// The row's figure, for those faults that have one.
    pub(super) times: Vec<Duration>,
    /// What did not hold.
    pub(super) violations: Vec<String>,
}

impl Struck {
    fn one(time: Option<Duration>) -> Self {
        Self { faults: 1, times: time.into_iter().collect(), violations: Vec::new() }
    }
}

impl Strike {
    /// How many faults a row has unless told otherwise.
    pub(super) fn usual(self) -> usize {
        match self {
            Strike::KillCoordinator | Strike::KillDaemon | Strike::KillRank | Strike::Orphan | Strike::Mixed => 200,
            Strike::LoseHost | Strike::Pause | Strike::Split | Strike::FlushFault | Strike::Repeat => 100,
            Strike::Moment => 120,
            Strike::Crush => 5,
            Strike::HalfSplit | Strike::FullDisk | Strike::RestartAll => 50,
            Strike::Cancel | Strike::Damage => 1_000,
            Strike::Behind => 10,
            Strike::Reset => 500,
            Strike::SlowLink | Strike::SlowFlush | Strike::Starve => 20,
        }
    }

    /// Faults of one cluster's life: each run ends with all checks.
    pub(super) fn in_a_run(self) -> usize {
        match self {
            Strike::Cancel => 200,
            Strike::KillRank | Strike::Damage => 50,
            Strike::FullDisk | Strike::Behind => 5,
            Strike::Crush => 1,
            Strike::Reset => 100,
            Strike::SlowLink | Strike::SlowFlush | Strike::Starve => 10,
            Strike::Moment => 12,
            _ => 20,
        }
    }

    /// What the row's times are.
    pub(super) fn figure(self) -> &'static str {
        match self {
            Strike::KillCoordinator => "from the leader's death to the next acknowledged write",
            Strike::RestartAll => "from the start of all to the next acknowledged write",
            Strike::KillDaemon => "from the new daemon's start to its session",
            Strike::LoseHost => "from the loss to the gang running elsewhere",
            Strike::KillRank => "from the rank's death to the others gone",
            Strike::Pause => "from the leader's stop to the next acknowledged write",
            Strike::Split | Strike::HalfSplit => "from the leader's cut to the next acknowledged write",
            Strike::Cancel => "from the cancel to the job's end",
            Strike::Orphan => "from the kill to the last process gone",
            Strike::FlushFault => "from arming the fault to the coordinator's end",
            Strike::FullDisk => "from the full disk to the coordinator's end",
            Strike::Mixed => "of each fault its own",
            Strike::Repeat => "from the first of many equal submits to the last answer",
            Strike::Moment => "from the process's return to the end of the longest silence",
            Strike::Crush => "from the end of the crush to a steady load",
            Strike::Behind => "from its start to the coordinator having caught up",
            Strike::Reset => "from the reset of the leader's connections to the next acknowledged write",
            Strike::SlowLink => "from the leader's link getting slow to the next acknowledged write",
            Strike::SlowFlush => "from the leader's disk getting slow to the next acknowledged write",
            Strike::Starve => "from the leader's want to the next acknowledged write",
            Strike::Damage => "from its start to the coordinator serving or refusing",
        }
    }

    /// Does it need hosts of their own for the daemons?
    pub(super) fn needs_network(self) -> bool {
        matches!(self, Strike::Split | Strike::HalfSplit | Strike::Reset | Strike::SlowLink)
    }

    /// Does it use them where they are permitted?
    pub(super) fn wants_network(self) -> bool {
        self.needs_network() || matches!(self, Strike::LoseHost | Strike::Mixed)
    }

    /// May no lasting gang notice it?
    pub(super) fn leaves_gangs_alone(self) -> bool {
        use Strike::{Behind, Cancel, Damage, FlushFault, FullDisk, KillCoordinator, KillDaemon, KillRank};
        use Strike::{Crush, Moment, Repeat, Reset, RestartAll, SlowFlush};
        matches!(self, KillCoordinator | KillDaemon | KillRank | Cancel | FlushFault | FullDisk | Damage | RestartAll)
            || matches!(self, Behind | Reset | SlowFlush | Repeat | Moment | Crush)
    }

    /// Strikes once, and returns when all daemons are back.
    pub(super) async fn strike(self, world: &mut World) -> anyhow::Result<Struck> {
        world.history.answers.flow(BEFORE).await?;
        let kind = if self == Strike::Mixed { MIX[world.turn % MIX.len()] } else { self };
        world.turn += 1;
        let struck = match kind {
            Strike::KillCoordinator => coordinators::kill(world).await,
            Strike::RestartAll => coordinators::restart_all(world).await,
            Strike::KillDaemon => workers::kill_daemon(world).await,
            Strike::LoseHost => workers::lose(world).await,
            Strike::KillRank => ranks::kill(world).await,
            Strike::Pause => pauses::pause(world).await,
            Strike::Split => splits::split(world).await,
            Strike::HalfSplit => splits::half(world).await,
            Strike::Cancel => ranks::cancel(world).await,
            Strike::Orphan => workers::leave_orphans(world).await,
            Strike::FlushFault => disks::fail_flush(world).await,
            Strike::FullDisk => disks::fill(world).await,
            Strike::Damage => disks::damage(world).await,
            Strike::Behind => behind::catch_up(world).await,
            Strike::Reset => links::reset(world).await,
            Strike::SlowLink => links::slow(world).await,
            Strike::SlowFlush => want::slow_flush(world).await,
            Strike::Starve => want::starve(world).await,
            Strike::Repeat => repeats::repeat(world).await,
            Strike::Moment => moments::strike(world).await,
            Strike::Crush => overload::crush(world).await,
            Strike::Mixed => Err(anyhow::anyhow!("a mixture is no part of one")),
        }?;
        world.until_whole().await?;
        Ok(struck)
    }
}

impl World {
    /// Waits until each coordinator has what the leader has, and all workers are ready.
    pub(super) async fn until_whole(&self) -> anyhow::Result<()> {
        let behind = self.cluster.client().status(false).await?.commit_index;
        for id in 1..=self.cluster.addresses().len() as u64 {
            let client = self.cluster.client_of(id)?;
            until(&format!("coordinator {id} to catch up"), PATIENCE, async || {
                let status = client.status(true).await.ok()?;
                (status.applied_index >= behind && status.leader > 0).then_some(())
            })
            .await?;
        }
        let client = self.cluster.client();
        until("all workers to be ready", PATIENCE, async || {
            let workers = client.workers().await.ok()?;
            // Where several jobs failed by the machine's fault no more are started: taken back as an operator would.
            for aside in workers.iter().filter(|worker| worker.state == "set aside") {
                client.cordon(&aside.name).await.ok()?;
                client.uncordon(&aside.name).await.ok()?;
            }
            workers.iter().all(|worker| worker.state == "ready").then_some(())
        })
        .await
    }

    /// Who renews leases, or has them renewed, was away for so long: ranks whose lease ended meanwhile end as they must.
    fn note_absence(&mut self, who: &str, away: Duration) {
        if away + HEARTBEAT >= LEASE {
            eprintln!("{who} was away for {away:?}: leases may have ended, so that I10 says nothing in this run");
            self.may_be_fenced = true;
        }
    }

    /// Some milliseconds.
    fn span(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.chance.between(least_ms, most_ms))
    }

    /// The leader in half of all cases, else one of the others; and whether it leads.
    async fn a_coordinator(&mut self) -> anyhow::Result<(u64, bool)> {
        let leader = self.cluster.leader().await?;
        if self.chance.thousandths(500) {
            return Ok((leader, true));
        }
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        Ok((self.chance.pick(&others).context("another coordinator")?, false))
    }

    /// Any worker.
    async fn a_worker(&mut self) -> anyhow::Result<String> {
        let workers = self.cluster.client().workers().await?;
        let index = self.chance.between(0, workers.len() as u64);
        Ok(workers.into_iter().nth(usize::try_from(index)?).context("no worker")?.name)
    }

    /// A worker that runs a rank of this job.
    async fn a_worker_of(&mut self, job: types::JobId) -> anyhow::Result<String> {
        let workers = self.cluster.client().get(job).await?.summary.unwrap_or_default().workers;
        let index = self.chance.between(0, workers.len() as u64);
        workers.into_iter().nth(usize::try_from(index)?).context("the gang has no workers")
    }
}

/// Sends a signal to a process that may be gone.
fn signal(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("0 is not a process")?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
