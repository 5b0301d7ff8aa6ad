//! Capability `random`: chance as a function of the record, so that a replay sees the same. Not for secrets.
//!
//! ```
//! use pelton_sdk::prelude::*;
//!
//! fn sample<O>() -> Step<O> {
//!     if random::generator().fraction() < 0.01 { Step::keep() } else { Step::drop() }
//! }
//! ```

/// 64 bits made of the current record's topic, partition and offset: a seed for a generator of your choice.
///
/// # Panics
/// Outside of [`Transform::apply`](crate::Transform::apply).
#[must_use]
pub fn seed() -> u64 {
    crate::host::seed(crate::host::row("random"))
}

/// A generator seeded by the current record. Each call begins anew, with the same numbers.
///
/// # Panics
/// Outside of [`Transform::apply`](crate::Transform::apply).
#[must_use]
pub fn generator() -> Generator {
    Generator { state: seed() }
}

pub(crate) const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub struct Generator {
    state: u64,
}

impl Generator {
    /// A generator with a seed of one's own.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, but not including, 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn fraction(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias is below end / 2^64.
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Generator;

    #[test]
    fn splitmix64_gives_its_published_numbers() {
        let mut generator = Generator::with_seed(1_234_567);
        assert_eq!(generator.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(generator.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut generator = Generator::with_seed(7);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&generator.fraction()));
            assert!(generator.below(3) < 3);
        }
        assert_eq!(generator.below(0), 0);
    }
}
