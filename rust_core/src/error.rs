//! Everything that can be wrong with a call of the engine: one enum, one line of text each.

use std::fmt;

use crate::{Device, Job, Manager, RequirementId, RoundKey};

/// The result of a fallible call.
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong. A call that returns an error has changed nothing, but for the one exception
/// named at [`Error::MatcherFull`].
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// A vector does not have one value per dimension.
    WrongLength {
        /// Which vector.
        what: String,
        /// The length that it must have.
        expected: usize,
        /// The length that it has.
        got: usize,
    },
    /// A value is NaN, infinite or negative.
    BadValue {
        /// Which value.
        what: String,
        /// The value.
        value: f64,
    },
    /// A setting or an argument is outside its range.
    OutOfRange {
        /// Which argument.
        what: &'static str,
        /// The rule, in words.
        rule: &'static str,
    },
    /// No policy has this name.
    UnknownPolicy {
        /// The name asked for.
        name: String,
    },
    /// No policy has an option of this name.
    UnknownOption {
        /// The name asked for.
        name: String,
    },
    /// An option of a policy is outside its range.
    BadOption {
        /// Which option.
        name: String,
        /// The rule, in words, and what was given.
        rule: String,
    },
    /// The policy failed; the planner's last plan stays.
    Policy(crate::policy::PolicyError),
    /// The planner knows no such job.
    UnknownJob(Job),
    /// The planner knows no such client manager.
    UnknownManager(Manager),
    /// A requirement id came with another vector than the one that other jobs registered.
    ConflictingRequirement(RequirementId),
    /// A plan has two groups with the same requirement id.
    DuplicateGroup(RequirementId),
    /// A plan lists the same round twice.
    DuplicateRound(RoundKey),
    /// A plan's preference or fallback names a requirement id that is not among its groups.
    UnknownGroup(RequirementId),
    /// No more clients may wait. The check-in was counted as supply; the client holds nothing.
    MatcherFull {
        /// The limit.
        waiting_max: usize,
    },
    /// The device checked in while its claim was on the way to the job manager.
    DeviceClaiming(Device),
    /// A text is not a device id.
    BadDevice(String),
    /// An integer does not fit its type.
    BadInteger(String),
    /// An internal invariant does not hold: a bug of the engine.
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongLength { what, expected, got } => {
                write!(f, "{what} has {got} values, expected {expected}")
            }
            Self::BadValue { what, value } => {
                write!(f, "{what} is {value}, expected a finite number that is not negative")
            }
            Self::OutOfRange { what, rule } => write!(f, "{what} must be {rule}"),
            Self::UnknownPolicy { name } => {
                let known: Vec<&str> = crate::policy::names().collect();
                write!(f, "unknown policy {name:?}, known are {}", known.join(", "))
            }
            Self::UnknownOption { name } => {
                write!(
                    f,
                    "unknown option {name:?}, known are {}",
                    crate::policy::OPTIONS.join(", ")
                )
            }
            Self::BadOption { name, rule } => write!(f, "option {name} must be {rule}"),
            Self::Policy(error) => error.fmt(f),
            Self::UnknownJob(job) => write!(f, "unknown job {job}"),
            Self::UnknownManager(manager) => write!(f, "unknown client manager {manager}"),
            Self::ConflictingRequirement(id) => {
                write!(f, "requirement {id} is registered with another vector")
            }
            Self::DuplicateGroup(id) => write!(f, "plan has two groups of requirement {id}"),
            Self::DuplicateRound(key) => {
                write!(f, "plan lists round {} of job {} twice", key.round, key.job)
            }
            Self::UnknownGroup(id) => {
                write!(f, "plan names requirement {id} but has no such group")
            }
            Self::MatcherFull { waiting_max } => {
                write!(f, "{waiting_max} clients wait already, which is waiting_max")
            }
            Self::DeviceClaiming(device) => {
                write!(f, "device {device:032x} has a claim that is not decided yet")
            }
            Self::BadDevice(text) => {
                write!(f, "device id {text:?} is not 32 lower-case hexadecimal digits")
            }
            Self::BadInteger(text) => write!(f, "{text}"),
            Self::Broken(text) => write!(f, "invariant broken: {text}"),
        }
    }
}

impl std::error::Error for Error {}
