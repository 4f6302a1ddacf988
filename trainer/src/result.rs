//! The finished model as files: parameters as safetensors, and a JSON that says how to use them and how good they are.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::config::Config;
use crate::data::Transform;
use crate::error::Error;

/// What `model.json` says.
#[derive(Serialize)]
pub(crate) struct Description<'a> {
    /// Version of this layout.
    pub(crate) format: u32,
    /// `mlp`: linear layers with rectified linear units between them.
    pub(crate) architecture: &'static str,
    /// Units from features to classes.
    pub(crate) layers: &'a [usize],
    /// Names in the order of the outputs.
    pub(crate) classes: &'a [String],
    /// From a sample's values to the model's features.
    pub(crate) transform: &'a Transform,
    /// On the samples kept for testing.
    pub(crate) test_accuracy: f64,
    pub(crate) test_loss: f64,
    /// Of the parameters, as all ranks ended with.
    pub(crate) parameters_sha256: String,
    /// Of the samples.
    pub(crate) data_sha256: String,
    pub(crate) steps: u64,
    pub(crate) world_size: u32,
    /// Effective values, defaults included.
    pub(crate) config: &'a Config,
}

/// See [`Description`].
pub(crate) const FORMAT: u32 = 1;

/// Writes `model.safetensors` and then `model.json` into `folder`, each whole or not at all.
pub(crate) fn write(
    folder: &Path,
    description: &Description<'_>,
    parameters: &[(String, Vec<usize>)],
    values: &[Vec<f32>],
) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let mut tensors = HashMap::new();
    for ((name, shape), values) in parameters.iter().zip(values) {
        tensors.insert(name.clone(), Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?);
    }
    let path = folder.join("model.safetensors");
    candle_core::safetensors::save(&tensors, &path)?;
    std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("flush", &path))?;
    let json = serde_json::to_vec_pretty(description).map_err(|error| Error::Internal(error.to_string()))?;
    let path = folder.join("model.json");
    daemon::files::write_atomically(&path, &json).map_err(Error::io("write", &path))
}
