//! Times the two hot calls, `Matcher::check_in` and `Planner::plan`, at the sizes of the paper's
//! figure 10 and ours. `cargo bench` runs it.
//!
//! A plain program: the figures wanted are medians over many calls, which take a loop and not a
//! framework with a hundred dependencies. Each part asserts that the work was done.

use std::time::Instant;

use _core::RoundKey;
use _core::matcher::{Matcher, MatcherConfig, PlanGroup, PlanRound, PlanUpdate};
use _core::planner::{JobSpec, Planner, PlannerConfig};
use _core::policy::JobHistory;

const DIMENSIONS: usize = 4;
/// From one check-in to the next: two million in five days.
const STEP_NS: u64 = 200_000_000;

fn main() {
    assert_eq!(_core::BUILD_PROFILE, "release", "a debug build says nothing about speed");
    // `cargo bench --bench engine -- WORD` runs those with WORD in their name.
    let word = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let run = |name: &str, bench: &dyn Fn()| {
        if name.contains(&word) {
            bench();
        }
    };
    for rounds in [1, 100, 1_000] {
        run("check_in offer", &|| check_in_with_offer(rounds));
    }
    for waiting in [0, 100_000] {
        run("check_in wait", &|| check_in_and_wait(waiting));
    }
    run("check_in wait expire", &|| check_in_and_expire(20_000));
    run("check_in wait forget", &|| leave_and_forget(20_000));
    run("check_in accept assigned", &|| serve(100));
    run("match_waiting", &|| nothing_new(20_000));
    for policy in _core::policy::names() {
        run("plan", &|| plan(policy, 0.0));
    }
    run("plan fair", &|| plan("irs", 2.0));
    run("plan fair", &|| plan("venn", 2.0));
    for policy in _core::policy::names() {
        run("plan small", &|| small_plan(policy));
    }
    run("supply", &add_supply);
}

/// `rounds` open rounds in up to 100 groups; each device is offered something. Ten thousand devices
/// come again and again, so that as many offers are outstanding.
fn check_in_with_offer(rounds: u32) {
    let mut matcher = Matcher::new(MatcherConfig::new(DIMENSIONS)).expect("a good configuration");
    let groups = rounds.min(100);
    let group = |id: u32| PlanGroup {
        requirement_id: id,
        vector: vec![f64::from(id % 10), f64::from(id / 10), 0.0, 0.0],
        rounds: (id..rounds).step_by(groups as usize).map(open_round).collect(),
    };
    let groups = (0..groups).map(group).collect();
    let update = PlanUpdate { version: 1, ranked: true, groups, ..Default::default() };
    matcher.apply_plan(update).expect("a good plan");
    let mut offered = 0;
    let (best_ns, median_ns) = times_ns(200_000, |i| {
        let spec = [f64::from(i % 12), f64::from(i / 12 % 12), 1.0, 1.0];
        let tasks = matcher.check_in(u64::from(i), u128::from(i % 10_000), &spec, 1.0, 0);
        offered += usize::from(!tasks.expect("a good spec").is_empty());
    });
    assert_eq!(offered, 200_000);
    println!("check_in, {rounds} open rounds: median {median_ns} ns, best {best_ns} ns");
}

fn open_round(job: u32) -> PlanRound {
    PlanRound {
        key: RoundKey { job: u64::from(job), round: 0 },
        rank: job,
        quota: u32::MAX,
        ..Default::default()
    }
}

/// Nothing is open: each device joins those who wait already.
fn check_in_and_wait(waiting: u32) {
    let config = MatcherConfig { waiting_max: 1_000_000, ..MatcherConfig::new(DIMENSIONS) };
    let mut matcher = Matcher::new(config).expect("a good configuration");
    let mut check_in = |i: u32| {
        let spec = [f64::from(i % 12), 1.0, 1.0, 1.0];
        matcher.check_in(u64::from(i), u128::from(i), &spec, 1.0, u64::MAX).expect("a good spec");
    };
    (0..waiting).for_each(&mut check_in);
    let (best_ns, median_ns) = times_ns(50_000, |i| check_in(waiting + i));
    assert_eq!(matcher.counts().waiting, waiting as usize + 50_000);
    println!("check_in, {waiting} clients wait: median {median_ns} ns, best {best_ns} ns");
}

/// Nothing is open: each call is one device that checks in, waits until its session ends, and the
/// end of those whose session is over; so many wait at any time. What a simulation does most.
fn check_in_and_expire(waiting: u32) {
    let mut matcher = empty_handed();
    let mut random = 1_u64;
    let mut waits = 0;
    let (best_ns, median_ns) = times_ns(2_000_000, |i| {
        let now_ns = u64::from(i) * STEP_NS;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let hold_ns = (random >> 10) % (2 * STEP_NS * u64::from(waiting));
        let spec = [f64::from(i % 2), f64::from(i / 2 % 2), 1.0, 0.0];
        let device = u128::from(i.wrapping_mul(0x9e37_79b9) % 1_000_003);
        matcher.expire(now_ns);
        matcher.check_in(now_ns, device, &spec, 1.0, now_ns + 1 + hold_ns).expect("a good spec");
        waits = waits.max(matcher.counts().waiting);
        if i % 300 == 0 {
            matcher.take_supply(now_ns);
        }
    });
    assert!(waits > waiting as usize / 2, "{waits}");
    println!("check_in, wait, expire, {waits} wait: median {median_ns} ns, best {best_ns} ns");
}

/// The same, but the caller knows when a session ends and says so.
fn leave_and_forget(waiting: u32) {
    let mut matcher = empty_handed();
    let (best_ns, median_ns) = times_ns(2_000_000, |i| {
        let now_ns = u64::from(i) * STEP_NS;
        let spec = [f64::from(i % 2), f64::from(i / 2 % 2), 1.0, 0.0];
        let device = |i: u32| u128::from(i.wrapping_mul(0x9e37_79b9));
        matcher.check_in(now_ns, device(i), &spec, 1.0, u64::MAX).expect("a good spec");
        if i >= waiting {
            matcher.forget(device(i - waiting));
        }
        if i % 300 == 0 {
            matcher.take_supply(now_ns);
        }
    });
    assert_eq!(matcher.counts().waiting, waiting as usize);
    println!("check_in, wait, forget, {waiting} wait: median {median_ns} ns, best {best_ns} ns");
}

/// A matcher whose four groups have no room: nobody is offered anything.
fn empty_handed() -> Matcher {
    let config = MatcherConfig {
        waiting_max: 1_000_000,
        supply_bucket_ns: 60_000_000_000,
        ..MatcherConfig::new(DIMENSIONS)
    };
    let mut matcher = Matcher::new(config).expect("a good configuration");
    let group = |id: u32| PlanGroup {
        requirement_id: id,
        vector: (0..4).map(|d| f64::from(u8::from(d == id))).collect(),
        rounds: (id..40).step_by(4).map(|job| PlanRound { quota: 0, ..open_round(job) }).collect(),
    };
    let groups = (0..4).map(group).collect();
    let update = PlanUpdate { version: 1, ranked: true, groups, ..Default::default() };
    matcher.apply_plan(update).expect("a good plan");
    matcher
}

/// A device checks in, accepts the first of `rounds` rounds and is assigned; every thousand calls a
/// plan has seen it.
fn serve(rounds: u32) {
    let mut matcher = Matcher::new(MatcherConfig::new(DIMENSIONS)).expect("a good configuration");
    let group = |id: u32| PlanGroup {
        requirement_id: id,
        vector: vec![f64::from(id % 10), f64::from(id / 10), 0.0, 0.0],
        rounds: (id..rounds).step_by(10).map(open_round).collect(),
    };
    let groups: Vec<PlanGroup> = (0..10).map(group).collect();
    let (best_ns, median_ns) = times_ns(200_000, |i| {
        let seq = u64::from(i);
        if i % 1_000 == 0 {
            let groups = groups.clone();
            let update =
                PlanUpdate { version: seq, seq, ranked: true, groups, ..Default::default() };
            matcher.apply_plan(update).expect("a good plan");
        }
        let spec = [f64::from(i % 12), f64::from(i / 12 % 12), 1.0, 1.0];
        let task = matcher.check_in(seq, u128::from(i), &spec, 1.0, 0).expect("a good spec")[0];
        assert!(matcher.accept(seq, u128::from(i), task));
        matcher.assigned(u128::from(i), seq);
    });
    println!(
        "check_in, accept, assigned, {rounds} rounds: median {median_ns} ns, best {best_ns} ns"
    );
}

/// So many wait for 4 groups; a plan of 40 rounds opens one round that 10 of them get, as
/// simulations do all the time.
fn nothing_new(waiting: u32) {
    let mut matcher = empty_handed();
    for i in 0..waiting {
        let spec = [f64::from(i % 2), f64::from(i / 2 % 2), 0.0, 0.0];
        matcher.check_in(0, u128::from(i), &spec, 1.0, u64::MAX).expect("a good spec");
    }
    let group = |id: u32, open: u32| PlanGroup {
        requirement_id: id,
        vector: (0..4).map(|d| f64::from(u8::from(d == id))).collect(),
        rounds: (id..40)
            .step_by(4)
            .map(|job| PlanRound { quota: 10 * u32::from(job == open), ..open_round(job) })
            .collect(),
    };
    let mut served = 0;
    let (best_ns, median_ns) = times_ns(2_000, |i| {
        let groups = (0..4).map(|id| group(id, i % 40)).collect();
        let version = u64::from(2 + i);
        let seq = version - 1;
        let update = PlanUpdate { version, seq, ranked: true, groups, ..Default::default() };
        matcher.apply_plan(update).expect("a good plan");
        for (device, tasks) in matcher.match_waiting(version) {
            served += 1;
            assert!(matcher.accept(version, device, tasks[0]));
            matcher.assigned(device, version);
        }
        assert!(matcher.match_waiting(version).is_empty());
    });
    println!(
        "plan of 40 rounds, 10 of {waiting} served ({served}): median {median_ns} ns, best {best_ns} ns"
    );
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

/// The best and the median time of a call, over `calls` calls timed in up to 200 stretches. The
/// best is what the code costs when nothing else runs on the machine.
fn times_ns(calls: u32, mut call: impl FnMut(u32)) -> (u128, u128) {
    let stretch = (calls / 200).max(1);
    let mut times = Vec::new();
    for first in (0..calls).step_by(stretch as usize) {
        let start = Instant::now();
        (first..first + stretch).for_each(&mut call);
        times.push(start.elapsed().as_nanos() / u128::from(stretch));
    }
    times.sort_unstable();
    (times[0], times[times.len() / 2])
}
