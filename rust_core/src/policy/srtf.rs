//! Shortest remaining time first: rounds of the job with the least estimated time to go; then by
//! registration.
//!
//! The rounds that are left, times the mean time of the job's rounds that succeeded; before the
//! first, the time that a round takes without contention. A job that did not say how many rounds
//! it has is expected to take as long again as it has been here. The rule of the original Propius.
//! Cost: one sort.

use super::estimate::{age_s, round_s, rounds_left};
use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by_number};

pub(super) struct Srtf;

fn remaining_s(view: &PolicyView, round: &RoundView) -> f64 {
    let done = round.history.rounds_succeeded;
    if round.rounds_estimate == 0 && done > 0 {
        return age_s(view, round);
    }
    let mean_s = match done {
        0 => round_s(view, round),
        _ => round.history.rounds_ns as f64 / 1e9 / f64::from(done),
    };
    rounds_left(round) * mean_s
}

impl Policy for Srtf {
    fn name(&self) -> &'static str {
        "srtf"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(ranked_by_number(view, |round| remaining_s(view, round)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::super::{GroupView, JobHistory};
    use super::*;

    const S: u64 = 1_000_000_000;

    /// Job 1: 3 rounds left of 20 s. Job 2: 10 left of 5 s. Job 3, whose length is unknown, has
    /// been here for 55 s. Job 4 is new: 1 round, 4 devices at 1 a second and 300 s.
    #[test]
    fn the_least_time_to_go_comes_first() {
        let mut rounds: Vec<RoundView> = (1..=4).map(|job| round(job, 0, 4)).collect();
        for round in &mut rounds {
            round.registered_ns = 100 * S;
        }
        let past = |rounds_succeeded, rounds_ns| JobHistory {
            rounds_succeeded,
            rounds_ns,
            ..Default::default()
        };
        (rounds[0].rounds_estimate, rounds[0].history) = (8, past(5, 100 * S));
        (rounds[1].rounds_estimate, rounds[1].history) = (20, past(10, 50 * S));
        rounds[2].history = past(1, 50 * S);
        rounds[3].rounds_estimate = 1;
        let groups = vec![GroupView { rate: 1.0, ..Default::default() }];
        let view = PolicyView { now_ns: 155 * S, rounds, groups, ..Default::default() };
        let times: Vec<f64> = view.rounds.iter().map(|round| remaining_s(&view, round)).collect();
        assert_eq!(times, [60.0, 50.0, 55.0, 304.0]);
        assert_eq!(jobs(&Srtf, &view), [2, 3, 1, 4]);
    }
}
