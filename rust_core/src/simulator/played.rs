//! One job's rounds, played by hand: the driver's side of a book, one event at a time, for tests.

use super::rounds::{JobBook, Outcome};
use super::{RoundRecord, SimulatedJob, Tally};
use crate::policy::JobHistory;

/// The book that a run keeps of one job, with what a run does around it: its deadlines come when
/// they are due, and the next round opens at once when one is over. Who has a slot, and for how
/// long, is the caller's to say.
#[derive(Debug)]
pub struct PlayedRounds {
    book: JobBook,
    tally: Tally,
    /// When each deadline comes, and the round it is of; in the order in which they were set.
    deadlines: Vec<(u64, u32)>,
}

/// A round that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRound {
    /// Counts the job's attempts, failed ones too.
    pub round: u32,
    /// When it was opened.
    pub opened_ns: u64,
    /// When all its slots were held for the first time.
    pub filled_ns: Option<u64>,
    /// Whether it lacks no device now.
    pub is_full: bool,
    /// Slots that are held or done.
    pub allocated: u32,
    /// Reports that came.
    pub completed: u32,
    /// Devices that were lost.
    pub lost: u32,
}

impl PlayedRounds {
    /// The job arrives, and its first round opens.
    pub fn new(job: &SimulatedJob, now_ns: u64) -> Self {
        let mut book = JobBook::new(job, true);
        book.arrive(now_ns);
        let mut played = Self { book, tally: Tally::default(), deadlines: Vec::new() };
        played.opened();
        played
    }

    /// A device asks for a slot of this round; whether it gets one. Who is known by an owner, as
    /// in [`super::SimulatorConfig::owners`], gets one of a round at most.
    pub fn grant(&mut self, now_ns: u64, round: u32, owner: Option<u32>) -> bool {
        if self.book.has(round, owner) || !self.book.grant(now_ns, round, &mut self.tally) {
            return false;
        }
        self.book.note_owner(owner);
        let granted = self.book.after_grant(now_ns, &mut self.tally);
        self.deadlines.extend(granted.deadline_ns.map(|due_ns| (due_ns, round)));
        self.note(granted.outcome);
        true
    }

    /// A device that had a slot of this round did its task. False: it is late.
    pub fn report(&mut self, now_ns: u64, round: u32) -> bool {
        let late = self.tally.late;
        let outcome = self.book.report(now_ns, round, &mut self.tally);
        self.note(outcome);
        self.tally.late == late
    }

    /// A device that had a slot of this round is gone.
    pub fn lose(&mut self, round: u32) {
        let outcome = self.book.lose(round);
        self.note(outcome);
    }

    /// When the next deadline comes.
    pub fn due_ns(&self) -> Option<u64> {
        self.deadlines.iter().map(|(due_ns, _)| *due_ns).min()
    }

    /// What is due by now happens.
    pub fn tick(&mut self, now_ns: u64) {
        while let Some(place) = self.deadlines.iter().position(|(due_ns, _)| *due_ns <= now_ns) {
            let (_, round) = self.deadlines.remove(place);
            if self.book.deadline(now_ns, round, &mut self.tally) {
                self.note(Outcome::Over);
            }
        }
    }

    /// The current round; None when the job is done.
    pub fn open_round(&self) -> Option<OpenRound> {
        self.book.open_round()
    }

    /// The rounds that have ended since the last call, in order.
    pub fn take_ended(&mut self) -> Vec<RoundRecord> {
        self.book.take_record(0)
    }

    /// What a policy hears of the rounds before.
    pub fn history(&self) -> JobHistory {
        self.book.history()
    }

    /// What the figures of a run are made from.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn note(&mut self, outcome: Outcome) {
        if outcome == Outcome::Over && self.book.is_active() {
            self.opened();
        }
    }

    fn opened(&mut self) {
        let round = self.book.key(0).round;
        self.deadlines.extend(self.book.deadline_ns().map(|due_ns| (due_ns, round)));
    }
}
