//! The loop: begin equal on all ranks, step, look, save, and end with proof that all ranks are equal still.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectives::{BufMut, Communicator, Pipeline};
use types::ContentHash;

use crate::Summary;
use crate::agreement;
use crate::buckets::{Layout, Reduced, Reduction};
use crate::checkpoint::{self, EpochSoFar, Position, RandomState, Snapshot, State, Wanted};
use crate::config::{Config, Every, Length};
use crate::context::Context;
use crate::data::{self, Dataset};
use crate::error::Error;
use crate::evaluate::{Evaluation, evaluate};
use crate::metrics::Metrics;
use crate::model::{self, Mlp};
use crate::optimizer::{self, Optimizer};
use crate::progress::{Progress, counted, grouped};
use crate::report::{self, EpochLine, StepDone, Window};
use crate::result::{self, Description};
use crate::schedule::Rates;
use crate::shards;

/// Longest cause told to other ranks; the whole error is in this rank's own output.
const CAUSE_CHARS_MAX: usize = 300;

/// Trains to the end. On an error all other ranks are told before this returns.
pub(crate) fn train(config: &Config, context: Context) -> Result<Summary, Error> {
    let communicator = Arc::clone(&context.communicator);
    let result = on_one_thread(|| Training::begin(config, context)?.run());
    if let Err(error) = &result {
        // After an error of the communicator itself this changes nothing: the first cause holds.
        let cause = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        communicator.abort(&cause.chars().take(CAUSE_CHARS_MAX).collect::<String>());
    }
    result
}

/// The tensor engine splits large products over the pool that it is called in. In a pool of one thread a rank keeps to one
/// core, as the ranks beside it do, and nothing depends on the machine's number of cores.
fn on_one_thread<T: Send>(run: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "trainer".to_owned()).build();
    pool.map_err(|error| Error::Internal(format!("no thread for the training: {error}")))?.install(run)
}

/// Sizes that hold for the whole training.
#[derive(Clone, Copy, Debug)]
struct Plan {
    samples: usize,
    batch_size: usize,
    steps_per_epoch: u64,
    steps_total: u64,
    epochs_total: u64,
}

impl Plan {
    fn new(config: &Config, samples: usize) -> Self {
        let steps_per_epoch = shards::batches(samples, config.training.batch_size);
        let steps_total = match config.training.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => epochs.saturating_mul(steps_per_epoch),
        };
        let epochs_total = steps_total.div_ceil(steps_per_epoch);
        Plan { samples, batch_size: config.training.batch_size, steps_per_epoch, steps_total, epochs_total }
    }
}

struct Training<'a> {
    config: &'a Config,
    communicator: Arc<dyn Communicator>,
    pipeline: Pipeline,
    metrics: Metrics,
    progress: Progress,
    checkpoint_folder: Option<PathBuf>,
    output: Option<PathBuf>,
    data: Dataset,
    plan: Plan,
    rates: Rates,
    model: Mlp,
    /// Names and shapes of the parameters.
    parameters: Vec<(String, Vec<usize>)>,
    /// Of the parameters; the model's variables follow them.
    values: Vec<Vec<f32>>,
    optimizer: Optimizer,
    layout: Layout,
    state: State,
    window: Window,
    epoch_window: Window,
    resumed_from: Option<u64>,
    /// Of the last step done, if it was evaluated.
    evaluated: Option<(u64, Evaluation)>,
}

impl<'a> Training<'a> {
    fn begin(config: &'a Config, context: Context) -> Result<Self, Error> {
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

    fn rank(&self) -> u32 {
        self.communicator.rank()
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

    fn resume(&mut self, folder: &std::path::Path) -> Result<(), Error> {
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

    fn run(mut self) -> Result<Summary, Error> {
        if self.rank() == 0
            && let Some(folder) = self.saving_folder()
        {
            daemon::files::create_private_folder(&folder).map_err(Error::io("make", &folder))?;
            checkpoint::remove_half_written(&folder)?;
        }
        while self.state.step < self.plan.steps_total {
            let epoch = self.state.position.epoch;
            let order = shards::order(self.config.training.seed, epoch, self.plan.samples);
            while self.state.position.epoch == epoch && self.state.step < self.plan.steps_total {
                let started = daemon::clock::boot_time();
                let done = self.step(&order, started)?;
                self.after_step(&done)?;
            }
        }
        self.finish()
    }

    /// One optimizer update.
    fn step(&mut self, order: &[u32], started: Duration) -> Result<StepDone, Error> {
        let batch = shards::batch(self.plan.samples, self.plan.batch_size, self.state.position.batch);
        let mut reduced = self.gradients(order, &batch)?;
        let bound = self.config.training.clip_norm.unwrap_or(f64::INFINITY);
        let gradient_norm = optimizer::clip(&mut reduced.gradients, bound);
        let step = self.state.step + 1;
        if !reduced.loss.is_finite() || !gradient_norm.is_finite() {
            // Before the update, so that no parameter is spoilt and none such is saved.
            return Err(Error::NotFinite { step, loss: reduced.loss });
        }
        self.optimizer.update(&mut self.values, &reduced.gradients, reduced.rate);
        self.model.set_values(&self.values)?;
        self.advance(reduced.loss, batch.len());
        let took = daemon::clock::boot_time().saturating_sub(started);
        pause(Duration::from_millis(self.config.training.step_delay_ms));
        let elapsed = daemon::clock::boot_time().saturating_sub(started);
        let (loss, rate, samples) = (reduced.loss, reduced.rate, batch.len());
        Ok(StepDone { step, loss, rate, gradient_norm, samples, took, elapsed })
    }

    /// Of the mean loss over the global batch, from this rank's share of it and everybody else's.
    fn gradients(&self, order: &[u32], batch: &Range<usize>) -> Result<Reduced, Error> {
        let rank = self.rank();
        let share = shards::share(batch, rank, self.communicator.world_size());
        // The same on all ranks even if their mathematical libraries differ: rank 0's goes round with the gradients.
        let rate = if rank == 0 { self.rates.at(self.state.step) as f32 } else { 0.0 };
        if share.is_empty() {
            let mut reduction = Reduction::new(&self.layout, &self.pipeline, 0.0, rate);
            reduction.add_zeros()?;
            return reduction.finish();
        }
        let (features, labels) = self.data.train.gather(order[share].iter().map(|at| *at as usize));
        let pass = self.model.forward(features, labels.len())?;
        // Shares of the mean over the whole batch, so that their sum over the ranks is the mean, however they are cut.
        let loss = model::cross_entropy(pass.logits()?, &labels)?.affine(1.0 / batch.len() as f64, 0.0)?;
        let mut reduction = Reduction::new(&self.layout, &self.pipeline, loss.to_scalar()?, rate);
        self.model.backward(&pass, &loss, |parameter, gradient| reduction.add(parameter, &gradient))?;
        reduction.finish()
    }

    fn advance(&mut self, loss: f32, samples: usize) {
        let state = &mut self.state;
        state.step += 1;
        state.updates = self.optimizer.updates;
        state.position.batch += 1;
        let sum = f64::from_bits(state.epoch_so_far.loss_bits) + f64::from(loss) * samples as f64;
        state.epoch_so_far.loss_bits = sum.to_bits();
        state.epoch_so_far.samples += samples as u64;
        if state.position.batch == self.plan.steps_per_epoch {
            state.position = Position { epoch: state.position.epoch + 1, batch: 0 };
            state.random.shuffle = state.position.epoch;
        }
    }

    /// Reports, evaluates and saves where it is time.
    fn after_step(&mut self, done: &StepDone) -> Result<(), Error> {
        let rank = self.rank();
        self.window.add(done);
        self.epoch_window.add(done);
        if done.step == 1 || done.step.is_multiple_of(self.config.metrics.every_steps) {
            self.window.report(&mut self.metrics, rank, done);
        }
        let epochs_done = (self.state.position.batch == 0).then_some(self.state.position.epoch);
        if let Some(epoch) = epochs_done {
            self.end_epoch(epoch)?;
        }
        let due = match self.config.checkpoint.every {
            None => false,
            Some(Every::Steps(steps)) => done.step.is_multiple_of(steps),
            Some(Every::Epochs(epochs)) => epochs_done.is_some_and(|done| done.is_multiple_of(epochs)),
        };
        if due && rank == 0 {
            self.save();
        }
        Ok(())
    }

    fn end_epoch(&mut self, epoch: u64) -> Result<(), Error> {
        let every = self.config.evaluate.every_epochs;
        let evaluation = if every > 0 && epoch.is_multiple_of(every) { Some(self.evaluate()?) } else { None };
        let so_far = std::mem::take(&mut self.state.epoch_so_far);
        let line = EpochLine {
            epoch: (epoch, self.plan.epochs_total),
            step: (self.state.step, self.plan.steps_total),
            loss: f64::from_bits(so_far.loss_bits) / so_far.samples.max(1) as f64,
            samples_per_second: self.epoch_window.samples_per_second(),
            evaluation,
        };
        self.epoch_window = Window::default();
        line.say(&mut self.progress);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<Evaluation, Error> {
        let evaluation = evaluate(&*self.communicator, &self.model, &self.data.test)?;
        report::evaluation(&mut self.metrics, self.communicator.rank(), evaluation, self.state.step);
        self.evaluated = Some((self.state.step, evaluation));
        Ok(evaluation)
    }

    fn saving_folder(&self) -> Option<PathBuf> {
        self.config.checkpoint.every.and(self.checkpoint_folder.clone())
    }

    /// Saves a checkpoint. A full disk must not end days of training: a failure is said, and the training goes on.
    fn save(&mut self) {
        let Some(folder) = self.saving_folder() else { return };
        let snapshot = Snapshot {
            state: &self.state,
            parameters: &self.parameters,
            values: &self.values,
            optimizer: &self.optimizer,
        };
        match checkpoint::save(&folder, &snapshot, self.config.checkpoint.keep) {
            Ok(name) => {
                let told = self.metrics.saved(&name, self.state.step);
                let note = if told { "" } else { " (the worker was not told: it does not read)" };
                self.progress.line(&format!("checkpoint {name} saved{note}"));
            }
            Err(error) => {
                tracing::warn!(%error, step = self.state.step, "checkpoint not saved");
                self.progress.line(&format!("checkpoint at step {} not saved: {error}", self.state.step));
            }
        }
    }

    fn finish(mut self) -> Result<Summary, Error> {
        let evaluation = match self.evaluated {
            Some((step, evaluation)) if step == self.state.step => evaluation,
            _ => self.evaluate()?,
        };
        let hash = agreement::hash_of(&self.values);
        agreement::check(&*self.communicator, "parameters", &hash)?;
        let (rank, world_size) = (self.rank(), self.communicator.world_size());
        self.progress.each(&format!("rank {rank}: parameters {} are equal on all {world_size} ranks", hash.short()));
        let model = self.write_model(evaluation, hash)?;
        if self.metrics.dropped() > 0 {
            self.progress.each(&format!("rank {rank}: {} metric points were not taken", self.metrics.dropped()));
        }
        self.progress
            .line(&format!("final test accuracy {:.4}, test loss {:.4}", evaluation.accuracy, evaluation.loss));
        // Nobody leaves before rank 0 has written: a rank's end before that would look like a failure to the others.
        self.communicator.barrier()?;
        Ok(Summary {
            rank,
            world_size,
            steps: self.state.step,
            resumed_from: self.resumed_from,
            test_accuracy: evaluation.accuracy,
            test_loss: evaluation.loss,
            parameters_sha256: hash.to_string(),
            model,
        })
    }

    fn write_model(&mut self, evaluation: Evaluation, hash: ContentHash) -> Result<Option<PathBuf>, Error> {
        if self.rank() != 0 {
            return Ok(None);
        }
        let Some(folder) = self.output.clone() else {
            self.progress.line("no model written: no output folder was given");
            return Ok(None);
        };
        let description = Description {
            format: result::FORMAT,
            architecture: "mlp",
            layers: self.model.sizes(),
            classes: &self.data.classes,
            transform: &self.data.transform,
            test_accuracy: evaluation.accuracy,
            test_loss: evaluation.loss,
            parameters_sha256: hash.to_string(),
            data_sha256: self.data.hash.to_string(),
            steps: self.state.step,
            world_size: self.communicator.world_size(),
            config: self.config,
        };
        result::write(&folder, &description, &self.parameters, &self.values)?;
        self.progress.line(&format!("model written to {}", folder.display()));
        Ok(Some(folder))
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

/// Waits without work.
fn pause(span: Duration) {
    let end = daemon::clock::boot_time() + span;
    loop {
        let left = end.saturating_sub(daemon::clock::boot_time());
        let Ok(timeout) = rustix::event::Timespec::try_from(left) else { return };
        if left.is_zero() {
            return;
        }
        // An interruption only brings the next look at the clock.
        let _ = rustix::event::poll(&mut [], Some(&timeout));
    }
}
