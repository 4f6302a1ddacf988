//! What one rank of built-in training runs: `muster train --config FILE`, data-parallel over [`collectives`].
//!
//! Every rank holds the whole model and the whole data. Per step each takes its share of the global batch; gradients
//! are summed over the ranks in buckets while the backward pass goes on; then every rank makes the same update.
//!
//! ```text
//! arguments ── config ── context (environment, descriptors, rendezvous)
//!                          └─ training: data ── shards ── model (layerwise backward) ── buckets ── optimizer
//!                                         ├─ evaluate, metrics, progress
//!                                         └─ checkpoint, result
//! ```
//!
//! Promises, each with tests that name it:
//! - **TRAIN-1** All ranks end with bitwise equal parameters, and check it (COLL-1 made visible).
//! - **TRAIN-2** The same configuration, data and world size give the same bits from run to run on machines of one
//!   kind.
//! - **TRAIN-3** A run that is killed and goes on from a checkpoint ends with the same bits as one that was not.
//! - **TRAIN-4** Every sample is used once in an epoch, and a step's gradient is that of the mean over the global
//!   batch, however many ranks share it and however small the last batch is.
//! - **TRAIN-5** A rank that fails ends all others with its number and reason.
//!
//! SIGTERM is not caught: it ends the process at once, as a half-done step is worth nothing, and what was saved is
//! whole.

// A list of one range is meant where layouts have one bucket.
#![cfg_attr(test, allow(clippy::single_range_in_vec_init))]

mod agreement;
mod arguments;
mod buckets;
mod checkpoint;
pub mod config;
mod context;
mod data;
mod error;
mod evaluate;
mod files;
mod generate;
pub mod layers;
mod metrics;
mod model;
mod optimizer;
mod power;
mod progress;
mod random;
mod report;
mod result;
mod schedule;
mod shards;
mod tensors;
mod training;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use arguments::TrainArgs;
pub use config::Config;
pub use error::{Error, Fault};
pub use model::{Architecture, Task};

/// How a training ended, as this rank saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// This rank.
    pub rank: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// Steps of the whole training, those before a resume included.
    pub steps: u64,
    /// The step that this run went on from, if it did.
    pub resumed_from: Option<u64>,
    /// Share of the test samples that the model gets right, from 0 to 1.
    pub test_accuracy: f64,
    /// Mean over the test samples.
    pub test_loss: f64,
    /// SHA-256 of the parameters in hex digits, the same on all ranks.
    pub parameters_sha256: String,
    /// Where rank 0 wrote the model; nothing on other ranks.
    pub model: Option<PathBuf>,
    /// What rank 0's model of text wrote by itself, the prompt included.
    pub sample: Option<String>,
}

/// Trains as the arguments say, as the rank that the environment says; blocks until all is done.
///
/// # Errors
/// Wrong configuration or data, a missing or failed rank, a checkpoint that cannot be used, a result that cannot be
/// written. The other ranks end with an error too.
pub fn run(args: TrainArgs) -> Result<Summary, Error> {
    let config = Config::load(&args)?;
    let architecture = model::built_in(&config.model);
    train(&config, &*architecture)
}

/// As [`run`], with a model of one's own in place of the one that the configuration names; all else is as configured.
/// `examples/own_model.rs` shows it.
///
/// # Errors
/// As [`run`]; [`Error::Config`] where the model does not fit the data.
pub fn run_with(args: TrainArgs, architecture: &dyn Architecture) -> Result<Summary, Error> {
    train(&Config::load(&args)?, architecture)
}

fn train(config: &Config, architecture: &dyn Architecture) -> Result<Summary, Error> {
    let context = context::Context::from_environment(config)?;
    let (rank, mut teller) = (context.communicator.rank(), context.metrics.twin());
    training::train(config, architecture, context).inspect_err(|error| {
        if let Some(culprit) = error.culprit().filter(|culprit| *culprit != rank) {
            teller.blame(culprit);
        }
    })
}
