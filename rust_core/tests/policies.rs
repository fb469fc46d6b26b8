//! What holds for every policy: each open round once, owners that are eligible, the same view the
//! same decision; and what the fairness knob ε promises.

use std::collections::BTreeSet;

use _core::RoundKey;
use _core::planner::{JobSpec, Plan, Planner, PlannerConfig};
use _core::policy::{
    self, Attempts, GroupView, JobHistory, PolicyOptions, PolicyView, RoundView, SignatureView,
};
use proptest::prelude::*;

const S: u64 = 1_000_000_000;
const GROUPS: usize = 6;

fn a_history() -> impl Strategy<Value = JobHistory> {
    let times = (0..100 * S, 0..1_000 * S, 0..9_000 * S);
    (0..5_u32, 0..1_000_u64, times).prop_map(|(rounds_succeeded, devices_served, times)| {
        let (last_scheduling_ns, last_response_ns, rounds_ns) = times;
        JobHistory {
            rounds_succeeded,
            devices_served,
            last_scheduling_ns,
            last_response_ns,
            rounds_ns,
        }
    })
}

type Numbers = (usize, u32, u32, u64, u64);

fn a_round() -> impl Strategy<Value = (Numbers, JobHistory)> {
    ((0..GROUPS, 1..500_u32, 0..500_u32, 0..5_000 * S, 0..20_u64), a_history())
}

fn some_options() -> impl Strategy<Value = PolicyOptions> {
    let fairness = prop::sample::select(vec![0.0, 0.5, 2.0, 30.0]);
    (fairness, 2..6_u32, 0..4_u32).prop_map(|(fairness, tiers, partitions)| PolicyOptions {
        fairness,
        tiers,
        partitions,
        ..PolicyOptions::default()
    })
}

/// Up to 30 rounds in up to six groups and up to nine signatures.
fn a_view() -> impl Strategy<Value = PolicyView> {
    let signature = (prop::collection::btree_set(0..GROUPS, 1..GROUPS), 0..4_000_u32);
    let speeds = prop::collection::vec(prop::collection::vec(0.0..9.0_f64, 0..5), GROUPS);
    let parts = (
        prop::collection::vec(a_round(), 0..30),
        prop::collection::vec(signature, 0..10),
        speeds,
        some_options(),
        any::<u64>(),
    );
    parts.prop_map(|(rounds, signatures, speeds, options, seed)| {
        let weigh = |weight: u32| f64::from(weight) / 4.0;
        let group = |(id, mut speeds): (u32, Vec<f64>)| {
            let meets = |met: &BTreeSet<usize>| met.contains(&(id as usize));
            let of_it = signatures.iter().filter(|(met, _)| meets(met));
            let supply = of_it.map(|(_, weight)| weigh(*weight)).sum();
            speeds.sort_by(f64::total_cmp);
            GroupView {
                requirement_id: id,
                supply,
                rate: supply,
                rate_day: supply / 2.0,
                speeds,
                taken: 0.0,
            }
        };
        let mut groups: Vec<GroupView> = (0..).zip(speeds).map(group).collect();
        groups.sort_by(|a, b| a.supply.total_cmp(&b.supply));
        let place =
            |id: usize| groups.iter().position(|g| g.requirement_id as usize == id).unwrap();
        let round =
            |(job, ((group, remaining, allocated, registered_ns, rounds_estimate), history))| {
                RoundView {
                    key: RoundKey { job, round: 3 },
                    group: place(group),
                    remaining,
                    demand: remaining + allocated,
                    registered_ns,
                    opened_ns: registered_ns,
                    rounds_estimate,
                    demand_estimate: u64::from(remaining),
                    place: u32::try_from(job).unwrap(),
                    history,
                    attempts: Attempts::default(),
                }
            };
        let signature = |(met, weight): &(BTreeSet<usize>, u32)| {
            let met: Vec<usize> = met.iter().map(|id| place(*id)).collect();
            SignatureView::new(GROUPS, &met, weigh(*weight))
        };
        PolicyView {
            now_ns: 6_000 * S,
            seed,
            options,
            jobs: u32::try_from(rounds.len()).unwrap(),
            rounds: (0..).zip(rounds).map(round).collect(),
            signatures: signatures.iter().map(signature).collect(),
            groups,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_policy_keeps_the_rules(view in a_view()) {
        for name in policy::names() {
            let policy = policy::find(name).unwrap();
            let decision = policy.decide(&view).unwrap();
            prop_assert_eq!(&policy.decide(&view).unwrap(), &decision, "{} is not steady", name);
            let mut order = decision.order.clone();
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..view.rounds.len()), "{}: each round once", name);
            prop_assert_eq!(policy.is_ranked(), decision.owners.is_none(), "{}", name);
            for (signature, owner) in view.signatures.iter().zip(decision.owners.iter().flatten()) {
                prop_assert!(owner.is_none_or(|owner| signature.meets(owner)), "{}: owner", name);
            }
            prop_assert!(decision.tiers.is_empty() || decision.tiers.len() == view.rounds.len());
            for (min, max) in decision.tiers.iter().flatten() {
                prop_assert!(max.is_none_or(|max| *min < max), "{}: an empty tier", name);
            }
            let parts = if decision.partitions == 0 { 0 } else { view.rounds.len() };
            prop_assert_eq!(decision.parts.len(), parts, "{}", name);
            prop_assert!(decision.parts.iter().all(|part| *part < decision.partitions), "{}", name);
        }
    }

    #[test]
    fn without_fairness_nothing_but_the_demand_and_the_supply_counts(mut view in a_view()) {
        view.options.fairness = 0.0;
        let pure = policy::find("irs").unwrap().decide(&view);
        view.now_ns *= 7;
        view.jobs += 3;
        for round in &mut view.rounds {
            (round.history, round.rounds_estimate) = (JobHistory::default(), 9);
        }
        prop_assert_eq!(policy::find("irs").unwrap().decide(&view), pure);
    }
}

/// A planner of `irs` with this ε, to which 100 devices with the value 1 have come within 100 s.
fn a_planner(fairness: f64) -> Planner {
    let mut config = PlannerConfig::new("irs", 1);
    config.set_option("fairness", fairness).unwrap();
    config.set_option("response_s", 1.0).unwrap();
    let mut planner = Planner::new(&config).unwrap();
    planner.add_manager(0);
    planner.add_supply(0, 0, 100, &[1.0; 100], &[1.0; 100]).unwrap();
    planner
}

fn add_job(planner: &mut Planner, job: u64, bound: f64, demand: u32, now_ns: u64) {
    let spec = JobSpec {
        requirement_id: u32::from(bound > 0.5),
        requirement: vec![bound],
        registered_ns: now_ns,
        demand_estimate: u64::from(demand),
        rounds_estimate: 1,
    };
    planner.put_job(job, spec).unwrap();
    planner.open_round(RoundKey { job, round: 0 }, demand, 0, now_ns).unwrap();
}

/// The job that a device with the value 1 is offered first.
fn first(plan: &Plan) -> u64 {
    let ids = &plan.fallback;
    let mut signature = ids.clone();
    signature.sort_unstable();
    let preferred = plan.preferences.iter().find(|(met, _)| *met == signature);
    let group = preferred.map_or(ids[0], |(_, order)| order[0]);
    let group = plan.groups.iter().find(|g| g.requirement_id == group).unwrap();
    group.rounds[0].key.job
}

/// When job 0, which wants 5 devices and has the bound `large`, has them all, if one device comes
/// a second and each second there is a new job that wants one and has the bound `small`.
fn served_after_s(fairness: f64, large: f64, small: f64) -> Option<u64> {
    let mut planner = a_planner(fairness);
    add_job(&mut planner, 0, large, 5, 100 * S);
    let mut got = 0;
    let mut waiting = BTreeSet::new();
    for second in 1..=2_000 {
        let now_ns = (100 + second) * S;
        planner.add_supply(0, now_ns, 1, &[1.0], &[1.0]).unwrap();
        add_job(&mut planner, second, small, 1, now_ns);
        waiting.insert(second);
        let job = first(&planner.plan(now_ns).unwrap());
        if job == 0 {
            got += 1;
            planner.set_allocated(RoundKey { job: 0, round: 0 }, got);
        } else {
            waiting.remove(&job);
            planner.remove_job(job);
        }
        if got == 5 {
            return Some(second);
        }
    }
    None
}

/// One group, smallest first: every second a smaller job comes.
#[test]
fn a_large_job_behind_a_stream_of_small_ones_starves_only_without_fairness() {
    assert_eq!(served_after_s(0.0, 0.0, 0.0), None);
    for fairness in [0.5, 1.0, 2.0, 4.0] {
        let after_s = served_after_s(fairness, 0.0, 0.0);
        assert!(after_s.is_some(), "ε = {fairness}");
    }
}

/// Two groups that the same devices meet: the stricter one owns them all.
#[test]
fn a_group_that_owns_nothing_starves_only_without_fairness() {
    assert_eq!(served_after_s(0.0, 0.0, 1.0), None);
    for fairness in [0.5, 1.0, 2.0, 4.0] {
        assert!(served_after_s(fairness, 0.0, 1.0).is_some(), "ε = {fairness}");
        assert!(served_after_s(fairness, 1.0, 0.0).is_some(), "the stricter, ε = {fairness}");
    }
}

/// By hand. 1 device a second, 1 s to respond, 2 jobs of 1 round. Job 1 lacks 8 and came at 0 s,
/// job 2 lacks 3 and came at 100 s. sd is 8 + 1 = 9 s and 3 + 1 = 4 s, T = 2·9 = 18 s and 8 s.
///
/// At 100 s, t = 100 s and (at least one round) 4 s. ε = 1: d' = 8 · 18/100 = 1.44 and
/// 3 · 8/4 = 6: job 1 first. ε = 0: 8 and 3: job 2 first.
/// At 130 s, t = 130 s and 30 s: d' = 8 · 18/130 = 1.11 and 3 · 8/30 = 0.80: job 2 first, whose
/// turn has come, too.
#[test]
fn the_demand_that_counts_falls_as_a_job_waits() {
    let first_at = |fairness: f64, second: u64| {
        let mut config = PlannerConfig::new("irs", 1);
        config.set_option("fairness", fairness).unwrap();
        config.set_option("response_s", 1.0).unwrap();
        let mut planner = Planner::new(&config).unwrap();
        planner.add_manager(0);
        planner
            .add_supply(0, 0, u64::from(second == 130) * 30 + 100, &[1.0; 100], &[1.0; 100])
            .unwrap();
        add_job(&mut planner, 1, 0.0, 8, 0);
        add_job(&mut planner, 2, 0.0, 3, 100 * S);
        first(&planner.plan(second * S).unwrap())
    };
    assert_eq!((first_at(0.0, 100), first_at(0.0, 130)), (2, 2));
    assert_eq!((first_at(1.0, 100), first_at(1.0, 130)), (1, 2));
}

/// By hand. Group 1 (bound 1) is met by 50 of 100 devices in 100 s, group 0 by all 100. One job
/// each, both lack 10: num 50 and 50, and group 0 takes nothing (1/50 is not more than 1/50).
///
/// ε = 1, 2 jobs. Job 0 came at 0 s and job 1 at 90 s; at 100 s t is 100 s, and 21 s (one round:
/// 10 / 0.5 + 1). T = 2 · (10/1 + 1) = 22 s, and 42 s. q' is 100/22 = 4.5 and 21/42 = 0.5; both
/// drain after 10/50 s, so m' is all of 4.5: 4.5/50 > 0.5/50, group 0 takes the intersection.
#[test]
fn the_queue_that_counts_grows_as_a_group_waits() {
    let owner = |fairness: f64| {
        let mut config = PlannerConfig::new("irs", 1);
        config.set_option("fairness", fairness).unwrap();
        config.set_option("response_s", 1.0).unwrap();
        let mut planner = Planner::new(&config).unwrap();
        planner.add_manager(0);
        let specs: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        planner.add_supply(0, 0, 100, &specs, &[1.0; 100]).unwrap();
        add_job(&mut planner, 0, 0.0, 10, 0);
        add_job(&mut planner, 1, 1.0, 10, 90 * S);
        first(&planner.plan(100 * S).unwrap())
    };
    assert_eq!((owner(0.0), owner(1.0)), (1, 0));
}
