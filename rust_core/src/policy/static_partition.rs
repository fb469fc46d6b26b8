//! Static partition: devices are divided among the jobs in advance, and serve no other.
//!
//! A baseline of the original testbed. A device belongs to part `hash(device) mod partitions`, a
//! job to part `id mod partitions`; in a part, rounds go by the registration of their job. Without
//! the option `partitions` there is a part for each registered job, and they are drawn anew when
//! a job comes or goes. Devices that do not meet the requirements of their part's jobs idle, which
//! is what makes it a baseline. Cost: one sort.

use super::{Decision, Policy, PolicyError, PolicyView, RoundView, ranked_by};

pub(super) struct StaticPartition;

impl Policy for StaticPartition {
    fn name(&self) -> &'static str {
        "static-partition"
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let partitions = view.options.partitions;
        let part = |round: &RoundView| match partitions {
            0 => round.place,
            _ => u32::try_from(round.key.job % u64::from(partitions)).expect("below partitions"),
        };
        Ok(Decision {
            partitions: if partitions == 0 { view.jobs } else { partitions },
            parts: view.rounds.iter().map(part).collect(),
            ..ranked_by(view, RoundView::registration)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::round;
    use super::*;

    fn view() -> PolicyView {
        let mut rounds = vec![round(7, 0, 1), round(9, 0, 1), round(12, 0, 1)];
        (0..).zip([0, 2, 3]).for_each(|(i, place): (usize, u32)| rounds[i].place = place);
        PolicyView { jobs: 4, rounds, ..Default::default() }
    }

    /// Job 8 has no open round, but keeps its devices.
    #[test]
    fn every_registered_job_has_a_part() {
        let decision = StaticPartition.decide(&view()).unwrap();
        assert_eq!((decision.partitions, decision.parts), (4, vec![0, 2, 3]));
    }

    #[test]
    fn with_a_given_number_jobs_keep_their_part_whoever_comes() {
        let mut view = view();
        view.options.partitions = 5;
        let decision = StaticPartition.decide(&view).unwrap();
        assert_eq!((decision.partitions, decision.parts), (5, vec![2, 4, 2]));
    }
}
