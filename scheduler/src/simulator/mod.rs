//! The simulator: the same core as in the live cluster, driven by a trace in virtual time. Pure: texts and a seed in,
//! a report out.
//!
//! ```text
//! trace + cluster + settings --events--> Scheduler --decisions--> driver (its own books) --> Outcome --> Report
//! ```
//!
//! - `SIM-1`: the driver keeps its own books of devices, CPU slots and memory; a decision that gives something twice, or a
//!   part of a gang, ends the simulation with an error.
//! - `SIM-2`: the same inputs give the same outcome; chance comes from the seed, one stream a purpose.

mod agenda;
mod cluster;
mod driver;
mod gangs;
mod generate;
mod machines;
mod measure;
mod orders;
mod progress;
mod queues;
pub mod random;
mod report;
mod shares;
pub mod trace;
mod yaml;

pub use cluster::{Cluster, GPUS_MAX, Group, MACHINES_MAX, Machine, PRESETS};
pub use driver::{Fail, Inputs, simulate};
pub use generate::{Mix, Synthetic, to_csv};
pub use measure::{JobOutcome, Outcome, Promise, Timeline};
pub use progress::{FULL_SPEED, Model, Span, Standard};
pub use queues::read_queues;
pub use report::{Report, SizeClass};

use crate::model::QueueSpec;
use types::Millis;

/// What the trace does not say.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Seed of all chance.
    pub seed: u64,
    /// Deviation of the logarithm of estimates; 0 = the truth, nothing = no estimates.
    pub estimate_sigma: Option<f64>,
    /// True tells the oracles (`srtf`, `srsf`) the estimate as if it were the truth: what they are worth without an oracle.
    pub oracles_err: bool,
    /// Limits of run time that the scheduler is told of.
    pub walltimes: Walltimes,
    /// From one checkpoint to the next; zero = a stop loses nothing, nothing = it loses all.
    pub checkpoint: Option<Millis>,
    /// Cost of each start but the first.
    pub restart: Millis,
    /// From the order to stop until the devices are free.
    pub grace: Millis,
    /// Machines that fail.
    pub failures: Option<Failures>,
    /// True tells the scheduler of each checkpoint; who stops nobody need not know.
    pub tells_checkpoints: bool,
    /// For so many gangs with a promise the scheduler is asked when they will really start: a look ahead each.
    pub predictions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            estimate_sigma: Some(0.0),
            oracles_err: false,
            walltimes: Walltimes::AsInTrace,
            checkpoint: Some(Millis(30 * 60_000)),
            restart: Millis(60_000),
            grace: Millis(0),
            failures: None,
            tells_checkpoints: true,
            predictions: 0,
        }
    }
}

/// Limits of run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walltimes {
    /// Where the trace has some.
    AsInTrace,
    /// What the job really runs.
    Exact,
    /// None at all.
    None,
}

/// Machines that fail, each by itself, with exponential times between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Mean time that a machine is up.
    pub mean: Millis,
    /// Time until it is back.
    pub repair: Millis,
}

/// Streams of chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Estimates = 1,
    Failures = 2,
}

/// All queues of a trace side by side with equal weights, each with an equal part of the cluster guaranteed.
pub fn equal_queues(trace: &trace::Trace, cluster: &Cluster) -> Vec<QueueSpec> {
    gangs::queues(trace, cluster)
}
