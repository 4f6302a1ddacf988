//! The start: data, model and optimizer, a checkpoint if there is one, and proof that all ranks begin with the same.

use std::path::Path;
use std::sync::Arc;

use collectives::{BufMut, Communicator};
use sha2::{Digest, Sha256};
use types::ContentHash;

use super::{Plan, Saver, Training, meeting};
use crate::agreement;
use crate::buckets::{Cut, Layout, Reducer, SHARED};
use crate::checkpoint::{self, EpochSoFar, Improvement, Loaded, Position, RandomState, State, Wanted};
use crate::config::{self, Config};
use crate::context::Context;
use crate::data::{self, Dataset, Feed, FeedSource};
use crate::error::Error;
use crate::generate;
use crate::model::{Architecture, Network};
use crate::optimizer::Optimizer;
use crate::power::PowerSgd;
use crate::progress::{counted, grouped};
use crate::report::Window;
use crate::schedule::Rates;

impl<'a> Training<'a> {
    /// Everything up to the first step. All ranks must come here together.
    pub(super) fn begin(
        config: &'a Config,
        architecture: &'a dyn Architecture,
        context: Context,
    ) -> Result<Self, Error> {
        let communicator = context.communicator;
        let (rank, world) = (communicator.rank(), communicator.world_size());
        let data = data::load(&config.data)?;
        let mut model = Network::new(architecture, data.task.clone())?;
        if let Some(vocabulary) = &data.vocabulary {
            // Now, not after hours of training.
            generate::prompt(vocabulary, &config.generate)?;
        }
        let course = course(config, architecture);
        agreement::check(&*communicator, "configurations", &config.gang_hash())?;
        agreement::check(&*communicator, "samples", &data.hash)?;
        let layout = Arc::new(layout(config, &model, world));
        model.begin(&layout, config.training.seed);
        let plan = Plan::new(config, data.train.len());
        let folder = context.checkpoint_folder.as_deref().filter(|_| config.checkpoint.every.is_some());
        let saver = Saver::begin(folder, config.checkpoint.keep, context.token, &*communicator)?;
        let power = power(config, &model, &layout, &*communicator)?;
        let state = State { token: context.token, ..fresh_state(config, course, data.hash, world) };
        let mut training = Training {
            state,
            saver,
            metrics: context.metrics,
            progress: context.progress,
            output: context.output,
            rates: rates(config, &plan),
            optimizer: optimizer(config, &layout, rank),
            reducer: Reducer::new(Arc::clone(&layout), Arc::clone(&communicator), power)?,
            meeting: None,
            feed: feed(config, &data, Position::default(), (rank, world))?,
            parameters: model.parameters(),
            communicator,
            layout,
            config,
            architecture,
            data,
            plan,
            model,
            window: Window::default(),
            epoch_window: Window::default(),
            resumed_from: None,
            evaluated: None,
        };
        training.say_what();
        if let Some(folder) = context.resume_from {
            training.resume(&folder)?;
            training.feed = feed(config, &training.data, training.state.position, (rank, world))?;
        }
        training.begin_equal()?;
        training.begin_apart()?;
        training.reducer.begins_anew(training.state.step + 1);
        Ok(training)
    }

    fn say_what(&mut self) {
        let (plan, data) = (self.plan, &self.data);
        let count = |number: usize| grouped(number as u64);
        let parameters: usize = self.parameters.iter().map(|parameter| parameter.place.len()).sum();
        let (name, detail) = (self.architecture.name(), self.architecture.detail(&data.task));
        let name = if name == "mlp" { "perceptron".to_owned() } else { name };
        let answers = if data.task.tokens { "tokens" } else { "classes" };
        let lines = [
            format!(
                "data: {}, {} samples for training and {} for testing, {} features, {} {answers}",
                data.name,
                count(data.train.len()),
                count(data.test.len()),
                data.task.inputs(),
                data.classes.len()
            ),
            format!(
                "model: {name} {detail}, {} parameters, gradients in {} of {} bytes{}",
                count(parameters),
                counted(self.layout.len() as u64, "bucket"),
                count(self.reducer.bytes()),
                if self.layout.is_sharded() { ", optimizer sharded" } else { "" }
            ),
            format!(
                "gang: {} over {}{}{}, global batch {}, {} of {}",
                counted(self.communicator.world_size().into(), "rank"),
                self.communicator.backend(),
                if self.communicator.is_encrypted() { ", encrypted" } else { "" },
                how(self.config),
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
        let (course, data, length) = (self.state.course, self.state.data, self.layout.length());
        let wanted = Wanted { course, data, parameters: &self.parameters, length };
        let Loaded { state, values } = checkpoint::load(folder, &wanted, &mut self.optimizer)?;
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
        self.model.values = values;
        self.resumed_from = Some(state.step);
        self.state = State { world_size: self.communicator.world_size(), token: self.state.token, ..state };
        Ok(())
    }

    /// Rank 0's parameters for all, and proof that everything else is the same too.
    fn begin_equal(&mut self) -> Result<(), Error> {
        self.communicator.broadcast(BufMut::from(&mut self.model.values), 0)?;
        let position = [self.state.step, self.state.updates, self.state.position.epoch, self.state.position.batch];
        // Halves of the numbers, each of which a float of 32 bits carries as bits.
        let position = position.iter().flat_map(|number| [*number as u32, (*number >> 32) as u32]).map(f32::from_bits);
        let position: Vec<f32> = position.collect();
        // With a sharded optimizer no two ranks hold the same memory; what they have read was hashed as it was read.
        let memory = self.optimizer.slots.iter().map(|slot| &slot.values).filter(|_| !self.layout.is_sharded());
        let hash = agreement::hash_of([&self.model.values].into_iter().chain(memory).chain([&position]));
        agreement::check(&*self.communicator, "starting states", &hash)
    }
}

fn layout(config: &Config, model: &Network, world: u32) -> Layout {
    let cut = Cut {
        first_bytes: config.communication.first_bucket_bytes,
        bytes: config.communication.bucket_bytes,
        parts: if config.training.shard_optimizer { world as usize } else { 1 },
    };
    Layout::new(&model.unit_lengths(), cut)
}

/// What was chosen about how ranks talk.
fn how(config: &Config) -> String {
    let config::Communication { streams, wire, power_sgd, local_steps, .. } = config.communication;
    let chosen = [
        (streams > 1).then(|| format!("{streams} streams")),
        (wire == config::Wire::Bf16).then(|| "bf16 on the wire of TCP".to_owned()),
        power_sgd.map(|power| format!("gradients as factors of rank {}", power.rank)),
        local_steps.map(|steps| format!("meeting every {}", counted(steps, "step"))),
    ];
    chosen.into_iter().flatten().flat_map(|words| [", ".to_owned(), words]).collect()
}

fn optimizer(config: &Config, layout: &Layout, rank: u32) -> Optimizer {
    let optimizer = Optimizer::new(config.optimizer, layout.owned(rank as usize));
    if config.communication.local_steps.is_some() { optimizer.and(meeting::MOMENTUM) } else { optimizer }
}

fn power(
    config: &Config,
    model: &Network,
    layout: &Layout,
    communicator: &dyn Communicator,
) -> Result<Option<PowerSgd>, Error> {
    let Some(power) = config.communication.power_sgd else { return Ok(None) };
    let (parameters, length) = (model.parameters(), layout.length());
    PowerSgd::new(power.rank, config.training.seed, &parameters, length, SHARED, communicator).map(Some)
}

fn feed(config: &Config, data: &Dataset, position: Position, (rank, world): (u32, u32)) -> Result<Feed, Error> {
    let source = FeedSource {
        part: Arc::clone(&data.train),
        seed: config.training.seed,
        batch_size: config.training.batch_size,
        micro_batch: config.training.micro_batch.unwrap_or(usize::MAX),
        rank,
        world,
        position,
        order: None,
    };
    Feed::new(source, config.training.prefetch)
}

/// Of the configuration, and of the kind of model, which need not be the configured one.
fn course(config: &Config, architecture: &dyn Architecture) -> ContentHash {
    let text = format!("{}{}", config.course_hash(), architecture.name());
    ContentHash(Sha256::digest(text.as_bytes()).into())
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
        improvement: Improvement::default(),
        course,
        data,
        world_size,
        token: 0,
    }
}
