//! Samples to learn from: loaded whole by each rank, checked, split into training and test part, and scaled.
//!
//! Every rank loads the same; the content's hash is compared between ranks and written into checkpoints, so that other
//! data is never trained on by mistake.

mod csv;
mod digits;
mod feed;
mod idx;
mod labels;
mod npy;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use types::ContentHash;

pub(crate) use self::feed::{Feed, Lot, Source as FeedSource};
pub(crate) use self::labels::Labels;
pub(crate) use self::text::Vocabulary;
use crate::config::{self, Source};
use crate::error::{Error, Fault};
use crate::model::{Batch, Task};
use crate::random::{self, Purpose};

/// Features of all samples together: 1 GiB as `f32`. Each rank holds them in memory.
const VALUES_MAX: usize = 1 << 28;
/// More faults of one file say nothing new.
const FAULTS_MAX: usize = 20;

/// What a loader gives: samples in the file's order.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// Row by row.
    pub(crate) features: Vec<f32>,
    /// Of one sample.
    pub(crate) shape: Vec<usize>,
    /// One a sample.
    pub(crate) labels: Labels,
}

/// Some of the samples, ready for the model.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    features: Vec<f32>,
    /// Features of one sample.
    width: usize,
    /// As many a sample as it has positions.
    labels: Vec<u32>,
    positions: usize,
    /// By how many values all samples can be moved on; 0 where each is by itself.
    slack: usize,
}

/// All that is known of the data.
#[derive(Debug)]
pub(crate) struct Dataset {
    /// For people.
    pub(crate) name: String,
    /// What a model is to be made for.
    pub(crate) task: Task,
    /// Names of the classes, or of the tokens, in label order.
    pub(crate) classes: Vec<String>,
    pub(crate) train: Arc<Part>,
    pub(crate) test: Arc<Part>,
    /// How a text is cut into tokens, where it is one.
    pub(crate) vocabulary: Option<Vocabulary>,
    /// How features were made from the file's values.
    pub(crate) transform: Transform,
    /// Of everything above.
    pub(crate) hash: ContentHash,
}

/// Feature = (value / scale - mean) / deviation; without `standardize` mean is 0 and deviation 1 and both are empty.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Transform {
    pub(crate) scale: f64,
    pub(crate) mean: Vec<f64>,
    pub(crate) deviation: Vec<f64>,
}

impl Part {
    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        (self.labels.len() - self.slack) / self.positions
    }

    /// By how many values all samples can be moved on.
    pub(crate) fn slack(&self) -> usize {
        self.slack
    }

    /// Answers of one sample.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// The samples with these indices.
    pub(crate) fn gather(&self, indices: impl ExactSizeIterator<Item = usize>) -> Batch {
        self.gather_moved(indices, 0)
    }

    /// As [`Part::gather`], each sample moved on by `offset`, at most the slack.
    pub(crate) fn gather_moved(&self, indices: impl ExactSizeIterator<Item = usize>, offset: usize) -> Batch {
        let (count, width, positions) = (indices.len(), self.width, self.positions);
        let mut features = Vec::with_capacity(count * width);
        let mut labels = Vec::with_capacity(count * positions);
        for at in indices {
            features.extend_from_slice(&self.features[at * width + offset..(at + 1) * width + offset]);
            labels.extend_from_slice(&self.labels[at * positions + offset..(at + 1) * positions + offset]);
        }
        Batch { count, features, labels }
    }
}

/// Loads and prepares what the configuration names.
///
/// # Errors
/// [`Error::Data`] with the first faults of the files, [`Error::Io`] where one cannot be read.
pub(crate) fn load(data: &config::Data) -> Result<Dataset, Error> {
    let (name, place, samples) = match &data.source {
        Source::Digits => ("digits".to_owned(), "digits".to_owned(), digits::load()?),
        Source::Csv { path, label, header, delimiter } => {
            let layout = csv::Layout { label, header: *header, delimiter: *delimiter };
            (short(path), path.display().to_string(), csv::load(path, &layout)?)
        }
        Source::Npy { features, labels } => {
            (short(features), features.display().to_string(), npy::load(features, labels)?)
        }
        Source::Idx { images, labels } => (short(images), images.display().to_string(), idx::load(images, labels)?),
        Source::Text { path, tokens, context } => {
            return text::load(short(path), path, *tokens, *context, data.test_fraction);
        }
    };
    prepare(data, name, &place, samples)
}

fn short(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn prepare(data: &config::Data, name: String, place: &str, samples: Samples) -> Result<Dataset, Error> {
    let Samples { mut features, shape, labels } = samples;
    let width = shape.iter().product();
    let (labels, classes) = labels.finish();
    let count = labels.len();
    let tests = (count as f64 * data.test_fraction).round() as usize;
    if classes.len() < 2 {
        return Err(fault(
            place,
            None,
            format!("has {} class in {count} samples: at least 2 are needed", classes.len()),
        ));
    }
    if width == 0 || tests == 0 || tests == count {
        return Err(fault(place, None, format!("{count} samples of {width} features leave {tests} for testing")));
    }
    for value in &mut features {
        *value = (f64::from(*value) / data.scale) as f32;
    }
    let mut order: Vec<usize> = (0..count).collect();
    random::shuffle(&mut random::stream(data.split_seed, Purpose::Split), &mut order);
    let all = Part { features, width, labels, positions: 1, slack: 0 };
    let pick = |indices: &[usize]| {
        let Batch { features, labels, .. } = all.gather(indices.iter().copied());
        Part { features, width, labels, positions: 1, slack: 0 }
    };
    let (mut test, mut train) = (pick(&order[..tests]), pick(&order[tests..]));
    let mut transform = Transform { scale: data.scale, mean: Vec::new(), deviation: Vec::new() };
    if data.standardize {
        (transform.mean, transform.deviation) = moments(&train);
        standardize(&mut train, &transform);
        standardize(&mut test, &transform);
    }
    let hash = hash(&classes, &train, &test);
    let task = Task { shape, positions: 1, classes: classes.len(), tokens: false };
    let (train, test) = (Arc::new(train), Arc::new(test));
    Ok(Dataset { name, task, classes, train, test, vocabulary: None, transform, hash })
}

/// Mean and deviation of each feature; a constant feature gets deviation 1, so that it becomes 0.
fn moments(part: &Part) -> (Vec<f64>, Vec<f64>) {
    let count = part.len() as f64;
    let mut mean = vec![0.0; part.width];
    for row in part.features.chunks_exact(part.width) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    for sum in &mut mean {
        *sum /= count;
    }
    let mut deviation = vec![0.0; part.width];
    for row in part.features.chunks_exact(part.width) {
        for ((sum, value), mean) in deviation.iter_mut().zip(row).zip(&mean) {
            *sum += (f64::from(*value) - mean).powi(2);
        }
    }
    let root = |sum: f64| if sum > 0.0 { (sum / count).sqrt() } else { 1.0 };
    for sum in &mut deviation {
        *sum = root(*sum);
    }
    (mean, deviation)
}

fn standardize(part: &mut Part, transform: &Transform) {
    for row in part.features.chunks_exact_mut(part.width) {
        for ((value, mean), deviation) in row.iter_mut().zip(&transform.mean).zip(&transform.deviation) {
            *value = ((f64::from(*value) - mean) / deviation) as f32;
        }
    }
}

fn hash(classes: &[String], train: &Part, test: &Part) -> ContentHash {
    let mut hash = Sha256::new();
    for class in classes {
        hash.update((class.len() as u64).to_le_bytes());
        hash.update(class.as_bytes());
    }
    for part in [train, test] {
        hash.update((part.width as u64).to_le_bytes());
        hash.update((part.labels.len() as u64).to_le_bytes());
        for row in part.features.chunks_exact(part.width) {
            hash.update(row.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect::<Vec<u8>>());
        }
        for label in &part.labels {
            hash.update(label.to_le_bytes());
        }
    }
    ContentHash(hash.finalize().into())
}

/// One fault of a data file.
fn fault(place: &str, line: Option<usize>, message: impl Into<String>) -> Error {
    let fault = Fault { place: place.to_owned(), line, field: String::new(), message: message.into() };
    Error::Data { faults: vec![fault] }
}
