//! What a run remembers beside its figures, for those who train what it decided: each attempt at a
//! round, and each task. Nothing here changes what happens.

use super::Cause;
use super::rounds::to_s;
use crate::policy::JobHistory;

/// Attempts at rounds, and tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Those that ended; by job, then by time.
    pub rounds: Vec<RoundRecord>,
    /// Those that ended before the run did, in that order.
    pub tasks: Vec<TaskRecord>,
}

/// One attempt at a round.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRecord {
    /// Its job's place in the list.
    pub job: u32,
    /// How many rounds had succeeded before.
    pub round: u32,
    /// Counts the job's attempts, failed ones too.
    pub attempt: u32,
    /// When it was opened.
    pub opened_s: f64,
    /// When all its slots were held for the first time.
    pub filled_s: Option<f64>,
    /// When it ended.
    pub ended_s: f64,
    /// Slots given, those given again included.
    pub allocated: u32,
    /// Reports that came in time.
    pub completed: u32,
    /// Devices that left before their task was done.
    pub failed: u32,
    /// Whether there were enough reports.
    pub is_success: bool,
    /// What policies read of the job from here on.
    pub history: JobHistory,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// The device left first.
    Gone,
    /// The device failed.
    Failed(Cause),
    /// Its report came when its attempt was over.
    Late,
    /// Its attempt counted its report.
    Counted,
}

/// One task of one device.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    /// The session, numbered through all replays of the trace.
    pub session: u64,
    /// Its job's place in the list.
    pub job: u32,
    /// The attempt that it belongs to.
    pub attempt: u32,
    /// When the slot was granted.
    pub start_s: f64,
    /// When the report came, or the device left.
    pub end_s: f64,
    /// How many steps the device did, or would have; 0 if its job's tasks have none.
    pub steps: u32,
    /// How it ended.
    pub end: TaskEnd,
}

/// The tasks of a run that is under way.
#[derive(Debug, Default)]
pub(super) struct TaskLog {
    /// By the device's place: when its task was granted, and its steps.
    started: Vec<(u64, u32)>,
    ended: Vec<TaskRecord>,
}

impl TaskLog {
    pub(super) fn start(&mut self, now_ns: u64, place: u32, steps: u32) {
        let place = place as usize;
        if self.started.len() <= place {
            self.started.resize(place + 1, (0, 0));
        }
        self.started[place] = (now_ns, steps);
    }

    pub(super) fn end(
        &mut self,
        now_ns: u64,
        place: u32,
        session: u64,
        (job, attempt): (u32, u32),
        end: TaskEnd,
    ) {
        let (granted_ns, steps) = self.started[place as usize];
        let (start_s, end_s) = (to_s(granted_ns), to_s(now_ns));
        self.ended.push(TaskRecord { session, job, attempt, start_s, end_s, steps, end });
    }

    pub(super) fn into_tasks(self) -> Vec<TaskRecord> {
        self.ended
    }
}
