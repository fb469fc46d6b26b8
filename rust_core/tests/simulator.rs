//! What holds of every run, whatever the policy, the kinds of jobs, and the number of managers.

use std::fmt::Write;

use _core::simulator::{
    JobKind, RunResult, SimulatedJob, SimulationError, SimulatorConfig, Trace, run,
};
use _core::{policy, reference};
use proptest::prelude::*;

/// Sessions of a day: starts, lengths, speeds and classes from a small generator.
fn trace(sessions: u32, seed: u32) -> Trace {
    let mut text = "start,end,computation,communication,requirements\n".to_owned();
    let mut state = u64::from(seed) + 1;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    let mut starts: Vec<u64> = (0..sessions).map(|_| next(20_000)).collect();
    starts.sort_unstable();
    for start in starts {
        let end = start + next(3) * next(2_000);
        let classes =
            ["", "1", "1", "12", "13", "1234"][usize::try_from(next(6)).expect("below 6")];
        let _ = writeln!(text, "{start},{end},{},{},{classes}", 10 + next(200), 500 + next(9_000));
    }
    // At least one client for each class.
    let _ = writeln!(text, "20001,90000,10,9000,1234");
    Trace::read_csv("made up", text.as_bytes()).expect("a good trace")
}

fn job(number: u32, kind: JobKind) -> SimulatedJob {
    SimulatedJob {
        requirement: 1 + number % 4,
        kind,
        buffer: Some(3),
        staleness: Some(1),
        ..SimulatedJob::new(f64::from(number) * 50.0, 2 + number % 7, 1 + number % 4, 400.0)
    }
}

fn jobs(count: u32, kinds: &[JobKind]) -> Vec<SimulatedJob> {
    (0..count).map(|number| job(number, kinds[number as usize % kinds.len()])).collect()
}

const KINDS: [JobKind; 3] = [JobKind::Sync, JobKind::Refill, JobKind::Async];

fn simulate(trace: &Trace, jobs: &[SimulatedJob], config: &SimulatorConfig) -> RunResult {
    run(trace, jobs, config, &mut |_| true).expect("a good run")
}

/// Every task that was dispatched completes, fails or still runs; what is late is wasted too.
fn assert_conserved(result: &RunResult) {
    let tally = &result.tally;
    assert_eq!(tally.dispatched, tally.completed + tally.failed + tally.running);
    assert!(tally.late <= tally.wasted && tally.wasted <= tally.completed);
    assert!(tally.dispatched <= tally.offers);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Eligibility, conservation, the matchers' own invariants after each plan, and the same result
    /// from the same seed. (That no round gets more than its demand is asserted by the run.)
    #[test]
    fn every_policy_keeps_the_rules(
        name in prop::sample::select(policy::names().collect::<Vec<_>>()),
        (sessions, seed) in (50_u32..600, 0_u32..1_000),
        (managers, plan_gap_s) in (1_u32..4, prop::sample::select(vec![0.0, 0.02, 30.0])),
    ) {
        let (trace, jobs) = (trace(sessions, seed), jobs(9, &KINDS));
        let config = SimulatorConfig {
            seed: u64::from(seed),
            repeat: 2,
            managers,
            plan_gap_s,
            tasks_max: (seed % 3 > 0).then_some(seed % 3),
            check: true,
            ..SimulatorConfig::new(name)
        };
        let result = simulate(&trace, &jobs, &config);
        prop_assert_eq!(result.tally.ineligible, 0);
        assert_conserved(&result);
        prop_assert_eq!(&simulate(&trace, &jobs, &config), &result);
    }
}

#[test]
fn all_kinds_of_jobs_finish_when_there_are_enough_devices() {
    let (trace, jobs) = (trace(3_000, 1), jobs(9, &KINDS));
    for name in policy::names() {
        let config = SimulatorConfig { repeat: 3, ..SimulatorConfig::new(name) };
        let result = simulate(&trace, &jobs, &config);
        for (job, asked) in result.jobs.iter().zip(&jobs) {
            assert!(job.finish_s.is_some(), "{name}: {asked:?} did not finish");
            assert_eq!(job.rounds, asked.rounds);
        }
        assert!(result.makespan_s() >= result.jct_quantile_s(1.0));
    }
}

/// One device, one task at a time: a round of two tasks takes twice as long; the device comes back
/// for the second, and once more.
#[test]
fn a_device_that_is_done_checks_in_again() {
    let header = "start,end,computation,communication,requirements\n";
    let text = format!("{header}0,5000,78,13736,1\n");
    let trace = Trace::read_csv("one device", text.as_bytes()).expect("a good trace");
    let job = SimulatedJob { min_response: 1.0, ..SimulatedJob::new(10.0, 2, 1, 500.0) };
    let config =
        SimulatorConfig { dispatch_s: 0.0, tasks_max: None, ..SimulatorConfig::new("fifo") };
    let result = simulate(&trace, std::slice::from_ref(&job), &config);
    assert_eq!(result.avg_jct_s(), Some(100.0));
    assert_eq!((result.tally.checkins, result.tally.dispatched), (3, 2));
    let once = SimulatorConfig { tasks_max: Some(1), ..config };
    let result = simulate(&trace, &[job], &once);
    assert_eq!((result.avg_jct_s(), result.tally.dispatched), (None, 1));
}

/// The first device leaves in the middle of its task; its slot goes to the one that waits.
#[test]
fn the_slot_of_a_device_that_left_is_offered_again() {
    let header = "start,end,computation,communication,requirements\n";
    let text = format!("{header}0,30,78,13736,1\n5,500,78,13736,1\n");
    let trace = Trace::read_csv("two devices", text.as_bytes()).expect("a good trace");
    let job = SimulatedJob::new(10.0, 1, 1, 300.0);
    let config = SimulatorConfig { dispatch_s: 0.0, ..SimulatorConfig::new("irs") };
    let result = simulate(&trace, &[job], &config);
    assert_eq!(result.avg_jct_s(), Some(20.0 + 50.0));
    assert_eq!((result.tally.failed, result.tally.dispatched), (1, 2));
}

/// The slot that comes back is offered to the one who waits longest; that one has served the round,
/// and the next in line gets it in the same instant.
#[test]
fn a_slot_that_who_served_declines_goes_to_the_next_at_once() {
    let header = "start,end,computation,communication,requirements\n";
    let text = format!("{header}0,900,15.6,1e9,1\n0,40,78,1e9,1\n20,900,78,1e9,1\n");
    let trace = Trace::read_csv("three devices", text.as_bytes()).expect("a good trace");
    let job =
        SimulatedJob { workload: 50.0, min_response: 1.0, ..SimulatedJob::new(0.0, 2, 1, 800.0) };
    let config = SimulatorConfig {
        dispatch_s: 0.0,
        tasks_max: None,
        record: true,
        owners: Some(vec![0, 1, 2]),
        ..SimulatorConfig::new("fifo")
    };
    let tasks = simulate(&trace, &[job], &config).record.expect("it was asked for").tasks;
    let starts: Vec<_> = tasks.iter().map(|task| (task.session, task.start_s)).collect();
    assert_eq!(starts, [(0, 0.0), (1, 0.0), (2, 40.0)]);
}

/// Who left in the middle of its task comes again, is refused, and the slot goes to somebody else.
#[test]
fn a_lost_device_gets_no_second_slot_of_the_round() {
    let header = "start,end,computation,communication,requirements\n";
    let text = format!("{header}0,40,78,1e9,1\n50,900,78,1e9,1\n60,900,78,1e9,1\n");
    let trace = Trace::read_csv("one comes twice", text.as_bytes()).expect("a good trace");
    let job =
        SimulatedJob { workload: 50.0, min_response: 1.0, ..SimulatedJob::new(0.0, 1, 1, 800.0) };
    let started = |owners| {
        let config = SimulatorConfig {
            dispatch_s: 0.0,
            record: true,
            owners,
            ..SimulatorConfig::new("fifo")
        };
        let run = simulate(&trace, std::slice::from_ref(&job), &config);
        let tasks = run.record.expect("it was asked for").tasks;
        tasks.iter().map(|task| task.session).collect::<Vec<_>>()
    };
    assert_eq!(started(Some(vec![0, 0, 1])), [0, 2]);
    assert_eq!(started(None), [0, 1]);
}

/// Nobody does the first attempt in time: it is aborted, and tried again at once.
#[test]
fn a_round_that_misses_its_deadline_is_tried_again() {
    let header = "start,end,computation,communication,requirements\n";
    let text = format!("{header}0,9000,78,13736,1\n");
    let trace = Trace::read_csv("one device", text.as_bytes()).expect("a good trace");
    let job = SimulatedJob::new(10.0, 1, 1, 40.0);
    let config =
        SimulatorConfig { dispatch_s: 0.0, tasks_max: None, ..SimulatorConfig::new("fifo") };
    let result = simulate(&trace, &[job], &config);
    // Tasks take 50 s: each comes after the deadline of its round, and is late.
    assert_eq!((result.jobs[0].rounds, result.jobs[0].finish_s), (0, None));
    assert!(result.jobs[0].aborts > 100 && result.tally.late > 100);
    assert_eq!(result.tally.late, result.tally.completed);
}

#[test]
fn a_run_stops_when_it_is_told_to() {
    let (trace, jobs) = (trace(60_000, 3), vec![SimulatedJob::new(0.0, 400, 4_000, 400.0)]);
    let config = SimulatorConfig { repeat: 50, ..SimulatorConfig::new("fifo") };
    let mut told = 0;
    let stopped = run(&trace, &jobs, &config, &mut |_| {
        told += 1;
        told < 2
    });
    assert_eq!((stopped, told), (Err(SimulationError::Stopped), 2));
}

/// With the reference's semantics, under each of its policies and with each rule switched.
#[test]
fn the_reference_conserves_tasks_whatever_the_rules() {
    let (trace, jobs) = (trace(4_000, 5), jobs(8, &[JobKind::Sync, JobKind::Sync]));
    let mut rules = reference::Rules::default();
    for switched in 0..=reference::RULES.len() {
        for name in reference::POLICIES {
            let config = reference::ReferenceConfig {
                policy: name.to_owned(),
                seed: 1,
                repeat: 3,
                tiers: 2,
                rules,
            };
            let play = || reference::run(&trace, &jobs, &config, &mut |_| true).expect("good");
            let result = play();
            assert_conserved(&result);
            assert_eq!(result, play());
            assert!(!rules.eligible || result.tally.ineligible == 0, "{name}, {switched} rules");
        }
        if let Some((rule, _, _)) = reference::RULES.get(switched) {
            assert!(rules.switch(rule));
        }
    }
}
