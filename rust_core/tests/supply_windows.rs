//! Supply over the day and in the window, and the speed classes that are cut from it.

use _core::RoundKey;
use _core::planner::{JobSpec, Planner, PlannerConfig};
use _core::policy::JobHistory;

const S: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * S;

fn planner(config: &PlannerConfig) -> Planner {
    let mut planner = Planner::new(config).unwrap();
    planner.add_manager(0);
    for (job, bound) in [(0, 0.0), (1, 1.0)] {
        let spec = JobSpec {
            requirement_id: u32::try_from(job).unwrap(),
            requirement: vec![bound],
            registered_ns: 0,
            demand_estimate: 5,
            rounds_estimate: 9,
        };
        planner.put_job(job, spec).unwrap();
        planner.open_round(RoundKey { job, round: 1 }, 5, 0, 0).unwrap();
    }
    planner
}

/// The supply of groups 0 and 1.
fn supply(planner: &mut Planner, now_ns: u64) -> (f64, f64) {
    let plan = planner.plan(now_ns).unwrap();
    let of = |id| plan.groups.iter().find(|group| group.requirement_id == id).unwrap().supply;
    (of(0), of(1))
}

/// Devices of both kinds come at hour 0 and of the plain kind at hour 20.
#[test]
fn the_day_remembers_what_the_window_forgot() {
    let mut day = planner(&PlannerConfig::new("irs", 1));
    let mut window = PlannerConfig::new("irs", 1);
    window.set_option("supply_day_s", 0.0).unwrap();
    let mut window = planner(&window);
    for planner in [&mut day, &mut window] {
        planner.add_supply(0, 0, 60, &[0.0, 1.0, 1.0], &[1.0; 3]).unwrap();
        planner.add_supply(0, 20 * HOUR, 10, &[0.0], &[1.0]).unwrap();
    }
    assert_eq!(supply(&mut day, 20 * HOUR), (70.0, 40.0));
    assert_eq!(supply(&mut window, 20 * HOUR), (10.0, 0.0));
    assert_eq!(supply(&mut day, 25 * HOUR), (10.0, 0.0), "the day moves on");
    assert_eq!(supply(&mut day, 45 * HOUR), (0.0, 0.0));
    assert_eq!((day.counts().specs, day.counts().samples), (0, 0), "and nothing is left");
}

#[test]
fn a_bucket_that_comes_again_replaces_the_first_in_the_day_too() {
    let mut planner = planner(&PlannerConfig::new("irs", 1));
    planner.add_supply(0, 0, 60, &[0.0, 1.0, 1.0], &[1.0; 3]).unwrap();
    planner.add_supply(0, 0, 4, &[1.0], &[1.0]).unwrap();
    assert_eq!(supply(&mut planner, S), (4.0, 4.0));
}

/// A day of strangers, each with a spec of its own, every minute.
#[test]
fn a_day_is_bounded_however_many_specs_there_are() {
    let mut planner = planner(&PlannerConfig::new("irs", 1));
    for minute in 0..1_500_u64 {
        let first = u32::try_from(minute).unwrap() * 100;
        let specs: Vec<f64> = (first..first + 100).map(f64::from).collect();
        planner.add_supply(0, minute * 60 * S, 100, &specs, &[1.0; 100]).unwrap();
        planner.plan(minute * 60 * S).unwrap();
    }
    assert!(planner.counts().specs <= 98 * 1_024 + 1_100, "{:?}", planner.counts());
    let (all, _) = supply(&mut planner, 1_500 * 60 * S);
    assert!((all - 144_000.0).abs() < 2_000.0, "devices beyond the specs count: {all}");
}

/// 40 devices with speeds 1 to 40 meet both groups, of which those above 20 the stricter one. Four
/// classes of 40 begin at 1, 11, 21, 31; of 20 at 21, 26, 31, 36. With two slow rounds behind them,
/// jobs wait for the fastest class of their own group.
#[test]
fn tiers_are_classes_of_equal_count_of_a_groups_own_devices() {
    let mut planner = planner(&PlannerConfig::new("venn", 1));
    let specs: Vec<f64> = (1..=40).map(|i| f64::from(u8::from(i > 20))).collect();
    let speeds: Vec<f64> = (1..=40).map(f64::from).collect();
    planner.add_supply(0, 0, 40, &specs, &speeds).unwrap();
    let mut tiers = Vec::new();
    for round in 0..3 {
        let past = JobHistory {
            rounds_succeeded: round,
            last_scheduling_ns: S,
            last_response_ns: 1_000_000 * S,
            ..JobHistory::default()
        };
        let opened_ns = u64::from(round) * S;
        for job in 0..2 {
            planner.set_history(job, past).unwrap();
            planner.open_round(RoundKey { job, round }, 10, 0, opened_ns).unwrap();
        }
        let plan = planner.plan(opened_ns).unwrap();
        tiers = plan.groups.iter().map(|g| (g.requirement_id, g.rounds[0].tier)).collect();
        tiers.sort_unstable_by_key(|tier| tier.0);
        if round < 2 {
            assert_eq!(tiers, [(0, None), (1, None)], "it is not known how long rounds take");
        }
    }
    assert_eq!(tiers, [(0, Some((31.0, None))), (1, Some((36.0, None)))]);
    assert_eq!(planner.counts().tiered_rounds, 2);
    planner.plan(3 * S).unwrap();
    assert_eq!(planner.counts().tiered_rounds, 2, "a round is counted once");
}
