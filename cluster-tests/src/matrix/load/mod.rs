//! What clients do all the while: submit and cancel, read and write, watch, and gangs whose ranks print and bear witness.

mod gangs;
mod registers;
mod submits;
mod watchers;

pub(super) use gangs::{Gang, Gangs};

use super::history::History;
use crate::Cluster;
use crate::sim::Chance;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

const SUBMITTERS: u64 = 4;
const WRITERS: u64 = 6;
const WATCHERS: u64 = 2;

/// Clients at work.
#[derive(Debug)]
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<anyhow::Result<()>>,
    watchers: JoinSet<()>,
}

/// What each client has.
#[derive(Clone, Debug)]
struct Hand {
    stop: Arc<AtomicBool>,
    history: Arc<History>,
}

impl Hand {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Load {
    /// Begins.
    pub(super) async fn start(cluster: &Cluster, history: &Arc<History>, seed: u64) -> anyhow::Result<Self> {
        let hand = Hand { stop: Arc::default(), history: history.clone() };
        let mut load = Self { stop: hand.stop.clone(), clients: JoinSet::new(), watchers: JoinSet::new() };
        registers::create(cluster).await?;
        for number in 0..WATCHERS {
            load.watchers.spawn(watchers::watch(cluster.client(), history.clone(), number));
        }
        for number in 0..SUBMITTERS {
            let chance = Chance::new(seed, &format!("submitter {number}"));
            load.clients.spawn(submits::submit(cluster.client(), hand.clone(), chance, number));
        }
        for number in 0..WRITERS {
            let chance = Chance::new(seed, &format!("writer {number}"));
            load.clients.spawn(registers::use_them(registers::each(cluster)?, hand.clone(), chance, number));
        }
        Ok(load)
    }

    /// Lets each client finish what it began.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client??;
        }
        Ok(())
    }

    /// Those who only look look no longer.
    pub(super) async fn stop_watching(&mut self) {
        self.watchers.shutdown().await;
    }
}
