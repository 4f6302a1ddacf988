//! Checkpoints: a folder with everything that decides how the training goes on, whole or not there at all.
//!
//! A folder is written under a temporary name, each file flushed and listed with its SHA-256 in `manifest.json`, then
//! renamed to `step-N` and the folder above flushed. So a folder of that name is complete, and a file that was damaged
//! later is found out and refused by name.
//!
//! ```text
//! step-120/model.safetensors       parameters
//!          optimizer.safetensors   the optimizer's memory of each parameter
//!          state.json              step, place in the data, random stream, hashes of configuration and data
//!          manifest.json           size and SHA-256 of the three above
//! ```

mod load;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use types::ContentHash;

pub(crate) use self::load::{Wanted, load};
use crate::error::Error;
use crate::optimizer::Optimizer;

/// Version of the layout.
pub(crate) const FORMAT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
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
    /// Of the part of the configuration that decides the course.
    #[serde(with = "hex_digits")]
    pub(crate) course: ContentHash,
    /// Of the samples.
    #[serde(with = "hex_digits")]
    pub(crate) data: ContentHash,
    /// Ranks at the time; another number goes on with equal mathematics but other rounding.
    pub(crate) world_size: u32,
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

/// Everything to be saved.
pub(crate) struct Snapshot<'a> {
    pub(crate) state: &'a State,
    /// Names and shapes.
    pub(crate) parameters: &'a [(String, Vec<usize>)],
    /// By parameter.
    pub(crate) values: &'a [Vec<f32>],
    pub(crate) optimizer: &'a Optimizer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Listed>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    bytes: u64,
    #[serde(with = "hex_digits")]
    sha256: ContentHash,
}

/// Writes `step-N` into `folder` and then removes all but the `keep` newest. Returns its name.
///
/// # Errors
/// [`Error::Io`] and [`Error::Engine`]; nothing but a temporary folder is left then, which the next start removes.
pub(crate) fn save(folder: &Path, snapshot: &Snapshot<'_>, keep: u64) -> Result<String, Error> {
    let name = format!("step-{}", snapshot.state.step);
    let temporary = folder.join(format!(".{name}.tmp"));
    remove(&temporary)?;
    daemon::files::create_private_folder(&temporary).map_err(Error::io("make", &temporary))?;
    let written = write_files(&temporary, snapshot);
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written?;
    let whole = folder.join(&name);
    // Only a run that was started again from an older one meets a folder of this name.
    remove(&whole)?;
    fs::rename(&temporary, &whole).map_err(Error::io("rename", &temporary))?;
    daemon::files::sync_folder(folder).map_err(Error::io("flush", folder))?;
    for old in older_than_kept(folder, keep)? {
        remove(&old)?;
    }
    Ok(name)
}

/// Removes what a killed process left half-written.
pub(crate) fn remove_half_written(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".step-") && name.ends_with(".tmp") {
            remove(&path)?;
        }
    }
    Ok(())
}

fn write_files(folder: &Path, snapshot: &Snapshot<'_>) -> Result<(), Error> {
    let mut model = HashMap::new();
    for ((name, shape), values) in snapshot.parameters.iter().zip(snapshot.values) {
        model.insert(name.clone(), Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?);
    }
    let mut memory = HashMap::new();
    for slot in &snapshot.optimizer.slots {
        for ((name, shape), values) in snapshot.parameters.iter().zip(&slot.values) {
            let name = format!("{name}.{}", slot.name);
            memory.insert(name, Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?);
        }
    }
    candle_core::safetensors::save(&model, folder.join(MODEL))?;
    candle_core::safetensors::save(&memory, folder.join(OPTIMIZER))?;
    write_json(&folder.join(STATE), snapshot.state)?;
    let mut files = BTreeMap::new();
    for name in [MODEL, OPTIMIZER, STATE] {
        let path = folder.join(name);
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("flush", &path))?;
        files.insert(name.to_owned(), listed(&path)?);
    }
    write_json(&folder.join(MANIFEST), &Manifest { format: FORMAT, files })?;
    daemon::files::sync_folder(folder).map_err(Error::io("flush", folder))
}

/// Size and hash of a file as it can be read back.
fn listed(path: &Path) -> Result<Listed, Error> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut hash).map_err(Error::io("read", path))?;
    Ok(Listed { bytes, sha256: ContentHash(hash.finalize().into()) })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    daemon::files::write_atomically(path, &json).map_err(Error::io("write", path))
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn older_than_kept(folder: &Path, keep: u64) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    found.truncate(found.len().saturating_sub(keep as usize));
    Ok(found.into_iter().map(|(_, path)| path).collect())
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
