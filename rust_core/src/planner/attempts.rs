//! What a planner learns of each job's attempts at rounds, for policies that choose tiers: whether
//! they pay, and how many devices jobs take.
//!
//! An attempt is over when the planner sees the job's next round; it succeeded if the job's history
//! has one success more. So aborted attempts count as well as those that succeeded.

use super::OpenRound;
use crate::policy::{Attempts, JobHistory, Tier, TierState};

/// What a new round weighs in a mean of recent ones.
const RECENT: f64 = 0.25;
/// So many rounds with a tier are compared with those without before they are judged …
const JUDGED_FROM: u32 = 3;
/// … and are judged a failure if their mean time is above this share of that without.
const PAYS_BELOW: f64 = 0.97;
/// After so many rounds with a tier some are made without, so that the comparison stays true.
const TIERED_MAX: u32 = 12;
/// How many rounds without a tier that takes.
const CONTROLS: u32 = 2;
/// How many rounds without a tier follow a first failure; twice as many after each one more.
const REST: u32 = 4;
/// Doubled so often at most.
const DOUBLINGS_MAX: u32 = 5;

#[derive(Clone, Copy, Debug)]
struct Attempt {
    round: u32,
    opened_ns: u64,
    /// Successes of the job before it.
    succeeded: u32,
    is_tiered: bool,
}

/// The devices that a job took.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    devices: u32,
    span_s: f64,
    rate: f64,
}

/// Of one job.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JobAttempts {
    current: Option<Attempt>,
    seen: Attempts,
    /// Rounds with a tier since they were last judged, and their mean time.
    judged: u32,
    tiered_s: f64,
    /// Rounds with a tier since the last one without.
    in_a_row: u32,
    failures: u32,
    taken: Taken,
}

impl JobAttempts {
    /// What a policy sees of it.
    pub(super) fn seen(&self) -> Attempts {
        Attempts { taken: self.taken.rate, ..self.seen }
    }

    /// The job has so many slots more than before.
    pub(super) fn take(&mut self, devices: u32) {
        self.taken.devices = self.taken.devices.saturating_add(devices);
    }

    /// Brings the rate up to date after `passed_s` more: over all of the time that the job is
    /// known, and later over the last `window_s`.
    pub(super) fn count_taken(&mut self, passed_s: f64, window_s: f64) {
        let taken = &mut self.taken;
        let devices = std::mem::take(&mut taken.devices);
        taken.span_s = (taken.span_s + passed_s).min(window_s.max(passed_s));
        taken.rate += (f64::from(devices) - taken.rate * passed_s) / taken.span_s;
    }

    /// This is the job's open round now. If it is a new one, the one before is judged.
    pub(super) fn observe(&mut self, round: OpenRound, history: &JobHistory) {
        if self.current.is_some_and(|current| current.round == round.round) {
            return;
        }
        let next = Attempt {
            round: round.round,
            opened_ns: round.opened_ns,
            succeeded: history.rounds_succeeded,
            is_tiered: false,
        };
        if let Some(last) = self.current.replace(next) {
            let has_succeeded = history.rounds_succeeded > last.succeeded;
            let spent_s = round.opened_ns.saturating_sub(last.opened_ns) as f64 / 1e9;
            match (last.is_tiered, has_succeeded) {
                (false, true) => self.see_plain(history),
                (false, false) => self.seen.rest = self.seen.rest.max(REST),
                (true, true) => {
                    let delay_s = seconds(history.last_scheduling_ns);
                    self.see_tiered(delay_s, delay_s + seconds(history.last_response_ns));
                }
                // Its time is lost, and the round is still to be done.
                (true, false) => self.see_tiered(spent_s, spent_s + self.plain_s()),
            }
        }
        self.seen.state = TierState::New;
    }

    fn see_plain(&mut self, history: &JobHistory) {
        let seen = &mut self.seen;
        seen.rounds = seen.rounds.saturating_add(1);
        let new = weight(seen.rounds);
        seen.delay_s += new * (seconds(history.last_scheduling_ns) - seen.delay_s);
        seen.response_s += new * (seconds(history.last_response_ns) - seen.response_s);
        seen.rest = seen.rest.saturating_sub(1);
        self.in_a_row = 0;
    }

    fn plain_s(&self) -> f64 {
        self.seen.delay_s + self.seen.response_s
    }

    fn see_tiered(&mut self, delay_s: f64, took_s: f64) {
        let plain_s = self.plain_s();
        let seen = &mut self.seen;
        (seen.tiered, self.in_a_row) = ((seen.tiered + 1).min(TIERED_MAX), self.in_a_row + 1);
        seen.tiered_delay_s += (delay_s - seen.tiered_delay_s) * weight(seen.tiered);
        self.judged += 1;
        self.tiered_s += (took_s - self.tiered_s) * weight(self.judged);
        if self.judged >= JUDGED_FROM && self.tiered_s > PAYS_BELOW * plain_s {
            seen.rest = REST << self.failures.min(DOUBLINGS_MAX);
            self.failures += 1;
            (self.judged, seen.tiered) = (0, 0);
        } else if self.in_a_row >= TIERED_MAX {
            seen.rest = CONTROLS;
            self.failures = 0;
        }
    }

    /// The plan gave the open round this tier. True: it had none before.
    pub(super) fn decide(&mut self, tier: Option<Tier>) -> bool {
        self.seen.state = tier.map_or(TierState::Without, TierState::Held);
        let Some(current) = self.current.as_mut() else { return false };
        tier.is_some() && !std::mem::replace(&mut current.is_tiered, true)
    }
}

/// What the last of so many rounds weighs in their mean: of few the same as each, later
/// [`RECENT`].
fn weight(rounds: u32) -> f64 {
    RECENT.max(1.0 / f64::from(rounds))
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "numbers that are exact")]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// A job whose rounds come one after the other.
    #[derive(Default)]
    struct Job {
        book: JobAttempts,
        history: JobHistory,
        now_s: u64,
        round: u32,
    }

    impl Job {
        fn open(&mut self) {
            let opened_ns = self.now_s * S;
            let round = OpenRound { round: self.round, demand: 4, allocated: 0, opened_ns };
            self.book.observe(round, &self.history);
        }

        /// A round with a tier or without, that takes so long; a response or an abort.
        fn play(&mut self, is_tiered: bool, delay_s: u64, response_s: Option<u64>) -> Attempts {
            self.open();
            self.book.decide(is_tiered.then_some((2.0, None)));
            self.now_s += delay_s + response_s.unwrap_or(0);
            if let Some(response_s) = response_s {
                self.history.rounds_succeeded += 1;
                self.history.last_scheduling_ns = delay_s * S;
                self.history.last_response_ns = response_s * S;
            }
            self.round += 1;
            self.open();
            self.book.seen()
        }
    }

    #[test]
    fn rounds_without_a_tier_have_means_of_their_own() {
        let mut job = Job::default();
        job.play(false, 10, Some(100));
        let seen = job.play(false, 20, Some(300));
        assert_eq!((seen.rounds, seen.delay_s, seen.response_s, seen.rest), (2, 15.0, 200.0, 0));
        let seen = job.play(true, 40, Some(60));
        assert_eq!((seen.rounds, seen.delay_s, seen.response_s), (2, 15.0, 200.0));
        assert_eq!((seen.tiered, seen.tiered_delay_s, seen.rest), (1, 40.0, 0));
    }

    #[test]
    fn an_aborted_round_without_a_tier_lets_the_job_rest() {
        let mut job = Job::default();
        assert_eq!(job.play(false, 300, None).rest, 4);
        let rests: Vec<u32> = (0..5).map(|_| job.play(false, 1, Some(9)).rest).collect();
        assert_eq!(rests, [3, 2, 1, 0, 0]);
    }

    #[test]
    fn tiers_that_do_not_pay_are_left_alone_for_twice_as_long_each_time() {
        let mut job = Job::default();
        job.play(false, 10, Some(90));
        let mut rests = Vec::new();
        for _ in 0..3 {
            let seen = [0, 1, 2].map(|_| job.play(true, 20, Some(80)).rest);
            assert_eq!(seen[..2], [0, 0]);
            rests.push(seen[2]);
            while job.play(false, 10, Some(90)).rest > 0 {}
        }
        assert_eq!(rests, [4, 8, 16]);
    }

    /// Their time is lost, so a tier that saves half of the time must not lose a round of three.
    #[test]
    fn an_aborted_round_with_a_tier_counts_as_its_time_and_a_round_more() {
        let mut job = Job::default();
        job.play(false, 10, Some(90));
        job.play(true, 10, Some(40));
        job.play(true, 10, Some(40));
        assert_eq!(job.play(true, 150, None).rest, 4, "(50 + 50 + 250) / 3 is above 97");
    }

    #[test]
    fn tiers_that_pay_go_on_but_for_two_rounds_now_and_then() {
        let mut job = Job::default();
        job.play(false, 10, Some(90));
        let rests: Vec<u32> = (0..12).map(|_| job.play(true, 10, Some(50)).rest).collect();
        assert_eq!(rests, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!([0, 1].map(|_| job.play(false, 10, Some(90)).rest), [1, 0]);
        assert_eq!(job.play(true, 10, Some(50)).rest, 0);
    }

    #[test]
    fn a_round_that_was_seen_before_is_the_same_attempt() {
        let mut job = Job::default();
        job.open();
        assert!(job.book.decide(Some((2.0, None))), "a tier is counted once");
        job.open();
        assert_eq!(job.book.seen().state, TierState::Held((2.0, None)));
        assert!(!job.book.decide(Some((2.0, None))));
        job.book.decide(None);
        job.open();
        assert_eq!(job.book.seen().state, TierState::Without);
    }

    /// 10 devices in the first 20 s are 0.5 a second; with none in 20 s more 0.25; and of a window of
    /// 40 s a half is forgotten in the next 20.
    #[test]
    fn the_rate_is_over_the_time_that_is_known_and_at_most_the_window() {
        let mut book = JobAttempts::default();
        book.take(10);
        let rates = [0, 1, 2].map(|_| {
            book.count_taken(20.0, 40.0);
            book.seen().taken
        });
        assert_eq!(rates, [0.5, 0.25, 0.125]);
    }
}
