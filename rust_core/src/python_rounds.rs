//! The rounds of one simulated job, played by hand from Python: conversions and nothing else.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::policy::JobHistory;
use crate::python_simulator::{RoundTuple, round_tuple, to_job};
use crate::simulator::PlayedRounds;

/// Round, opened, filled, is full, allocated, completed, lost.
type OpenTuple = (u32, u64, Option<u64>, bool, u32, u32, u32);
/// Rounds succeeded, devices served, last scheduling, last response, sum of the rounds.
pub(crate) type HistoryTuple = (u32, u64, u64, u64, u64);

/// See `crate::simulator::PlayedRounds`.
#[pyclass(module = "propius._core", name = "PlayedRounds")]
pub(crate) struct PyPlayedRounds(PlayedRounds);

#[pymethods]
impl PyPlayedRounds {
    /// A job as `simulate` takes it; it arrives now.
    #[new]
    fn new(job: &Bound<'_, PyDict>, now_ns: u64) -> PyResult<Self> {
        Ok(Self(PlayedRounds::new(&to_job(1, job)?, now_ns)))
    }

    /// A device, of this owner, asks for a slot of this round; whether it gets one.
    #[pyo3(signature = (now_ns, round, owner=None))]
    fn grant(&mut self, now_ns: u64, round: u32, owner: Option<u32>) -> bool {
        self.0.grant(now_ns, round, owner)
    }

    /// A device that had a slot of this round did its task. False: it is late.
    fn report(&mut self, now_ns: u64, round: u32) -> bool {
        self.0.report(now_ns, round)
    }

    /// A device that had a slot of this round is gone.
    fn lose(&mut self, round: u32) {
        self.0.lose(round);
    }

    /// What is due by now happens.
    fn tick(&mut self, now_ns: u64) {
        self.0.tick(now_ns);
    }

    /// When the next deadline comes.
    #[getter]
    fn due_ns(&self) -> Option<u64> {
        self.0.due_ns()
    }

    /// (round, `opened_ns`, `filled_ns` or None, full now, allocated, completed, lost) of the round
    /// that is under way; None when the job is done.
    #[getter]
    fn open_round(&self) -> Option<OpenTuple> {
        let it = self.0.open_round()?;
        let (when, full) = ((it.opened_ns, it.filled_ns), it.is_full);
        Some((it.round, when.0, when.1, full, it.allocated, it.completed, it.lost))
    }

    /// The rounds that have ended since the last call, as in the record of `simulate`.
    fn take_ended(&mut self) -> Vec<RoundTuple> {
        self.0.take_ended().iter().map(round_tuple).collect()
    }

    /// (`rounds_succeeded`, `devices_served`, `last_scheduling_ns`, `last_response_ns`, `rounds_ns`).
    #[getter]
    fn history(&self) -> HistoryTuple {
        history_tuple(&self.0.history())
    }

    /// The mean scheduling delay and the mean response time in seconds, if there are any.
    #[getter]
    fn means_s(&self) -> (Option<f64>, Option<f64>) {
        let tally = self.0.tally();
        (tally.scheduling_delay_s.get(), tally.response_time_s.get())
    }
}

pub(crate) fn history_tuple(it: &JobHistory) -> HistoryTuple {
    let last = (it.last_scheduling_ns, it.last_response_ns);
    (it.rounds_succeeded, it.devices_served, last.0, last.1, it.rounds_ns)
}
