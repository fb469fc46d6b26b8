//! The settings of policies, by the names that configurations and commands use.

use crate::{Error, Result};

/// What an operator may set; every policy takes what concerns it and ignores the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyOptions {
    /// The fairness knob ε of `irs` and `venn`: 0 is pure IRS, greater is fairer.
    pub fairness: f64,
    /// Into how many equal-count speed classes `venn` divides the devices of a group (V).
    pub tiers: u32,
    /// Into how many parts `static-partition` divides the devices; 0 = a part a registered job.
    pub partitions: u32,
    /// What a job's response time is taken for before its first round has succeeded.
    pub response_s: f64,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self { fairness: 0.0, tiers: 4, partitions: 0, response_s: 300.0 }
    }
}

/// The names that [`crate::planner::PlannerConfig::set_option`] knows.
pub const OPTIONS: [&str; 7] =
    ["fairness", "tiers", "partitions", "response_s", "supply_window_s", "supply_day_s", "seed"];

impl PolicyOptions {
    /// Sets an option by its name. False: it is none of these.
    pub(crate) fn set(&mut self, name: &str, value: f64) -> Result<bool> {
        match name {
            "fairness" => self.fairness = within("fairness", value, 0.0, 100.0)?,
            "tiers" => self.tiers = small("tiers", value, 2, 64)?,
            "partitions" => self.partitions = small("partitions", value, 0, 1_000_000)?,
            "response_s" => self.response_s = within("response_s", value, 0.001, 2_592_000.0)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The value, if it is in the range.
pub(crate) fn within(name: &'static str, value: f64, min: f64, max: f64) -> Result<f64> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let rule = format!("{min} to {max}, not {value}");
    Err(Error::BadOption { name: name.to_owned(), rule })
}

/// The largest seed that an option can give: what a float still tells apart.
pub(crate) const SEED_MAX: u64 = 1 << 53;

/// The value, if it is a whole number in the range.
pub(crate) fn whole(name: &'static str, value: f64, min: u64, max: u64) -> Result<u64> {
    if value.fract() == 0.0 && (min as f64..=max as f64).contains(&value) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in the range"
        )]
        return Ok(value as u64);
    }
    let rule = format!("a whole number, {min} to {max}, not {value}");
    Err(Error::BadOption { name: name.to_owned(), rule })
}

/// The same for smaller numbers.
fn small(name: &'static str, value: f64, min: u32, max: u32) -> Result<u32> {
    let found = whole(name, value, min.into(), max.into())?;
    Ok(u32::try_from(found).expect("at most max"))
}
