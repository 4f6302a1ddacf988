//! The loop: begin equal on all ranks, step, look, save, and end with proof that all ranks are equal still.

mod begin;
mod finish;
mod meeting;
mod saving;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use collectives::Communicator;

use self::meeting::Meeting;
use self::saving::Saver;
use crate::Summary;
use crate::buckets::{Layout, Reduced, Reducer, Sends, Shared};
use crate::checkpoint::{Position, State};
use crate::config::{Config, Every, Length};
use crate::context::Context;
use crate::data::{Dataset, Feed, Lot};
use crate::error::Error;
use crate::evaluate::{Evaluation, evaluate};
use crate::metrics::Metrics;
use crate::model::{Architecture, Network, Placed};
use crate::optimizer::{self, Optimizer};
use crate::progress::Progress;
use crate::report::{self, EpochLine, StepDone, Window};
use crate::schedule::Rates;
use crate::shards;

/// Longest cause told to other ranks; the whole error is in this rank's own output.
const CAUSE_CHARS_MAX: usize = 300;

/// Trains to the end. On an error all other ranks are told before this returns.
pub(crate) fn train(config: &Config, architecture: &dyn Architecture, context: Context) -> Result<Summary, Error> {
    let communicator = Arc::clone(&context.communicator);
    let result = Training::begin(config, architecture, context).and_then(Training::run);
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

/// Sizes that hold for the whole training.
#[derive(Clone, Copy, Debug)]
struct Plan {
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
        Plan { batch_size: config.training.batch_size, steps_per_epoch, steps_total, epochs_total }
    }
}

struct Training<'a> {
    config: &'a Config,
    architecture: &'a dyn Architecture,
    communicator: Arc<dyn Communicator>,
    metrics: Metrics,
    progress: Progress,
    output: Option<PathBuf>,
    data: Dataset,
    feed: Feed,
    plan: Plan,
    rates: Rates,
    model: Network,
    parameters: Vec<Placed>,
    optimizer: Optimizer,
    layout: Arc<Layout>,
    reducer: Reducer,
    /// Where ranks make updates by themselves.
    meeting: Option<Meeting>,
    saver: Saver,
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
        while self.state.step < self.plan.steps_total && !self.has_converged() {
            let started = daemon::clock::boot_time();
            let done = self.step(started)?;
            self.after_step(&done)?;
        }
        self.finish()
    }

    /// Whether the test loss has not become less for as long as the configuration waits.
    fn has_converged(&self) -> bool {
        self.config.evaluate.patience.is_some_and(|patience| self.state.improvement.looks_since >= patience)
    }

    /// One optimizer update.
    fn step(&mut self, started: Duration) -> Result<StepDone, Error> {
        let lot = self.feed.next()?;
        if lot.position != self.state.position {
            return Err(Error::Internal(format!("samples of {:?} for {:?}", lot.position, self.state.position)));
        }
        let step = self.state.step + 1;
        let mut reduced = self.gradients(&lot, step)?;
        if self.meeting.is_none() {
            finite(step, &reduced)?;
        }
        let factor = optimizer::clip(reduced.norm, self.config.training.clip_norm.unwrap_or(f64::INFINITY));
        let gradients = (0..self.layout.len()).map(|bucket| self.reducer.gradients(bucket));
        self.optimizer.update(&mut self.model.values, gradients, factor, reduced.shared.rate);
        let spreading = daemon::clock::boot_time();
        self.reducer.spread(&mut self.model.values)?;
        if self.meets_after(step) {
            let (written, failed) = self.saver.flags()?;
            let share = own_samples(&lot) as f32 / lot.samples as f32;
            let own = Shared { loss: reduced.shared.loss * share, rate: 0.0, written, failed };
            let (shared, norm) = self.meet(step, own)?;
            // Together, as only here all ranks hear of one that has gone astray.
            finite(step, &Reduced { shared, norm, ..reduced })?;
            reduced.shared = Shared { rate: reduced.shared.rate, ..shared };
        }
        let waited = reduced.waited + daemon::clock::boot_time().saturating_sub(spreading);
        let Shared { loss, rate, .. } = reduced.shared;
        if self.meeting.is_none() || self.meets_after(step) {
            self.saver.heard(reduced.shared, &mut self.progress);
        }
        self.advance(loss, lot.samples);
        let took = daemon::clock::boot_time().saturating_sub(started);
        pause(Duration::from_millis(self.config.training.step_delay_ms));
        let elapsed = daemon::clock::boot_time().saturating_sub(started);
        let gradient_norm = reduced.norm;
        Ok(StepDone { step, loss, rate, gradient_norm, samples: lot.samples, took, waited, elapsed })
    }

    /// What step `step` sends of its gradients.
    fn sends(&self, step: u64) -> Sends {
        if self.meeting.is_some() {
            Sends::Nothing
        } else if self.config.communication.power_sgd.is_none() || self.saves_after(step) {
            Sends::Whole
        } else {
            Sends::Factors
        }
    }

    /// Of the mean loss over the global batch, from this rank's share of it and everybody else's; where ranks make updates by
    /// themselves, over this rank's share.
    fn gradients(&mut self, lot: &Lot, step: u64) -> Result<Reduced, Error> {
        let sends = self.sends(step);
        self.reducer.clear(sends);
        // Shares of the mean over the whole batch, so that their sum over the ranks is the mean, however they are cut.
        let apart = sends == Sends::Nothing;
        let counted = if apart { own_samples(lot) } else { lot.samples };
        let share = 1.0 / (counted.max(1) * self.data.train.positions()) as f64;
        let mut sum = 0.0;
        for (at, batch) in lot.batches.iter().enumerate() {
            let pass = self.reducer.pass(at + 1 == lot.batches.len());
            sum += self.model.learn(batch, share as f32, pass)?.sum;
        }
        if lot.batches.is_empty() {
            self.reducer.pass_without_samples()?;
        }
        // The same on all ranks even if their mathematical libraries differ: rank 0's goes round with the gradients.
        let rate = if self.rank() == 0 || apart { self.rates.at(self.state.step) as f32 } else { 0.0 };
        let (written, failed) = if apart { (0.0, 0.0) } else { self.saver.flags()? };
        let reduced = self.reducer.finish(Shared { loss: (sum * share) as f32, rate, written, failed })?;
        if sends == Sends::Whole {
            self.reducer.begins_anew(step + 1);
        }
        Ok(reduced)
    }

    /// Whether a checkpoint is made after this step, where there is a folder for it.
    fn saves_after(&self, step: u64) -> bool {
        let per_epoch = self.plan.steps_per_epoch;
        match self.config.checkpoint.every {
            None => false,
            Some(Every::Steps(steps)) => step.is_multiple_of(steps),
            Some(Every::Epochs(epochs)) => step.is_multiple_of(per_epoch) && (step / per_epoch).is_multiple_of(epochs),
        }
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
        if self.saves_after(done.step) {
            self.save()?;
        }
        self.saver.announce(&mut self.metrics, &mut self.progress)
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
        if self.has_converged() {
            let looks = self.state.improvement.looks_since;
            self.progress
                .line(&format!("ends early: the test loss was not the least so far in the last {looks} looks"));
        }
        Ok(())
    }

    /// All ranks must come here together, and get the same.
    fn evaluate(&mut self) -> Result<Evaluation, Error> {
        let evaluation = evaluate(&*self.communicator, &mut self.model, &self.data.test)?;
        report::evaluation(&mut self.metrics, self.communicator.rank(), evaluation, self.state.step);
        self.evaluated = Some((self.state.step, evaluation));
        let improvement = &mut self.state.improvement;
        let best = improvement.best_bits.map_or(f64::INFINITY, f64::from_bits);
        improvement.looks_since += 1;
        if evaluation.loss < best - self.config.evaluate.minimum_improvement {
            (improvement.best_bits, improvement.looks_since) = (Some(evaluation.loss.to_bits()), 0);
        }
        Ok(evaluation)
    }
}

/// This rank's among those of the global batch.
fn own_samples(lot: &Lot) -> usize {
    lot.batches.iter().map(|batch| batch.count).sum()
}

/// Before the update, so that no parameter is spoilt and none such is saved.
fn finite(step: u64, reduced: &Reduced) -> Result<(), Error> {
    let loss = reduced.shared.loss;
    if loss.is_finite() && reduced.norm.is_finite() { Ok(()) } else { Err(Error::NotFinite { step, loss }) }
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
