//! Random numbers of a simulation: one stream for each purpose, all from its seed, so that a change of one shifts no other.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of one purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
        });
        let mut chance = Self(mixed);
        chance.draw();
        chance
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to below `end`.
    pub fn between(&mut self, least: u64, end: u64) -> u64 {
        least + self.draw() % (end - least).max(1)
    }

    /// True in so many of a thousand cases.
    pub fn thousandths(&mut self, times: u64) -> bool {
        self.between(0, 1_000) < times
    }

    /// One of these; none of nothing.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { of.get(self.between(0, of.len() as u64) as usize).copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_and_differs_from_others() {
        let take = |seed, purpose| {
            let mut chance = Chance::new(seed, purpose);
            [chance.draw(), chance.draw(), chance.draw()]
        };
        assert_eq!(take(7, "disk"), take(7, "disk"));
        assert_ne!(take(7, "disk"), take(8, "disk"));
        assert_ne!(take(7, "disk"), take(7, "network"));
        let mut chance = Chance::new(1, "x");
        assert!((0..1_000).all(|_| (3..9).contains(&chance.between(3, 9))));
        assert_eq!(chance.pick::<u64>(&[]), None);
    }
}
