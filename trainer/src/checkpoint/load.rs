//! Reading a checkpoint: nothing of it is believed before its hash is right, and it must be one of this very training.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use types::ContentHash;

use super::{FORMAT, MANIFEST, MODEL, Manifest, OPTIMIZER, STATE, State};
use crate::error::Error;
use crate::files;
use crate::optimizer::Optimizer;

/// More than a manifest or state ever needs.
const JSON_BYTES_MAX: u64 = 64 * 1024;

/// What a checkpoint must be made for.
pub(crate) struct Wanted<'a> {
    pub(crate) course: ContentHash,
    pub(crate) data: ContentHash,
    /// Names and shapes.
    pub(crate) parameters: &'a [(String, Vec<usize>)],
}

/// Reads the checkpoint in `folder`: its state and parameters; the memory goes into `optimizer`.
///
/// # Errors
/// [`Error::Checkpoint`] with the file that is damaged, missing or of another training.
pub(crate) fn load(
    folder: &Path,
    wanted: &Wanted<'_>,
    optimizer: &mut Optimizer,
) -> Result<(State, Vec<Vec<f32>>), Error> {
    let manifest: Manifest = json(&folder.join(MANIFEST), &read(folder, MANIFEST, JSON_BYTES_MAX)?)?;
    if manifest.format != FORMAT {
        let reason = format!("has format {}, where {FORMAT} is read", manifest.format);
        return Err(refused(folder, MANIFEST, reason));
    }
    let state: State = json(&folder.join(STATE), &verified(folder, STATE, &manifest, JSON_BYTES_MAX)?)?;
    if state.course != wanted.course {
        let reason = "was made with another configuration (data, model, training, optimizer or schedule)";
        return Err(refused(folder, STATE, reason.to_owned()));
    }
    if state.data != wanted.data {
        return Err(refused(folder, STATE, "was made with other samples".to_owned()));
    }
    let model = tensors(folder, MODEL, &manifest, wanted.parameters)?;
    let memory = tensors(folder, OPTIMIZER, &manifest, wanted.parameters)?;
    let values = wanted.parameters.iter().map(|(name, shape)| values(folder, MODEL, &model, name, shape));
    let values = values.collect::<Result<_, Error>>()?;
    optimizer.updates = state.updates;
    for slot in &mut optimizer.slots {
        for ((name, shape), place) in wanted.parameters.iter().zip(&mut slot.values) {
            *place = self::values(folder, OPTIMIZER, &memory, &format!("{name}.{}", slot.name), shape)?;
        }
    }
    Ok((state, values))
}

fn tensors(
    folder: &Path,
    name: &str,
    manifest: &Manifest,
    parameters: &[(String, Vec<usize>)],
) -> Result<HashMap<String, Tensor>, Error> {
    // At most two memories of 4 bytes a value, and a header.
    let values: u64 = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
    let bytes = verified(folder, name, manifest, 8 * values + (1 << 20))?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|error| refused(folder, name, error.to_string()))
}

fn values(
    folder: &Path,
    file: &str,
    tensors: &HashMap<String, Tensor>,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, Error> {
    match tensors.get(name) {
        Some(tensor) if tensor.dims() == shape && tensor.dtype() == DType::F32 => {
            Ok(tensor.flatten_all()?.to_vec1()?)
        }
        Some(tensor) => {
            let reason = format!("{name} has shape {:?} of {:?}, not {shape:?}", tensor.dims(), tensor.dtype());
            Err(refused(folder, file, reason))
        }
        None => Err(refused(folder, file, format!("lacks {name}"))),
    }
}

/// The content of a listed file.
fn verified(folder: &Path, name: &str, manifest: &Manifest, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let listed = manifest.files.get(name).ok_or_else(|| refused(folder, MANIFEST, format!("does not list {name}")))?;
    let bytes = read(folder, name, bytes_max)?;
    if bytes.len() as u64 != listed.bytes {
        let reason = format!("has {} bytes, not the {} that were written", bytes.len(), listed.bytes);
        return Err(refused(folder, name, reason));
    }
    if ContentHash(Sha256::digest(&bytes).into()) != listed.sha256 {
        return Err(refused(folder, name, "is damaged: its SHA-256 is not the one that was written".to_owned()));
    }
    Ok(bytes)
}

fn read(folder: &Path, name: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
    files::read_bounded(&folder.join(name), bytes_max).map_err(|error| match error {
        Error::Io { source, .. } => refused(folder, name, source.to_string()),
        other => other,
    })
}

fn json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Checkpoint { path: path.to_owned(), reason: format!("is damaged: {error}") })
}

fn refused(folder: &Path, name: &str, reason: String) -> Error {
    Error::Checkpoint { path: folder.join(name), reason }
}
