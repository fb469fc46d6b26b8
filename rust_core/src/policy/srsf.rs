//! Shortest remaining service first: rounds by the devices that they still lack, fewest first;
//! then by registration.
//!
//! The paper's SRSF (§5.1), which looks at the open request only and not at the rounds to come.
//! Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, ranked_by};

pub(super) struct Srsf;

impl Policy for Srsf {
    fn name(&self) -> &'static str {
        "srsf"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(ranked_by(view, |round| (round.remaining, round.registration())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::*;

    #[test]
    fn fewer_missing_devices_come_first_and_registration_breaks_ties() {
        let rounds = vec![round(1, 0, 9), round(3, 0, 2), round(2, 1, 2)];
        let view = PolicyView { rounds, ..Default::default() };
        assert_eq!(jobs(&Srsf, &view), [2, 3, 1]);
    }
}
