//! First come, first served: rounds by the registration of their job; the job id breaks ties.
//!
//! The baseline of the paper's evaluation (§5). Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by};

pub(super) struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(ranked_by(view, RoundView::registration))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{jobs, round};
    use super::*;

    #[test]
    fn the_earlier_registration_is_first_and_the_smaller_id_breaks_ties() {
        let mut rounds = vec![round(1, 0, 1), round(2, 0, 9), round(3, 0, 5)];
        rounds[0].registered_ns = 50;
        rounds[1].registered_ns = 20;
        rounds[2].registered_ns = 20;
        let view = PolicyView { rounds, ..Default::default() };
        assert_eq!(jobs(&Fifo, &view), [2, 3, 1]);
    }
}
