//! Times `Planner::plan` at the sizes of the paper's figure 10 and of a paper-scale simulation, and
//! the counting of supply. `cargo bench --bench planner` runs it; see `engine.rs` for why so plain.

mod timing;

use _core::RoundKey;
use _core::planner::{JobSpec, Planner, PlannerConfig};
use _core::policy::JobHistory;

use timing::times_ns;

const DIMENSIONS: usize = 4;

fn main() {
    assert_eq!(_core::BUILD_PROFILE, "release", "a debug build says nothing about speed");
    for policy in _core::policy::names() {
        plan(policy, 0.0);
    }
    plan("irs", 2.0);
    plan("venn", 2.0);
    for policy in _core::policy::names() {
        small_plan(policy);
    }
    add_supply();
}

/// A planner with `rounds` open rounds in `groups` groups; each job has a round behind it.
fn a_planner(policy: &str, fairness: f64, rounds: u32, groups: u32) -> Planner {
    let mut config = PlannerConfig::new(policy, DIMENSIONS);
    config.set_option("fairness", fairness).expect("a known option");
    let mut planner = Planner::new(&config).expect("a known policy");
    for job in 0..rounds {
        let id = job % groups;
        // A requirement bounds one of the four attributes, so signatures can be many.
        let mut requirement = vec![0.0; DIMENSIONS];
        requirement[id as usize % DIMENSIONS] = f64::from(1 + id / 4);
        let spec = JobSpec {
            requirement_id: id,
            requirement,
            registered_ns: u64::from(job),
            demand_estimate: 100,
            rounds_estimate: 100,
        };
        planner.put_job(u64::from(job), spec).expect("a good job");
        let history = JobHistory {
            rounds_succeeded: 1,
            devices_served: 100,
            last_scheduling_ns: 10_000_000_000,
            last_response_ns: 100_000_000_000,
            rounds_ns: 110_000_000_000,
        };
        planner.set_history(u64::from(job), history).expect("the job is known");
        let key = RoundKey { job: u64::from(job), round: 1 };
        planner.open_round(key, 10 + job % 90, 0, 0).expect("the job is known");
    }
    planner
}

/// 1,000 rounds in 100 groups, 1,000 signatures in the supply, 4 managers.
fn plan(policy: &str, fairness: f64) {
    let mut planner = a_planner(policy, fairness, 1_000, 100);
    let digit = |i: u32, place: u32| f64::from(i / 6_u32.pow(place) % 6 * 5);
    let specs: Vec<f64> = (0..1_000).flat_map(|i| (0..4).map(move |p| digit(i, p))).collect();
    let speeds: Vec<f64> = (0..1_000).map(|i| 1.0 + f64::from(i * 7 % 100)).collect();
    for manager in 0..4 {
        planner.add_manager(manager);
        planner.add_supply(manager, 0, 4_000, &specs, &speeds).expect("good supply");
    }
    let (best_ns, median_ns) = times_ns(200, |i| {
        // Once a second of this story a manager sends supply, as it does live.
        if i % 50 == 0 {
            planner.add_supply(i / 50, 1, 4_000, &specs, &speeds).expect("good supply");
        }
        let plan = planner.plan(u64::from(i) * 20_000_000).expect("a plan");
        assert_eq!(plan.groups.iter().map(|group| group.rounds.len()).sum::<usize>(), 1_000);
    });
    assert_eq!(planner.counts().specs, 1_000, "as many signatures");
    assert_eq!(policy == "venn", planner.counts().tiered_rounds > 0);
    println!(
        "plan, {policy}, fairness {fairness}, 1000 rounds, 100 groups: median {} us, best {} us",
        median_ns / 1000,
        best_ns / 1000
    );
}

/// 50 rounds in 4 groups, 5 signatures, 1 manager: a plan of the paper's simulation, where supply
/// comes and something changes before each.
fn small_plan(policy: &str) {
    let mut planner = a_planner(policy, 0.0, 50, 4);
    planner.add_manager(0);
    let specs: Vec<f64> =
        (0..5).flat_map(|i| (0..4).map(move |p| f64::from(u8::from(p < i)))).collect();
    planner.add_supply(0, 0, 50, &specs, &[1.0; 5]).expect("good supply");
    let (best_ns, median_ns) = times_ns(20_000, |i| {
        planner.set_allocated(RoundKey { job: u64::from(i % 50), round: 1 }, i % 9);
        let plan = planner.plan(u64::from(i) * 1_000_000_000).expect("a plan");
        assert_eq!(plan.groups.len(), 4);
        if i % 16 == 0 {
            let start_ns = u64::from(i) * 1_000_000_000;
            planner.add_supply(0, start_ns, 50, &specs, &[1.0; 5]).expect("good supply");
        }
    });
    println!("plan, {policy}, 50 rounds, 4 groups: median {median_ns} ns, best {best_ns} ns");
}

/// A bucket of 256 devices of 16 kinds, 4,000 times: a day and more, the window full.
fn add_supply() {
    let mut planner = a_planner("venn", 0.0, 50, 4);
    let specs: Vec<f64> =
        (0..256_u32).flat_map(|i| (0..4).map(move |p| f64::from(i >> p & 1))).collect();
    let (best_ns, median_ns) = times_ns(4_000, |i| {
        let start_ns = u64::from(i) * 25_000_000_000;
        planner.add_supply(0, start_ns, 256, &specs, &[1.0; 256]).expect("good supply");
        planner.plan(start_ns).expect("a plan");
    });
    assert!(planner.counts().samples <= 256 * 25, "the window is 600 s");
    println!("add a bucket of 256 devices, and plan: median {median_ns} ns, best {best_ns} ns");
}
