//! Times whole simulations. `cargo bench --bench simulator` runs it; see `engine.rs` for why so plain.
//!
//! Without arguments: each policy on a made-up trace and job list. For a trace file and the paper's
//! job list: `cargo bench --bench simulator -- TRACE JOBS.json [POLICY]`. What is printed is wall-clock
//! time, so run it on a quiet machine or look at the best of several runs.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use _core::simulator::{SimulatedJob, SimulatorConfig, Trace, run};

/// A day of sessions, one every half a second, half an hour long on average.
const SESSIONS: u32 = 172_800;
const JOBS: u32 = 50;

fn main() {
    assert_eq!(_core::BUILD_PROFILE, "release", "a debug build says nothing about speed");
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if let (Some(trace), Some(jobs)) = (arguments.next(), arguments.next()) {
        let policy = arguments.next().unwrap_or_else(|| "irs".to_owned());
        let trace = Trace::load_csv(Path::new(&trace)).expect("a good trace");
        let jobs = std::fs::read_to_string(&jobs).expect("a job list");
        return simulate(&policy, &trace, &read_jobs(&jobs));
    }
    let (trace, jobs) = (a_trace(), some_jobs());
    // With a static partition some jobs never get enough devices at a time, and the run does not end.
    for policy in _core::policy::names().filter(|name| *name != "static-partition") {
        simulate(policy, &trace, &jobs);
    }
}

fn simulate(policy: &str, trace: &Trace, jobs: &[SimulatedJob]) {
    let config = SimulatorConfig { repeat: 1_000, ..SimulatorConfig::new(policy) };
    let start = Instant::now();
    let result = run(trace, jobs, &config, &mut |_| true).expect("a good run");
    let took_s = start.elapsed().as_secs_f64();
    let tally = &result.tally;
    assert!(result.jobs.iter().all(|job| job.finish_s.is_some()), "every job is done");
    assert!(result.jobs.iter().zip(jobs).all(|(job, asked)| job.rounds == asked.rounds));
    assert_eq!(tally.dispatched, tally.completed + tally.failed + tally.running);
    assert_eq!(tally.ineligible, 0);
    let (events, plans) = (tally.events, tally.plans);
    let per_event_ns = took_s * 1e9 / events as f64;
    println!(
        "simulate, {policy}: {took_s:.2} s, {events} events ({per_event_ns:.0} ns each), \
         {} check-ins, {plans} plans, mean JCT {:.3} h",
        tally.checkins,
        result.avg_jct_s().expect("all are done") / 3600.0
    );
}

/// Starts half a second apart, lengths, speeds and classes from a small generator.
fn a_trace() -> Trace {
    let mut text = "start,end,computation,communication,requirements\n".to_owned();
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % below
    };
    for number in 0..SESSIONS {
        let start = f64::from(number) / 2.0;
        let length = u32::try_from(60 + next(3_480)).expect("an hour at most");
        let classes = ["1", "1", "12", "13", "1234"][usize::try_from(next(5)).expect("below 5")];
        let (slowness, bandwidth) = (10 + next(200), 500 + next(26_000));
        let end = start + f64::from(length);
        writeln!(text, "{start},{end},{slowness},{bandwidth},{classes}").expect("memory");
    }
    Trace::read_csv("made up", text.as_bytes()).expect("a good trace")
}

/// More than there are devices for at a time, so that the jobs contend.
fn some_jobs() -> Vec<SimulatedJob> {
    let job = |number: u32| SimulatedJob {
        requirement: 1 + number % 4,
        ..SimulatedJob::new(f64::from(number) * 600.0, 20 + number * 7 % 80, 60, 600.0)
    };
    (0..JOBS).map(job).collect()
}

/// Reads a job list as `evaluation/simulator/job_lists` has them, one job a line.
fn read_jobs(text: &str) -> Vec<SimulatedJob> {
    let field = |line: &str, name: &str| -> f64 {
        let (_, rest) = line.split_once(&format!("\"{name}\":")).expect("every job has the field");
        let end = rest.find([',', '}']).expect("a value ends");
        rest[..end].trim().parse().expect("a number")
    };
    let whole = |line: &str, name: &str| -> u32 {
        let value = field(line, name);
        assert!((0.0..1e9).contains(&value) && value.fract() == 0.0, "{name} is a whole number");
        format!("{value:.0}").parse().expect("checked")
    };
    let jobs = text.lines().filter(|line| line.contains("start_s")).map(|line| SimulatedJob {
        requirement: whole(line, "requirement"),
        ..SimulatedJob::new(
            field(line, "start_s"),
            whole(line, "participants"),
            whole(line, "rounds"),
            field(line, "deadline_s"),
        )
    });
    jobs.collect()
}
