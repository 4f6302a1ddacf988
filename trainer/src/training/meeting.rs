//! Updates that each rank makes by itself, and the meetings after some of them (DiLoCo: A. Douillard et al., 2023, algorithm 1).
//!
//! ```text
//! start ── H updates of rank 0 ──▶ p0 ─┐
//!       ── H updates of rank 1 ──▶ p1 ─┴─▶ d = start - mean(p), summed over the ranks; m = momentum * m + d
//!                                          start = start - rate * (d + momentum * m)       Nesterov, alike on all ranks
//! ```
//!
//! Between two meetings nothing is sent. A checkpoint, a look at the test samples and the end are always at a meeting. Before a
//! checkpoint the memories of the ranks' own optimizers become their means as well: so it holds all there is, and any number of ranks
//! goes on from it.

use collectives::{BufMut, CommBuf, Op};

use super::Training;
use crate::buckets::{SHARED, Shared};
use crate::error::Error;

/// The memory of the outer updates, among those of the optimizer.
pub(super) const MOMENTUM: &str = "outer";

/// What a meeting needs.
pub(super) struct Meeting {
    /// Parameters after the last one.
    start: Vec<f32>,
    /// How far this rank went since, and what goes along.
    moved: CommBuf,
    steps: u64,
    rate: f32,
    momentum: f32,
}

impl Training<'_> {
    /// Begins with the parameters as they are, on all ranks alike.
    pub(super) fn begin_apart(&mut self) -> Result<(), Error> {
        let communication = &self.config.communication;
        let Some(steps) = communication.local_steps else { return Ok(()) };
        let start = self.model.values.clone();
        let moved = self.communicator.alloc(4 * (start.len() + SHARED))?;
        let (rate, momentum) = (communication.outer_learning_rate as f32, communication.outer_momentum as f32);
        self.meeting = Some(Meeting { start, moved, steps, rate, momentum });
        Ok(())
    }

    /// Whether the ranks meet after this step.
    pub(super) fn meets_after(&self, step: u64) -> bool {
        let Some(meeting) = &self.meeting else { return false };
        let epoch = (step.is_multiple_of(self.plan.steps_per_epoch)).then(|| step / self.plan.steps_per_epoch);
        let every = self.config.evaluate.every_epochs;
        let looks = epoch.is_some_and(|epoch| every > 0 && epoch.is_multiple_of(every));
        step.is_multiple_of(meeting.steps) || looks || self.saves_after(step) || step == self.plan.steps_total
    }

    /// The meeting after `step`: gives what all ranks said together, and how far they went, which is not a number where one of them has
    /// gone astray.
    pub(super) fn meet(&mut self, step: u64, shared: Shared) -> Result<(Shared, f64), Error> {
        let saves = self.saves_after(step);
        let Some(Meeting { start, moved, rate, momentum, .. }) = &mut self.meeting else { return Ok((shared, 0.0)) };
        let (values, length) = (&mut self.model.values, start.len());
        let all = moved.elements_mut::<f32>();
        for ((moved, start), value) in all.iter_mut().zip(&*start).zip(&*values) {
            *moved = start - value;
        }
        all[length..].copy_from_slice(&shared.values());
        self.communicator.all_reduce(BufMut::from(&mut *all), Op::Sum)?;
        let share = 1.0 / self.communicator.world_size() as f32;
        let Some(memory) = self.optimizer.slots.iter_mut().find(|slot| slot.name == MOMENTUM) else {
            return Err(Error::Internal("no memory for the outer updates".to_owned()));
        };
        let mut square = 0.0;
        for (((start, value), moved), memory) in start.iter_mut().zip(values).zip(&*all).zip(&mut memory.values) {
            let moved = moved * share;
            square += f64::from(moved) * f64::from(moved);
            *memory = *momentum * *memory + moved;
            *start -= *rate * (moved + *momentum * *memory);
            *value = *start;
        }
        let shared = Shared::of(all.last_chunk().copied().unwrap_or_default());
        if saves {
            self.share_memories()?;
        }
        Ok((shared, f64::sqrt(square)))
    }

    /// Makes the memories of the ranks' own updates their means.
    fn share_memories(&mut self) -> Result<(), Error> {
        for slot in self.optimizer.slots.iter_mut().filter(|slot| slot.name != MOMENTUM) {
            self.communicator.all_reduce(BufMut::from(&mut slot.values), Op::Avg)?;
        }
        Ok(())
    }
}
