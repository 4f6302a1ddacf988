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
mod history;
pub mod invariants;
pub(crate) mod linearizable;
mod network;
mod reference;
mod seeds;
mod trace;
mod workers;

pub use breaks::Break;
pub use chance::Chance;
pub use seeds::{Options, Summary, run_all};

use coordinators::Coordinators;
use history::History;
use network::Network;
use reference::Reference;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use trace::Trace;
use workers::Witness;

/// The clocks at the beginning, since 1970 and since boot.
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
    trace: Mutex<Trace>,
    network: Arc<Network>,
    coordinators: Mutex<Coordinators>,
    reference: Mutex<Reference>,
    history: Mutex<History>,
    witness: Mutex<Witness>,
    counts: Mutex<Counts>,
    violations: Mutex<Vec<String>>,
    /// The faults are over; clients and workers go on until `ending`.
    ending: daemon::Shutdown,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            plan,
            began: Instant::now(),
            trace: Mutex::new(Trace::new(plan.print)),
            network: Arc::new(Network::new(plan.seed)),
            coordinators: Mutex::default(),
            reference: Mutex::default(),
            history: Mutex::default(),
            witness: Mutex::default(),
            counts: Mutex::default(),
            violations: Mutex::default(),
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

/// Time since boot, and since 1970, as the simulation has it.
fn virtual_clock() -> Duration {
    EPOCH + BEGAN.get().map_or(Duration::ZERO, Instant::elapsed)
}

/// Simulates one seed on this thread, which must be the process's first to do so.
pub fn simulate(plan: Plan, folder: &std::path::Path) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let folder = folder.to_owned();
    runtime.block_on(async move {
        BEGAN.get_or_init(Instant::now);
        daemon::clock::simulate(virtual_clock);
        let world = World::new(plan);
        if let Err(what) = live(&world, &folder).await {
            world.violated(what);
        }
        world.ending.start();
        let trace = locked(&world.trace);
        Ok(Report {
            hash: trace.hash(),
            events: trace.events(),
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
    faults::rage(world).await;
    if world.has_failed() {
        return Ok(());
    }
    faults::heal(world).await?;
    invariants::liveness::check(world).await?;
    world.ending.start();
    within(clients).await?;
    within(workers).await?;
    invariants::check_at_the_end(world).await
}

async fn within(tasks: impl Future<Output = ()>) -> Result<(), String> {
    tokio::time::timeout(Duration::from_mins(1), tasks).await.map_err(|_| "a task of the simulation hangs".to_owned())
}
