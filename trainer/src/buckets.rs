//! Gradients packed into buckets, each summed over the ranks as soon as it is full, while the backward pass goes on.
//!
//! Buckets are cut once from the parameters' sizes, in the order in which gradients become ready (the last parameter
//! first), so every rank submits the same buckets in the same order. The first bucket also carries what must be equal
//! on all ranks: the batch's loss, and the learning rate as rank 0 has it.

use collectives::{Handle, Op, Pipeline};

use crate::error::Error;

/// Values ahead of the gradients in the first bucket: loss, learning rate.
const EXTRAS: usize = 2;

/// How parameters are packed.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Parameters of each bucket, in the order in which they come.
    buckets: Vec<Vec<usize>>,
    /// Length of each parameter.
    lengths: Vec<usize>,
}

impl Layout {
    /// A bucket is closed by the parameter with which it reaches `bucket_bytes`; a parameter is never split.
    pub(crate) fn new(lengths: Vec<usize>, bucket_bytes: usize) -> Self {
        let mut buckets = Vec::new();
        let mut open = Vec::new();
        let mut bytes = 0;
        for at in (0..lengths.len()).rev() {
            open.push(at);
            bytes += 4 * lengths[at];
            if bytes >= bucket_bytes {
                buckets.push(std::mem::take(&mut open));
                bytes = 0;
            }
        }
        if !open.is_empty() {
            buckets.push(open);
        }
        Layout { buckets, lengths }
    }

    /// Number of buckets.
    pub(crate) fn len(&self) -> usize {
        self.buckets.len()
    }

    fn bucket_length(&self, bucket: usize) -> usize {
        let parameters: usize = self.buckets[bucket].iter().map(|at| self.lengths[*at]).sum();
        parameters + if bucket == 0 { EXTRAS } else { 0 }
    }
}

/// The buckets of one step on their way.
pub(crate) struct Reduction<'a> {
    layout: &'a Layout,
    pipeline: &'a Pipeline,
    /// The bucket that is being filled.
    bucket: usize,
    /// How many of its parameters are in.
    filled: usize,
    values: Vec<f32>,
    under_way: Vec<Handle>,
}

/// The same on all ranks.
#[derive(Debug)]
pub(crate) struct Reduced {
    /// Mean over the global batch.
    pub(crate) loss: f32,
    /// As rank 0 has it.
    pub(crate) rate: f32,
    /// Of the mean loss over the global batch, by parameter.
    pub(crate) gradients: Vec<Vec<f32>>,
}

impl<'a> Reduction<'a> {
    /// Begins with this rank's share of the loss, and the learning rate on rank 0 (0 elsewhere).
    pub(crate) fn new(layout: &'a Layout, pipeline: &'a Pipeline, loss: f32, rate: f32) -> Self {
        let mut values = Vec::with_capacity(layout.bucket_length(0));
        values.extend([loss, rate]);
        Reduction { layout, pipeline, bucket: 0, filled: 0, values, under_way: Vec::new() }
    }

    /// Takes the next gradient, the last parameter's first.
    pub(crate) fn add(&mut self, parameter: usize, gradient: &[f32]) -> Result<(), Error> {
        let expected = self.layout.buckets.get(self.bucket).and_then(|bucket| bucket.get(self.filled));
        if expected != Some(&parameter) || gradient.len() != self.layout.lengths[parameter] {
            return Err(Error::Internal(format!("gradient of parameter {parameter} out of order")));
        }
        self.values.extend_from_slice(gradient);
        self.filled += 1;
        if self.filled == self.layout.buckets[self.bucket].len() {
            self.submit();
        }
        Ok(())
    }

    /// For a rank without samples in this batch.
    pub(crate) fn add_zeros(&mut self) -> Result<(), Error> {
        for parameter in (0..self.layout.lengths.len()).rev() {
            self.add(parameter, &vec![0.0; self.layout.lengths[parameter]])?;
        }
        Ok(())
    }

    fn submit(&mut self) {
        self.bucket += 1;
        self.filled = 0;
        let next = if self.bucket < self.layout.len() { self.layout.bucket_length(self.bucket) } else { 0 };
        let values = std::mem::replace(&mut self.values, Vec::with_capacity(next));
        self.under_way.push(self.pipeline.submit(values, Op::Sum));
    }

    /// Waits for all sums.
    pub(crate) fn finish(self) -> Result<Reduced, Error> {
        if self.bucket != self.layout.len() {
            return Err(Error::Internal("a step without all gradients".to_owned()));
        }
        let mut gradients = vec![Vec::new(); self.layout.lengths.len()];
        let (mut loss, mut rate) = (0.0, 0.0);
        for (bucket, handle) in self.under_way.into_iter().enumerate() {
            let values = handle.wait()?;
            let mut rest = values.as_slice();
            if let (0, [first, second, after @ ..]) = (bucket, rest) {
                (loss, rate, rest) = (*first, *second, after);
            }
            for parameter in &self.layout.buckets[bucket] {
                let (mine, after) = rest.split_at_checked(self.layout.lengths[*parameter]).unwrap_or_default();
                gradients[*parameter] = mine.to_vec();
                rest = after;
            }
        }
        Ok(Reduced { loss, rate, gradients })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn alone() -> Pipeline {
        let peer = collectives::Peer { rank: 0, address: "127.0.0.1:1".parse().unwrap() };
        let rendezvous = collectives::Rendezvous {
            rank: 0,
            peers: vec![peer],
            listener: None,
            token: 1,
            secret: [0; 32],
            timeout: std::time::Duration::from_secs(1),
            op_timeout: std::time::Duration::from_secs(1),
        };
        let comm: Arc<dyn collectives::Communicator> = collectives::connect(rendezvous).unwrap();
        Pipeline::new(comm).unwrap()
    }

    proptest! {
        #[test]
        fn each_parameter_is_in_one_bucket_and_comes_back_whole(
            lengths in proptest::collection::vec(1..600usize, 1..12), bucket_bytes in 1..4000usize,
        ) {
            let layout = Layout::new(lengths.clone(), bucket_bytes);
            let order: Vec<usize> = layout.buckets.iter().flatten().copied().collect();
            prop_assert_eq!(order, (0..lengths.len()).rev().collect::<Vec<_>>());
            let pipeline = alone();
            let mut reduction = Reduction::new(&layout, &pipeline, 0.5, 0.25);
            let gradient = |at: usize| vec![at as f32 + 1.0; lengths[at]];
            for at in (0..lengths.len()).rev() {
                reduction.add(at, &gradient(at)).unwrap();
            }
            let reduced = reduction.finish().unwrap();
            prop_assert_eq!((reduced.loss, reduced.rate), (0.5, 0.25));
            for (at, found) in reduced.gradients.iter().enumerate() {
                prop_assert_eq!(found, &gradient(at));
            }
        }
    }

    #[test]
    fn a_full_bucket_leaves_at_once() {
        let layout = Layout::new(vec![100, 10, 100, 10], 400);
        assert_eq!(layout.buckets, [vec![3, 2], vec![1, 0]]);
        let pipeline = alone();
        let mut reduction = Reduction::new(&layout, &pipeline, 0.0, 0.0);
        reduction.add(3, &[1.0; 10]).unwrap();
        assert_eq!(reduction.under_way.len(), 0);
        reduction.add(2, &[1.0; 100]).unwrap();
        assert_eq!(reduction.under_way.len(), 1, "the backward pass of parameter 1 has not begun");
    }

    #[test]
    fn gradients_out_of_order_or_missing_are_faults() {
        let layout = Layout::new(vec![1, 1], 4);
        let pipeline = alone();
        let mut reduction = Reduction::new(&layout, &pipeline, 0.0, 0.0);
        assert!(reduction.add(0, &[1.0]).is_err());
        assert!(reduction.add(1, &[1.0, 2.0]).is_err());
        reduction.add(1, &[1.0]).unwrap();
        assert!(reduction.finish().is_err());
    }
}
