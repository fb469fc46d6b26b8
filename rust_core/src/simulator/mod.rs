//! The simulator: the matcher and the planner of the daemons, driven by a trace in virtual time.
//!
//! Not here: what only reproduces the published reference simulator (see [`crate::reference`]).
//! Read next: `driver.rs`, for what a session and a round do.

mod config;
mod driver;
mod failures;
mod heap;
mod jobs;
mod parts;
mod played;
mod record;
mod results;
mod rounds;
mod specs;
mod stalled;
mod trace;

use std::fmt;

use crate::Error;

pub use config::SimulatorConfig;
pub use driver::{run, run_with_rule};
pub use failures::{Cause, FailureRates};
pub(crate) use heap::{Calendar, EventHeap};
pub(crate) use jobs::check_jobs;
pub use jobs::{JobKind, SimulatedJob, Timeouts};
pub use parts::JctParts;
pub use played::{OpenRound, PlayedRounds};
pub use record::{Record, RoundRecord, TaskEnd, TaskRecord};
pub use results::{JobResult, Mean, RunResult, Tally, solo_jct_s};
pub(crate) use rounds::to_ns;
pub(crate) use stalled::Watch;
pub use trace::{CLASSES, COLUMNS, Session, Signature, Trace};

/// Why there is no result: one line for a person.
#[derive(Clone, Debug, PartialEq)]
pub enum SimulationError {
    /// A trace is wrong, with file and line.
    Trace(String),
    /// A job list is wrong, with the number of the job.
    Jobs(String),
    /// A policy failed, or there is no such one.
    Policy(String),
    /// An option is wrong.
    Engine(Error),
    /// The caller asked to stop.
    Stopped,
    /// Jobs wait, and no round of any job has succeeded for the time that the caller allows.
    Stalled {
        /// The run's policy.
        policy: String,
        /// The run's seed.
        seed: u64,
        /// Virtual time of the last success, or since when a job waits.
        since_s: f64,
        /// How long nothing has succeeded since.
        for_s: f64,
        /// The jobs that wait, by their numbers in the list, from 1.
        waiting: Vec<usize>,
    },
}

/// An error names so many jobs, and counts the others.
const JOBS_NAMED_MAX: usize = 10;
const DAY_S: f64 = 86_400.0;

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trace(text) | Self::Jobs(text) | Self::Policy(text) => f.write_str(text),
            Self::Engine(error) => error.fmt(f),
            Self::Stopped => f.write_str("the simulation was stopped"),
            Self::Stalled { policy, seed, since_s, for_s, waiting } => {
                let named = waiting.iter().take(JOBS_NAMED_MAX).map(ToString::to_string);
                let named = named.collect::<Vec<_>>().join(", ");
                let (days, since) = (for_s / DAY_S, since_s / DAY_S);
                write!(
                    f,
                    "policy {policy}, seed {seed}: no round has succeeded for {days:.1} virtual \
                     days (since day {since:.1}); waiting: job {named}"
                )?;
                match waiting.len().saturating_sub(JOBS_NAMED_MAX) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

impl std::error::Error for SimulationError {}

impl From<Error> for SimulationError {
    fn from(error: Error) -> Self {
        match error {
            Error::Policy(_) | Error::UnknownPolicy { .. } => Self::Policy(error.to_string()),
            _ => Self::Engine(error),
        }
    }
}
