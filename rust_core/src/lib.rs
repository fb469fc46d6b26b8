//! The engine of Propius: which device serves which job.
//!
//! Three parts. The [`matcher::Matcher`] lives in a client manager: it counts supply, keeps the
//! waiting clients and offers them tasks from the current plan. The [`planner::Planner`] lives in
//! the scheduler: it knows jobs, open rounds and the recent supply, and makes plans. A
//! [`policy::Policy`] is the rule by which a plan is made.
//!
//! The engine is pure and deterministic: the time (nanoseconds of the system-wide monotonic clock)
//! and the seed are arguments, there is no I/O, no thread, and no result depends on the order of a
//! hash map. The same calls give the same answers, live and in simulation.
//!
//! Not here: slots and leases (the job manager arbitrates those), messages, and anything about
//! Python, which is in `python.rs` alone, behind the feature `python`.
//!
//! Read next: `matcher/mod.rs` for the life of a client, `policy/irs.rs` for the rule of Venn.
#![warn(missing_docs)]

mod bits;
mod error;
pub mod matcher;
pub mod planner;
pub mod policy;
mod random;
pub mod reference;
mod requirement;
pub mod simulator;

#[cfg(feature = "python")]
mod python;
#[cfg(feature = "python")]
mod python_policy;
#[cfg(feature = "python")]
mod python_rounds;
#[cfg(feature = "python")]
mod python_simulator;

pub use error::{Error, Result};
pub use requirement::{check_vector, meets};

/// A client, known by 128 random bits made and kept by its SDK.
pub type Device = u128;
/// A job, numbered by the job manager.
pub type Job = u64;
/// A requirement (a distinct vector of lower bounds), numbered by the job manager, never reused.
pub type RequirementId = u32;
/// A client manager.
pub type Manager = u32;

/// One round of one job: what an offer lists and a charge is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundKey {
    /// The job.
    pub job: Job,
    /// The number of the round within the job, from 0.
    pub round: u32,
}

/// Whether this is a `release` or a `debug` build; benchmarks refuse the latter.
pub const BUILD_PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
