//! The job list of a run.

use super::trace::CLASSES;
use super::{Session, SimulationError, Trace};

/// How a job asks for devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobKind {
    /// Rounds with a deadline and a fraction of responses that is enough; a round that misses it is
    /// aborted and tried again at once, from nothing.
    #[default]
    Sync,
    /// Rounds without a deadline: every device that is lost or slow is replaced until enough
    /// have reported.
    Refill,
    /// `participants` devices work at any time; a round is over when `buffer` results came that are
    /// not more than `staleness` rounds old.
    Async,
}

impl JobKind {
    /// The kind of this name.
    pub fn find(name: &str) -> Option<Self> {
        match name {
            "sync" => Some(Self::Sync),
            "refill" => Some(Self::Refill),
            "async" => Some(Self::Async),
            _ => None,
        }
    }
}

/// How long the two phases of a round may take, each by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    /// From the opening until all slots are held for the first time.
    pub scheduling_s: f64,
    /// From there until enough devices have reported.
    pub response_s: f64,
}

/// The lease of a job whose rounds have no end: the job manager's default.
const LEASE_S: f64 = 600.0;

/// One job of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedJob {
    /// When it arrives, in seconds.
    pub start_s: f64,
    /// How many devices it asks for in a round; of an asynchronous job, how many work at a time.
    pub participants: u32,
    /// How many rounds it must finish.
    pub rounds: u32,
    /// How long a round of a synchronous job may take.
    pub deadline_s: f64,
    /// The class that its devices must meet.
    pub requirement: u32,
    /// The fraction of the participants whose reports are enough.
    pub min_response: f64,
    /// Units of computation of a task.
    pub workload: f64,
    /// What a task transfers each way, as seconds of the mean bandwidth.
    pub communication: f64,
    /// How it asks for devices.
    pub kind: JobKind,
    /// Asynchronous jobs: how many results make a round. None: as many as `participants`.
    pub buffer: Option<u32>,
    /// Asynchronous jobs: results of a round that began more than so many rounds ago are late.
    pub staleness: Option<u32>,
    /// Synchronous jobs: what takes the place of `deadline_s`.
    pub timeouts: Option<Timeouts>,
    /// Into how many equal steps the computation may be cut: a device whose session ends first does
    /// as many as fit, at least one. None: it does everything, or leaves before it is done.
    pub steps: Option<u32>,
}

impl SimulatedJob {
    /// A synchronous job with the paper's constants.
    pub fn new(start_s: f64, participants: u32, rounds: u32, deadline_s: f64) -> Self {
        Self {
            start_s,
            participants,
            rounds,
            deadline_s,
            requirement: 1,
            min_response: 0.8,
            workload: 30.0,
            communication: 10.0,
            kind: JobKind::Sync,
            buffer: None,
            staleness: None,
            timeouts: None,
            steps: None,
        }
    }

    /// How many steps a device does that is there for `left_s` more (0: nothing can be cut), and
    /// how long its task takes then.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    pub(super) fn task_on(&self, session: &Session, left_s: f64) -> (u32, f64) {
        let whole_s = session.task_s(self.workload, self.communication);
        let Some(most) = self.steps else { return (0, whole_s) };
        if whole_s <= left_s {
            return (most, whole_s);
        }
        let transfers_s = session.task_s(0.0, self.communication);
        let each_s = session.task_s(self.workload / f64::from(most), 0.0);
        let takes_s = |steps: u32| transfers_s + f64::from(steps) * each_s;
        let mut steps = (((left_s - transfers_s) / each_s) as u32).clamp(1, most);
        if steps > 1 && takes_s(steps) > left_s {
            steps -= 1; // The quotient was rounded up to a whole number.
        }
        (steps, takes_s(steps))
    }

    /// How long a lease lasts: as long as a round may, where that is known.
    pub(super) fn lease_s(&self) -> f64 {
        match (self.kind, self.timeouts) {
            (_, Some(timeouts)) => timeouts.scheduling_s + timeouts.response_s,
            (JobKind::Sync, None) => self.deadline_s,
            _ => LEASE_S,
        }
    }

    /// How many reports end a round.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 2^32")]
    pub fn reports_min(&self) -> u32 {
        match self.kind {
            JobKind::Async => self.buffer.unwrap_or(self.participants),
            // 0.8 * 5 is 4 in real numbers, and a little more in floating point.
            _ => ((f64::from(self.participants) * self.min_response - 1e-9).ceil() as u32).max(1),
        }
    }

    fn check(&self) -> Result<(), String> {
        let numbers = [
            ("start_s", self.start_s),
            ("deadline_s", self.deadline_s),
            ("workload", self.workload),
            ("communication", self.communication),
        ];
        if let Some((what, value)) = numbers.iter().find(|(_, v)| !v.is_finite() || *v < 0.0) {
            return Err(format!("{what} is {value}, expected a number from 0 on"));
        }
        if self.participants == 0 || self.rounds == 0 {
            let what = if self.rounds == 0 { "rounds" } else { "participants" };
            return Err(format!("{what} is 0, expected at least 1"));
        }
        if !(self.min_response > 0.0 && self.min_response <= 1.0) {
            let value = self.min_response;
            return Err(format!("min_response is {value}, expected above 0 and at most 1"));
        }
        if let Some(Timeouts { scheduling_s, response_s }) = self.timeouts {
            let is_time = |value: f64| value.is_finite() && value > 0.0;
            if self.kind != JobKind::Sync || !is_time(scheduling_s) || !is_time(response_s) {
                return Err("time-outs are times above 0, of a sync job".to_owned());
            }
        } else if self.kind == JobKind::Sync && self.deadline_s == 0.0 {
            return Err("deadline_s is 0, but a sync job needs one (refill has none)".to_owned());
        }
        if self.steps == Some(0) {
            return Err("steps is 0, expected at least 1".to_owned());
        }
        if self.buffer == Some(0) {
            return Err("buffer is 0, expected at least 1".to_owned());
        }
        Ok(())
    }
}

/// Refuses a list with a job that is wrong, or that no client of the trace can serve.
pub(crate) fn check_jobs(jobs: &[SimulatedJob], trace: &Trace) -> Result<(), SimulationError> {
    if jobs.is_empty() {
        return Err(SimulationError::Jobs("the job list is empty".to_owned()));
    }
    let classes = trace.all_classes();
    for (index, job) in jobs.iter().enumerate() {
        let wrong = |what: String| SimulationError::Jobs(format!("job {}: {what}", index + 1));
        job.check().map_err(wrong)?;
        let requirement = job.requirement;
        if requirement as usize >= CLASSES || classes >> requirement & 1 == 0 {
            return Err(wrong(format!(
                "requirement {requirement} is met by no client of the trace"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl Fn(&mut SimulatedJob)) -> String {
        let text = "start,end,computation,communication,requirements\n0,9,1,1,12\n";
        let trace = Trace::read_csv("t.csv", text.as_bytes()).expect("a good trace");
        let mut job = SimulatedJob::new(0.0, 10, 3, 60.0);
        check_jobs(std::slice::from_ref(&job), &trace).expect("a good job");
        change(&mut job);
        let jobs = [SimulatedJob::new(0.0, 10, 3, 60.0), job];
        check_jobs(&jobs, &trace).expect_err("the job is wrong").to_string()
    }

    #[test]
    fn what_is_wrong_is_said_with_the_number_of_the_job() {
        assert_eq!(error(|job| job.rounds = 0), "job 2: rounds is 0, expected at least 1");
        assert_eq!(
            error(|job| job.requirement = 3),
            "job 2: requirement 3 is met by no client of the trace"
        );
        assert!(error(|job| job.requirement = 70).starts_with("job 2: requirement 70"));
        assert!(error(|job| job.start_s = f64::NAN).starts_with("job 2: start_s is NaN"));
        assert!(error(|job| job.deadline_s = 0.0).starts_with("job 2: deadline_s is 0"));
        assert_eq!(error(|job| job.steps = Some(0)), "job 2: steps is 0, expected at least 1");
        assert!(error(|job| job.min_response = 1.2).starts_with("job 2: min_response is 1.2"));
    }

    #[test]
    fn a_device_does_as_many_steps_as_fit_and_at_least_one() {
        let (start_s, end_s, computation, communication) = (0.0, 9.0, 78.0, 13_736.0);
        let device = Session { start_s, end_s, computation, communication, classes: 1 };
        let job = SimulatedJob { steps: Some(10), ..SimulatedJob::new(0.0, 1, 1, 99.0) };
        // 10 steps of 3 s and two transfers of 10 s.
        let steps = [60.0, 50.0, 49.9, 26.0, 25.9, 23.0, 1.0].map(|s| job.task_on(&device, s));
        let done = [(10, 50.0), (10, 50.0), (9, 47.0), (2, 26.0), (1, 23.0), (1, 23.0), (1, 23.0)];
        assert_eq!(steps, done);
        let whole = SimulatedJob { steps: None, ..job };
        assert_eq!(whole.task_on(&device, 26.0), (0, 50.0));
    }

    #[test]
    fn four_fifths_of_any_demand_are_counted_exactly() {
        let enough = |n| SimulatedJob::new(0.0, n, 1, 1.0).reports_min();
        assert_eq!([1, 5, 10, 32, 750].map(enough), [1, 4, 8, 26, 600]);
    }
}
