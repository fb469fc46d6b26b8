//! Venn: IRS, and rounds wait for fast devices where that pays (paper §4.3, tier-based matching).
//!
//! The devices of a group are divided into V classes of equal count by their observed speeds. A
//! tier is the fastest `V - u` of them, a share `q = (V - u)/V` of the devices. A round whose tier
//! is `u` waits longer for its devices, but they respond sooner. It gets the tier with the shortest
//! expected time, if that is shorter than without one by a margin:
//!
//! ```text
//! wait + g · response < (1 - MARGIN) · (delay + response)
//! wait = (ahead + n) / spare(q) - (demand / spare(1) - delay),   spare(q) = q · rate - taken
//! ```
//!
//! * `delay` and `response` are means of the job's own rounds without a tier.
//! * `n` devices are missing, and `ahead` by the rounds that the group serves before.
//! * `rate`: devices a second that the group owns; `taken`: those that other jobs take, all of them
//!   fast in the worst case. Where devices are contended there is none to spare, hence no tier.
//! * The subtrahend of `wait` is what rounds without a tier did not wait for, because devices were
//!   waiting; of these the tier has as much as of all that is spare. What the job's rounds with a
//!   tier did wait counts more with each of them.
//! * `g`: the response time with the tier over that without, from the speed below which a share
//!   `1 - ENOUGH` of the devices is, among the tier and among all.
//!
//! A round that was without a tier once stays without. One that has a tier loses it when it has been
//! open for as long as the tier could save, so it never costs more than it could have gained.
//! Whether tiers did pay is judged by the planner, job by job: while a job rests, it has none.
//! `docs/policies.md` has the derivation. Cost: that of IRS, and O(rounds · V).

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, Tier, TierState, irs};

/// By how much a round is expected to be shorter with a tier, or it has none.
const MARGIN: f64 = 0.1;
/// Rounds without a tier that must have succeeded before.
const ROUNDS_MIN: u32 = 2;
/// The share of the devices that a round waits for, as in the paper; the planner is not told.
const ENOUGH: f64 = 0.8;
/// The lowest bound is the speed below which this share of the slowest class is.
const SLOWEST: f64 = 0.2;

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
        let mut owned: Option<Vec<f64>> = None;
        let mut tiers = Vec::new();
        let mut ahead = (None, 0.0);
        for index in &decision.order {
            let round = &view.rounds[*index];
            if ahead.0 != Some(round.group) {
                ahead = (Some(round.group), 0.0);
            }
            ahead.1 += f64::from(round.remaining);
            let tier = match round.attempts.state {
                TierState::Without => None,
                TierState::Held(tier) => Some(tier),
                TierState::New => {
                    let owned = owned.get_or_insert_with(|| owned_shares(view, &decision));
                    choose(view, round, owned[round.group], ahead.1)
                }
            };
            let Some(tier) = tier else { continue };
            let until_ns = patient_until_ns(view, round, tier);
            if view.now_ns < until_ns {
                decision.again_ns = Some(decision.again_ns.map_or(until_ns, |ns| ns.min(until_ns)));
                tiers.resize(view.rounds.len(), None);
                tiers[*index] = Some(tier);
            }
        }
        decision.tiers = tiers;
        Ok(decision)
    }
}

/// For each group the share of the devices that meet it which serve it first.
fn owned_shares(view: &PolicyView, decision: &Decision) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); view.groups.len()];
    let owners = decision.owners.as_deref().unwrap_or_default();
    for (signature, owner) in view.signatures.iter().zip(owners) {
        for group in signature.groups() {
            let sum: &mut (f64, f64) = &mut sums[group];
            sum.1 += signature.weight;
            sum.0 += if *owner == Some(group) { signature.weight } else { 0.0 };
        }
    }
    sums.into_iter().map(|(own, all)| if all > 0.0 { own / all } else { 0.0 }).collect()
}

/// The tier with the shortest expected time, if that is short enough.
fn choose(view: &PolicyView, round: &RoundView, owned: f64, ahead: f64) -> Option<Tier> {
    let (group, past) = (&view.groups[round.group], &round.attempts);
    let speeds = &group.speeds;
    if past.rest > 0 || past.rounds < ROUNDS_MIN || speeds.len() < 2 {
        return None;
    }
    let classes = speeds.len() as f64;
    let others = (group.taken - past.taken).max(0.0);
    let limit_s = (1.0 - MARGIN) * (past.delay_s + past.response_s);
    let spare = |tier: usize| (1.0 - tier as f64 / classes) * owned * group.rate - others;
    // What the job's rounds without a tier did not have to wait for was there already.
    let saved_s = (f64::from(round.demand) / spare(0) - past.delay_s).max(0.0);
    let seen = f64::from(past.tiered);
    let expected_s = |tier: usize| {
        if spare(tier) <= 0.0 {
            return f64::INFINITY;
        }
        let wait_s = (ahead / spare(tier) - saved_s).max(0.0);
        let wait_s = (wait_s + seen * past.tiered_delay_s) / (1.0 + seen);
        wait_s + slowdown(speeds, tier) * past.response_s
    };
    let tiers = (1..speeds.len()).map(|tier| (expected_s(tier), tier));
    let best = tiers.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 < limit_s).then(|| (speeds[best.1], None))
}

/// How long the round waits for devices of this tier only: for as long as that could save.
fn patient_until_ns(view: &PolicyView, round: &RoundView, tier: Tier) -> u64 {
    let (speeds, past) = (&view.groups[round.group].speeds, &round.attempts);
    if speeds.len() < 2 {
        return 0; // What is known of speeds was lost.
    }
    let at = speeds.partition_point(|speed| *speed <= tier.0).saturating_sub(1);
    let saved_s = past.delay_s + (1.0 - slowdown(speeds, at)) * past.response_s;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    let patience_ns = (saved_s * 1e9) as u64;
    round.opened_ns.saturating_add(patience_ns)
}

/// g: how long devices of a tier take to respond, over how long all take.
fn slowdown(speeds: &[f64], tier: usize) -> f64 {
    let below = tier as f64 / speeds.len() as f64;
    let slowest = |from: f64| speed_at(speeds, from + (1.0 - ENOUGH) * (1.0 - from));
    slowest(0.0) / slowest(below).max(slowest(0.0))
}

/// The speed below which this share of the devices is, between the bounds that are known linearly.
fn speed_at(speeds: &[f64], share: f64) -> f64 {
    let classes = speeds.len() as f64;
    let knot = |place: usize| (if place == 0 { SLOWEST } else { place as f64 }) / classes;
    let above = (1..speeds.len()).find(|place| share < knot(*place));
    let Some(above) = above else { return speeds[speeds.len() - 1] };
    let (from, to) = (knot(above - 1), knot(above));
    let part = ((share - from) / (to - from)).max(0.0);
    speeds[above - 1] + part * (speeds[above] - speeds[above - 1])
}

#[cfg(test)]
mod tests {
    use super::super::testing::round;
    use super::super::{Attempts, GroupView, SignatureView};
    use super::*;

    const S: u64 = 1_000_000_000;
    /// Of 4 classes of 100 devices. A fifth of all is slower than 1.75. A fifth of the fastest 75
    /// is slower than 3.2, of 50 than 5.6, of 25 than 8: g = 0.547, 0.3125, 0.219.
    const SPEEDS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

    /// One round for 10 devices, of which one a second comes; without a tier it waits for them
    /// `delay_s`, and `response_s` for their reports.
    fn view(delay_s: f64, response_s: f64) -> PolicyView {
        let attempts = Attempts { rounds: 2, delay_s, response_s, ..Attempts::default() };
        let rounds = vec![RoundView { opened_ns: 0, attempts, ..round(1, 0, 10) }];
        let groups = vec![GroupView { rate: 1.0, speeds: SPEEDS.to_vec(), ..Default::default() }];
        let signatures = vec![SignatureView::new(1, &[0], 100.0)];
        PolicyView { rounds, groups, signatures, ..Default::default() }
    }

    fn tier(view: &PolicyView) -> Option<f64> {
        let decision = Venn.decide(view).unwrap();
        assert_eq!(decision.again_ns.is_some(), !decision.tiers.is_empty());
        decision.tiers.first().copied().flatten().map(|(min, max)| {
            assert_eq!(max, None, "nobody is too fast");
            min
        })
    }

    /// 10 + 100 s without. With: 13 + 55, 20 + 31, 40 + 22; and for ten times the response 13 + 547,
    /// 20 + 313, 40 + 219.
    #[test]
    fn the_tier_with_the_shortest_time_is_chosen() {
        assert_eq!(tier(&view(10.0, 100.0)), Some(4.0));
        assert_eq!(tier(&view(10.0, 1_000.0)), Some(8.0));
    }

    /// 10 + 10 s without, so below 18 is enough; the best is 13.3 + 5.5. With 12: 13.3 + 6.6 < 19.8
    /// fails by little, with 13: 13.3 + 7.1 < 20.7.
    #[test]
    fn what_saves_less_than_the_margin_is_not_worth_it() {
        assert_eq!(tier(&view(10.0, 10.0)), None);
        assert_eq!(tier(&view(10.0, 12.0)), None);
        assert_eq!(tier(&view(10.0, 13.0)), Some(2.0));
    }

    /// Others take 0.4 of the one device a second: 10 / (0.75 - 0.4) = 29 s, and none is to spare of
    /// a quarter.
    #[test]
    fn devices_that_other_jobs_take_are_not_there() {
        let mut view = view(10.0, 1_000.0);
        view.groups[0].taken = 0.4;
        assert_eq!(tier(&view), Some(4.0), "100 + 313 < 29 + 547");
        view.groups[0].taken = 0.8;
        assert_eq!(tier(&view), None, "not even three quarters of them are as many");
        view.rounds[0].attempts.taken = 0.8;
        assert_eq!(tier(&view), Some(8.0), "it was this job itself");
    }

    /// Without a tier it did not wait, where arrivals alone would have taken 10 s: so many devices
    /// were there. 3.3 + 10.9 is the best of what is below 18.
    #[test]
    fn devices_that_wait_shorten_the_wait() {
        assert_eq!(tier(&view(0.0, 20.0)), Some(2.0));
        assert_eq!(tier(&view(10.0, 10.0)), None);
    }

    #[test]
    fn what_rounds_with_a_tier_waited_counts() {
        let mut view = view(10.0, 100.0);
        (view.rounds[0].attempts.tiered, view.rounds[0].attempts.tiered_delay_s) = (9, 0.0);
        assert_eq!(tier(&view), Some(8.0), "4 + 22");
        view.rounds[0].attempts.tiered_delay_s = 100.0;
        assert_eq!(tier(&view), None);
    }

    #[test]
    fn a_job_that_rests_or_is_new_has_no_tier() {
        let mut view = view(10.0, 100.0);
        view.rounds[0].attempts.rest = 1;
        assert_eq!(tier(&view), None);
        (view.rounds[0].attempts.rest, view.rounds[0].attempts.rounds) = (0, 1);
        assert_eq!(tier(&view), None);
    }

    /// Two rounds of 10 before it: 30 / 0.75 = 40 s.
    #[test]
    fn a_round_waits_for_those_that_are_served_before() {
        let mut view = view(10.0, 30.0);
        assert_eq!(tier(&view), Some(4.0), "20 + 9 < 36, and 13 + 16");
        let first = view.rounds[0];
        for job in [2, 3] {
            view.rounds.insert(
                0,
                RoundView { remaining: 9, ..RoundView { key: round(job, 0, 9).key, ..first } },
            );
        }
        let tiers = Venn.decide(&view).unwrap().tiers;
        assert_eq!(tiers.get(2).copied().flatten(), None);
    }

    /// Of its own devices: 20 + 9 s is the best. If half of them serve another group first, that is
    /// 40 + 9, and 26.7 + 16.4 is better.
    #[test]
    fn only_devices_that_the_group_owns_count() {
        let mut view = view(20.0, 30.0);
        assert_eq!(tier(&view), Some(4.0));
        view.groups.insert(0, GroupView { requirement_id: 9, supply: 50.0, ..Default::default() });
        view.groups[1].supply = 100.0;
        view.rounds[0].group = 1;
        view.rounds.push(round(2, 0, 10));
        view.signatures =
            vec![SignatureView::new(2, &[1], 50.0), SignatureView::new(2, &[0, 1], 50.0)];
        assert_eq!(tier(&view), Some(2.0));
    }

    /// A tier saves 10 + (1 - 0.3125) · 100 = 78.75 s, so no round waits longer for it.
    #[test]
    fn a_tier_is_dropped_when_it_has_cost_what_it_could_save() {
        let mut view = view(10.0, 100.0);
        let until_ns = 78_750_000_000;
        assert_eq!(Venn.decide(&view).unwrap().again_ns, Some(until_ns));
        view.rounds[0].attempts.state = TierState::Held((4.0, None));
        view.now_ns = until_ns - 1;
        assert_eq!(tier(&view), Some(4.0));
        view.now_ns = until_ns;
        assert_eq!(tier(&view), None);
        (view.now_ns, view.rounds[0].attempts.state) = (S, TierState::Without);
        assert_eq!(tier(&view), None, "once without, it stays without");
    }

    #[test]
    fn without_known_speeds_it_is_irs() {
        let mut view = view(10.0, 1_000.0);
        view.groups[0].speeds.clear();
        assert_eq!(Venn.decide(&view), Ok(irs::decide(&view)));
        view.rounds[0].attempts.state = TierState::Held((4.0, None));
        assert_eq!(Venn.decide(&view), Ok(irs::decide(&view)));
    }

    /// All devices are as fast: no tier responds sooner.
    #[test]
    fn of_equals_none_is_chosen() {
        let mut view = view(10.0, 1_000.0);
        view.groups[0].speeds = vec![2.0; 4];
        assert_eq!(tier(&view), None);
    }
}
