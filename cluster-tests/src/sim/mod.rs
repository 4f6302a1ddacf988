//! The control plane in one thread under virtual time: everything that happens follows from a seed, so it can happen again.
//!
//! ```text
//!  clients, workers ──calls that may be lost──> coordinators: the product's Node, store, state machine, leader loop
//!  faults: cuts, loss, delay, crashes,               │ RPC (the product's, over streams of `network`)    │ log (`disk`)
//!          slow disks, membership                    v                                                   v
//!  trace ── hash, last events            reference: the log applied once more, entry by entry ──> invariants
//! ```
//!
//! A process simulates one seed: hash orders and tokio's own choices follow from the process's random bytes, which the
//! program `sim` takes from the seed, and from nothing that another seed left behind. What is real, what is simulated and
//! what is not looked at is told in `docs/reliability.md`.

mod breaks;
mod chance;
mod clients;
mod coordinators;
mod disk;
mod faults;
mod guard;
mod history;
pub mod invariants;
pub(crate) mod linearizable;
mod members;
mod network;
mod reference;
mod scratch;
mod seeds;
mod self_test;
mod trace;
mod watchers;
mod workers;

pub use breaks::Break;
pub use chance::Chance;
pub use guard::guarded;
pub use scratch::Scratch;
pub use seeds::{Options, Summary, run_all};
pub use self_test::self_test;

use coordinators::Coordinators;
use history::History;
use network::Network;
use reference::Reference;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use trace::Trace;
use types::Timestamp;
use workers::Witness;

/// The clocks at the beginning, since 1970 and since boot; the former is wrong by what `coordinators` says.
const EPOCH: Duration = Duration::from_hours(500_000);

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// What one seed is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// All chance follows from it.
    pub seed: u64,
    /// Of faults; some more follow in which all must come right.
    pub seconds: u64,
    /// Coordinators: 3 or 5.
    pub nodes: u64,
    /// A deliberate fault that the invariants must find.
    pub broken: Option<Break>,
    /// Prints every event.
    pub print: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Equal for two runs of one seed.
    pub hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Virtual time from the first election to the last look, in milliseconds.
    pub virtual_ms: u64,
    /// What was done.
    pub counts: Counts,
    /// Invariants that did not hold.
    pub violations: Vec<String>,
    /// The end of the trace.
    pub last: Vec<String>,
}

/// What one seed did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Entries of the log that were looked at.
    pub entries: u64,
    /// Acknowledged submits and cancels.
    pub acknowledged: u64,
    /// Operations in the checked history.
    pub operations: u64,
    /// Crashes of coordinators.
    pub crashes: u64,
    /// Cuts.
    pub cuts: u64,
    /// Snapshots that coordinators began from at a restart, or got from others.
    pub snapshots: u64,
    /// Coordinators added and removed.
    pub changes: u64,
    /// Events that watchers heard of.
    pub events: u64,
    /// Ranks that workers started.
    pub ranks: u64,
    /// Jobs that ended.
    pub ended: u64,
    /// Terms.
    pub terms: u64,
}

/// What every part of a simulation shares.
pub struct World {
    plan: Plan,
    began: Instant,
    trace: Arc<Mutex<Trace>>,
    network: Arc<Network>,
    coordinators: Mutex<Coordinators>,
    reference: Mutex<Reference>,
    history: Mutex<History>,
    witness: Mutex<Witness>,
    counts: Mutex<Counts>,
    violations: Mutex<Vec<String>>,
    /// What each watcher heard of.
    seen: Mutex<Vec<Vec<watchers::Seen>>>,
    /// Somebody is about to change the group.
    changing: AtomicBool,
    /// A client was just told that its submit or cancel is in the log.
    acknowledged: tokio::sync::Notify,
    /// The faults are over; clients and workers go on until `ending`.
    ending: daemon::Shutdown,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn new(plan: Plan, trace: Arc<Mutex<Trace>>) -> Arc<Self> {
        Arc::new(Self {
            plan,
            began: Instant::now(),
            trace,
            network: Arc::new(Network::new(plan.seed)),
            coordinators: Mutex::default(),
            reference: Mutex::default(),
            history: Mutex::default(),
            witness: Mutex::default(),
            counts: Mutex::default(),
            violations: Mutex::default(),
            seen: Mutex::default(),
            changing: AtomicBool::new(false),
            acknowledged: tokio::sync::Notify::new(),
            ending: daemon::Shutdown::new(),
        })
    }

    fn chance(&self, purpose: &str) -> Chance {
        Chance::new(self.plan.seed, purpose)
    }

    fn is_broken(&self, by: Break) -> bool {
        self.plan.broken == Some(by)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn note(&self, what: &str) {
        locked(&self.trace).note(self.now(), what);
    }

    fn enter(&self, phase: &'static str) {
        locked(&self.trace).enter(phase);
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut locked(&self.counts));
    }

    fn violated(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        locked(&self.violations).push(what);
    }

    fn has_failed(&self) -> bool {
        !locked(&self.violations).is_empty()
    }
}

/// Time since boot, as the simulation has it.
fn boot_clock() -> Duration {
    EPOCH + BEGAN.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// Time since 1970, as the coordinator has it that leads: who leads stamps the log, and plans by its own clock.
fn wall_clock() -> Timestamp {
    let right = i64::try_from(boot_clock().as_millis()).unwrap_or(i64::MAX);
    Timestamp(u64::try_from(right.saturating_add(coordinators::SKEW_MS.load(Ordering::Relaxed))).unwrap_or(0))
}

/// Simulates one seed on this thread, which must be the process's first to do so.
fn simulate(plan: Plan, folder: &std::path::Path, trace: Arc<Mutex<Trace>>) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let folder = folder.to_owned();
    runtime.block_on(async move {
        BEGAN.get_or_init(Instant::now);
        daemon::clock::simulate(boot_clock, wall_clock);
        let world = World::new(plan, trace);
        if let Err(what) = live(&world, &folder).await {
            world.violated(what);
        }
        world.ending.start();
        let trace = locked(&world.trace);
        Ok(Report {
            hash: trace.hash(),
            events: trace.events(),
            virtual_ms: world.now().as_millis() as u64,
            counts: *locked(&world.counts),
            violations: locked(&world.violations).clone(),
            last: trace.last().cloned().collect(),
        })
    })
}

/// From the first election to the last look.
async fn live(world: &Arc<World>, folder: &std::path::Path) -> Result<(), String> {
    coordinators::found(world, folder).await?;
    let clients = clients::start(world);
    let workers = workers::start(world);
    let watchers = watchers::start(world);
    world.enter("among the faults");
    faults::rage(world).await;
    if world.has_failed() {
        return Ok(());
    }
    world.enter("when all was healed");
    faults::heal(world).await?;
    invariants::liveness::check(world).await?;
    within(members::come_to_rest(world)).await?;
    let unheard = invariants::events::check(world).await;
    world.enter("at the end");
    world.ending.start();
    within(clients).await?;
    within(workers).await?;
    within(watchers).await?;
    for fault in unheard {
        world.violated(fault);
    }
    invariants::check_at_the_end(world).await
}

async fn within(tasks: impl Future<Output = ()>) -> Result<(), String> {
    tokio::time::timeout(Duration::from_mins(1), tasks).await.map_err(|_| "a task of the simulation hangs".to_owned())
}
