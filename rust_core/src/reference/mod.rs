//! The semantics of the published reference simulator, for comparison only.
//!
//! Written from a description of what that program does, to see whether our simulator and it agree
//! where they should, and which of its rules make the difference where they do not. The daemons
//! cannot reach this module, and no rule of it is a rule of ours; the [`crate::simulator`] is.
//!
//! What happens, in short:
//! * **A session** checks in once, at its start, is offered at most one task, never waits and never
//!   comes back. Sessions are 80 s longer than the trace says.
//! * **A task** starts up to 2 s after its offer; only then does the round's demand fall, so those
//!   who check in meanwhile see the old demand. A device that leaves before its task is done fails,
//!   and nobody is told.
//! * **A round** of a synchronous job ends when 80 % of its demand have reported, or at its
//!   deadline; it succeeds if 80 % were dispatched and 80 % of those reported, and else is tried
//!   again at once. A request reaches the policy 0.1 s after its round opened.
//! * **The policies** are five, see `baselines.rs` and `irs.rs`.
//! * Times are seconds as floating point; what happens at the same time happens in the order in
//!   which it was scheduled, check-ins first.
//! * **A seed** makes the delays of up to 2 s, the lots of `random` and the tiers of `venn`; never
//!   the trace, nor the jobs.
//!
//! Each rule that departs from ours is a field of [`Rules`] and can be switched by itself.

mod baselines;
mod engine;
mod irs;
mod job;
mod rules;
mod served;
mod waiting;

use crate::random::draw;
use crate::simulator::{RunResult, SimulatedJob, SimulationError, Trace};
use crate::{Error, Result};

use baselines::{Fifo, RandomOrder, SmallestRequest};
use engine::Engine;
use irs::Irs;

pub use rules::{RULES, Rules};

/// The policies that these semantics have.
pub const POLICIES: [&str; 5] = ["fifo", "random", "srsf", "irs", "venn"];

/// After how long the trace is played again: five days, whatever its length.
const PERIOD_S: f64 = 432_000.0;

/// The settings of a run.
#[derive(Clone, Debug)]
pub struct ReferenceConfig {
    /// One of [`POLICIES`].
    pub policy: String,
    /// The seed of the run's draws.
    pub seed: u64,
    /// How often the trace is played at most.
    pub repeat: u32,
    /// How many tiers `venn` has: 2, 3 or 4.
    pub tiers: u32,
    /// The run fails when jobs wait and no round has succeeded for so long. None: it goes on.
    pub stalled_s: Option<f64>,
    /// Which rules are ours.
    pub rules: Rules,
}

/// Plays the trace to the jobs until all are done or the trace has been played `repeat` times.
///
/// `progress` is told now and then how many rounds have succeeded; on false the run stops.
pub fn run(
    trace: &Trace,
    jobs: &[SimulatedJob],
    config: &ReferenceConfig,
    progress: &mut dyn FnMut(u64) -> bool,
) -> std::result::Result<RunResult, SimulationError> {
    crate::simulator::check_jobs(jobs, trace)?;
    if let Some(index) = jobs.iter().position(|job| job.timeouts.is_some()) {
        let what = format!("job {}: the reference knows deadline_s, not time-outs", index + 1);
        return Err(SimulationError::Jobs(what));
    }
    if let Some(index) = jobs.iter().position(|job| job.steps.is_some()) {
        let what = format!("job {}: the reference knows whole tasks, not steps", index + 1);
        return Err(SimulationError::Jobs(what));
    }
    check(config)?;
    let seed = draw(config.seed, 0x7665_6e6e, 1);
    let rules = config.rules;
    let result = match config.policy.as_str() {
        "fifo" => Engine::new(trace, jobs, config, Fifo::new(jobs)).run(progress),
        "random" => Engine::new(trace, jobs, config, RandomOrder::new(jobs, seed)).run(progress),
        "srsf" => Engine::new(trace, jobs, config, SmallestRequest::new(jobs)).run(progress),
        "irs" => Engine::new(trace, jobs, config, Irs::new(jobs, rules, None)).run(progress),
        "venn" => {
            let policy = Irs::new(jobs, rules, Some((config.tiers, seed)));
            Engine::new(trace, jobs, config, policy).run(progress)
        }
        name => {
            let known = POLICIES.join(", ");
            let what = format!("unknown policy {name:?} with venn-reference, known are {known}");
            return Err(SimulationError::Policy(what));
        }
    };
    let mut result = result?;
    result.set_fair_jcts(jobs, trace, PERIOD_S);
    Ok(result)
}

fn check(config: &ReferenceConfig) -> Result<()> {
    if config.repeat == 0 {
        return Err(Error::OutOfRange { what: "repeat", rule: "at least 1" });
    }
    if config.stalled_s.is_some_and(|limit_s| !limit_s.is_finite() || limit_s <= 0.0) {
        return Err(Error::OutOfRange { what: "stalled_s", rule: "a time above 0" });
    }
    if !(2..=4).contains(&config.tiers) {
        return Err(Error::OutOfRange { what: "tiers", rule: "2, 3 or 4 with venn-reference" });
    }
    Ok(())
}
