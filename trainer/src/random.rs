//! Random numbers that are the same on every machine and in every version: ChaCha8, one stream for each purpose and
//! epoch.
//!
//! The shuffle and the choice below are written out here because a library may change theirs, and a checkpoint must
//! go on in the order in which it began.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a stream is for; no two purposes share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// First values of the parameters.
    Initial,
    /// Which samples are kept for testing.
    Split,
    /// Order of the samples in this epoch.
    Shuffle(u64),
    /// Where the runs of a text begin in this epoch.
    Offset(u64),
    /// First factors of the gradients that are sent as such, from this step on.
    Factors(u64),
    /// Choice among likely tokens.
    Generate,
}

/// The stream of `seed` for `purpose`, from its beginning.
pub(crate) fn stream(seed: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(bytes);
    rng.set_stream(match purpose {
        Purpose::Initial => 0,
        Purpose::Split => 1,
        Purpose::Shuffle(epoch) => 2 + epoch,
        // No training has as many epochs.
        Purpose::Offset(epoch) => (1 << 63) + epoch,
        Purpose::Factors(step) => (1 << 62) + step,
        Purpose::Generate => u64::MAX,
    });
    rng
}

/// Below `bound`, by multiplication: the bias is under one in 2^32 for every bound that fits in memory.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Fisher and Yates, from the end.
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

/// From 0 to below 1, all 53 bits of it.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_stay_as_they_are() {
        // Written down once: a change of these numbers breaks the resume of checkpoints of earlier versions.
        let mut items: Vec<u32> = (0..10).collect();
        shuffle(&mut stream(1, Purpose::Shuffle(0)), &mut items);
        assert_eq!(items, [8, 7, 2, 6, 4, 5, 1, 9, 0, 3]);
        let mut sorted = items.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
    #[test]
    fn purposes_and_seeds_have_streams_of_their_own() {
        let first = |seed, purpose| stream(seed, purpose).next_u64();
        let all = [
            first(1, Purpose::Initial),
            first(1, Purpose::Split),
            first(1, Purpose::Shuffle(0)),
            first(1, Purpose::Shuffle(1)),
            first(2, Purpose::Initial),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
    }

    #[test]
    fn units_lie_between_0_and_1() {
        let mut rng = stream(3, Purpose::Initial);
        let all: Vec<f64> = (0..1000).map(|_| unit(&mut rng)).collect();
        assert!(all.iter().all(|one| (0.0..1.0).contains(one)));
        let mean = all.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
