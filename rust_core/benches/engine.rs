//! Times the calls of a matcher, above all `Matcher::check_in`. `cargo bench --bench engine` runs it;
//! `planner.rs` times the planner.
//!
//! A plain program: the figures wanted are medians over many calls, which take a loop and not a
//! framework with a hundred dependencies. Each part asserts that the work was done.

mod timing;

use _core::RoundKey;
use _core::matcher::{Matcher, MatcherConfig, PlanGroup, PlanRound, PlanUpdate};

use timing::times_ns;

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
