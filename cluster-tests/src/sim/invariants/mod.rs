//! What must hold, an invariant a file, named as in the fault model of `docs/reliability.md`.
//!
//! `capacity` and `transitions` are looked at after every entry of the log, `one_attempt` and `gangs` at every act of a worker,
//! `replicas` at every eighth entry, the rest at the end.

pub mod acknowledged;
pub mod capacity;
pub mod events;
pub mod exits;
pub mod gangs;
pub mod linearizable;
pub mod liveness;
pub mod one_attempt;
pub mod replicas;
pub mod transitions;

use super::{World, locked};
use std::sync::Arc;

/// When the faults are over and everything has come to rest.
pub(super) async fn check_at_the_end(world: &Arc<World>) -> Result<(), String> {
    replicas::come_to_rest(world).await?;
    let mut faults = acknowledged::faults(world);
    faults.extend(exits::faults(world));
    faults.extend(linearizable::faults(world));
    for fault in faults {
        world.violated(fault);
    }
    let ended = locked(&world.reference).state.jobs_before(None).filter(|job| job.phase.is_final()).count() as u64;
    world.count(|counts| counts.ended = ended);
    Ok(())
}
