//! The planner against plain counting: who is open, the supply of each group, quotas.

use std::collections::{BTreeMap, BTreeSet};

use _core::planner::{JobSpec, Plan, Planner, PlannerConfig};
use _core::{Error, RoundKey, meets};
use proptest::prelude::*;

const WINDOW_NS: u64 = 100;

/// Requirement i has vector i.
const VECTORS: [[f64; 2]; 5] = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [4.0, 4.0]];

#[derive(Clone, Debug)]
enum Op {
    PutJob(u64, u32),
    RemoveJob(u64),
    Open(RoundKey, u32, u32),
    Allocated(RoundKey, u32),
    Close(RoundKey),
    Supply { manager: u32, at: u64, each: u64, specs: Vec<[f64; 2]> },
    Manager(u32, bool),
    Plan,
    Reset,
}

fn an_op() -> impl Strategy<Value = Op> {
    let key = || (0..6_u64, 0..3_u32).prop_map(|(job, round)| RoundKey { job, round });
    let value = || prop::sample::select(vec![0.0, 0.5, 1.0, 2.0, 9.0]);
    let specs = prop::collection::vec((value(), value()).prop_map(|(a, b)| [a, b]), 0..6);
    prop_oneof![
        4 => (0..6_u64, 0..5_u32).prop_map(|(job, id)| Op::PutJob(job, id)),
        1 => (0..6_u64).prop_map(Op::RemoveJob),
        5 => (key(), 1..20_u32, 0..5_u32).prop_map(|(key, d, a)| Op::Open(key, d, a)),
        3 => (key(), 0..20_u32).prop_map(|(key, allocated)| Op::Allocated(key, allocated)),
        1 => key().prop_map(Op::Close),
        5 => (0..4_u32, 0..9_u64, 1..4_u64, specs)
            .prop_map(|(manager, at, each, specs)| Op::Supply { manager, at, each, specs }),
        2 => (0..4_u32, any::<bool>()).prop_map(|(manager, here)| Op::Manager(manager, here)),
        3 => Just(Op::Plan),
        1 => Just(Op::Reset),
    ]
}

type Bucket = (u64, Vec<[f64; 2]>);

/// What the planner should know, in plain maps.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<u64, u32>,
    rounds: BTreeMap<u64, (u32, u32, u32)>,
    /// By start and manager: the devices that each sampled spec stands for, and the specs.
    supply: BTreeMap<(u64, u32), Bucket>,
    managers: BTreeSet<u32>,
}

impl Model {
    fn remaining(&self) -> BTreeMap<RoundKey, u32> {
        let open = self.rounds.iter().filter(|(_, (_, demand, allocated))| demand > allocated);
        open.map(|(job, (round, d, a))| (RoundKey { job: *job, round: *round }, d - a)).collect()
    }

    /// Devices of the window that meet the requirement, of one manager or of all.
    fn devices(&self, now: u64, id: u32, of: impl Fn(u32) -> bool) -> u64 {
        let recent =
            self.supply.iter().filter(|((at, manager), _)| at + WINDOW_NS >= now && of(*manager));
        let meeting =
            |specs: &[[f64; 2]]| specs.iter().filter(|s| meets(*s, &VECTORS[id as usize])).count();
        recent.map(|(_, (each, specs))| each * meeting(specs) as u64).sum()
    }

    fn quota(&self, now: u64, id: u32, manager: u32, remaining: u32) -> u32 {
        let all = self.devices(now, id, |manager| self.managers.contains(&manager));
        let part = self.devices(now, id, |other| other == manager);
        let (part, all) = if all == 0 { (1, self.managers.len() as u64) } else { (part, all) };
        let share = (u64::from(remaining) * part).div_ceil(all);
        u32::try_from(share).unwrap().clamp(1, remaining)
    }
}

fn step(planner: &mut Planner, model: &mut Model, now: u64, op: &Op) {
    match op {
        Op::PutJob(job, id) => {
            let requirement = VECTORS[*id as usize].to_vec();
            let (registered_ns, estimate) = (*job, 1);
            let spec = JobSpec {
                requirement_id: *id,
                requirement,
                registered_ns,
                demand_estimate: estimate,
                rounds_estimate: estimate,
            };
            planner.put_job(*job, spec).expect("a good job");
            model.jobs.insert(*job, *id);
        }
        Op::RemoveJob(job) => {
            planner.remove_job(*job);
            model.jobs.remove(job);
            model.rounds.remove(job);
        }
        Op::Open(key, demand, allocated) => {
            let known = model.jobs.contains_key(&key.job);
            let expected = if known { Ok(()) } else { Err(Error::UnknownJob(key.job)) };
            assert_eq!(planner.open_round(*key, *demand, *allocated, 0), expected);
            if known {
                model.rounds.insert(key.job, (key.round, *demand, *allocated));
            }
        }
        Op::Allocated(key, allocated) => {
            let round = model.rounds.get_mut(&key.job).filter(|round| round.0 == key.round);
            assert_eq!(planner.set_allocated(*key, *allocated), round.is_some());
            if let Some(round) = round {
                round.2 = *allocated;
            }
        }
        Op::Close(key) => {
            planner.close_round(*key);
            model.rounds.retain(|job, round| *job != key.job || round.0 != key.round);
        }
        Op::Supply { manager, at, each, specs } => {
            let start = now.saturating_sub(*at);
            let count = specs.len();
            let flat = specs.concat();
            planner
                .add_supply(*manager, start, each * count as u64, &flat, &vec![1.0; count])
                .expect("good supply");
            model.supply.insert((start, *manager), (*each, specs.clone()));
        }
        Op::Manager(manager, true) => {
            planner.add_manager(*manager);
            model.managers.insert(*manager);
        }
        Op::Manager(manager, false) => {
            planner.remove_manager(*manager);
            model.managers.remove(manager);
        }
        Op::Plan => compare(&planner.plan(now).expect("a plan"), model, now),
        Op::Reset => {
            planner.reset();
            model.jobs.clear();
            model.rounds.clear();
        }
    }
}

fn compare(plan: &Plan, model: &Model, now: u64) {
    let mut remaining = model.remaining();
    for group in &plan.groups {
        assert_eq!(group.vector, VECTORS[group.requirement_id as usize]);
        let devices = model.devices(now, group.requirement_id, |_| true);
        assert!((group.supply - devices as f64).abs() < 1e-9);
        assert!(!group.rounds.is_empty());
        for round in &group.rounds {
            assert_eq!(model.jobs[&round.key.job], group.requirement_id);
            assert_eq!(remaining.remove(&round.key), Some(round.remaining));
        }
    }
    assert!(remaining.is_empty(), "not in the plan: {remaining:?}");
    assert!(plan.groups.is_sorted_by(|a, b| a.supply <= b.supply), "scarcest first");
    let ids: Vec<u32> = plan.groups.iter().map(|group| group.requirement_id).collect();
    assert_eq!(plan.fallback, ids);
    compare_quotas(plan, model, now);
}

fn compare_quotas(plan: &Plan, model: &Model, now: u64) {
    let rounds = || plan.groups.iter().flat_map(|g| g.rounds.iter().map(move |r| (g, r)));
    let mut sums = vec![0; rounds().count()];
    for manager in &model.managers {
        let quotas = plan.quotas(*manager).expect("a known manager");
        for (((group, round), quota), sum) in rounds().zip(&quotas).zip(&mut sums) {
            let id = group.requirement_id;
            assert_eq!(*quota, model.quota(now, id, *manager, round.remaining));
            *sum += quota;
        }
    }
    // No round starves, and no more than managers - 1 devices are woken for nothing.
    for ((_, round), sum) in rounds().zip(sums).filter(|_| !model.managers.is_empty()) {
        let managers = u32::try_from(model.managers.len()).unwrap();
        assert!((round.remaining..round.remaining + managers).contains(&sum), "{sum} of {round:?}");
    }
    assert_eq!(plan.quotas(99), Err(Error::UnknownManager(99)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn plans_are_as_counted(
        policy in prop::sample::select(_core::policy::names().collect::<Vec<_>>()),
        ops in prop::collection::vec((an_op(), 0..20_u64), 1..60),
    ) {
        let windows = PlannerConfig {
            supply_window_ns: WINDOW_NS,
            supply_day_ns: 0,
            ..PlannerConfig::new(policy, 2)
        };
        let config = windows;
        let mut planner = Planner::new(&config).expect("a good configuration");
        let (mut model, mut now) = (Model::default(), 0);
        for (op, pass_ns) in ops {
            now += pass_ns;
            step(&mut planner, &mut model, now, &op);
        }
        step(&mut planner, &mut model, now, &Op::Plan);
    }
}
