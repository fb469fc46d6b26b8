//! What a matcher is set up with, and what it counts of itself.

use crate::{Error, Result};

/// The limits of a matcher.
#[derive(Clone, Debug)]
pub struct MatcherConfig {
    /// The length of every spec and requirement.
    pub dimensions: usize,
    /// How many rounds one offer lists at most.
    pub tasks_per_offer_max: usize,
    /// How long an offer may stay unanswered.
    pub offer_timeout_ns: u64,
    /// How many clients may wait; also how many are remembered for what they declined.
    pub waiting_max: usize,
    /// How many declined rounds are remembered of one device, the oldest forgotten first.
    pub declined_max: usize,
    /// The length of a bucket of supply.
    pub supply_bucket_ns: u64,
    /// How many clients' specs a bucket keeps as its sample.
    pub supply_sample_max: usize,
    /// The seed of the sampling, and of the hashing that makes flooding hard: where device ids come
    /// from strangers, it should be one that they cannot guess.
    pub seed: u64,
}

impl MatcherConfig {
    /// The defaults, for specs of this length.
    pub fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            tasks_per_offer_max: 20,
            offer_timeout_ns: 10_000_000_000,
            waiting_max: 100_000,
            declined_max: 64,
            supply_bucket_ns: 1_000_000_000,
            supply_sample_max: 256,
            seed: 0,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let at_least_one = [
            ("dimensions", self.dimensions),
            ("tasks_per_offer_max", self.tasks_per_offer_max),
            ("waiting_max", self.waiting_max),
            ("declined_max", self.declined_max),
            ("supply_sample_max", self.supply_sample_max),
            ("offer_timeout_ns", usize::from(self.offer_timeout_ns > 0)),
            ("supply_bucket_ns", usize::from(self.supply_bucket_ns > 0)),
        ];
        match at_least_one.into_iter().find(|(_, value)| *value == 0) {
            None => Ok(()),
            Some((what, _)) => Err(Error::OutOfRange { what, rule: "at least 1" }),
        }
    }
}

/// How many of each thing a matcher holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatcherCounts {
    /// Devices that wait for an offer.
    pub waiting: usize,
    /// Devices with an unanswered offer.
    pub offered: usize,
    /// Devices whose claim is not decided.
    pub claiming: usize,
    /// Distinct signatures (with a speed class and part, where plans tell such apart) seen since
    /// the requirements or classes last changed.
    pub signatures: usize,
    /// Rounds in the current plan.
    pub open_rounds: usize,
}
