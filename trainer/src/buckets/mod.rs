//! Gradients in buckets, each summed over the ranks as soon as it is full, while the backward pass goes on.
//!
//! Buckets are cut once from the sizes of the model's units, in the order in which gradients become ready (the last unit
//! first), so every rank submits the same buckets in the same order. A bucket is memory that the communicator gave out, and
//! layers add their gradients to it where it lies: nothing is copied between the backward pass, the sum and the update.
//!
//! The last bucket, which has nothing left to hide behind, is summed by the calling thread itself. It also carries what must
//! be equal on all ranks ([`Shared`]). With a sharded optimizer each rank gets the sums of its part of every bucket only,
//! and [`Shared`] travels alone.
//!
//! ```text
//! parameters     unit 0 | unit 1 | unit 2 | unit 3
//! buckets        [ unit 3, unit 2 ] [ unit 1, unit 0, shared ]
//! parts          [ rank 0 | rank 1 ] [ rank 0 | rank 1 ]          with a sharded optimizer; padded to equal lengths
//! ```

mod layout;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use collectives::{Buf, BufMut, CommBuf, Communicator, Handle, Op, Part, Pipeline};

use self::layout::Bucket;
pub(crate) use self::layout::{Cut, Layout};
use crate::error::Error;
use crate::layers::Gradients;
use crate::optimizer::{self, BLOCK};
use crate::power::{PowerSgd, Run};

/// What goes round with the gradients of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Shared {
    /// The rank's share of the mean loss; afterwards the mean over the global batch.
    pub(crate) loss: f32,
    /// The learning rate on rank 0, and 0 elsewhere; afterwards rank 0's.
    pub(crate) rate: f32,
    /// 1 on a rank that has written its part of a checkpoint; afterwards their number.
    pub(crate) written: f32,
    /// 1 on a rank that could not; afterwards their number.
    pub(crate) failed: f32,
}

pub(crate) const SHARED: usize = 4;

/// What a step sends of its gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sends {
    /// All of them, bucket by bucket; also what earlier steps have left over.
    Whole,
    /// Thin factors; the rest is left over for later steps.
    Factors,
    /// Nothing: each rank goes on by its own.
    Nothing,
}

impl Shared {
    pub(crate) fn values(self) -> [f32; SHARED] {
        [self.loss, self.rate, self.written, self.failed]
    }

    pub(crate) fn of([loss, rate, written, failed]: [f32; SHARED]) -> Self {
        Shared { loss, rate, written, failed }
    }
}

/// Owner of the gradients' memory, and the way to the other ranks.
pub(crate) struct Reducer {
    layout: Arc<Layout>,
    communicator: Arc<dyn Communicator>,
    pipeline: Option<Pipeline>,
    /// By bucket; absent while it is under way.
    buffers: Vec<Option<CommBuf>>,
    /// The sums of this rank's part of each bucket; empty without a sharded optimizer.
    own: Vec<Vec<f32>>,
    /// Units that are missing still, by bucket.
    missing: Vec<usize>,
    /// By the order in which they left.
    under_way: VecDeque<(usize, UnderWay)>,
    /// Bucket of each unit.
    of_unit: Vec<Option<usize>>,
    /// Whether complete gradients leave: not before the last part of a batch.
    leaving: bool,
    sends: Sends,
    power: Option<PowerSgd>,
}

/// A bucket that is being summed: whole, or to this rank's part of it.
enum UnderWay {
    Whole(Handle<Part<f32>>),
    Own(Handle<(Part<f32>, Vec<f32>)>),
}

/// A step's sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reduced {
    pub(crate) shared: Shared,
    /// Euclidean length of the gradient over all parameters.
    pub(crate) norm: f64,
    /// How long the caller waited for the other ranks and the sums, with nothing left to compute.
    pub(crate) waited: Duration,
}

impl Reducer {
    pub(crate) fn new(
        layout: Arc<Layout>,
        communicator: Arc<dyn Communicator>,
        power: Option<PowerSgd>,
    ) -> Result<Self, Error> {
        let last = layout.len().saturating_sub(1);
        let bytes = |(at, bucket): (usize, &Bucket)| 4 * (bucket.place.len() + if at == last { SHARED } else { 0 });
        let buffers = layout.buckets.iter().enumerate().map(bytes).map(|bytes| communicator.alloc(bytes).map(Some));
        let buffers = buffers.collect::<Result<Vec<_>, _>>()?;
        let own = if layout.is_sharded() {
            layout.owned(communicator.rank() as usize).iter().map(|part| vec![0.0; part.len()]).collect()
        } else {
            vec![Vec::new(); layout.len()]
        };
        let mut of_unit = vec![None; layout.places.len()];
        for (bucket, units) in layout.buckets.iter().enumerate() {
            units.units.iter().for_each(|unit| of_unit[*unit] = Some(bucket));
        }
        // The last bucket needs no thread of its own.
        let pipeline = (communicator.world_size() > 1 && layout.len() > 1)
            .then(|| Pipeline::new(Arc::clone(&communicator)))
            .transpose()?;
        let (missing, under_way) = (Vec::new(), VecDeque::with_capacity(layout.len()));
        let (leaving, sends) = (false, Sends::Whole);
        Ok(Reducer { layout, communicator, pipeline, buffers, own, missing, under_way, of_unit, leaving, sends, power })
    }

    /// Begins a step: sets all gradients to 0, or to what earlier ones have left over.
    pub(crate) fn clear(&mut self, sends: Sends) {
        self.sends = sends;
        for (buffer, bucket) in self.buffers.iter_mut().zip(&self.layout.buckets) {
            let values = buffer.as_mut().map(CommBuf::elements_mut::<f32>).unwrap_or_default();
            match (&self.power, values.get_mut(..bucket.place.len())) {
                (Some(power), Some(values)) => values.copy_from_slice(power.error(bucket.place.clone())),
                _ => values.fill(0.0),
            }
        }
    }

    /// Bytes of the sums of a step, as a rule.
    pub(crate) fn bytes(&self) -> usize {
        self.power.as_ref().map_or(4 * (self.layout.length() + SHARED), PowerSgd::bytes)
    }

    /// Step `next` begins with nothing left over.
    pub(crate) fn begins_anew(&mut self, next: u64) {
        if let Some(power) = &mut self.power {
            power.sent_whole(next);
        }
    }

    /// Begins a backward pass; in the `last` one of a step full buckets leave.
    pub(crate) fn pass(&mut self, last: bool) -> &mut Self {
        self.missing = self.layout.buckets.iter().map(|bucket| bucket.units.len()).collect();
        self.leaving = last && self.sends == Sends::Whole;
        self
    }

    /// For a rank without samples in this batch: its gradients are 0.
    pub(crate) fn pass_without_samples(&mut self) -> Result<(), Error> {
        if !self.pass(true).leaving {
            return Ok(());
        }
        (0..self.layout.len().saturating_sub(1)).try_for_each(|bucket| self.leave(bucket))
    }

    /// Sums what has not left yet and waits for all.
    pub(crate) fn finish(&mut self, shared: Shared) -> Result<Reduced, Error> {
        match self.sends {
            Sends::Whole => self.finish_whole(shared),
            Sends::Factors => self.finish_factors(shared),
            Sends::Nothing => {
                let norm = f64::sqrt(self.squares(0..1).iter().sum());
                Ok(Reduced { shared, norm, waited: Duration::ZERO })
            }
        }
    }

    fn finish_factors(&mut self, shared: Shared) -> Result<Reduced, Error> {
        let started = daemon::clock::boot_time();
        let mut along = shared.values();
        let run = |(buffer, bucket)| run_of(buffer, bucket);
        let mut runs: Vec<Run<'_>> = self.buffers.iter_mut().zip(&self.layout.buckets).map(run).collect();
        if let Some(power) = &mut self.power {
            power.sum(&*self.communicator, &mut runs, &mut along)?;
        }
        let waited = daemon::clock::boot_time().saturating_sub(started);
        let norm = f64::sqrt(self.squares(0..1).iter().sum());
        Ok(Reduced { shared: Shared::of(along), norm, waited })
    }

    fn finish_whole(&mut self, shared: Shared) -> Result<Reduced, Error> {
        let started = daemon::clock::boot_time();
        self.come_back()?;
        let last = self.layout.len().saturating_sub(1);
        let Some(Some(mut buffer)) = self.buffers.get_mut(last).map(Option::take) else {
            return Err(Error::Internal("a step without gradients".to_owned()));
        };
        let length = self.layout.buckets[last].place.len();
        let summed = if self.layout.is_sharded() {
            let own = BufMut::from(&mut self.own[last]);
            self.communicator.reduce_scatter(Buf::from(&buffer.elements::<f32>()[..length]), own, Op::Sum)
        } else {
            buffer.elements_mut::<f32>()[length..].copy_from_slice(&shared.values());
            self.communicator.all_reduce(buffer.as_buf_mut::<f32>(), Op::Sum)
        };
        let tail = buffer.elements::<f32>().last_chunk().copied().unwrap_or_default();
        self.buffers[last] = Some(buffer);
        summed?;
        let (shared, square) = if self.layout.is_sharded() {
            self.share_alone(shared)?
        } else {
            (Shared::of(tail), self.squares(0..1).iter().sum())
        };
        let waited = daemon::clock::boot_time().saturating_sub(started);
        Ok(Reduced { shared, norm: f64::sqrt(square), waited })
    }

    /// Waits for all buckets that left. Nothing else may use the communicator before.
    fn come_back(&mut self) -> Result<(), Error> {
        while let Some((bucket, under_way)) = self.under_way.pop_front() {
            let buffer = match under_way {
                UnderWay::Whole(handle) => handle.wait()?,
                UnderWay::Own(handle) => {
                    let (buffer, own) = handle.wait()?;
                    self.own[bucket] = own;
                    buffer
                }
            };
            self.buffers[bucket] = Some(buffer.into_buffer());
        }
        Ok(())
    }

    /// Goes round by itself, together with the squares of each rank's parts.
    fn share_alone(&self, shared: Shared) -> Result<(Shared, f64), Error> {
        let rank = self.communicator.rank() as usize;
        let mut all: Vec<f64> = shared.values().into_iter().map(f64::from).collect();
        all.extend(self.squares(rank..rank + 1));
        self.communicator.all_reduce(BufMut::from(&mut all), Op::Sum)?;
        let (values, squares) = all.split_at(SHARED);
        let mut shared = [0.0; SHARED];
        shared.iter_mut().zip(values).for_each(|(to, from)| *to = *from as f32);
        Ok((Shared::of(shared), squares.iter().sum()))
    }

    /// Sum of squares of every block of gradients, in the order of the buckets; those that this rank does not hold are 0.
    fn squares(&self, mine: Range<usize>) -> Vec<f64> {
        let mut squares = Vec::new();
        for bucket in 0..self.layout.len() {
            let blocks = self.layout.buckets[bucket].place.len().div_ceil(BLOCK);
            let each = blocks / self.layout.world;
            let start = squares.len();
            squares.resize(start + blocks, 0.0);
            let mine = if self.layout.is_sharded() { mine.start * each..mine.end * each } else { 0..blocks };
            optimizer::squares(self.gradients(bucket), &mut squares[start..][mine]);
        }
        squares
    }

    /// The sums of a bucket's gradients that this rank updates with, after [`Reducer::finish`].
    pub(crate) fn gradients(&self, bucket: usize) -> &[f32] {
        if self.layout.is_sharded() {
            return &self.own[bucket];
        }
        let length = self.layout.buckets[bucket].place.len();
        self.buffers[bucket].as_ref().and_then(|buffer| buffer.elements().get(..length)).unwrap_or_default()
    }

    /// After an update with a sharded optimizer: everybody's parts of the values for everybody.
    pub(crate) fn spread(&mut self, values: &mut [f32]) -> Result<(), Error> {
        if !self.layout.is_sharded() {
            return Ok(());
        }
        let owned = self.layout.owned(self.communicator.rank() as usize);
        for (bucket, part) in owned.into_iter().enumerate() {
            // The gradients of this step are of no use any more.
            self.own[bucket].copy_from_slice(&values[part]);
            let place = self.layout.buckets[bucket].place.clone();
            self.communicator.all_gather(Buf::from(&self.own[bucket]), BufMut::from(&mut values[place]))?;
        }
        Ok(())
    }

    fn leave(&mut self, bucket: usize) -> Result<(), Error> {
        let Some(pipeline) = &self.pipeline else { return Ok(()) };
        let Some(buffer) = self.buffers[bucket].take() else {
            return Err(Error::Internal(format!("bucket {bucket} left twice")));
        };
        let buffer = Part::new(buffer, 0..self.layout.buckets[bucket].place.len());
        let under_way = if self.layout.is_sharded() {
            let own = std::mem::take(&mut self.own[bucket]);
            UnderWay::Own(pipeline.reduce_scatter(buffer, own, Op::Sum))
        } else {
            UnderWay::Whole(pipeline.all_reduce(buffer, Op::Sum))
        };
        self.under_way.push_back((bucket, under_way));
        Ok(())
    }
}

/// The gradients of a bucket that has not left.
fn run_of<'a>(buffer: &'a mut Option<CommBuf>, bucket: &Bucket) -> Run<'a> {
    let values = buffer.as_mut().map(CommBuf::elements_mut::<f32>).unwrap_or_default();
    (bucket.place.start, values.get_mut(..bucket.place.len()).unwrap_or_default())
}

impl Gradients for Reducer {
    fn of(&mut self, unit: usize) -> &mut [f32] {
        let Some(bucket) = self.of_unit[unit] else { return &mut [] };
        let (place, start) = (self.layout.place(unit), self.layout.buckets[bucket].place.start);
        let values = self.buffers[bucket].as_mut().map(CommBuf::elements_mut::<f32>).unwrap_or_default();
        values.get_mut(place.start - start..place.end - start).unwrap_or_default()
    }

    fn complete(&mut self, unit: usize) -> Result<(), Error> {
        let Some(bucket) = self.of_unit[unit] else { return Ok(()) };
        self.missing[bucket] -= 1;
        if self.leaving && self.missing[bucket] == 0 && bucket + 1 < self.layout.len() {
            self.leave(bucket)?;
        }
        Ok(())
    }
}
