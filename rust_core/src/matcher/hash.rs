//! The hasher of every table whose keys strangers choose: device ids, and the signatures that
//! follow from their specs.
//!
//! `AHash`, keyed from the matcher's seed: some 2 ns where the standard library's `SipHash` takes 15,
//! several times for each check-in. Flooding stays hard because the keys are secret: a live client
//! manager's seed is drawn by the operating system at its start and never leaves it for devices,
//! and every bit of an id is masked by a key before it is multiplied, so without the key nobody can
//! tell which ids share a bucket. Nothing about a hash can be read from an answer: tables are never
//! iterated but to check or to empty them, so the same calls give the same answers whatever the seed.

use crate::random::SplitMix64;

/// So that the keys are not the draws that the same seed gives elsewhere.
const APART: u64 = 0x6b65_7973_6f66_6d61;

pub(super) type Hasher = ahash::RandomState;
pub(super) type KeyedMap<K, V> = std::collections::HashMap<K, V, Hasher>;
pub(super) type KeyedSet<K> = std::collections::HashSet<K, Hasher>;

pub(super) fn hasher(seed: u64) -> Hasher {
    let mut random = SplitMix64::new(seed ^ APART);
    let mut key = || random.next();
    Hasher::with_seeds(key(), key(), key(), key())
}
