//! Chance that is a function of a seed: the n-th number of a stream is the same on every machine, whoever asked for what
//! before. (SplitMix64 of a counter: Steele, Lea and Flood, OOPSLA'14. Logarithm and exponential are made here from sums
//! and products, because those of the platform's library differ in their last digit.)

/// One stream of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of this purpose; different purposes are independent of each other.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self { key: mix(seed ^ mix(purpose.wrapping_mul(GOLDEN))) }
    }

    /// The n-th number, over all 64 bits.
    pub fn bits(self, n: u64) -> u64 {
        mix(self.key.wrapping_add(n.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// The n-th number in 0..bound; 0 when the bound is 0.
    pub fn below(self, n: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(n)) * u128::from(bound)) >> 64) as u64
    }

    /// The n-th number between 0 and 1, neither of them.
    pub fn unit(self, n: u64) -> f64 {
        ((self.bits(n) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// The n-th number of an exponential distribution with mean 1.
    pub fn exponential(self, n: u64) -> f64 {
        -ln(self.unit(n))
    }

    /// The n-th number of a normal distribution with mean 0 and deviation 1 (Marsaglia's polar method).
    pub fn normal(self, n: u64) -> f64 {
        let inner = Stream { key: self.bits(n) };
        for pair in 0..64 {
            let (x, y) = (2.0 * inner.unit(2 * pair) - 1.0, 2.0 * inner.unit(2 * pair + 1) - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                return x * (-2.0 * ln(square) / square).sqrt();
            }
        }
        // One in 4 is outside of the circle: 64 in a row do not happen.
        0.0
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Natural logarithm of a positive number: exponent × ln 2 + the series of the mantissa in (m - 1) / (m + 1).
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7FF) as i64 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..24).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

/// e to the power of x, for |x| up to 700.
pub(crate) fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let power = (x / std::f64::consts::LN_2).round();
    let rest = x - power * std::f64::consts::LN_2;
    let series = (1..18).rev().fold(1.0, |sum, k| 1.0 + rest / f64::from(k) * sum);
    series * f64::from_bits(((power as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_seed_purpose_and_place_only() {
        let stream = Stream::new(7, 1);
        assert_eq!(stream.bits(5), Stream::new(7, 1).bits(5));
        let others = [Stream::new(8, 1).bits(5), Stream::new(7, 2).bits(5), stream.bits(6)];
        assert!(others.iter().all(|other| *other != stream.bits(5)));
        assert!((0..1_000).all(|n| stream.below(n, 10) < 10) && stream.below(0, 0) == 0);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        const N: u64 = 100_000;
        let stream = Stream::new(1, 1);
        let mean = |f: &dyn Fn(u64) -> f64| (0..N).map(f).sum::<f64>() / N as f64;
        assert!((mean(&|n| stream.unit(n)) - 0.5).abs() < 0.005);
        assert!((mean(&|n| stream.exponential(n)) - 1.0).abs() < 0.02);
        assert!(mean(&|n| stream.normal(n)).abs() < 0.02);
        assert!((mean(&|n| stream.normal(n).powi(2)) - 1.0).abs() < 0.02);
    }

    #[test]
    fn logarithm_and_exponential_agree_with_the_library() {
        for x in [1e-12, 0.1, 0.5, 1.0, 1.9999, 2.0, 3.7, 1e6] {
            assert!((ln(x) - x.ln()).abs() <= 1e-13 * x.ln().abs().max(1.0), "{x}");
            let y = x.ln();
            assert!((exp(y) / x - 1.0).abs() < 1e-13, "{x}");
        }
    }
}
