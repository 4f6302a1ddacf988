//! Decides which waiting gangs start now, where, and why the others wait: pure, deterministic, all or nothing for each gang.
//!
//! `Core` keeps all that it knows between cycles: facts go in (`apply`), decisions come out (`decide`), at the cost of what
//! changed. The leader of a cluster drives it, and so does the simulator. `model` has its words, `explain` its answers, `policy`
//! its rules by name. Every waiting gang has a reason (`SCHED-3`), and deciding again without a fact gives nothing (`SCHED-1`).

mod core;
pub mod explain;
mod fleet;
pub mod foresee;
pub mod model;
mod place;
pub mod policy;
mod quota;
mod rooms;
pub mod simulator;

pub use core::{Core, Violation};
pub use place::Preference;
