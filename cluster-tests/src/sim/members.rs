//! Coordinators that come and go while all else goes wrong: added with an empty disk, removed for good, the leader among them.
//! Whoever changes the group asks until there is an answer, as an operator would; one change at a time.

use super::chance::Chance;
use super::network::Network;
use super::{World, coordinators};
use coordinator::raft::{Addresses, MemberError, Node};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use types::CoordinatorId;

/// As many more than at the beginning may belong to the group.
const MORE_MAX: u64 = 2;
/// For one call; the product's own bound is longer, and the leader may be cut off meanwhile.
const CALL_MAX: Duration = Duration::from_secs(20);

/// Begins a change, unless one is under way.
pub async fn change(world: &Arc<World>, chance: &mut Chance) {
    if world.changing.load(Ordering::Relaxed) {
        return;
    }
    let members = world.hosts();
    let count = members.len() as u64;
    if count < world.plan.nodes + MORE_MAX && (count <= world.plan.nodes || chance.thousandths(500)) {
        let id = coordinators::make(world);
        if let Err(what) = coordinators::start(world, id).await {
            world.violated(what);
            return;
        }
        ask(world, id, true);
    } else {
        let leader = world.leaders().first().copied().filter(|_| chance.thousandths(500));
        let Some(id) = leader.or_else(|| chance.pick(&members)) else { return };
        ask(world, id, false);
    }
}

/// Asks whoever leads until it is done.
fn ask(world: &Arc<World>, id: u64, add: bool) {
    world.changing.store(true, Ordering::Relaxed);
    world.note(&format!("coordinator {id} is to be {}", if add { "added" } else { "removed" }));
    let world = world.clone();
    tokio::spawn(async move {
        while !world.ending.started() {
            let leader = world.leaders().first().and_then(|leader| world.running(*leader));
            if let Some(leader) = leader
                && is_done(&leader.node, id, add).await
            {
                world.note(&format!("coordinator {id} is {}", if add { "added" } else { "removed" }));
                world.count(|counts| counts.changes += 1);
                if !add {
                    coordinators::retire(&world, id);
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        world.changing.store(false, Ordering::Relaxed);
    });
}

/// A removal that was made though its answer was lost is refused the next time. So would be one that an old leader does not know
/// of: only a leader that surely leads is believed.
async fn is_done(node: &Node, id: u64, add: bool) -> bool {
    let asked = tokio::time::timeout(CALL_MAX, async {
        if add {
            node.add_member(CoordinatorId(id), Addresses { grpc: Network::address(id), http: String::new() }).await
        } else {
            node.remove_member(CoordinatorId(id)).await
        }
    });
    match asked.await {
        Ok(Ok(())) => true,
        Ok(Err(MemberError::Refused(_))) if !add => {
            let knows = node.linearizable().await.is_ok();
            knows && node.status().borrow().members.iter().all(|member| member.id != CoordinatorId(id))
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Waits for the change that is under way.
pub async fn come_to_rest(world: &Arc<World>) {
    while world.changing.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
