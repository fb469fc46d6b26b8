//! Least attained service first: rounds of the job that fewest devices have served so far; then by
//! registration.
//!
//! A classic for jobs of unknown length, and a policy of the original Propius. What a job attained
//! is what its ended rounds held, so the order is steady within a round. Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, ranked_by};

pub(super) struct Las;

impl Policy for Las {
    fn name(&self) -> &'static str {
        "las"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(ranked_by(view, |round| (round.history.devices_served, round.registration())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::*;

    #[test]
    fn who_was_served_least_comes_first_and_registration_breaks_ties() {
        let mut rounds = vec![round(1, 0, 9), round(2, 0, 9), round(3, 0, 9)];
        rounds[0].history.devices_served = 40;
        let view = PolicyView { rounds, ..Default::default() };
        assert_eq!(jobs(&Las, &view), [2, 3, 1]);
    }
}
