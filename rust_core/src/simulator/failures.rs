//! Failures in the middle of a task: which task of which device, when, and of what.
//!
//! A device fails at a constant rate while it works, whatever came before: the time until then is
//! exponential, so that long tasks fail more often than short ones, and a task that is cut to fit a
//! session by as much more seldom. Each cause has its rate, and the first to come counts. What is
//! drawn depends on the seed, the device, the job and the round, and on nothing else: the same task
//! of the same device fails at the same moment of its work under every policy and in every clock.

use crate::random::draw;
use crate::{Error, Result};

const STREAM: u64 = 0x6661_696c;
const HOUR_S: f64 = 3_600.0;

/// Why a device did not bring a task to its end while its session lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The training's process died. The device says so, stays, and may ask again.
    Crash,
    /// The device is out of power: it is gone without a word, and its slot with it until the lease
    /// ends.
    Battery,
    /// Its user took it. The device says so, and is gone for the rest of its session.
    User,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Crash, Self::Battery, Self::User];

    /// Its name in figures and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Battery => "battery",
            Self::User => "user",
        }
    }
}

/// How often each cause comes in an hour of work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FailureRates {
    /// Of [`Cause::Crash`].
    pub crash_per_hour: f64,
    /// Of [`Cause::Battery`].
    pub battery_per_hour: f64,
    /// Of [`Cause::User`].
    pub user_per_hour: f64,
}

impl FailureRates {
    fn rates(&self) -> [f64; 3] {
        [self.crash_per_hour, self.battery_per_hour, self.user_per_hour]
    }

    /// Refuses a rate that is none.
    pub fn check(&self) -> Result<()> {
        if self.rates().iter().all(|rate| rate.is_finite() && *rate >= 0.0) {
            return Ok(());
        }
        Err(Error::OutOfRange { what: "failures", rule: "rates an hour, from 0 on" })
    }

    /// After how many seconds of work this task of this device fails, and of what; None: never.
    pub fn of_task(&self, seed: u64, device: u64, job: u64, round: u32) -> Option<(f64, Cause)> {
        let rates = self.rates();
        let total: f64 = rates.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let task = draw(draw(seed, STREAM, device), job, u64::from(round));
        let after_s = -(1.0 - unit(draw(task, 0, 0))).ln() / total * HOUR_S;
        let mut left = unit(draw(task, 1, 0)) * total;
        let first = Cause::ALL.into_iter().zip(rates).find(|(_, rate)| {
            left -= rate;
            left < 0.0
        });
        Some((after_s, first.map_or(Cause::User, |(cause, _)| cause)))
    }
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: FailureRates =
        FailureRates { crash_per_hour: 1.0, battery_per_hour: 0.5, user_per_hour: 2.5 };

    #[test]
    fn times_are_exponential_and_causes_come_by_their_rates() {
        let all: Vec<(f64, Cause)> =
            (0..40_000).filter_map(|device| RATES.of_task(3, device, 1, 0)).collect();
        let n = all.len() as f64;
        // Four an hour: 900 s on average, and as much as deviation; four standard errors.
        let mean = all.iter().map(|(s, _)| s).sum::<f64>() / n;
        assert!((mean - 900.0).abs() < 4.0 * 900.0 / n.sqrt(), "{mean}");
        let late = all.iter().filter(|(s, _)| *s > 1_800.0).count() as f64 / n;
        assert!((late - (-2.0_f64).exp()).abs() < 4.0 * 0.342 / n.sqrt(), "{late}");
        for (cause, share) in Cause::ALL.into_iter().zip([0.25, 0.125, 0.625]) {
            let found = all.iter().filter(|(_, it)| *it == cause).count() as f64 / n;
            assert!((found - share).abs() < 4.0 * 0.5 / n.sqrt(), "{cause:?} {found}");
        }
    }

    #[test]
    fn a_task_is_drawn_by_its_seed_device_job_and_round_alone() {
        let one = RATES.of_task(3, 5, 7, 9);
        assert_eq!(one, RATES.of_task(3, 5, 7, 9));
        for other in [(4, 5, 7, 9), (3, 6, 7, 9), (3, 5, 8, 9), (3, 5, 7, 10)] {
            assert_ne!(one, RATES.of_task(other.0, other.1, other.2, other.3));
        }
        assert_eq!(FailureRates::default().of_task(3, 5, 7, 9), None);
        let only = FailureRates { battery_per_hour: 1.0, ..FailureRates::default() };
        assert!((0..99).all(|d| only.of_task(1, d, 0, 0).is_some_and(|it| it.1 == Cause::Battery)));
    }
}
