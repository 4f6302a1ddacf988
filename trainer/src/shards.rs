//! Which samples a rank takes in a step: a shuffled order per epoch, cut into global batches, cut into ranks' shares.
//!
//! Every rank works all of it out alone from the seed, so nothing is sent. The last batch may be smaller; a rank's
//! share of it may be empty.

use std::ops::Range;

use crate::random::{self, Purpose};

/// The order of an epoch.
pub(crate) fn order(seed: u64, epoch: u64, samples: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples as u32).collect();
    random::shuffle(&mut random::stream(seed, Purpose::Shuffle(epoch)), &mut order);
    order
}

/// By how much the samples of an epoch are moved on, below `slack`; 0 where they cannot be.
pub(crate) fn offset(seed: u64, epoch: u64, slack: usize) -> usize {
    random::below(&mut random::stream(seed, Purpose::Offset(epoch)), slack)
}

/// Steps of one epoch.
pub(crate) fn batches(samples: usize, batch_size: usize) -> u64 {
    samples.div_ceil(batch_size) as u64
}

/// Places in the epoch's order of the n-th global batch.
pub(crate) fn batch(samples: usize, batch_size: usize, number: u64) -> Range<usize> {
    let start = (number as usize).saturating_mul(batch_size).min(samples);
    start..start.saturating_add(batch_size).min(samples)
}

/// This rank's part of a range: shares differ by one at most.
pub(crate) fn share(whole: &Range<usize>, rank: u32, world: u32) -> Range<usize> {
    let cut = |rank: u32| whole.start + (whole.len() as u128 * u128::from(rank) / u128::from(world)) as usize;
    cut(rank)..cut(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// TRAIN-4
        #[test]
        fn every_sample_is_taken_once_in_an_epoch(
            samples in 1..400usize, batch_size in 1..70usize, world in 1..9u32, seed: u64, epoch in 0..50u64,
        ) {
            let order = order(seed, epoch, samples);
            let mut taken = vec![0; samples];
            for number in 0..batches(samples, batch_size) {
                let batch = batch(samples, batch_size, number);
                prop_assert!(!batch.is_empty());
                let shares: Vec<_> = (0..world).map(|rank| share(&batch, rank, world)).collect();
                let sizes: Vec<_> = shares.iter().map(ExactSizeIterator::len).collect();
                prop_assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1);
                for at in shares.into_iter().flatten() {
                    taken[order[at] as usize] += 1;
                }
            }
            prop_assert!(taken.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn epochs_have_orders_of_their_own_and_the_same_one_again() {
        assert_eq!(order(5, 2, 50), order(5, 2, 50));
        assert_ne!(order(5, 2, 50), order(5, 3, 50));
        assert_ne!(order(5, 2, 50), order(6, 2, 50));
    }
}
