//! Optimised random matching: every request draws a number once, and rounds are served by it; but
//! a round that has devices already is served before those that have none.
//!
//! The paper's baseline (§5.1): drawing per client instead would spread the devices over all jobs
//! and fill none, and so would a new request that takes the devices of one that is being served.
//! The draw depends on the seed and the round alone, so a plan made again, or made after other
//! rounds came and went, keeps the order. Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by};
use crate::random::draw;

pub(super) struct Random;

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let lot = |job, round| draw(view.seed, job, u64::from(round));
        let is_untouched = |round: &RoundView| round.remaining >= round.demand;
        Ok(ranked_by(view, |r| (is_untouched(r), lot(r.key.job, r.key.round), r.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::*;

    fn view(seed: u64, ids: impl Iterator<Item = u64>) -> PolicyView {
        let rounds = ids.map(|job| round(job, 0, 1)).collect();
        PolicyView { seed, rounds, ..Default::default() }
    }

    #[test]
    fn the_order_does_not_depend_on_the_other_rounds() {
        let all = jobs(&Random, &view(3, 0..40));
        let even: Vec<u64> = all.iter().copied().filter(|job| job % 2 == 0).collect();
        assert_eq!(jobs(&Random, &view(3, (0..40).filter(|job| job % 2 == 0))), even);
    }

    #[test]
    fn seeds_and_rounds_draw_anew() {
        assert_ne!(jobs(&Random, &view(3, 0..40)), jobs(&Random, &view(4, 0..40)));
        let mut later = view(3, 0..40);
        later.rounds.iter_mut().for_each(|r| r.key.round = 1);
        assert_ne!(jobs(&Random, &view(3, 0..40)), jobs(&Random, &later));
    }

    /// Whoever draws better later must not take the devices of a round that is being filled.
    #[test]
    fn a_round_that_has_devices_is_not_preempted() {
        for seed in 0..50 {
            let mut rounds: Vec<_> = (0..9).map(|job| round(job, 0, 5)).collect();
            rounds[4].remaining = 3;
            let view = PolicyView { seed, rounds, ..Default::default() };
            assert_eq!(jobs(&Random, &view)[0], 4, "seed {seed}");
        }
    }

    /// Over many seeds each of two rounds is first about half of the time.
    #[test]
    fn no_round_is_favoured() {
        let first = (0..10_000).filter(|seed| jobs(&Random, &view(*seed, 0..2))[0] == 0).count();
        assert!((4_800..5_200).contains(&first), "{first}");
    }
}
