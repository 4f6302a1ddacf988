//! Checkpoints: a folder with everything that decides how the training goes on, whole or not there at all.
//!
//! A folder is written under a temporary name, each file flushed and listed with its SHA-256 in `manifest.json`, then
//! renamed to `step-N` and the folder above flushed. So a folder of that name is complete, and a file that was damaged
//! later is found out and refused by name.
//!
//! ```text
//! step-120/model.safetensors       parameters; or model-1-of-4.safetensors and so on, a part by each rank
//!          optimizer.safetensors   the optimizer's memory of each parameter; or in parts as above
//!          state.json              step, place in the data, random stream, hashes of configuration and data
//!          manifest.json           size and SHA-256 of all others
//! ```
//!
//! A tensor that lies in one part has its own name and shape; a run of one that was cut is called `NAME@FIRST` after the
//! place of its first value. So what a number of ranks has written any other number can read.

mod fence;
mod load;
mod shard;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::ContentHash;

pub(crate) use self::fence::Fence;
pub(crate) use self::load::{Loaded, Wanted, load};
pub(crate) use self::shard::Shard;
pub(crate) use self::write::{Place, Written};
pub(crate) use self::writer::{Done, Order, Writer};

/// Version of the layout.
pub(crate) const FORMAT: u32 = 2;
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";

/// Where the training stands, besides parameters and optimizer memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Version of this layout.
    pub(crate) format: u32,
    /// Steps done.
    pub(crate) step: u64,
    /// Updates that the optimizer has made.
    pub(crate) updates: u64,
    /// The next step's place in the data.
    pub(crate) position: Position,
    /// Where the order of the samples comes from.
    pub(crate) random: RandomState,
    /// What the printed mean loss of a begun epoch is made of.
    pub(crate) epoch_so_far: EpochSoFar,
    /// How the test loss went, for the early end.
    pub(crate) improvement: Improvement,
    /// Of the part of the configuration that decides the course.
    #[serde(with = "hex_digits")]
    pub(crate) course: ContentHash,
    /// Of the samples.
    #[serde(with = "hex_digits")]
    pub(crate) data: ContentHash,
    /// Ranks at the time; another number goes on with equal mathematics but other rounding.
    pub(crate) world_size: u32,
    /// Fencing token of the attempt that wrote it.
    pub(crate) token: u64,
}

/// The next step's place in the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    /// From 0.
    pub(crate) epoch: u64,
    /// Global batch in the epoch, from 0.
    pub(crate) batch: u64,
}

/// Every epoch has a stream of its own, begun anew, so seed and epoch are all of the generator's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RandomState {
    /// As configured.
    pub(crate) seed: u64,
    /// Epoch whose shuffle is in use.
    pub(crate) shuffle: u64,
}

/// Sums over the steps of a begun epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EpochSoFar {
    /// Bits of the `f64` sum of losses, each times its batch's size.
    pub(crate) loss_bits: u64,
    /// Samples of these batches.
    pub(crate) samples: u64,
}

/// The course of the test loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Improvement {
    /// Bits of the least `f64` so far.
    pub(crate) best_bits: Option<u64>,
    /// Looks since then.
    pub(crate) looks_since: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    bytes: u64,
    #[serde(with = "hex_digits")]
    sha256: ContentHash,
}

/// Hashes as hex digits, since people read these files.
mod hex_digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use types::ContentHash;

    pub(super) fn serialize<S: Serializer>(hash: &ContentHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ContentHash, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
