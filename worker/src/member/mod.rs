//! One member of one attempt on this worker: prepares, starts its ranks, watches them, saves what they leave, and goes.
//!
//! ```text
//!  new:     prepare ──> Prepared ──start──> launch ──> Running ──all ranks gone──> save ──> Ended ──forget──> gone
//!  adopted:                                    '──────────^ (found on disk)                   ^ (its end on disk)
//!             stop or kill at any time: what runs is ended, and the member ends
//! ```
//!
//! Orders come as one value that only grows (`Orders`), so that none is lost and none queues up; reports go to the
//! reconciler. Everything that a restarted daemon must know is in a file before the step that makes it matter: the wish
//! before a supervisor starts, a rank's end before its supervisor ends.

mod adopt;
mod disk;
mod launch;
mod links;
mod prepare;
mod ranks;
mod save;

pub(crate) use adopt::{Found, find, supervised_elsewhere};

use crate::apart::Apart;
use crate::blobs::Blobs;
use crate::cgroup;
use crate::encryption::Encryption;
use crate::environment::Base;
use crate::layout::{Layout, MemberLayout};
use crate::network::Networks;
use crate::secrets;
use crate::shim::limits::RankLimits;
use crate::shim::nursery::Nursery;
use crate::ship::{self, RankKey};
use crate::spares::Spares;
use crate::users::Users;
use crate::watch;
use launch::Supervised;
use prepare::Prepared;
use ranks::Ranks;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};
use types::{
    CheckpointRef, ClusterId, Device, Distribution, Endpoint, MemberEnd, MemberKey, MemberState, RankEnd, RankExit,
    RankPlacement, Wish,
};

/// For code, data and checkpoint to arrive: as long as the leader gives a gang. A gang of one has no other bound.
const PREPARE_MAX: Duration = Duration::from_mins(10);

/// What members of this daemon have in common.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) layout: Layout,
    pub(crate) cluster: ClusterId,
    pub(crate) base: Base,
    pub(crate) devices: Vec<Device>,
    pub(crate) data_address: IpAddr,
    /// Of each GPU, by its index.
    pub(crate) device_files: std::collections::BTreeMap<u32, PathBuf>,
    pub(crate) encryption: Encryption,
    pub(crate) networks: Networks,
    pub(crate) program: PathBuf,
    pub(crate) nursery: Nursery,
    pub(crate) spares: Arc<Spares>,
    pub(crate) spool_bytes_max: u64,
    pub(crate) hard_cpu_limit: bool,
    pub(crate) pids_max: u32,
    pub(crate) processors: crate::processors::Processors,
    pub(crate) all_calls: bool,
    pub(crate) rank_otlp: bool,
    pub(crate) limits: RankLimits,
    pub(crate) job_disk_bytes_max: u64,
    pub(crate) users: Users,
    pub(crate) apart: Option<Apart>,
    pub(crate) driver: cgroup::Driver,
    pub(crate) blobs: Blobs,
    pub(crate) secrets: secrets::Source,
    pub(crate) shipper: ship::Handle,
    pub(crate) watcher: watch::Handle,
}

/// Why a member cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    reason: String,
    /// True when the machine is at fault, false when the job is.
    machine_fault: bool,
}

impl Fault {
    fn machine(reason: String) -> Self {
        Self { reason, machine_fault: true }
    }

    fn job(reason: String) -> Self {
        Self { reason, machine_fault: false }
    }

    fn end(self) -> MemberEnd {
        MemberEnd::NotPrepared { reason: self.reason, machine_fault: self.machine_fault }
    }
}

/// What a member is to do: the newest value counts, and nothing in it is ever taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Start the ranks with these endpoints (none for a gang of one member).
    pub(crate) start: Option<Vec<Endpoint>>,
    /// SIGTERM, grace, SIGKILL.
    pub(crate) stop: bool,
    /// SIGKILL.
    pub(crate) kill: bool,
    /// The leader knows the end: go.
    pub(crate) forget: bool,
}

impl Orders {
    fn ending(&self) -> bool {
        self.stop || self.kill
    }
}

/// What a member tells the reconciler.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) key: MemberKey,
    pub(crate) event: Event,
}

/// See [`Report`].
#[derive(Debug)]
pub(crate) enum Event {
    /// Where it stands now.
    State(MemberState),
    /// A checkpoint is on a majority of coordinators.
    Checkpoint(CheckpointRef),
}

/// How a member comes into being.
#[derive(Debug)]
pub(crate) enum Origin {
    /// By a wish.
    New,
    /// Found on disk by a restarted daemon.
    Adopted(Found),
}

/// One member; runs as a task of its own until it is forgotten.
pub(crate) struct Member {
    context: Arc<Context>,
    wish: Wish,
    layout: MemberLayout,
    orders: channel::Receiver<Orders>,
    reports: mpsc::Sender<Report>,
}

impl Member {
    pub(crate) fn new(
        context: Arc<Context>,
        wish: Wish,
        orders: channel::Receiver<Orders>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let layout = context.layout.member(wish.key);
        Self { context, wish, layout, orders, reports }
    }

    /// Lives from its origin until it is forgotten and nothing of it is left.
    #[tracing::instrument(name = "member", skip_all, fields(job_id = %self.wish.key.job, attempt = %self.wish.key.attempt))]
    pub(crate) async fn run(mut self, origin: Origin) {
        let is_shipped = !matches!(origin, Origin::Adopted(Found::Ended(_)));
        let end = match origin {
            Origin::Adopted(Found::Ended(end)) => {
                // The leader may not have heard of it: saying so again changes nothing.
                if let Some(saved) = save::Saver::of_ended(&self.context, &self.wish, &self.layout).last().await {
                    self.report_checkpoint(saved).await;
                }
                end
            }
            Origin::Adopted(Found::Live) => {
                self.report(MemberState::Running).await;
                let ranks = Ranks::adopt(&self.context, &self.wish, &self.layout).await;
                self.watch_over(ranks).await
            }
            Origin::New => match self.start().await {
                Ok(ranks) => self.watch_over(ranks).await,
                Err(end) => end,
            },
        };
        self.context.processors.free(self.wish.key);
        if let Err(error) = self.remember(&end) {
            tracing::warn!(%error, "the member's end cannot be written; a restarted daemon works it out again");
        }
        self.report(MemberState::Ended(end)).await;
        self.leave(is_shipped).await;
    }

    /// From wish to running ranks.
    async fn start(&mut self) -> Result<Ranks, MemberEnd> {
        let mut orders = self.orders.clone();
        let prepared = tokio::select! {
            prepared = prepare::prepare(&self.context, &self.wish, &self.layout) => prepared.map_err(Fault::end)?,
            () = tokio::time::sleep(PREPARE_MAX) => return Err(Fault::machine("it could not be prepared in time".into()).end()),
            () = ending(&mut orders) => return Err(self.never_started()),
        };
        if self.wish.placement.members.len() > 1 {
            self.report(MemberState::Prepared(prepared.endpoints())).await;
        }
        let endpoints = self.wait_for_start(&prepared).await?;
        let started = self.launch(prepared, endpoints).await?;
        self.report(MemberState::Running).await;
        Ok(Ranks::new(&self.context, &self.wish, started).await)
    }

    async fn wait_for_start(&mut self, prepared: &Prepared) -> Result<Vec<Endpoint>, MemberEnd> {
        let own = prepared.endpoints();
        let ready = self.orders.wait_for(|orders| orders.ending() || orders.start.is_some()).await;
        // Without a reconciler there is no daemon: the end is never said.
        let orders = ready.map(|orders| orders.clone()).unwrap_or_default();
        let Some(wanted) = orders.start.filter(|_| !(orders.stop || orders.kill)) else {
            return Err(self.never_started());
        };
        if wanted.is_empty() {
            return Ok(own);
        }
        // The gang was told addresses of a life of this member that is gone.
        if own.iter().any(|endpoint| !wanted.contains(endpoint)) {
            return Err(Fault::machine("the daemon restarted while the gang was about to start".into()).end());
        }
        Ok(wanted)
    }

    async fn launch(&self, prepared: Prepared, endpoints: Vec<Endpoint>) -> Result<Vec<Supervised>, MemberEnd> {
        let (context, wish, layout) = (self.context.clone(), self.wish.clone(), self.layout.clone());
        let launched = tokio::task::spawn_blocking(move || {
            let mut started = Vec::new();
            let result = launch::launch(&context, &wish, &layout, prepared, &endpoints, &mut started);
            (result, started)
        });
        let (result, started) = launched.await.map_err(|_| Fault::machine("starting the ranks failed".into()).end())?;
        let Err(fault) = result else { return Ok(started) };
        let mut ranks = Ranks::new(&self.context, &self.wish, started).await;
        ranks.kill();
        while ranks.next_end().await.is_some() {}
        Err(fault.end())
    }

    fn never_started(&self) -> MemberEnd {
        let ranks = self.placed().iter().map(|placed| RankEnd {
            rank: placed.rank,
            exit: RankExit::NotStarted,
            out_of_memory: false,
            ended: daemon::clock::now(),
            stderr_tail: String::new(),
            streams: Vec::new(),
            final_metrics: Vec::new(),
            blames: None,
            rendezvous: None,
        });
        MemberEnd::Exited { ranks: ranks.collect(), outputs: Vec::new() }
    }

    fn placed(&self) -> &[RankPlacement] {
        self.wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default()
    }

    /// Until every rank is gone and what they left is saved.
    async fn watch_over(&mut self, mut ranks: Ranks) -> MemberEnd {
        let mut saver = save::Saver::new(&self.context, &self.wish, &self.layout, &ranks);
        let places = self.context.places(self.wish.key, &self.layout);
        let mut disk = disk::Disk::new(self.context.job_disk_bytes_max, &self.layout, places.as_ref());
        let mut orders = self.orders.clone();
        orders.mark_changed();
        let mut failing_told = false;
        loop {
            tokio::select! {
                end = ranks.next_end() => match end {
                    Some(failed) if failed => ranks.kill(),
                    Some(_) => {}
                    None => break,
                },
                saved = saver.next() => self.report_checkpoint(saved).await,
                why = disk.is_over() => ranks.end_over(&why),
                changed = orders.changed() => {
                    if changed.is_err() {
                        // The daemon ends; the ranks are adopted by the next.
                        return std::future::pending().await;
                    }
                    let now = orders.borrow_and_update().clone();
                    if now.kill {
                        ranks.kill();
                    } else if now.stop {
                        ranks.stop();
                    }
                }
            }
            if !failing_told && ranks.has_failed() && ranks.some_left() {
                failing_told = true;
                self.report(MemberState::Failing(ranks.end(Vec::new()))).await;
            }
        }
        if !failing_told && ranks.has_failed() && saver.is_busy() {
            self.report(MemberState::Failing(ranks.end(Vec::new()))).await;
        }
        if let Some(saved) = saver.last().await {
            self.report_checkpoint(saved).await;
        }
        if !ranks.has_succeeded() {
            return ranks.end(Vec::new());
        }
        let saved = tokio::select! {
            saved = save::outputs(&self.context, &self.wish, &self.layout) => saved,
            () = ending(&mut orders), if !self.wish.spec.outputs.is_empty() => {
                Err(Fault::machine("stopped before its outputs were saved".into()))
            }
        };
        saved.map_or_else(Fault::end, |outputs| ranks.end(outputs))
    }

    async fn report_checkpoint(&self, checkpoint: CheckpointRef) {
        tracing::info!(step = checkpoint.step, "checkpoint saved");
        self.tell(Event::Checkpoint(checkpoint)).await;
    }

    async fn report(&self, state: MemberState) {
        self.tell(Event::State(state)).await;
    }

    async fn tell(&self, event: Event) {
        // A reconciler that is gone ends the daemon: see `lib.rs`.
        let _ = self.reports.send(Report { key: self.wish.key, event }).await;
    }

    /// For a restarted daemon. Not flushed: what a power cut takes is said to be lost.
    fn remember(&self, end: &MemberEnd) -> std::io::Result<()> {
        if !self.layout.root().exists() || self.is_told_by_its_ranks(end) {
            return Ok(());
        }
        if !self.layout.wish().exists() {
            std::fs::write(self.layout.wish(), postcard::to_stdvec(&self.wish).map_err(std::io::Error::other)?)?;
        }
        let beside = self.layout.ended().with_extension("tmp");
        std::fs::write(&beside, postcard::to_stdvec(end).map_err(std::io::Error::other)?)?;
        std::fs::rename(&beside, self.layout.ended())
    }

    /// Its ranks' own records say the same, and nothing else had to be done: most members of most jobs.
    fn is_told_by_its_ranks(&self, end: &MemberEnd) -> bool {
        matches!(end, MemberEnd::Exited { .. })
            && self.wish.spec.outputs.is_empty()
            && self.layout.wish().exists()
            && supervised(&self.wish).iter().all(|placed| self.layout.rank(placed.rank).exists())
    }

    /// Waits until the leader knows the end and a majority has every byte, then removes the folder.
    async fn leave(&mut self, is_shipped: bool) {
        let key = self.wish.key;
        let ranks: Vec<RankKey> = self
            .placed()
            .iter()
            .filter(|placed| self.layout.rank(placed.rank).exists())
            .map(|placed| RankKey { job: key.job, attempt: key.attempt, rank: placed.rank })
            .collect();
        for rank in ranks.iter().filter(|_| !is_shipped) {
            self.context.shipper.add(*rank, self.wish.token, self.layout.rank(rank.rank)).await;
        }
        for rank in ranks {
            self.context.shipper.finish(rank).await;
        }
        if self.orders.wait_for(|orders| orders.forget).await.is_err() {
            return;
        }
        let (spares, layout) = (self.context.spares.clone(), self.layout.clone());
        let places = self.context.places(key, &layout);
        let removed = tokio::task::spawn_blocking(move || {
            places.map_or(Ok(()), |places| places.remove()).and_then(|()| spares.retire(&layout))
        });
        let removed = removed.await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "the member's folder cannot be removed");
        }
        self.context.users.free(key);
    }
}

/// The ranks of a member that get a supervisor: all, but for MPI, where the first one's program starts the others.
fn supervised(wish: &Wish) -> &[RankPlacement] {
    let ranks = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
    if wish.spec.gang.distribution == Distribution::Mpi { &ranks[..ranks.len().min(1)] } else { ranks }
}

/// Returns once the member is to end.
async fn ending(orders: &mut channel::Receiver<Orders>) {
    if orders.wait_for(Orders::ending).await.is_err() {
        std::future::pending::<()>().await;
    }
}
