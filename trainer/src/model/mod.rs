//! A model: a chain of layers, the values of its parameters, and the passes over a batch.
//!
//! The values lie in one slice that is laid out as the gradients are ([`crate::buckets::Layout`]), so that an update is one
//! loop over both.

mod conv;
mod gpt;
mod mlp;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::buckets::Layout;
use crate::config;
use crate::error::{Error, Fault};
use crate::layers::{self, Backward, Chain, Gradients, Initial, Layer as _, Loss, Parameter};
use crate::random::{self, Purpose};

/// What a model is to be made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Shape of one sample: `[features]`, `[height, width]`, `[channels, height, width]`, or `[positions]` of tokens.
    pub shape: Vec<usize>,
    /// Places of a sample that each have an answer: 1 for classes of whole samples, the positions for the next token.
    pub positions: usize,
    /// Answers to choose from, at each place: the number of classes or tokens.
    pub classes: usize,
    /// The features are token numbers.
    pub tokens: bool,
}

/// How models of one kind are built.
pub trait Architecture: Send + Sync {
    /// Short, for people and for `model.json`; a checkpoint is gone on from only under the same name and shapes.
    fn name(&self) -> String;

    /// The chain from one sample's values to `task.positions * task.classes` logits.
    ///
    /// # Errors
    /// Why there is none for this task.
    fn build(&self, task: &Task) -> Result<Chain, String>;

    /// What people should see of it besides its name.
    fn detail(&self, _task: &Task) -> String {
        String::new()
    }
}

impl Task {
    /// Values of one sample.
    pub fn inputs(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The built-in kind that the configuration names.
pub(crate) fn built_in(config: &config::Model) -> Box<dyn Architecture> {
    match config {
        config::Model::Mlp(model) => Box::new(mlp::Mlp(model.clone())),
        config::Model::Conv(model) => Box::new(conv::ConvNet(model.clone())),
        config::Model::Gpt(model) => Box::new(gpt::Gpt(*model)),
    }
}

/// A model to be trained.
pub(crate) struct Network {
    chain: Chain,
    task: Task,
    /// Of all parameters, as [`Layout`] places them.
    pub(crate) values: Vec<f32>,
    /// Where each unit's parameters lie in `values`.
    places: Vec<Range<usize>>,
    logits: Vec<f32>,
    d_logits: Vec<f32>,
}

/// A parameter and its place among the values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) place: Range<usize>,
}

/// Some samples with their answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) count: usize,
    pub(crate) features: Vec<f32>,
    /// One a position.
    pub(crate) labels: Vec<u32>,
}

impl Network {
    /// Builds the chain. Its values are 0 until [`Network::begin`].
    ///
    /// # Errors
    /// [`Error::Config`] where the kind does not fit the data.
    pub(crate) fn new(architecture: &dyn Architecture, task: Task) -> Result<Self, Error> {
        let outputs = task.positions * task.classes;
        let chain = architecture.build(&task).and_then(|chain| chain.check(task.inputs(), outputs).map(|()| chain));
        let chain = chain.map_err(|message| {
            let place = format!("model {}", architecture.name());
            Error::Config { faults: vec![Fault { place, line: None, field: String::new(), message }] }
        })?;
        let (values, places) = (Vec::new(), Vec::new());
        Ok(Network { chain, task, values, places, logits: Vec::new(), d_logits: Vec::new() })
    }

    /// What it was made for.
    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    /// Number of parameter values of each unit.
    pub(crate) fn unit_lengths(&self) -> Vec<usize> {
        self.chain.units().iter().map(|unit| unit.place.len()).collect()
    }

    /// Takes the places of the units and fills in first values, parameter by parameter in the model's order.
    pub(crate) fn begin(&mut self, layout: &Layout, seed: u64) {
        self.places = (0..self.chain.units().len()).map(|unit| layout.place(unit)).collect();
        self.values = vec![0.0; layout.length()];
        let mut rng = random::stream(seed, Purpose::Initial);
        for (parameter, placed) in self.chain.parameters().iter().zip(self.parameters()) {
            fill(parameter.initial, &mut rng, &mut self.values[placed.place]);
        }
    }

    /// All parameters, in the model's order.
    pub(crate) fn parameters(&self) -> Vec<Placed> {
        let mut all = self.chain.parameters().into_iter();
        let mut placed = Vec::with_capacity(all.len());
        for place in &self.places {
            let mut start = place.start;
            while start < place.end {
                let Some(Parameter { name, shape, .. }) = all.next() else { return placed };
                let end = start + shape.iter().product::<usize>();
                placed.push(Placed { name, shape, place: start..end });
                start = end;
            }
        }
        placed
    }

    /// Forward only: the loss's sums over the batch.
    pub(crate) fn look(&mut self, batch: &Batch) -> Loss {
        let logits = self.forward(batch.count, &batch.features);
        layers::cross_entropy(logits, &batch.labels, 1.0, &mut [])
    }

    /// The logits of a batch.
    pub(crate) fn forward(&mut self, count: usize, features: &[f32]) -> &[f32] {
        let length = count * self.task.positions * self.task.classes;
        let mut logits = std::mem::take(&mut self.logits);
        self.chain_forward(count, features, layers::sized(&mut logits, length));
        self.logits = logits;
        &self.logits
    }

    fn chain_forward(&mut self, count: usize, features: &[f32], logits: &mut [f32]) {
        self.chain.forward_from(count, &self.values, &self.places, features, logits);
    }

    /// Forward and backward: adds the gradients of the loss's sum times `scale` to `gradients`, the last unit's first.
    pub(crate) fn learn(&mut self, batch: &Batch, scale: f32, gradients: &mut dyn Gradients) -> Result<Loss, Error> {
        self.forward(batch.count, &batch.features);
        let d_logits = layers::sized(&mut self.d_logits, self.logits.len());
        let loss = layers::cross_entropy(&self.logits, &batch.labels, scale, d_logits);
        let pass = Backward {
            count: batch.count,
            parameters: &self.values,
            input: &batch.features,
            output: &self.logits,
            d_output: d_logits,
            d_input: &mut [],
            gradients: &mut [],
        };
        self.chain.backward_into(pass, &self.places, gradients)?;
        Ok(loss)
    }
}

fn fill(initial: Initial, rng: &mut ChaCha8Rng, values: &mut [f32]) {
    match initial {
        Initial::Constant(value) => values.fill(value),
        Initial::Uniform(bound) => {
            for value in values {
                *value = ((2.0 * random::unit(rng) - 1.0) * bound) as f32;
            }
        }
    }
}
