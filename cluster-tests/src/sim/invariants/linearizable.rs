//! I9: what clients wrote and read, each through any coordinator, is what one register after the other could have answered.

use crate::sim::linearizable::is_linearizable;
use crate::sim::{World, locked};

/// Registers with a history that no order explains.
pub fn faults(world: &World) -> Vec<String> {
    let history = locked(&world.history);
    world.count(|counts| counts.operations = history.operations.values().map(|of| of.len() as u64).sum());
    let broken = history.operations.iter().filter(|(_, operations)| !is_linearizable(operations));
    broken.map(|(key, of)| format!("I9: the {} operations on register {key} are not linearizable", of.len())).collect()
}
