//! The configuration of a training: one struct, each field with unit, default and reason; all faults reported together.
//!
//! The file is YAML (or JSON, which YAML contains). Every field has a default, so an empty file trains on the built-in
//! digits; unknown fields are faults. `key=value` overrides with dotted keys go before the file.

mod document;
mod fields;
mod kinds;
mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use types::ContentHash;

use self::document::{Node, Origin, Value};
use self::fields::{Faults, Fields};
pub use self::kinds::{ConvNet, Gpt, Mlp, Model, Optimizer, Schedule, ScheduleKind};
use crate::arguments::TrainArgs;
use crate::error::{Error, Fault};

/// All that a training is told. The names of the fields are those of the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What to learn from.
    pub data: Data,
    /// What learns.
    pub model: Model,
    /// How long and in which portions.
    pub training: Training,
    /// How gradients move parameters.
    pub optimizer: Optimizer,
    /// How the learning rate goes over the steps.
    pub schedule: Schedule,
    /// When to look at the test data.
    pub evaluate: Evaluate,
    /// What a model of text is asked for at the end.
    pub generate: Generate,
    /// When to report.
    pub metrics: Metrics,
    /// When to save.
    pub checkpoint: Checkpoint,
    /// How ranks talk.
    pub communication: Communication,
    /// Folder for the finished model. Default: `MUSTER_OUTPUT_MODEL`, the folder of a job's output named `model`;
    /// without either no model is written.
    pub output: Option<PathBuf>,
}

/// What to learn from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Data {
    /// Where the samples come from. Default: `digits`.
    #[serde(flatten)]
    pub source: Source,
    /// Every feature is divided by this. Default: the largest value of the format where it is known (`digits` 16, `idx`
    /// 255), else 1.
    pub scale: f64,
    /// Shift and stretch every feature to mean 0 and deviation 1 over the training samples. Default: false.
    pub standardize: bool,
    /// Share of the samples that is kept for testing, above 0 and below 1. Default: 0.2.
    pub test_fraction: f64,
    /// Chooses which samples are kept for testing. Default: 0.
    pub split_seed: u64,
}

/// Where the samples come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum Source {
    /// 1,797 handwritten digits of 8 x 8 pixels (UCI, "Optical Recognition of Handwritten Digits"), built in.
    Digits,
    /// A text file with one sample a line.
    Csv {
        /// The file.
        path: PathBuf,
        /// Which column is the label: a name of the header, or an index from 0. Default: the last column.
        label: Column,
        /// Whether the first line names the columns. Default: true where its features are not all numbers.
        header: Option<bool>,
        /// Between the fields. Default: a comma; `tab` is a tab.
        delimiter: char,
    },
    /// Two files of NumPy's format 1 or 2, in C order and little-endian: f4, f8, u1, i4 or i8.
    Npy {
        /// Array of at least two dimensions, the first being the samples.
        features: PathBuf,
        /// Array of one whole number a sample.
        labels: PathBuf,
    },
    /// Two files of the IDX format of bytes, as MNIST comes in.
    Idx {
        /// At least two dimensions, the first being the samples.
        images: PathBuf,
        /// One dimension.
        labels: PathBuf,
    },
    /// A text, of which each next token is to be told from those before it.
    Text {
        /// UTF-8 where the tokens are characters.
        path: PathBuf,
        /// What is a token. Default: characters.
        tokens: Tokens,
        /// Tokens that are seen together: the samples are runs of so many. Default: 64.
        context: usize,
    },
}

/// What a text is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// Those that occur in the text, in the order of their code.
    Characters,
    /// All 256.
    Bytes,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Column {
    /// The last one.
    Last,
    /// From 0.
    Index(usize),
    /// As the header says.
    Name(String),
}

/// How long and in which portions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Training {
    /// `epochs` or `steps`, not both. Default: 30 epochs.
    #[serde(flatten)]
    pub length: Length,
    /// Samples in one step, over all ranks. Default: 64.
    pub batch_size: usize,
    /// A rank's samples of a step go through the model so many at a time, which bounds the memory that they take; the
    /// gradients are added up. Default: all at once.
    pub micro_batch: Option<usize>,
    /// Each rank keeps the optimizer's memory of its own part of the parameters only (ZeRO stage 1). Default: false.
    pub shard_optimizer: bool,
    /// Chooses the first parameters and the order of the samples. Default: 1.
    pub seed: u64,
    /// Gradients longer than this (Euclidean norm over all parameters) are shortened to it. Default: no bound.
    pub clip_norm: Option<f64>,
    /// Steps whose samples are prepared ahead, by a thread of its own; 0 for none. Default: 1.
    pub prefetch: usize,
    /// Pause after each step in milliseconds, so that a demonstration on small data can be watched. Default: 0.
    pub step_delay_ms: u64,
}

/// When the training is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// Passes over the training samples.
    Epochs(u64),
    /// Optimizer updates.
    Steps(u64),
}

/// When to look at the test data; that is always done at the end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluate {
    /// In epochs; 0 for only at the end. Default: 1.
    pub every_epochs: u64,
    /// The training ends early after so many looks in a row in which the test loss was not the least so far. Default: never.
    pub patience: Option<u64>,
    /// What counts as less must be so much less. Default: 0.
    pub minimum_improvement: f64,
}

/// What a trained model of text is asked for at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generate {
    /// Number of tokens; 0 for none. Default: 200.
    pub tokens: usize,
    /// Goes before them. Default: the first token of the vocabulary.
    pub prompt: Option<String>,
    /// Above 0; the lower, the more the likeliest tokens are chosen. Default: 0.8.
    pub temperature: f64,
    /// Chooses among the likely tokens. Default: 1.
    pub seed: u64,
}

/// When to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// In steps. Default: 5.
    pub every_steps: u64,
}

/// When to save.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checkpoint {
    /// `every_steps` or `every_epochs`, not both. Default: never.
    pub every: Option<Every>,
    /// How many are kept; older ones are removed. Default: 3.
    pub keep: u64,
    /// Where they are written. Default: `MUSTER_CHECKPOINT_DIR`, which goes before this.
    pub folder: Option<PathBuf>,
    /// One checkpoint's folder to go on from. Default: `MUSTER_RESUME_FROM`, which goes before this.
    pub resume_from: Option<PathBuf>,
}

/// A period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// Optimizer updates.
    Steps(u64),
    /// Passes over the data.
    Epochs(u64),
}

/// How ranks talk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Communication {
    /// Gradients are summed in portions of about this size, each as soon as it is whole. Default: 262144.
    pub bucket_bytes: usize,
    /// The first portion, which should leave early; never more than `bucket_bytes`. Default: 65536.
    pub first_bucket_bytes: usize,
    /// For all ranks to find each other, in seconds. Default: 60.
    pub rendezvous_timeout_s: u64,
    /// Longest silence of all ranks in one operation, in seconds: for a stuck rank, as a dead one is seen at once. It
    /// must be longer than reading the data takes. Default: 300.
    pub operation_timeout_s: u64,
    /// Data connections between two ranks over TCP, up to 8. Default: 1.
    pub streams: u8,
    /// Encrypts what goes over TCP, whatever the worker wants. Default: false.
    pub encrypt: bool,
    /// What gradients are on their way over TCP, in portions of 64 KiB and more. Default: `native`.
    pub wire: Wire,
    /// Sends gradients as products of thin matrices of this rank, for slow links (PowerSGD). Default: as they are.
    pub power_sgd: Option<PowerSgd>,
    /// Each rank makes so many updates by itself; then all meet in the middle (DiLoCo), for slow links. Default: every update
    /// is made together.
    pub local_steps: Option<u64>,
    /// How far a meeting goes towards the ranks' mean; with `local_steps`. Default: 0.7.
    pub outer_learning_rate: f64,
    /// Nesterov momentum from meeting to meeting; with `local_steps`. Default: 0.9.
    pub outer_momentum: f64,
}

/// What gradients are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As they are.
    Native,
    /// Of 16 bits: half the bytes. Summed in 32 bits and rounded once.
    Bf16,
}

/// Gradients as products of thin matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PowerSgd {
    /// Columns of the thin matrices: 1 to 4 as a rule.
    pub rank: usize,
}

impl Config {
    /// Reads the file and the overrides of `arguments`.
    ///
    /// # Errors
    /// [`Error::Config`] with all faults; [`Error::Io`] where there is no such file.
    pub fn load(arguments: &TrainArgs) -> Result<Config, Error> {
        let (name, text) = match &arguments.config {
            Some(path) => (path.display().to_string(), text_of(path)?),
            None => ("defaults".to_owned(), String::new()),
        };
        Self::parse(&name, &text, &arguments.overrides).map_err(|faults| Error::Config { faults })
    }

    /// As [`Config::load`] with the text at hand; `name` is the file's in faults.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Config, Vec<Fault>> {
        let faults = Faults::new(name.to_owned());
        let (mut root, found) = document::parse(text);
        for (line, message) in found {
            faults.add(&Origin::Line(line), "", message);
        }
        for one in overrides {
            override_with(&mut root, one, &faults);
        }
        let mut fields = Fields::root(&root, &faults);
        let config = read::config(&mut fields);
        fields.finish();
        let faults = faults.into_sorted();
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// Names what decides the course of the training, so that a checkpoint is not gone on from with another: where
    /// things are written, how often is reported and how buckets are cut is not in it.
    pub(crate) fn course_hash(&self) -> ContentHash {
        let course = (&self.data, &self.model, &self.training, &self.optimizer, &self.schedule);
        let mut course = serde_json::to_value(course).unwrap_or_default();
        // Paths change from machine to machine; the data is compared by content.
        if let Some(data) = course.get_mut(0).and_then(serde_json::Value::as_object_mut) {
            for path in ["path", "features", "labels", "images"] {
                data.remove(path);
            }
        }
        if let Some(training) = course.get_mut(2).and_then(serde_json::Value::as_object_mut) {
            for how in ["step_delay_ms", "micro_batch", "shard_optimizer", "prefetch"] {
                training.remove(how);
            }
        }
        let patience = self.evaluate.patience.map(|_| self.evaluate);
        let mut text = format!("{course}{}", serde_json::to_string(&patience).unwrap_or_default());
        // Only where it is so, as checkpoints of before do not know of it.
        let Communication { power_sgd, local_steps, outer_learning_rate, outer_momentum, .. } = self.communication;
        if power_sgd.is_some() || local_steps.is_some() {
            let outer = local_steps.map(|steps| (steps, outer_learning_rate, outer_momentum));
            text.push_str(&serde_json::to_string(&(power_sgd, outer)).unwrap_or_default());
        }
        ContentHash(Sha256::digest(text.as_bytes()).into())
    }

    /// Names what all ranks of one attempt must be told alike: the course, and how it is gone together.
    pub(crate) fn gang_hash(&self) -> ContentHash {
        let training = (self.training.micro_batch, self.training.shard_optimizer);
        let together = (training, self.communication, &self.evaluate, self.checkpoint.every);
        let text = format!("{}{}", self.course_hash(), serde_json::to_string(&together).unwrap_or_default());
        ContentHash(Sha256::digest(text.as_bytes()).into())
    }
}

fn text_of(path: &Path) -> Result<String, Error> {
    let bytes = crate::files::read_bounded(path, document::BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let message = "is not UTF-8 text here".to_owned();
        let fault = Fault {
            place: path.display().to_string(),
            line: Some(good.split('\n').count()),
            field: String::new(),
            message,
        };
        Error::Config { faults: vec![fault] }
    })
}

fn override_with(root: &mut Node, text: &str, faults: &Faults) {
    let Some((key, value)) = text.split_once('=') else {
        faults.add(&Origin::Override, text, "key=value was expected");
        return;
    };
    let path_wanted = matches!(key.rsplit('.').next(), Some("output" | "path" | "folder" | "resume_from"));
    let node = if path_wanted {
        // A path is never a number, a list or a comment, whatever it looks like.
        Node { origin: Origin::Override, value: Value::Scalar { text: value.to_owned(), plain: false } }
    } else {
        let (node, found) = document::parse(value);
        for (_, message) in found {
            faults.add(&Origin::Override, key, message);
        }
        mark(node)
    };
    if let Err(message) = document::set(root, key, node) {
        faults.add(&Origin::Override, key, message);
    }
}

/// Everything inside an override is an override.
fn mark(mut node: Node) -> Node {
    node.origin = Origin::Override;
    node.value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(mark).collect()),
        Value::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|entry| document::Entry { origin: Origin::Override, node: mark(entry.node), ..entry })
                .collect(),
        ),
        scalar => scalar,
    };
    node
}
