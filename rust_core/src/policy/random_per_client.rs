//! Random matching, drawn for every client anew: the naive baseline of the paper's §5.1.
//!
//! Each client goes through the rounds that it may serve in an order of its own, which the matcher
//! draws from the seed, the device and the version of the plan. It spreads the devices over all
//! jobs, so with many jobs none fills; `random` is the variant that the paper compares with.
//! Cost: one sort here, one shuffle for a client.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by};

pub(super) struct RandomPerClient;

impl Policy for RandomPerClient {
    fn name(&self) -> &'static str {
        "random-per-client"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let decision = ranked_by(view, RoundView::registration);
        Ok(Decision { shuffle: Some(view.seed), ..decision })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::round;
    use super::*;

    #[test]
    fn the_matcher_is_told_to_shuffle_by_the_seed() {
        let view = PolicyView { seed: 5, rounds: vec![round(1, 0, 1)], ..Default::default() };
        assert_eq!(RandomPerClient.decide(&view).unwrap().shuffle, Some(5));
    }
}
