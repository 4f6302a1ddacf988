//! Reading a checkpoint: nothing of it is believed before its hash is right, and it must be one of this very training.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use types::ContentHash;

use super::{FORMAT, MANIFEST, Manifest, STATE, State};
use crate::error::Error;
use crate::files;
use crate::model::Placed;
use crate::optimizer::Optimizer;
use crate::tensors::{self, Tensor};

/// More than a manifest or state ever needs.
const JSON_BYTES_MAX: u64 = 4 << 20;

/// What a checkpoint must be made for.
pub(crate) struct Wanted<'a> {
    pub(crate) course: ContentHash,
    pub(crate) data: ContentHash,
    pub(crate) parameters: &'a [Placed],
    /// Number of all values, padding included.
    pub(crate) length: usize,
}

/// What a checkpoint says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// Of all parameters, at their places.
    pub(crate) values: Vec<f32>,
}

/// Reads the checkpoint in `folder`; what `optimizer` holds of the memory goes there.
///
/// # Errors
/// [`Error::Checkpoint`] with the file that is damaged, missing or of another training.
pub(crate) fn load(folder: &Path, wanted: &Wanted<'_>, optimizer: &mut Optimizer) -> Result<Loaded, Error> {
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
    let mut model = Target::new(wanted, &[""]);
    model.read(folder, "model", &manifest)?;
    let suffixes: Vec<String> = optimizer.slots.iter().map(|slot| format!(".{}", slot.name)).collect();
    let suffixes: Vec<&str> = suffixes.iter().map(String::as_str).collect();
    let mut memory = Target::new(wanted, &suffixes);
    memory.read(folder, "optimizer", &manifest)?;
    optimizer.updates = state.updates;
    let owned = optimizer.owned().to_vec();
    for (slot, all) in optimizer.slots.iter_mut().zip(&memory.values) {
        slot.values = owned.iter().flat_map(|range| &all[range.clone()]).copied().collect();
    }
    let values = model.values.pop().unwrap_or_default();
    Ok(Loaded { state, values })
}

/// Where tensors go, and how much of each has come.
struct Target<'a> {
    wanted: &'a Wanted<'a>,
    suffixes: &'a [&'a str],
    /// By suffix.
    values: Vec<Vec<f32>>,
    /// By suffix and parameter: the runs that have come.
    come: Vec<Vec<Vec<Range<usize>>>>,
}

impl<'a> Target<'a> {
    fn new(wanted: &'a Wanted<'a>, suffixes: &'a [&'a str]) -> Self {
        let values = suffixes.iter().map(|_| vec![0.0; wanted.length]).collect();
        let come = suffixes.iter().map(|_| vec![Vec::new(); wanted.parameters.len()]).collect();
        Target { wanted, suffixes, values, come }
    }

    /// Reads all parts of one kind, which must together hold every value exactly once.
    fn read(&mut self, folder: &Path, kind: &str, manifest: &Manifest) -> Result<(), Error> {
        let whole = format!("{kind}.safetensors");
        let part = format!("{kind}-");
        let names = manifest.files.keys().map(String::as_str);
        let files: Vec<&str> = names.filter(|name| *name == whole || name.starts_with(&part)).collect();
        // A name at least, where none is listed.
        let last = *files.last().unwrap_or(&whole.as_str());
        if files.is_empty() {
            return Err(refused(folder, MANIFEST, format!("does not list {whole}")));
        }
        let values: usize = self.wanted.parameters.iter().map(|parameter| parameter.place.len()).sum();
        let bytes_max = 4 * (values * self.suffixes.len()) as u64 + (8 << 20);
        for name in &files {
            let bytes = verified(folder, name, manifest, bytes_max)?;
            let tensors = tensors::from_bytes(&bytes).map_err(|reason| refused(folder, name, reason))?;
            for Tensor { name: tensor, shape, values } in tensors {
                self.take(&tensor, &shape, &values).map_err(|reason| refused(folder, name, reason))?;
            }
        }
        self.complete().map_err(|reason| refused(folder, last, reason))
    }

    fn take(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), String> {
        let (whole, first) = match name.rsplit_once('@').map(|(whole, first)| (whole, first.parse::<usize>())) {
            Some((whole, Ok(first))) => (whole, Some(first)),
            _ => (name, None),
        };
        let find = |suffix: &&str| {
            let plain = whole.strip_suffix(*suffix)?;
            self.wanted.parameters.iter().position(|parameter| parameter.name == plain)
        };
        let found = self.suffixes.iter().enumerate().find_map(|(slot, suffix)| Some((slot, find(suffix)?)));
        // What this model does not have is not missed; that it lacks something is found out in the end.
        let Some((slot, at)) = found else { return Ok(()) };
        let parameter = &self.wanted.parameters[at];
        let first_value = first.unwrap_or(0);
        let fits = match first {
            None => shape == parameter.shape,
            Some(first) => first.checked_add(values.len()).is_some_and(|end| end <= parameter.place.len()),
        };
        if !fits {
            return Err(format!("{name} has shape {shape:?}, which is not of {:?}", parameter.shape));
        }
        self.values[slot][parameter.place.start + first_value..][..values.len()].copy_from_slice(values);
        self.come[slot][at].push(first_value..first_value + values.len());
        Ok(())
    }

    fn complete(&mut self) -> Result<(), String> {
        for (slot, suffix) in self.come.iter_mut().zip(self.suffixes) {
            for (runs, parameter) in slot.iter_mut().zip(self.wanted.parameters) {
                runs.sort_by_key(|run| run.start);
                let end = runs.iter().try_fold(0, |end, run| (run.start == end).then_some(run.end));
                if end != Some(parameter.place.len()) {
                    let part = if runs.is_empty() { "" } else { "a part of " };
                    return Err(format!("lacks {part}{}{suffix}", parameter.name));
                }
            }
        }
        Ok(())
    }
}

/// The content of a listed file.
fn verified(folder: &Path, name: &str, manifest: &Manifest, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let listed = manifest.files.get(name).ok_or_else(|| refused(folder, MANIFEST, format!("does not list {name}")))?;
    // A manifest names files of its own folder only.
    if name.contains('/') {
        return Err(refused(folder, MANIFEST, format!("lists {name:?}, which is no name of a file")));
    }
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
