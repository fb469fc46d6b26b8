//! Venn: IRS, and for the round that each group serves first, devices of one speed class (paper
//! §4.3, tier-based matching).
//!
//! The devices of a group are divided into V classes of equal count by their observed speeds. A
//! round with one class waits V times as long for its devices, but its slowest device is faster.
//! So a class `u` is drawn for each round from the seed, and used if
//!
//! ```text
//! V + g_u · c < 1 + c
//! ```
//!
//! `c` is the response time over the scheduling delay of the job's last round that succeeded (a
//! first round has no class). `g_u` is the response time with class `u` over the one without: the
//! slowest speed that counts, over the slowest of the class. The slowest class never passes.
//!
//! Devices of the other classes serve the group's other rounds. Cost: that of IRS.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, Tier, irs};
use crate::random::draw;

pub(super) struct Venn;

impl Policy for Venn {
    fn name(&self) -> &'static str {
        "venn"
    }

    fn is_ranked(&self) -> bool {
        false
    }

    fn uses_speeds(&self) -> bool {
        true
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let mut decision = irs::decide(view);
        let mut seen = None;
        for index in &decision.order {
            let round = &view.rounds[*index];
            // The order is group after group: only the first of each is looked at.
            if seen.replace(round.group) == Some(round.group) {
                continue;
            }
            if let Some(tier) = tier(view, round) {
                decision.tiers.resize(view.rounds.len(), None);
                decision.tiers[*index] = Some(tier);
            }
        }
        Ok(decision)
    }
}

/// The speed class of a round that is served first, if it pays to wait for it.
fn tier(view: &PolicyView, round: &RoundView) -> Option<Tier> {
    let (speeds, history) = (&view.groups[round.group].speeds, round.history);
    if history.rounds_succeeded == 0 || speeds.len() < 2 {
        return None;
    }
    let classes = speeds.len() as f64;
    let c = history.last_response_ns as f64 / (history.last_scheduling_ns.max(1)) as f64;
    let lot = draw(view.seed, round.key.job, u64::from(round.key.round));
    let u = usize::try_from(lot % speeds.len() as u64).expect("below the number of classes");
    let (min, max) = (speeds[u], speeds.get(u + 1).copied());
    let g = speeds[0] / min;
    // Where many devices are equally fast, a class may be empty: it would wait for ever.
    let is_empty = max.is_some_and(|max| max <= min);
    (!is_empty && classes + g * c < 1.0 + c).then_some((min, max))
}

#[cfg(test)]
mod tests {
    use super::super::testing::round;
    use super::super::{GroupView, JobHistory};
    use super::*;

    const S: u64 = 1_000_000_000;

    /// One group with these class bounds; its jobs took `scheduling_s` and `response_s` a round.
    fn view(speeds: &[f64], scheduling_s: u64, response_s: u64) -> PolicyView {
        let mut first = round(1, 0, 3);
        first.history = JobHistory {
            rounds_succeeded: 1,
            last_scheduling_ns: scheduling_s * S,
            last_response_ns: response_s * S,
            ..Default::default()
        };
        let second = RoundView { remaining: 9, ..RoundView { key: round(2, 0, 9).key, ..first } };
        let groups = vec![GroupView { speeds: speeds.to_vec(), ..Default::default() }];
        PolicyView { rounds: vec![second, first], groups, ..Default::default() }
    }

    /// The tier of the first round for each of many seeds.
    fn drawn(mut view: PolicyView) -> Vec<Option<Tier>> {
        let mut with_seed = |seed| {
            view.seed = seed;
            let tiers = Venn.decide(&view).unwrap().tiers;
            assert!(tiers.first().is_none_or(Option::is_none), "only the first has a class");
            tiers.get(1).copied().flatten()
        };
        let mut all: Vec<_> = (0..200).map(&mut with_seed).collect();
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        all.dedup();
        all
    }

    /// c = 10: V + g·c < 1 + c asks g < (11 - 4) / 10 = 0.7. g is 1, 0.8, 0.5, 0.25.
    #[test]
    fn the_classes_that_pay_are_used() {
        let tiers = drawn(view(&[1.0, 1.25, 2.0, 4.0], 10, 100));
        assert_eq!(tiers, [None, Some((2.0, Some(4.0))), Some((4.0, None))]);
    }

    /// c = 4 and V = 4: g < 1/4, and the fastest class has exactly 0.25.
    #[test]
    fn the_inequality_is_strict() {
        assert_eq!(drawn(view(&[1.0, 1.25, 2.0, 4.0], 25, 100)), [None]);
        assert_eq!(drawn(view(&[1.0, 1.25, 2.0, 4.1], 25, 100)), [None, Some((4.1, None))]);
    }

    #[test]
    fn a_first_round_has_no_class() {
        let mut view = view(&[1.0, 2.0, 4.0, 8.0], 1, 1_000);
        view.rounds.iter_mut().for_each(|round| round.history = JobHistory::default());
        assert_eq!(drawn(view), [None]);
    }

    /// Nobody is at least 2 and below 2.
    #[test]
    fn an_empty_class_is_never_waited_for() {
        let tiers = drawn(view(&[1.0, 2.0, 2.0, 4.0], 1, 1_000));
        assert_eq!(tiers, [None, Some((2.0, Some(4.0))), Some((4.0, None))]);
    }

    #[test]
    fn a_round_that_filled_at_once_may_wait_for_any_faster_class() {
        assert_eq!(drawn(view(&[1.0, 2.0], 0, 100)), [None, Some((2.0, None))]);
    }

    #[test]
    fn without_known_speeds_it_is_irs() {
        let view = view(&[], 1, 1_000);
        assert_eq!(Venn.decide(&view), Ok(irs::decide(&view)));
    }
}
