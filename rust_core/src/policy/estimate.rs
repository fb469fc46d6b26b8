//! What several policies estimate of a job: how long a round takes without contention, how many
//! rounds it has, and its fair share of time.

use super::{PolicyView, RoundView};

const NS: f64 = 1e9;

/// How long this round would take if all devices that meet it came to it alone: demand / arrivals,
/// and the response time of the job's last round (an assumed one before the first).
///
/// Of a group that nobody has met yet one device a day is assumed.
pub(super) fn round_s(view: &PolicyView, round: &RoundView) -> f64 {
    let group = &view.groups[round.group];
    let rate = if group.rate_day > 0.0 { group.rate_day } else { group.rate };
    let response_s = match round.history.rounds_succeeded {
        0 => view.options.response_s,
        _ => round.history.last_response_ns as f64 / NS,
    };
    f64::from(round.demand) / rate.max(1.0 / 86_400.0) + response_s
}

/// How many rounds the job has in all: as registered, but never fewer than are seen to exist. If
/// it did not say, twice those that succeeded, as the original Propius estimates.
pub(super) fn rounds_total(round: &RoundView) -> f64 {
    let done = u64::from(round.history.rounds_succeeded);
    let told = if round.rounds_estimate == 0 { 2 * done } else { round.rounds_estimate };
    told.max(done + 1) as f64
}

/// How many of them have not succeeded yet, with the open one; at least 1.
pub(super) fn rounds_left(round: &RoundView) -> f64 {
    rounds_total(round) - f64::from(round.history.rounds_succeeded)
}

/// How long the job has been here.
pub(super) fn age_s(view: &PolicyView, round: &RoundView) -> f64 {
    view.now_ns.saturating_sub(round.registered_ns) as f64 / NS
}

/// A job's time and its fair share of it (paper §4.4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fair {
    /// How long it has been here, at least as long as one round takes (t).
    pub(super) time_s: f64,
    /// The number of registered jobs × the time that the job takes without contention (T = M·sd).
    pub(super) share_s: f64,
}

impl Fair {
    pub(super) fn of(view: &PolicyView, round: &RoundView) -> Self {
        let round_s = round_s(view, round);
        let time_s = age_s(view, round).max(round_s);
        let jobs = f64::from(view.jobs.max(1));
        Self { time_s, share_s: jobs * rounds_total(round) * round_s }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::round;
    use super::super::{GroupView, JobHistory};
    use super::*;

    const S: u64 = 1_000_000_000;

    fn view(now_s: u64) -> PolicyView {
        let groups = vec![GroupView { rate_day: 2.0, ..Default::default() }];
        PolicyView { now_ns: now_s * S, jobs: 3, groups, ..Default::default() }
    }

    /// 10 devices at 2 a second take 5 s, and 300 s to respond; 4 rounds; 3 jobs share the time.
    #[test]
    fn the_fair_share_is_the_time_without_contention_times_the_jobs() {
        let mut job = round(0, 0, 10);
        (job.registered_ns, job.rounds_estimate) = (0, 4);
        let fair = Fair::of(&view(100), &job);
        assert_eq!(fair, Fair { time_s: 305.0, share_s: 3.0 * 4.0 * 305.0 });
        let later = Fair { time_s: 1_000.0, ..fair };
        assert_eq!(Fair::of(&view(1_000), &job), later, "beyond one round it is the age");
    }

    #[test]
    fn a_rounds_own_response_time_replaces_the_assumed_one() {
        let mut job = round(0, 0, 10);
        job.history =
            JobHistory { rounds_succeeded: 3, last_response_ns: 7 * S, ..Default::default() };
        assert_eq!(Fair::of(&view(0), &job).time_s.to_bits(), 12.0_f64.to_bits());
        assert_eq!((rounds_total(&job), rounds_left(&job)), (6.0, 3.0), "unknown: twice 3");
        job.rounds_estimate = 2;
        assert_eq!((rounds_left(&job), rounds_total(&job)), (1.0, 4.0), "the open round counts");
    }
}
