//! Where the time of a job went, attempt by attempt.

/// The time of a job from its arrival to the end of its last attempt, in parts, in nanoseconds.
///
/// The end of an attempt books all its time at once, so the parts sum to the completion time of a
/// job that finished, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JctParts {
    /// From the opening of an attempt that succeeded until it was first filled.
    pub scheduling_ns: u64,
    /// From then until it ended.
    pub response_ns: u64,
    /// Attempts that were never filled, and had enough reports at their deadline all the same.
    pub unfilled_ns: u64,
    /// Attempts that came to nothing, filled or not.
    pub aborted_ns: u64,
    /// The buffers of an asynchronous job, each from the one before.
    pub buffer_ns: u64,
}

impl JctParts {
    /// Books an attempt that succeeded.
    pub(crate) fn succeed(&mut self, opened_ns: u64, filled_ns: Option<u64>, ended_ns: u64) {
        if let Some(filled_ns) = filled_ns {
            self.scheduling_ns += filled_ns - opened_ns;
            self.response_ns += ended_ns - filled_ns;
        } else {
            self.unfilled_ns += ended_ns - opened_ns;
        }
    }

    /// Books one that was aborted.
    pub(crate) fn abort(&mut self, opened_ns: u64, ended_ns: u64) {
        self.aborted_ns += ended_ns - opened_ns;
    }

    /// Books a buffer of an asynchronous job that has its reports.
    pub(crate) fn fill_buffer(&mut self, opened_ns: u64, ended_ns: u64) {
        self.buffer_ns += ended_ns - opened_ns;
    }

    /// What they sum to.
    pub fn total_ns(&self) -> u64 {
        self.named().iter().map(|(_, part_ns)| part_ns).sum()
    }

    /// Each with its name.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("scheduling", self.scheduling_ns),
            ("response", self.response_ns),
            ("unfilled", self.unfilled_ns),
            ("aborted", self.aborted_ns),
            ("buffer", self.buffer_ns),
        ]
    }

    /// Stops the run if time of a job was lost, or booked twice. `life_ns` is from its arrival to
    /// the end of an attempt.
    pub(crate) fn assert_sum(&self, life_ns: u64) {
        assert_eq!(self.total_ns(), life_ns, "the parts {self:?} must sum to the time of the job");
    }
}
