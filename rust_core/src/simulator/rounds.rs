//! The book of a run: each job's current round, as the job manager would keep it.
//!
//! A slot is granted while fewer are held than the round demands, whatever the matchers believe. A
//! round was *filled* when all its slots were held at once; it is done when it was filled and enough
//! devices reported, or at its deadline if enough reported by then. Otherwise it is aborted at its
//! deadline, and the next one opens at once.
//!
//! The devices that served a job are counted when a round ends, by the slots that are held or done
//! then, so that a policy that goes by them keeps its order while a round fills.
//!
//! An asynchronous job has one round in this sense, which never ends: every result and every loss
//! gives its slot back. What it counts as rounds are its buffers of results, and each result, late
//! or not, is of a device that served it.

use std::collections::HashSet;

use super::{JobKind, JobResult, OpenRound, RoundRecord, SimulatedJob, Tally};
use crate::policy::JobHistory;
use crate::{Job, RoundKey};

const SECOND_NS: f64 = 1e9;

#[derive(Debug)]
pub(super) struct JobBook {
    spec: SimulatedJob,
    reports_min: u32,
    has_arrived: bool,
    /// The current round; of an asynchronous job always 0.
    round: u32,
    allocated: u32,
    reports: u32,
    opened_ns: u64,
    filled_ns: Option<u64>,
    is_tiered: bool,
    /// Of the current round: slots given, and devices lost.
    granted: u32,
    lost: u32,
    /// Who has, or had, a slot of the current round, lost or not, where that is known.
    owners: HashSet<u32>,
    record: Option<Vec<RoundRecord>>,
    history: JobHistory,
    pub(super) result: JobResult,
}

/// What came of a report or a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The round goes on.
    GoesOn,
    /// The round goes on, and lacks a device.
    FreesSlot,
    /// The round is over.
    Over,
}

/// What came of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The round lacks no device now.
    pub(super) is_full: bool,
    /// The deadline of the phase that has begun with it.
    pub(super) deadline_ns: Option<u64>,
    /// `Over` if enough had reported before the round was filled.
    pub(super) outcome: Outcome,
}

impl JobBook {
    pub(super) fn new(spec: &SimulatedJob, records: bool) -> Self {
        Self {
            reports_min: spec.reports_min(),
            spec: spec.clone(),
            has_arrived: false,
            round: 0,
            allocated: 0,
            reports: 0,
            opened_ns: 0,
            filled_ns: None,
            is_tiered: false,
            granted: 0,
            lost: 0,
            owners: HashSet::new(),
            record: records.then(Vec::new),
            history: JobHistory::default(),
            result: JobResult { start_s: spec.start_s, ..JobResult::default() },
        }
    }

    pub(super) fn spec(&self) -> &SimulatedJob {
        &self.spec
    }

    pub(super) fn is_active(&self) -> bool {
        self.has_arrived && self.result.finish_s.is_none()
    }

    pub(super) fn is_done(&self) -> bool {
        self.result.finish_s.is_some()
    }

    pub(super) fn key(&self, job: Job) -> RoundKey {
        RoundKey { job, round: self.round }
    }

    pub(super) fn allocated(&self) -> u32 {
        self.allocated
    }

    pub(super) fn opened_ns(&self) -> u64 {
        self.opened_ns
    }

    /// What a policy hears of the rounds before.
    pub(super) fn history(&self) -> JobHistory {
        self.history
    }

    /// The deadline of the current round, or of the phase that it is in.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        if self.spec.kind != JobKind::Sync {
            return None;
        }
        let (from_ns, within_s) = match (self.spec.timeouts, self.filled_ns) {
            (None, _) => (self.opened_ns, self.spec.deadline_s),
            (Some(timeouts), None) => (self.opened_ns, timeouts.scheduling_s),
            (Some(timeouts), Some(filled_ns)) => (filled_ns, timeouts.response_s),
        };
        Some(from_ns.saturating_add(to_ns(within_s)))
    }

    /// What a task started now belongs to: its round, or the buffer that is being filled.
    pub(super) fn stamp(&self) -> u32 {
        if self.spec.kind == JobKind::Async { self.result.rounds } else { self.round }
    }

    pub(super) fn arrive(&mut self, now_ns: u64) {
        self.has_arrived = true;
        self.begin(now_ns);
    }

    /// The next round opens.
    fn begin(&mut self, now_ns: u64) {
        (self.opened_ns, self.filled_ns) = (now_ns, None);
        (self.allocated, self.reports, self.is_tiered) = (0, 0, false);
        (self.granted, self.lost) = (0, 0);
        self.owners.clear();
    }

    /// Whether this owner of sessions does, or did, the round's task already.
    pub(super) fn has(&self, round: u32, owner: Option<u32>) -> bool {
        round == self.round && owner.is_some_and(|owner| self.owners.contains(&owner))
    }

    /// It is so from now on.
    pub(super) fn note_owner(&mut self, owner: Option<u32>) {
        if self.spec.kind != JobKind::Async {
            self.owners.extend(owner);
        }
    }

    /// Grants a slot of a round, if it is the current one and lacks a device. `FreesSlot` is never
    /// the answer.
    pub(super) fn grant(&mut self, now_ns: u64, round: u32, tally: &mut Tally) -> bool {
        if !self.is_active() || round != self.round || self.allocated >= self.spec.participants {
            return false;
        }
        self.allocated += 1;
        assert!(self.allocated <= self.spec.participants, "a round got more than its demand");
        self.granted += 1;
        if self.is_full() && self.filled_ns.is_none() {
            self.filled_ns = Some(now_ns);
            tally.scheduling_delay_s.add(to_s(now_ns - self.opened_ns));
        }
        true
    }

    /// What comes of a grant, after [`Self::grant`]: maybe another deadline, or the round's end.
    pub(super) fn after_grant(&mut self, now_ns: u64, tally: &mut Tally) -> Granted {
        let has_begun_phase = self.spec.timeouts.is_some() && self.filled_ns == Some(now_ns);
        Granted {
            is_full: self.is_full(),
            deadline_ns: has_begun_phase.then(|| self.deadline_ns()).flatten(),
            outcome: self.end_if_enough(now_ns, tally),
        }
    }

    fn is_full(&self) -> bool {
        self.allocated >= self.spec.participants
    }

    /// A device left before its task was done: its slot is free, and for others.
    pub(super) fn lose(&mut self, stamp: u32) -> Outcome {
        let is_async = self.spec.kind == JobKind::Async;
        if !self.is_active() || (!is_async && stamp != self.round) {
            return Outcome::GoesOn;
        }
        self.allocated -= 1;
        self.lost += 1;
        Outcome::FreesSlot
    }

    /// A device did its task.
    pub(super) fn report(&mut self, now_ns: u64, stamp: u32, tally: &mut Tally) -> Outcome {
        if !self.is_active() {
            return late(tally);
        }
        if self.spec.kind == JobKind::Async {
            return self.report_to_buffer(now_ns, stamp, tally);
        }
        if stamp != self.round {
            return late(tally);
        }
        self.reports += 1;
        self.end_if_enough(now_ns, tally)
    }

    /// Whether the round that was just filled, or that just got a report, is over.
    fn end_if_enough(&mut self, now_ns: u64, tally: &mut Tally) -> Outcome {
        let Some(filled_ns) = self.filled_ns.filter(|_| self.reports >= self.reports_min) else {
            return Outcome::GoesOn;
        };
        if self.spec.kind == JobKind::Async {
            return Outcome::GoesOn;
        }
        tally.response_time_s.add(to_s(now_ns - filled_ns));
        self.history.last_scheduling_ns = filled_ns - self.opened_ns;
        self.history.last_response_ns = now_ns - filled_ns;
        self.succeed(now_ns, tally);
        Outcome::Over
    }

    fn report_to_buffer(&mut self, now_ns: u64, stamp: u32, tally: &mut Tally) -> Outcome {
        self.allocated -= 1;
        self.history.devices_served += 1; // Its round has no end at which to count them.
        let age = self.result.rounds - stamp;
        if self.spec.staleness.is_some_and(|most| age > most) {
            late(tally);
            return Outcome::FreesSlot;
        }
        self.reports += 1;
        if self.reports < self.reports_min {
            return Outcome::FreesSlot;
        }
        self.reports = 0;
        self.count_round(now_ns, tally);
        self.opened_ns = now_ns;
        if self.result.rounds < self.spec.rounds {
            return Outcome::FreesSlot;
        }
        self.result.finish_s = Some(to_s(now_ns));
        Outcome::Over
    }

    /// A deadline of a round came. True: the round is over.
    pub(super) fn deadline(&mut self, now_ns: u64, round: u32, tally: &mut Tally) -> bool {
        if !self.is_active() || round != self.round {
            return false;
        }
        if self.deadline_ns().is_some_and(|due_ns| now_ns < due_ns) {
            return false; // It was filled in time, and has another deadline since.
        }
        if self.reports >= self.reports_min {
            self.succeed(now_ns, tally);
        } else {
            self.remember(now_ns, self.result.rounds, false);
            self.result.aborts += 1;
            tally.wasted += u64::from(self.reports);
            self.round += 1;
            self.begin(now_ns);
        }
        true
    }

    fn succeed(&mut self, now_ns: u64, tally: &mut Tally) {
        let before = self.result.rounds;
        self.count_round(now_ns, tally);
        self.remember(now_ns, before, true);
        self.round += 1;
        if self.result.rounds >= self.spec.rounds {
            self.result.finish_s = Some(to_s(now_ns));
        } else {
            self.begin(now_ns);
        }
    }

    fn count_round(&mut self, now_ns: u64, tally: &mut Tally) {
        self.result.rounds += 1;
        self.history.rounds_succeeded += 1;
        self.history.rounds_ns += now_ns - self.opened_ns;
        tally.round_time_s.add(to_s(now_ns - self.opened_ns));
    }

    /// What the round that ends now leaves behind, `before` having succeeded: those who served it,
    /// and its record.
    fn remember(&mut self, now_ns: u64, before: u32, is_success: bool) {
        self.history.devices_served += u64::from(self.allocated);
        if let Some(record) = &mut self.record {
            record.push(RoundRecord {
                job: 0, // Its book does not know; see `take_record`.
                round: before,
                attempt: self.round,
                opened_s: to_s(self.opened_ns),
                filled_s: self.filled_ns.map(to_s),
                ended_s: to_s(now_ns),
                allocated: self.granted,
                completed: self.reports,
                failed: self.lost,
                is_success,
                history: self.history,
            });
        }
    }

    /// The current round, of a job that is not done.
    pub(super) fn open_round(&self) -> Option<OpenRound> {
        self.is_active().then(|| OpenRound {
            round: self.round,
            opened_ns: self.opened_ns,
            filled_ns: self.filled_ns,
            is_full: self.is_full(),
            allocated: self.allocated,
            completed: self.reports,
            lost: self.lost,
        })
    }

    /// What it remembers of its rounds since the last call, as those of this job.
    pub(super) fn take_record(&mut self, job: u32) -> Vec<RoundRecord> {
        let record = self.record.as_mut().map(std::mem::take).unwrap_or_default();
        record.into_iter().map(|round| RoundRecord { job, ..round }).collect()
    }

    /// The plan opened the current round to a tier of the devices only.
    pub(super) fn mark_tiered(&mut self) {
        self.result.rounds_tiered += u32::from(!self.is_tiered);
        self.is_tiered = true;
    }
}

fn late(tally: &mut Tally) -> Outcome {
    tally.late += 1;
    tally.wasted += 1;
    Outcome::GoesOn
}

/// Seconds as nanoseconds, rounded; half a nanosecond up. (`round` is a call on most processors.)
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
pub(super) fn to_ns(seconds: f64) -> u64 {
    (seconds * SECOND_NS + 0.5) as u64
}

pub(super) fn to_s(ns: u64) -> f64 {
    ns as f64 / SECOND_NS
}
