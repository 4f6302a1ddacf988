//! Watchers of all jobs: each follows one coordinator's events, goes to another when that one dies or they tire of it, and takes
//! up where it was, as the product's client does.

use super::chance::Chance;
use super::{Break, World, locked};
use coordinator::simulated;
use futures::StreamExt;
use proto::v1::JobEvent;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const WATCHERS: u64 = 2;
/// Their numbers in the network begin after this.
const FIRST: u64 = 300;
/// For a stream to begin.
const PATIENCE: Duration = Duration::from_secs(3);

/// One event as a watcher got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Of the log.
    pub index: u64,
    /// Which job.
    pub job: u64,
    /// By its name in the API.
    pub phase: String,
}

/// Starts them; the future ends when all have.
pub fn start(world: &Arc<World>) -> impl Future<Output = ()> + use<> {
    let mut tasks = JoinSet::new();
    locked(&world.seen).resize(WATCHERS as usize, Vec::new());
    for number in 0..WATCHERS {
        let chance = world.chance(&format!("watcher {number}"));
        let watcher = Watcher { world: world.clone(), number, chance, after: 0, at_after: BTreeSet::new() };
        tasks.spawn(watcher.run());
    }
    async move { while tasks.join_next().await.is_some() {} }
}

struct Watcher {
    world: Arc<World>,
    number: u64,
    chance: Chance,
    /// The newest entry that it has events of.
    after: u64,
    /// The jobs of these events: an entry may have changed more.
    at_after: BTreeSet<u64>,
}

impl Watcher {
    async fn run(mut self) {
        while !self.world.ending.started() {
            if let Some(at) = self.chance.pick(&self.world.alive()) {
                let most = Duration::from_millis(self.chance.between(300, 6_000));
                // Whatever it was waiting for, it then goes elsewhere.
                let _ = tokio::time::timeout(most, self.follow(at)).await;
            }
            let pause = self.chance.between(20, 300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Until the stream ends or the coordinator dies.
    async fn follow(&mut self, at: u64) {
        let (world, own) = (self.world.clone(), FIRST + self.number);
        let Some(running) = world.running(at) else { return };
        if !world.network.hop(own, at).await {
            return;
        }
        // Again from before the newest entry: its other events may not have come.
        let known = if world.is_broken(Break::HastyWatcher) { self.after } else { self.after.saturating_sub(1) };
        let opened = simulated::watch(&running.node, known, running.life.clone());
        let Ok(Some(mut events)) = tokio::time::timeout(PATIENCE, opened).await else { return };
        while let Some(Ok(event)) = events.next().await {
            world.network.passage(at, own).await;
            self.take(event);
        }
    }

    fn take(&mut self, event: JobEvent) {
        let Some(job) = event.job else { return };
        let is_known = event.index < self.after || (event.index == self.after && self.at_after.contains(&job.id));
        // Only the entry that it asked for again may come again.
        if event.index < self.after {
            let (index, after) = (event.index, self.after);
            self.world.violated(format!("I11: watcher {} hears of entry {index} after {after}", self.number));
        }
        if is_known {
            return;
        }
        if event.index > self.after {
            self.after = event.index;
            self.at_after.clear();
        }
        self.at_after.insert(job.id);
        let seen = Seen { index: event.index, job: job.id, phase: job.phase };
        if let Some(of) = locked(&self.world.seen).get_mut(self.number as usize) {
            of.push(seen);
        }
    }
}
