//! The jobs of the reference: synchronous with a deadline, with refill, asynchronous.

use crate::simulator::{JobKind, JobResult, SimulatedJob, Tally, to_ns};

use super::Rules;

/// What a job wants to happen next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// A request for so many devices reaches the policy after the usual gap, or at once.
    Request { amount: u32, after_gap: bool },
    /// The round is closed at this time.
    Close { at_s: f64 },
}

#[derive(Debug)]
pub(super) struct JobState {
    spec: SimulatedJob,
    rules: Rules,
    /// The number of the current attempt; results of others are late.
    attempt: u32,
    opened_s: f64,
    /// When the current attempt is closed, as far as is known.
    close_s: f64,
    is_closing: bool,
    was_filled: bool,
    dispatched: u32,
    results: u32,
    /// The refill job's balance: results less dispatches since the last top-up.
    balance: i64,
    enough_dispatched_s: Option<f64>,
    pub(super) result: JobResult,
}

impl JobState {
    pub(super) fn new(spec: &SimulatedJob, rules: Rules) -> Self {
        Self {
            spec: spec.clone(),
            rules,
            attempt: 0,
            opened_s: spec.start_s,
            close_s: f64::INFINITY,
            is_closing: false,
            was_filled: false,
            dispatched: 0,
            results: 0,
            balance: 0,
            enough_dispatched_s: None,
            result: JobResult { start_s: spec.start_s, ..JobResult::default() },
        }
    }

    pub(super) fn spec(&self) -> &SimulatedJob {
        &self.spec
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn is_done(&self) -> bool {
        self.result.finish_s.is_some()
    }

    fn amount(&self) -> f64 {
        f64::from(self.spec.participants)
    }

    fn enough(&self) -> f64 {
        self.spec.min_response * self.amount()
    }

    /// A new attempt begins, at first when the job arrives.
    pub(super) fn open(&mut self, now_s: f64, wishes: &mut Vec<Wish>) {
        self.opened_s = now_s;
        (self.is_closing, self.was_filled) = (false, false);
        let (amount, is_first) = (self.spec.participants, self.attempt == 0);
        let is_sync = self.spec.kind == JobKind::Sync;
        wishes.push(Wish::Request { amount, after_gap: is_sync || !is_first });
        if is_sync {
            self.close_s = now_s + self.spec.deadline_s;
            wishes.push(Wish::Close { at_s: self.close_s });
        }
    }

    /// A device starts a task.
    pub(super) fn dispatch(&mut self, now_s: f64, tally: &mut Tally, wishes: &mut Vec<Wish>) {
        self.dispatched += 1;
        // As the reference has it: a demand of which 80 % is no whole number never gets there.
        #[expect(clippy::float_cmp, reason = "the reference compares them so")]
        let just_enough = f64::from(self.dispatched) == self.enough();
        if just_enough {
            tally.scheduling_delay_s.add(now_s - self.opened_s);
            self.enough_dispatched_s = Some(now_s);
        }
        self.was_filled |= self.dispatched >= self.spec.participants;
        match self.spec.kind {
            JobKind::Sync => self.close_if_enough(now_s, wishes),
            JobKind::Refill if self.balance <= -i64::from(self.spec.participants / 2) => {
                wishes.push(Wish::Request { amount: 1, after_gap: true });
            }
            JobKind::Refill => self.balance -= 1,
            JobKind::Async => {}
        }
    }

    /// A device of the current attempt left before its task was done (only where that is ours).
    pub(super) fn lose(&mut self) {
        self.dispatched = self.dispatched.saturating_sub(1);
    }

    /// The result of a task of this attempt came.
    pub(super) fn receive(
        &mut self,
        now_s: f64,
        attempt: u32,
        tally: &mut Tally,
        wishes: &mut Vec<Wish>,
    ) {
        if attempt != self.attempt || self.is_done() {
            tally.late += 1;
            tally.wasted += 1;
            return;
        }
        self.results += 1;
        match self.spec.kind {
            JobKind::Sync => self.close_if_enough(now_s, wishes),
            JobKind::Refill => {
                self.balance += 1;
                if self.results >= self.spec.participants && !self.is_closing {
                    self.is_closing = true;
                    wishes.push(Wish::Close { at_s: now_s });
                }
            }
            JobKind::Async if self.results >= self.spec.reports_min() => {
                wishes.push(Wish::Close { at_s: now_s });
            }
            JobKind::Async => wishes.push(Wish::Request { amount: 1, after_gap: true }),
        }
    }

    fn close_if_enough(&mut self, now_s: f64, wishes: &mut Vec<Wish>) {
        let may_end = self.was_filled || !self.rules.full_responses;
        if f64::from(self.results) >= self.enough() && may_end && !self.is_closing {
            self.is_closing = true;
            self.close_s = now_s;
            wishes.push(Wish::Close { at_s: now_s });
        }
    }

    /// The attempt ends, unless this is the deadline of one that ended before. True: it ended.
    pub(super) fn close(&mut self, now_s: f64, tally: &mut Tally, wishes: &mut Vec<Wish>) -> bool {
        #[expect(clippy::float_cmp, reason = "the very number that was scheduled")]
        let is_stale = self.spec.kind == JobKind::Sync && self.close_s != now_s;
        if is_stale || self.is_done() {
            return false;
        }
        if self.spec.kind == JobKind::Async {
            self.results = 0;
            self.succeed(now_s, tally);
            if !self.is_done() {
                wishes.push(Wish::Request { amount: 1, after_gap: true });
            }
            return true;
        }
        if self.spec.kind == JobKind::Refill || self.is_success() {
            self.succeed(now_s, tally);
        } else {
            self.result.parts.abort(to_ns(self.opened_s), to_ns(now_s));
            self.result.aborts += 1;
            tally.wasted += u64::from(self.results);
        }
        (self.results, self.dispatched, self.balance) = (0, 0, 0);
        self.enough_dispatched_s = None;
        self.attempt += 1;
        if !self.is_done() {
            self.open(now_s, wishes);
        }
        true
    }

    fn is_success(&self) -> bool {
        let (dispatched, results) = (f64::from(self.dispatched), f64::from(self.results));
        if self.rules.full_responses {
            return results >= self.enough();
        }
        let wanted = self.spec.min_response * dispatched.min(self.amount());
        dispatched >= self.enough() && results >= wanted
    }

    fn succeed(&mut self, now_s: f64, tally: &mut Tally) {
        self.book(now_s);
        self.result.rounds += 1;
        tally.round_time_s.add(now_s - self.opened_s);
        if let Some(since_s) = self.enough_dispatched_s {
            tally.response_time_s.add(now_s - since_s);
        }
        if self.spec.kind == JobKind::Async {
            self.opened_s = now_s;
        }
        if self.result.rounds >= self.spec.rounds {
            let jct_ns = to_ns(now_s) - to_ns(self.result.start_s);
            self.result.parts.assert_sum(jct_ns);
            (self.result.finish_s, self.result.jct_ns) = (Some(now_s), Some(jct_ns));
        }
    }

    /// Times are rounded to nanoseconds before they are subtracted, so that the parts sum exactly.
    fn book(&mut self, ended_s: f64) {
        let (began_ns, over_ns) = (to_ns(self.opened_s), to_ns(ended_s));
        if self.spec.kind == JobKind::Async {
            self.result.parts.fill_buffer(began_ns, over_ns);
        } else {
            let filled_ns = self.enough_dispatched_s.map(to_ns);
            self.result.parts.succeed(began_ns, filled_ns, over_ns);
        }
    }
}
