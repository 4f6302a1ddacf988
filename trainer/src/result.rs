//! The finished model as files: parameters as safetensors, and a JSON that says how to use them and how good they are.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Config, Source};
use crate::data::Transform;
use crate::error::Error;
use crate::model::{Placed, Task};
use crate::tensors::{self, Entry};

/// What `model.json` says.
#[derive(Serialize)]
pub(crate) struct Description<'a> {
    /// Version of this layout.
    pub(crate) format: u32,
    /// `mlp`, `conv`, `gpt`, or the name of one's own.
    pub(crate) architecture: String,
    /// Units from features to classes of an `mlp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<usize>>,
    /// Shape of a sample, number of answers.
    pub(crate) task: &'a Task,
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
    /// Effective values, defaults included, as [`without_places`] has them.
    pub(crate) config: &'a Config,
}

/// See [`Description`].
pub(crate) const FORMAT: u32 = 1;

/// Without folders of the machine that trained: the same job done again, elsewhere, writes the same bytes. Of its data files the
/// names stay; what was in them is in the hash.
pub(crate) fn without_places(config: &Config) -> Config {
    let mut config = config.clone();
    (config.output, config.checkpoint.folder, config.checkpoint.resume_from) = (None, None, None);
    let files: Vec<&mut PathBuf> = match &mut config.data.source {
        Source::Digits => Vec::new(),
        Source::Csv { path, .. } | Source::Text { path, .. } => vec![path],
        Source::Npy { features: samples, labels } | Source::Idx { images: samples, labels } => vec![samples, labels],
    };
    for file in files {
        if let Some(name) = file.file_name().map(PathBuf::from) {
            *file = name;
        }
    }
    config
}

/// Writes `model.safetensors`, `sample.txt` where there is one, and then `model.json` into `folder`, each whole or not at
/// all.
pub(crate) fn write(
    folder: &Path,
    description: &Description<'_>,
    parameters: &[Placed],
    values: &[f32],
    sample: Option<&str>,
) -> Result<(), Error> {
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let entry = |parameter: &Placed| {
        Entry::new(parameter.name.clone(), parameter.shape.clone(), &values[parameter.place.clone()])
    };
    let entries: Vec<Entry> = parameters.iter().map(entry).collect();
    let json = serde_json::to_vec_pretty(description).map_err(|error| Error::Internal(error.to_string()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        daemon::files::write_atomically(&path, bytes).map_err(Error::io("write", &path))
    };
    write("model.safetensors", &tensors::to_bytes(&entries)?)?;
    if let Some(sample) = sample {
        write("sample.txt", sample.as_bytes())?;
    }
    write("model.json", &json)
}
