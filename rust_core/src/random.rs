//! The engine's only randomness: `SplitMix64`, from a seed that the caller gives.
//!
//! Not for secrets. Written here rather than taken from a crate because results must stay the same
//! from version to version: replaying an event log depends on it.

use crate::{Device, RoundKey};

/// A small deterministic generator.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound` (which is not 0), by the high half of a product: the bias is below
    /// `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).expect("the high half of 128 bits has 64")
    }
}

/// One draw that depends on the arguments alone, not on how many draws were made before.
pub(crate) fn draw(seed: u64, a: u64, b: u64) -> u64 {
    step(step(mix(seed), a), b)
}

/// The order in which one device goes through the rounds of one plan: ascending by [`Self::of`].
#[derive(Clone, Copy)]
pub(crate) struct DeviceOrder(u64);

impl DeviceOrder {
    pub(crate) fn new(seed: u64, device: Device, version: u64) -> Self {
        let [high, low] = halves(device);
        Self(step(step(step(mix(seed), version), high), low))
    }

    pub(crate) fn of(self, key: RoundKey) -> u64 {
        step(step(self.0, key.job), u64::from(key.round))
    }
}

/// The part, of `partitions`, that a device belongs to in a plan that has parts: from its id alone,
/// so it is the same for every client manager. 0 if there are no parts.
#[expect(clippy::cast_possible_truncation, reason = "it is below a u32")]
pub fn part_of(device: Device, partitions: u32) -> u32 {
    if partitions == 0 {
        return 0;
    }
    let [high, low] = halves(device);
    (draw(0, high, low) % u64::from(partitions)) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "each half is wanted")]
fn halves(device: Device) -> [u64; 2] {
    [(device >> 64) as u64, device as u64]
}

fn step(state: u64, value: u64) -> u64 {
    mix(state ^ mix(value.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published first outputs of `SplitMix64` for seed 1234567, so that no edit changes them.
    #[test]
    fn gives_the_known_sequence() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn stays_below_the_bound() {
        let mut random = SplitMix64::new(7);
        assert!((0..1000).all(|_| random.below(3) < 3));
    }
}
