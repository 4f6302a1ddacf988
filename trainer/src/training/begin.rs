//! The start: data, model and optimizer, a checkpoint if there is one, and proof that all ranks begin with the same.

use std::path::Path;
use std::sync::Arc;

use collectives::{BufMut, Pipeline};
use types::ContentHash;

use super::{Plan, Training};
use crate::agreement;
use crate::buckets::Layout;
use crate::checkpoint::{self, EpochSoFar, Position, RandomState, State, Wanted};
use crate::config::Config;
use crate::context::Context;
use crate::data;
use crate::error::Error;
use crate::model::Mlp;
use crate::optimizer::Optimizer;
use crate::progress::{counted, grouped};
use crate::report::Window;
use crate::schedule::Rates;

impl<'a> Training<'a> {
    /// Everything up to the first step. All ranks must come here together.
    pub(super) fn begin(config: &'a Config, context: Context) -> Result<Self, Error> {
        let communicator = context.communicator;
        let data = data::load(&config.data)?;
        let course = config.course_hash();
        agreement::check(&*communicator, "configurations", &course)?;
        agreement::check(&*communicator, "samples", &data.hash)?;
        let sizes: Vec<usize> = [data.train.width()]
            .into_iter()
            .chain(config.model.hidden.iter().copied())
            .chain([data.classes.len()])
            .collect();
        let model = Mlp::new(&sizes, config.training.seed)?;
        let parameters = model.parameters();
        let values = model.values()?;
        let lengths: Vec<usize> = values.iter().map(Vec::len).collect();
        let plan = Plan::new(config, data.train.len());
        let mut training = Training {
            pipeline: Pipeline::new(Arc::clone(&communicator))?,
            state: fresh_state(config, course, data.hash, communicator.world_size()),
            communicator,
            metrics: context.metrics,
            progress: context.progress,
            checkpoint_folder: context.checkpoint_folder,
            output: context.output,
            rates: rates(config, &plan),
            optimizer: Optimizer::new(config.optimizer, &lengths),
            layout: Layout::new(lengths, config.communication.bucket_bytes),
            config,
            data,
            plan,
            model,
            parameters,
            values,
            window: Window::default(),
            epoch_window: Window::default(),
            resumed_from: None,
            evaluated: None,
        };
        training.say_what();
        if let Some(folder) = context.resume_from {
            training.resume(&folder)?;
        }
        training.begin_equal()?;
        Ok(training)
    }

    fn say_what(&mut self) {
        let (plan, data) = (self.plan, &self.data);
        let count = |number: usize| grouped(number as u64);
        let sizes: Vec<String> = self.model.sizes().iter().map(ToString::to_string).collect();
        let parameters: usize = self.values.iter().map(Vec::len).sum();
        let lines = [
            format!(
                "data: {}, {} samples for training and {} for testing, {} features, {} classes",
                data.name,
                count(data.train.len()),
                count(data.test.len()),
                data.train.width(),
                data.classes.len()
            ),
            format!(
                "model: perceptron {}, {} parameters, gradients in {}",
                sizes.join("-"),
                count(parameters),
                counted(self.layout.len() as u64, "bucket")
            ),
            format!(
                "gang: {} over {}, global batch {}, {} of {}",
                counted(self.communicator.world_size().into(), "rank"),
                self.communicator.backend(),
                plan.batch_size,
                counted(plan.epochs_total, "epoch"),
                counted(plan.steps_per_epoch, "step")
            ),
        ];
        for line in &lines {
            self.progress.line(line);
        }
    }

    fn resume(&mut self, folder: &Path) -> Result<(), Error> {
        let wanted = Wanted { course: self.state.course, data: self.state.data, parameters: &self.parameters };
        let (state, values) = checkpoint::load(folder, &wanted, &mut self.optimizer)?;
        let place = state.position;
        if state.step > self.plan.steps_total
            || state.step != place.epoch * self.plan.steps_per_epoch + place.batch
            || place.batch >= self.plan.steps_per_epoch
        {
            let reason = format!("has step {} at an impossible place in the data", state.step);
            return Err(Error::Checkpoint { path: folder.to_owned(), reason });
        }
        self.progress.line(&format!("goes on after step {} from {}", state.step, folder.display()));
        if state.world_size != self.communicator.world_size() {
            let (then, now) = (state.world_size, self.communicator.world_size());
            self.progress.line(&format!("saved by {then} ranks, goes on with {now}: rounding will differ"));
        }
        self.values = values;
        self.resumed_from = Some(state.step);
        self.state = State { world_size: self.communicator.world_size(), ..state };
        Ok(())
    }

    /// Rank 0's parameters for all, and proof that everything else is the same too.
    fn begin_equal(&mut self) -> Result<(), Error> {
        for values in &mut self.values {
            self.communicator.broadcast(BufMut::from(values), 0)?;
        }
        self.model.set_values(&self.values)?;
        let position = [self.state.step, self.state.updates, self.state.position.epoch, self.state.position.batch];
        // Halves of the numbers, each of which a float of 32 bits carries as bits.
        let position = position.iter().flat_map(|number| [*number as u32, (*number >> 32) as u32]).map(f32::from_bits);
        let position: Vec<f32> = position.collect();
        let memory = self.optimizer.slots.iter().flat_map(|slot| &slot.values);
        let hash = agreement::hash_of(self.values.iter().chain(memory).chain([&position]));
        agreement::check(&*self.communicator, "starting states", &hash)
    }
}

fn rates(config: &Config, plan: &Plan) -> Rates {
    Rates {
        schedule: config.schedule,
        full: config.optimizer.learning_rate(),
        steps_total: plan.steps_total,
        steps_per_epoch: plan.steps_per_epoch,
    }
}

fn fresh_state(config: &Config, course: ContentHash, data: ContentHash, world_size: u32) -> State {
    State {
        format: checkpoint::FORMAT,
        step: 0,
        updates: 0,
        position: Position::default(),
        random: RandomState { seed: config.training.seed, shuffle: 0 },
        epoch_so_far: EpochSoFar::default(),
        course,
        data,
        world_size,
    }
}
