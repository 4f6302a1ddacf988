//! W5: queues whose weight is a register that several clients read and write, each time through some coordinator.
//!
//! A call goes to one coordinator once: a client that tried again could write twice, and what is written twice is no register.
//! So a write without an answer may have happened, or may yet.

use super::Hand;
use crate::Cluster;
use crate::sim::Chance;
use crate::sim::linearizable::{Action, Operation};
use client::{Client, Patience, v1};
use std::time::Duration;

const NAMES: [&str; 3] = ["register-a", "register-b", "register-c"];
const PACE: Duration = Duration::from_millis(40);
/// What a queue weighs that nobody wrote to.
const UNWRITTEN: u32 = 1;
/// Numbers of each writer, below the greatest weight that a queue may have.
const WRITES_MAX: u64 = 100_000;

fn queue(name: &str, weight: u32) -> v1::Queue {
    v1::Queue { name: name.to_owned(), weight, ..Default::default() }
}

/// Makes them.
pub(super) async fn create(cluster: &Cluster) -> anyhow::Result<()> {
    for name in NAMES {
        cluster.client().create_queue(&queue(name, UNWRITTEN)).await?;
    }
    Ok(())
}

/// A client for each coordinator, which asks once.
pub(super) fn each(cluster: &Cluster) -> anyhow::Result<Vec<Client>> {
    let once = Patience {
        one_try: Duration::from_secs(2),
        in_all: Duration::ZERO,
        unreachable: Duration::ZERO,
        hedge_after: None,
    };
    let clients = (1..=cluster.addresses().len()).map(|id| Ok(cluster.client_of(id as u64)?.with_patience(once)));
    clients.collect()
}

/// One client.
pub(super) async fn use_them(clients: Vec<Client>, hand: Hand, mut chance: Chance, number: u64) -> anyhow::Result<()> {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = 0;
    while hand.goes_on() {
        pace.tick().await;
        let coordinator = usize::try_from(chance.between(0, clients.len() as u64))?;
        let (client, called) = (&clients[coordinator], hand.history.now());
        if chance.thousandths(500) && written < WRITES_MAX {
            written += 1;
            let value = 2 + number * WRITES_MAX + written;
            let name = NAMES[usize::try_from(chance.between(0, NAMES.len() as u64))?];
            let answer = client.update_queue(&queue(name, u32::try_from(value)?)).await;
            let returned = answer.is_ok().then(|| hand.history.now());
            hand.history.operation(name, Operation { action: Action::Write(value), called, returned });
        } else if let Ok(queues) = client.queues().await {
            let returned = Some(hand.history.now());
            for status in queues.into_iter().filter_map(|status| status.queue) {
                if NAMES.contains(&status.name.as_str()) {
                    let value = (status.weight != UNWRITTEN).then_some(u64::from(status.weight));
                    hand.history.operation(&status.name, Operation { action: Action::Read(value), called, returned });
                }
            }
        }
    }
    Ok(())
}
