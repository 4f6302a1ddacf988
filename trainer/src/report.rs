//! What is said of the training's course: metric points every few steps, and a line for people at every epoch.

use std::time::Duration;

use crate::evaluate::Evaluation;
use crate::metrics::Metrics;
use crate::progress::{Progress, grouped};

/// One step as it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepDone {
    /// Number, from 1.
    pub(crate) step: u64,
    /// Mean over the global batch.
    pub(crate) loss: f32,
    pub(crate) rate: f32,
    /// Length of the gradient before it was clipped.
    pub(crate) gradient_norm: f64,
    /// Of the global batch.
    pub(crate) samples: usize,
    /// Without the pause.
    pub(crate) took: Duration,
    /// Of it, how long this rank had nothing to do but to wait for sums.
    pub(crate) waited: Duration,
    /// With it.
    pub(crate) elapsed: Duration,
}

/// Sums over the steps since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    steps: u32,
    samples: u64,
    loss: f64,
    took: Duration,
    waited: Duration,
    elapsed: Duration,
}

impl Window {
    pub(crate) fn add(&mut self, done: &StepDone) {
        self.steps += 1;
        self.samples += done.samples as u64;
        self.loss += f64::from(done.loss) * done.samples as f64;
        self.took += done.took;
        self.waited += done.waited;
        self.elapsed += done.elapsed;
    }

    /// Samples of all ranks in a second, pauses included.
    pub(crate) fn samples_per_second(&self) -> f64 {
        self.samples as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Mean over the samples.
    pub(crate) fn loss(&self) -> f64 {
        self.loss / self.samples.max(1) as f64
    }

    /// Writes the points of these steps and begins anew. Every rank tells its own time of a step (computing and waiting
    /// for the others, in seconds) and the share of it that was not hidden behind computing; what is the same on all is told
    /// by rank 0.
    pub(crate) fn report(&mut self, metrics: &mut Metrics, rank: u32, last: &StepDone) {
        if rank == 0 {
            metrics.point("loss", self.loss(), last.step);
            metrics.point("learning_rate", f64::from(last.rate), last.step);
            metrics.point("gradient_norm", last.gradient_norm, last.step);
            metrics.point("samples_per_second", self.samples_per_second(), last.step);
        }
        metrics.point("step_time", self.took.as_secs_f64() / f64::from(self.steps.max(1)), last.step);
        metrics.point("wait_share", self.waited.as_secs_f64() / self.took.as_secs_f64().max(1e-9), last.step);
        *self = Window::default();
    }
}

/// What a line at the end of an epoch says.
pub(crate) struct EpochLine {
    /// From 1, and how many there are.
    pub(crate) epoch: (u64, u64),
    /// Done, and how many there are.
    pub(crate) step: (u64, u64),
    /// Mean over the epoch's samples.
    pub(crate) loss: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) evaluation: Option<Evaluation>,
}

impl EpochLine {
    pub(crate) fn say(&self, progress: &mut Progress) {
        let (epoch, epochs) = aligned(self.epoch);
        let (step, steps) = aligned(self.step);
        let test = self.evaluation.map_or_else(String::new, |Evaluation { accuracy, loss }| {
            format!("  test accuracy {accuracy:.4}  test loss {loss:.4}")
        });
        let speed = grouped(self.samples_per_second.round() as u64);
        let line =
            format!("epoch {epoch}/{epochs}  step {step}/{steps}  loss {:.4}{test}  {speed} samples/s", self.loss);
        progress.line(&line);
    }
}

/// The first padded to the width of the second.
fn aligned((done, total): (u64, u64)) -> (String, String) {
    let total = total.to_string();
    (format!("{done:>width$}", width = total.len()), total)
}

/// Points of an evaluation, from rank 0.
pub(crate) fn evaluation(metrics: &mut Metrics, rank: u32, evaluation: Evaluation, step: u64) {
    if rank == 0 {
        metrics.point("test_accuracy", evaluation.accuracy, step);
        metrics.point("test_loss", evaluation.loss, step);
    }
}
