//! Shortest remaining service first, over the whole job: rounds of the job that still needs fewest
//! devices in all its rounds; then by registration.
//!
//! The devices that the open round lacks, and as many as it asked for in each round to come. A job
//! that did not say how many rounds it has is expected, as the original Propius does, to need in
//! all twice what it attained, and no less than the open round. Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by};

pub(super) struct SrsfTotal;

fn remaining(round: &RoundView) -> u64 {
    let (demand, lacks) = (u64::from(round.demand), u64::from(round.remaining));
    let done = u64::from(round.history.rounds_succeeded);
    if round.rounds_estimate == 0 {
        let attained = round.history.devices_served;
        let total = attained.saturating_mul(2).max(demand);
        return total.saturating_sub(attained + (demand - lacks)).max(lacks);
    }
    let to_come = round.rounds_estimate.saturating_sub(done + 1);
    to_come.saturating_mul(demand).saturating_add(lacks)
}

impl Policy for SrsfTotal {
    fn name(&self) -> &'static str {
        "srsf-total"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(ranked_by(view, |round| (remaining(round), round.registration())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::*;

    /// Job 1 lacks 2 of 10 now and 10 in each of 3 rounds more; job 2 lacks 30 in its last round;
    /// job 3 does not know: 25 attained, so 25 more.
    #[test]
    fn rounds_to_come_count() {
        let mut rounds = vec![round(1, 0, 2), round(2, 0, 30), round(3, 0, 20)];
        (rounds[0].demand, rounds[0].rounds_estimate) = (10, 6);
        rounds[0].history.rounds_succeeded = 2;
        rounds[1].rounds_estimate = 1;
        rounds[2].history.devices_served = 25;
        assert_eq!(rounds.iter().map(remaining).collect::<Vec<_>>(), [32, 30, 25]);
        let view = PolicyView { rounds, ..Default::default() };
        assert_eq!(jobs(&SrsfTotal, &view), [3, 2, 1]);
    }

    #[test]
    fn more_rounds_than_registered_are_one_at_a_time() {
        let mut late = round(1, 0, 4);
        (late.rounds_estimate, late.history.rounds_succeeded) = (2, 9);
        assert_eq!(remaining(&late), 4);
    }
}
