//! When a run has come to a stand: jobs wait, and no round of any has succeeded for too long.
//!
//! Such a run would go on through all replays of its trace, for hours, and find nothing.

use super::rounds::{to_ns, to_s};
use super::{JobResult, SimulatedJob, SimulationError};

/// Counts the time since the last successful round, or since a job waits after none did.
#[derive(Debug)]
pub(crate) struct Watch {
    /// When the jobs arrive, ascending.
    starts_ns: Vec<u64>,
    arrived: usize,
    limit_ns: u64,
    rounds: u64,
    waits: bool,
    since_ns: u64,
}

impl Watch {
    /// `most_s`: how long nothing may succeed. None: for ever.
    pub(crate) fn new(jobs: &[SimulatedJob], most_s: Option<f64>) -> Self {
        let mut starts_ns: Vec<u64> = jobs.iter().map(|job| to_ns(job.start_s)).collect();
        starts_ns.sort_unstable();
        let limit_ns = most_s.map_or(u64::MAX, to_ns);
        Self { starts_ns, arrived: 0, limit_ns, rounds: 0, waits: false, since_ns: 0 }
    }

    /// To be asked after each event, with the successful rounds so far and the jobs not yet done.
    pub(crate) fn is_stalled(&mut self, now_ns: u64, rounds: u64, unfinished: usize) -> bool {
        while self.starts_ns.get(self.arrived).is_some_and(|start_ns| *start_ns <= now_ns) {
            self.arrived += 1;
        }
        if rounds != self.rounds || !self.waits {
            self.since_ns = now_ns;
        }
        self.rounds = rounds;
        self.waits = self.arrived + unfinished > self.starts_ns.len();
        self.waits && now_ns - self.since_ns >= self.limit_ns
    }

    /// What the person is told; `jobs` in the order of the list.
    pub(crate) fn error<'a>(
        &self,
        (policy, seed): (&str, u64),
        now_ns: u64,
        jobs: impl Iterator<Item = &'a JobResult>,
    ) -> SimulationError {
        let waits = |job: &JobResult| job.finish_s.is_none() && to_ns(job.start_s) <= now_ns;
        SimulationError::Stalled {
            policy: policy.to_owned(),
            seed,
            since_s: to_s(self.since_ns),
            for_s: to_s(now_ns - self.since_ns),
            waiting: jobs.zip(1..).filter(|(job, _)| waits(job)).map(|(_, job)| job).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_counted_from_a_success_or_from_the_first_that_waits() {
        let jobs = [40.0, 900.0].map(|start_s| SimulatedJob::new(start_s, 1, 9, 9.0));
        let mut watch = Watch::new(&jobs, Some(10.0));
        let mut asked = |s: f64, rounds, unfinished| watch.is_stalled(to_ns(s), rounds, unfinished);
        assert!(!asked(30.0, 0, 2)); // Nobody has arrived.
        assert!(!asked(40.0, 0, 2));
        assert!(!asked(49.9, 1, 2)); // A round succeeded.
        assert!(!asked(59.8, 1, 2));
        assert!(asked(59.9, 1, 2));
        assert!(!asked(60.0, 9, 1)); // The first is done, and the second not here yet.
        assert!(!asked(890.0, 9, 1));
        assert!(!asked(905.0, 9, 1)); // It waits since the event at which it was seen.
        assert!(asked(915.0, 9, 1));
    }

    #[test]
    fn ten_jobs_are_named_and_the_others_counted() {
        let result = |start_s| JobResult { start_s, ..JobResult::default() };
        let jobs: Vec<JobResult> = (0..15).map(|job| result(f64::from(job))).collect();
        let watch = Watch::new(&[], Some(1.0));
        let told = |at_s| watch.error(("irs", 7), to_ns(at_s), jobs.iter()).to_string();
        assert!(told(86_400.0).ends_with("job 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 5 more"));
        assert!(told(86_400.0).starts_with("policy irs, seed 7: no round has succeeded for 1.0 "));
        assert!(told(1.0).ends_with("waiting: job 1, 2"));
    }
}
