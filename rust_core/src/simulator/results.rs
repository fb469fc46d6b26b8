//! What a run is measured by.

use std::collections::BTreeMap;

use super::{JctParts, Record, SimulatedJob, Trace};

/// How one job fared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobResult {
    /// When it arrived.
    pub start_s: f64,
    /// When its last round succeeded; none if the run ended before.
    pub finish_s: Option<f64>,
    /// Rounds that succeeded.
    pub rounds: u32,
    /// Rounds that were aborted.
    pub aborts: u32,
    /// Rounds that were open to a tier of the devices only, at some time.
    pub rounds_tiered: u32,
    /// Its completion time in whole nanoseconds, as the run's clock had it.
    pub jct_ns: Option<u64>,
    /// Where its time went, up to the end of its last attempt.
    pub parts: JctParts,
    /// The completion time that it would have with an equal share of the devices.
    pub fair_jct_s: f64,
}

impl JobResult {
    /// Its completion time, from arrival.
    pub fn jct_s(&self) -> Option<f64> {
        self.finish_s.map(|finish_s| finish_s - self.start_s)
    }

    /// How many times its fair completion time it took; none if that is not known.
    pub fn slow_down(&self) -> Option<f64> {
        let is_known = self.fair_jct_s.is_finite() && self.fair_jct_s > 0.0;
        self.jct_s().filter(|_| is_known).map(|jct_s| jct_s / self.fair_jct_s)
    }
}

/// A mean that is added to one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// None without values.
    pub fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What was counted during a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Check-ins, with those of devices that came back after a task.
    pub checkins: u64,
    /// Offers made.
    pub offers: u64,
    /// Tasks that a device took.
    pub dispatched: u64,
    /// Tasks whose result came, of whatever use.
    pub completed: u64,
    /// Tasks of devices that went away before they were done.
    pub failed: u64,
    /// Of these, by [`super::Cause`]: tasks of devices that failed while their session lasted.
    pub failures: [u64; 3],
    /// Results that came after their round was over.
    pub late: u64,
    /// Results that no round used: late ones, and those of rounds that were aborted.
    pub wasted: u64,
    /// Tasks that went to a device that does not meet the job's requirement.
    pub ineligible: u64,
    /// Tasks still running when the run ended.
    pub running: u64,
    /// Plans made.
    pub plans: u64,
    /// Everything that happened: check-ins, starts and ends of tasks, of rounds, of sessions.
    pub events: u64,
    /// From the opening of a round until it was first filled.
    pub scheduling_delay_s: Mean,
    /// From the first fill of a round until enough devices had reported.
    pub response_time_s: Mean,
    /// How long successful rounds took.
    pub round_time_s: Mean,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// Job by job, in the order of the list.
    pub jobs: Vec<JobResult>,
    /// Counts and means.
    pub tally: Tally,
    /// When the last job finished, or the trace ended.
    pub end_s: f64,
    /// How often the trace was played, the last time perhaps in part.
    pub repeats: u32,
    /// Every attempt and every task, if the caller wanted to know them.
    pub record: Option<Record>,
}

impl RunResult {
    /// The completion times of the jobs that finished, ascending.
    pub fn jcts_s(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.jobs.iter().filter_map(JobResult::jct_s).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The mean of the finished jobs' completion times.
    pub fn avg_jct_s(&self) -> Option<f64> {
        let all = self.jcts_s();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    /// A quantile of the finished jobs' completion times, between neighbours linearly.
    pub fn jct_quantile_s(&self, share: f64) -> Option<f64> {
        quantile(&self.jcts_s(), share)
    }

    /// From the first arrival to the last finish, if all jobs finished.
    pub fn makespan_s(&self) -> Option<f64> {
        let first = self.jobs.iter().map(|job| job.start_s).fold(f64::INFINITY, f64::min);
        let finishes: Option<Vec<f64>> = self.jobs.iter().map(|job| job.finish_s).collect();
        finishes.map(|all| all.into_iter().fold(0.0, f64::max) - first)
    }

    /// The share of jobs that finished within their fair completion time.
    pub fn fair_share(&self) -> f64 {
        let fair = |job: &&JobResult| job.jct_s().is_some_and(|jct_s| jct_s <= job.fair_jct_s);
        self.jobs.iter().filter(fair).count() as f64 / self.jobs.len() as f64
    }

    /// The slow-downs of the jobs that finished, ascending.
    pub fn slow_downs(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.jobs.iter().filter_map(JobResult::slow_down).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// Jain's index over the slow-downs: 1 if all jobs have the same, 1/n if one job bears all.
    pub fn jain_index(&self) -> Option<f64> {
        jain_index(&self.slow_downs())
    }

    /// A quantile of the slow-downs, between neighbours linearly.
    pub fn slow_down_quantile(&self, share: f64) -> Option<f64> {
        quantile(&self.slow_downs(), share)
    }

    /// Sets every job's fair completion time: how long it would take alone (see [`solo_jct_s`]),
    /// times the number of jobs in the system, averaged over its own life.
    pub(crate) fn set_fair_jcts(&mut self, jobs: &[SimulatedJob], trace: &Trace, period_s: f64) {
        let lives: Vec<(f64, f64)> = self
            .jobs
            .iter()
            .map(|job| (job.start_s, job.finish_s.unwrap_or(self.end_s).max(job.start_s)))
            .collect();
        // Most jobs of a list differ in demand and rounds only, and ask for the same devices.
        let mut known: BTreeMap<(u32, [u64; 3]), (f64, f64)> = BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            let (start, finish) = lives[index];
            let shared = |(a, b): &(f64, f64)| (b.min(finish) - a.max(start)).max(0.0);
            let together = lives.iter().map(shared).sum::<f64>();
            let beside = if finish > start { together / (finish - start) } else { 1.0 };
            let numbers = [job.workload, job.communication, job.min_response].map(f64::to_bits);
            let devices = known.entry((job.requirement, numbers));
            let devices = *devices.or_insert_with(|| devices_of(job, trace, period_s));
            self.jobs[index].fair_jct_s = beside * alone_s(job, devices);
        }
    }
}

/// How long a job would take with all devices to itself: in each round its demand arrives at the
/// mean rate of eligible check-ins, and then the slowest device that is waited for does its task.
pub fn solo_jct_s(job: &SimulatedJob, trace: &Trace, period_s: f64) -> f64 {
    alone_s(job, devices_of(job, trace, period_s))
}

fn alone_s(job: &SimulatedJob, (rate, response_s): (f64, f64)) -> f64 {
    f64::from(job.rounds) * (f64::from(job.participants) / rate + response_s)
}

/// How many eligible devices check in a second, and how long a round waits for the slowest.
fn devices_of(job: &SimulatedJob, trace: &Trace, period_s: f64) -> (f64, f64) {
    const SAMPLE: usize = 20_000;
    let step = trace.len().div_ceil(SAMPLE);
    let sampled = (0..trace.len()).step_by(step).map(|row| trace.session(row));
    let eligible = sampled.filter(|session| session.classes >> job.requirement & 1 == 1);
    let mut tasks: Vec<f64> =
        eligible.map(|session| session.task_s(job.workload, job.communication)).collect();
    tasks.sort_by(f64::total_cmp);
    let rate = (tasks.len() * step) as f64 / period_s;
    (rate, quantile(&tasks, job.min_response).unwrap_or(0.0))
}

/// `(Σx)² / (n·Σx²)`, of Jain, Chiu and Hawe, "A quantitative measure of fairness and discrimination
/// for resource allocation in shared computer systems", DEC-TR-301, 1984. None without values.
fn jain_index(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (squares > 0.0).then(|| sum * sum / (values.len() as f64 * squares))
}

fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the slice")]
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Some(sorted[below] + (place - below as f64) * (sorted[above] - sorted[below]))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "numbers that are exact")]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn jains_index_is_one_for_equals_and_one_in_n_if_one_bears_all() {
        assert_eq!(jain_index(&[3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(jain_index(&[0.0, 0.0, 0.0, 5.0]), Some(0.25));
        assert_eq!(jain_index(&[1.0, 3.0]), Some(0.8)); // 16 / (2 * 10)
        assert_eq!(jain_index(&[]), None);
    }

    #[test]
    fn a_slow_down_is_of_a_job_that_finished_and_whose_fair_time_is_known() {
        let job = |finish_s, fair_jct_s| JobResult { finish_s, fair_jct_s, ..Default::default() };
        let infinite = job(Some(9.0), f64::INFINITY); // No device of a sample can serve it.
        let jobs = vec![job(Some(90.0), 30.0), job(None, 30.0), infinite, job(Some(30.0), 30.0)];
        let result = RunResult { jobs, ..Default::default() };
        assert_eq!(result.slow_downs(), [1.0, 3.0]);
        assert_eq!((result.jain_index(), result.slow_down_quantile(1.0)), (Some(0.8), Some(3.0)));
    }

    #[test]
    fn a_fair_completion_time_grows_with_the_jobs_beside_it() {
        let header = "start,end,computation,communication,requirements\n";
        let rows: Vec<String> =
            (0..1000).map(|i| format!("{},{},78,13736,1\n", i * 80, i * 80 + 99)).collect();
        let text = rows.concat();
        let trace = Trace::read_csv("t", format!("{header}{text}").as_bytes()).expect("good");
        let jobs = vec![SimulatedJob::new(0.0, 10, 3, 600.0); 2];
        let life = |start_s, finish_s| JobResult { start_s, finish_s, ..Default::default() };
        let jobs_done = vec![life(0.0, Some(100.0)), life(50.0, None)];
        let mut result = RunResult { jobs: jobs_done, end_s: 100.0, ..Default::default() };
        result.set_fair_jcts(&jobs, &trace, 86_400.0);
        let solo_s = 3.0 * (10.0 * 86.4 + 50.0);
        assert_eq!(result.jobs[0].fair_jct_s, 1.5 * solo_s);
        assert_eq!(result.jobs[1].fair_jct_s, 2.0 * solo_s);
        assert_eq!((result.fair_share(), result.makespan_s()), (0.5, None));
    }
}
