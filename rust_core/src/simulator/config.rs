//! What a run is set up with.

use std::collections::BTreeMap;

use super::FailureRates;
use crate::{Error, Result};

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct SimulatorConfig {
    /// The name of the policy.
    pub policy: String,
    /// Its options.
    pub policy_options: BTreeMap<String, f64>,
    /// The seed of the run's draws.
    pub seed: u64,
    /// How often the trace is played at most.
    pub repeat: u32,
    /// After how long it is played again. None: [`Trace::period_s`].
    pub period_s: Option<f64>,
    /// How many client managers there are.
    pub managers: u32,
    /// How often the supply is brought to the planner, and a plan made in any case.
    pub replan_s: f64,
    /// How long after a plan the next one is made at the earliest.
    pub plan_gap_s: f64,
    /// The delay between accept and start of a task is drawn below this.
    pub dispatch_s: f64,
    /// How many tasks a device does in a session before it leaves. None: as many as it can.
    pub tasks_max: Option<u32>,
    /// Whose each session is, so that nobody serves a round twice. None: sessions are strangers.
    pub owners: Option<Vec<u32>>,
    /// How often devices fail in the middle of a task.
    pub failures: FailureRates,
    /// The run fails when jobs wait and no round has succeeded for so long. None: it goes on.
    pub stalled_s: Option<f64>,
    /// The length of a bucket of supply.
    pub supply_bucket_s: f64,
    /// Numbers jobs from 1 and gives the policy the seed as it is, as the daemons do, so that a
    /// policy that draws at random draws the same as theirs.
    pub as_daemons: bool,
    /// Remembers every attempt at a round and every task: [`super::RunResult::record`].
    pub record: bool,
    /// Re-computes every invariant of the matchers after each plan; slow, for tests.
    pub check: bool,
}

impl SimulatorConfig {
    /// The defaults.
    pub fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            policy_options: BTreeMap::new(),
            seed: 0,
            repeat: 1,
            period_s: None,
            managers: 1,
            replan_s: 300.0,
            plan_gap_s: 0.02,
            dispatch_s: 2.0,
            tasks_max: Some(1),
            owners: None,
            failures: FailureRates::default(),
            stalled_s: None,
            supply_bucket_s: 60.0,
            as_daemons: false,
            record: false,
            check: false,
        }
    }

    pub(super) fn check(&self, sessions: usize) -> Result<()> {
        self.failures.check()?;
        let are_complete = self.owners.as_ref().is_none_or(|owners| owners.len() == sessions);
        let is_time = |value: f64| value.is_finite() && value > 0.0;
        let rules = [
            ("repeat", self.repeat > 0, "at least 1"),
            ("managers", (1..=1_000).contains(&self.managers), "1 to 1000"),
            ("owners", are_complete, "one for each session"),
            ("tasks_max", self.tasks_max != Some(0), "at least 1"),
            ("replan_s", is_time(self.replan_s), "a time above 0"),
            ("stalled_s", self.stalled_s.is_none_or(is_time), "a time above 0"),
            ("period_s", self.period_s.is_none_or(is_time), "a time above 0"),
            ("supply_bucket_s", is_time(self.supply_bucket_s), "a time above 0"),
            ("plan_gap_s", self.plan_gap_s >= 0.0, "a time from 0 on"),
            ("dispatch_s", self.dispatch_s >= 0.0, "a time from 0 on"),
        ];
        match rules.into_iter().find(|(_, is_good, _)| !is_good) {
            None => Ok(()),
            Some((what, _, rule)) => Err(Error::OutOfRange { what, rule }),
        }
    }
}
