//! Makes a worker known, or known again; a name belongs to one live data directory.

use super::At;
use crate::{Held, Outcome, Refusal, State, Worker};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{Availability, WorkerRegistration};

pub(super) fn apply(state: &mut State, at: At, registration: &WorkerRegistration) -> Result<Outcome, Refusal> {
    let id = &registration.worker;
    let known = state.worker(id).cloned();
    let worker = match known {
        Some(known) if known.registration.instance != registration.instance && !known.lost => {
            return Err(Refusal::NameInUse(id.clone()));
        }
        // What it holds stays: its members are still there, or it will say that they are not.
        Some(known) => {
            // One that registers anew may have been mended.
            let (strikes, registered_by) = (Vec::new(), at.index);
            Worker { registration: registration.clone(), lost: false, registered_by, strikes, ..(*known).clone() }
        }
        None => Worker {
            registration: registration.clone(),
            availability: Availability::Open,
            lost: false,
            registered: at.time,
            registered_by: at.index,
            held: Held::default(),
            windows: Vec::new(),
            taints: BTreeSet::new(),
            strikes: Vec::new(),
        },
    };
    state.workers.insert(id.clone(), Arc::new(worker));
    Ok(Outcome::Done)
}
