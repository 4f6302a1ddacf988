//! Decides which waiting gangs start now, where, and why the others wait: pure, deterministic, all or nothing for each gang.
//!
//! First cut: highest priority first, then in order of submission. A gang that has to wait keeps every worker that could
//! ever host a part of it for itself (`SCHED-2`: nobody behind it delays it); gangs behind it may use the other workers
//! only. A gang that the cluster could not host even when empty, or that waits out its back-off, keeps nothing and holds
//! nobody up, however many there are of them. Every waiting gang has a reason (`SCHED-3`), and planning an unchanged view
//! again gives the same plan (`SCHED-1`).
//!
//! Beside it stands the incremental core: `model` has its words (facts in, decisions out), `explain` its answers.

mod core;
pub mod explain;
mod fleet;
pub mod model;
mod place;
mod plan;
pub mod policy;
mod quota;
mod reason;
mod rooms;
pub mod simulator;
mod view;

pub use core::{Core, Violation};
pub use place::Preference;
pub use plan::{Plan, Planner, plan};
pub use reason::{Lacking, Reason};
pub use view::{View, WaitingGang, WorkerView};
