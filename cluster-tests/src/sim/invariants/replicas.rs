//! I13: coordinators that have applied the same entries hold the same tables.

use crate::sim::reference::Reference;
use crate::sim::{World, locked};
use coordinator::raft::Node;
use std::sync::Arc;
use std::time::Duration;

/// The tables of one coordinator against those of the log, where it stands now.
pub(crate) fn compare(world: &World, id: u64, node: &Node, reference: &Reference) {
    let applied = node.applied().borrow().index.0;
    let differs = reference.after(applied).filter(|_| applied.is_multiple_of(8));
    if differs.is_some_and(|expected| node.look(|state| state != expected)) {
        world.violated(format!("I13: the tables of coordinator {id} differ from the log's after entry {applied}"));
    }
}

/// All coordinators apply as much as there is, and are alike to the last byte.
pub(crate) async fn come_to_rest(world: &Arc<World>) -> Result<(), String> {
    let nodes: Vec<_> = world.alive().into_iter().filter_map(|id| Some((id, world.running(id)?.node))).collect();
    let mut bytes = Vec::new();
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let end = locked(&world.reference).len();
        let applied: Vec<u64> = nodes.iter().map(|(_, node)| node.applied().borrow().index.0 + 1).collect();
        if applied.iter().all(|applied| *applied == end) {
            bytes = nodes.iter().map(|(id, node)| (*id, postcard::to_stdvec(&node.state()).ok())).collect();
            break;
        }
    }
    if bytes.is_empty() {
        return Err("I13: the coordinators do not come to hold the same entries within a minute".to_owned());
    }
    let expected = postcard::to_stdvec(&locked(&world.reference).state).ok();
    for (id, found) in bytes {
        if found != expected {
            world.violated(format!("I13: the tables of coordinator {id} differ from the log's at the end"));
        }
    }
    Ok(())
}
