//! One run: a cluster and its load, some faults, everything back and ended, all checks. What failed is kept.

use super::checks::{self, Counts};
use super::history::History;
use super::load::{Gangs, Load};
use super::strikes::{Strike, Struck, World};
use crate::sim::Chance;
use crate::{Cluster, Shape};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const COORDINATORS: u64 = 3;
/// Gangs of three ranks that run from the beginning to the end.
const LASTING: usize = 2;

/// What a run is made of.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// The program under test.
    pub(super) muster: PathBuf,
    /// What ranks run.
    pub(super) witness: PathBuf,
    /// Where clusters and what is kept of them lie.
    pub(super) folder: PathBuf,
    /// Workers.
    pub(super) workers: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Faults that were made.
    pub(super) faults: usize,
    /// The row's figure.
    pub(super) times: Vec<Duration>,
    /// What did not hold.
    pub(super) violations: Vec<String>,
    /// What was looked at.
    pub(super) counts: Counts,
    /// Where history, data and logs are, if something did not hold.
    pub(super) kept: Option<PathBuf>,
}

/// Runs once. An error says that nothing could be run; what went wrong later is a violation.
pub(super) async fn run(setup: &Setup, strike: Strike, faults: usize, seed: u64) -> anyhow::Result<Outcome> {
    let (cluster, has_network) = start(setup, strike).await?;
    let history = Arc::new(History::new());
    let gangs = Gangs::new(&cluster, &setup.witness, seed)?;
    let chance = Chance::new(seed, "faults");
    let mut world = World {
        cluster,
        history,
        gangs,
        chance,
        has_network,
        disk: None,
        turn: 0,
        former: Vec::new(),
        may_be_fenced: false,
    };
    let mut outcome = Outcome::default();
    if let Err(error) = through(&mut world, strike, faults, seed, &mut outcome).await {
        outcome.violations.push(format!("the run did not come to its end: {error:#}"));
        outcome.violations.extend(world.history.told().faults.clone());
    }
    if !outcome.violations.is_empty() {
        outcome.kept = Some(keep(&mut world, &setup.folder, seed, &outcome.violations)?);
    }
    Ok(outcome)
}

async fn start(setup: &Setup, strike: Strike) -> anyhow::Result<(Cluster, bool)> {
    let shape = Shape::new(COORDINATORS, setup.workers);
    let network = strike.wants_network().then(|| Cluster::empty_network(&setup.folder, &setup.muster));
    let (mut cluster, has_network) = match network {
        Some(Ok(cluster)) => (cluster, true),
        Some(Err(error)) if strike.needs_network() => return Err(error),
        _ => (Cluster::empty(&setup.folder, &setup.muster)?, false),
    };
    cluster.come_up(&shape).await.map_err(|error| error.context(cluster.logs()))?;
    Ok((cluster, has_network))
}

async fn through(
    world: &mut World,
    strike: Strike,
    faults: usize,
    seed: u64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut load = Load::start(&world.cluster, &world.history, seed).await?;
    world.gangs.start(&world.cluster, &world.history, LASTING).await?;
    while outcome.faults < faults {
        let Struck { faults, times, violations } = strike.strike(world).await?;
        outcome.faults += faults;
        outcome.times.extend(times);
        outcome.violations.extend(violations);
    }
    load.stop().await?;
    world.gangs.open()?;
    checks::until_all_ended(&world.cluster).await?;
    world.gangs.until_read().await?;
    load.stop_watching().await;
    let World { cluster, history, gangs, may_be_fenced, .. } = world;
    let is_left_alone = strike.leaves_gangs_alone() && !*may_be_fenced;
    let (violations, counts) = checks::all(cluster, history, gangs, seed, is_left_alone).await?;
    outcome.violations.extend(violations);
    outcome.counts = counts;
    Ok(())
}

/// Puts everything that is needed to find out why into a folder.
fn keep(world: &mut World, parent: &Path, seed: u64, violations: &[String]) -> anyhow::Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix(&format!("violation-seed-{seed}-")).tempdir_in(parent)?.keep();
    world.cluster.keep(&folder)?;
    std::fs::write(folder.join("history"), world.history.text())?;
    std::fs::write(folder.join("violations"), violations.join("\n"))?;
    Ok(folder)
}
