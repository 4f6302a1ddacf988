//! The loop: begin equal on all ranks, step, look, save, and end with proof that all ranks are equal still.

mod begin;
mod finish;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectives::{Communicator, Pipeline};

use crate::Summary;
use crate::buckets::{Layout, Reduced, Reduction};
use crate::checkpoint::{self, Position, Snapshot, State};
use crate::config::{Config, Every, Length};
use crate::context::Context;
use crate::data::Dataset;
use crate::error::Error;
use crate::evaluate::{Evaluation, evaluate};
use crate::metrics::Metrics;
use crate::model::{self, Mlp};
use crate::optimizer::{self, Optimizer};
use crate::progress::Progress;
use crate::report::{self, EpochLine, StepDone, Window};
use crate::schedule::Rates;
use crate::shards;

/// Longest cause told to other ranks; the whole error is in this rank's own output.
const CAUSE_CHARS_MAX: usize = 300;

/// Trains to the end. On an error all other ranks are told before this returns.
pub(crate) fn train(config: &Config, context: Context) -> Result<Summary, Error> {
    let communicator = Arc::clone(&context.communicator);
    let result = on_one_thread(|| Training::begin(config, context)?.run());
    // A shared error ends every rank with the same words; an abort could overtake it and blame the quickest rank.
    if let Err(error) = &result
        && !error.is_shared()
    {
        // After an error of the communicator itself this changes nothing: the first cause holds.
        let cause = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
        communicator.abort(&cause.chars().take(CAUSE_CHARS_MAX).collect::<String>());
    }
    result
}

/// The tensor engine splits large products over the pool that it is called in. In a pool of one thread a rank keeps
/// to one core, as the ranks beside it do, and nothing depends on the machine's number of cores.
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

impl Training<'_> {
    fn rank(&self) -> u32 {
        self.communicator.rank()
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
