//! The simulator's part of the Python module `propius._core`: conversions and nothing else.

#![expect(clippy::needless_pass_by_value, reason = "pyo3 passes what it extracted")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict};

use crate::policy::{self, Rule};
use crate::python::{EngineError, PolicyError};
use crate::python_policy;
use crate::python_rounds::{HistoryTuple, history_tuple};
use crate::reference::{self, ReferenceConfig, Rules};
use crate::simulator::{
    self, CLASSES, Cause, FailureRates, JobKind, JobResult, Record, RoundRecord, RunResult,
    Session, SimulatedJob, SimulationError, SimulatorConfig, TaskEnd, Timeouts, Trace,
};

pyo3::create_exception!(propius._core, TraceError, EngineError, "A trace is wrong.");
pyo3::create_exception!(propius._core, JobsError, EngineError, "A job list is wrong.");
pyo3::create_exception!(propius._core, SimulationStopped, EngineError, "`progress` said False.");
pyo3::create_exception!(
    propius._core,
    SimulationStalled,
    EngineError,
    "No round succeeds any more."
);

impl From<SimulationError> for PyErr {
    fn from(error: SimulationError) -> Self {
        let text = error.to_string();
        match error {
            SimulationError::Trace(_) => TraceError::new_err(text),
            SimulationError::Jobs(_) => JobsError::new_err(text),
            SimulationError::Policy(_) => PolicyError::new_err(text),
            SimulationError::Stopped => SimulationStopped::new_err(text),
            SimulationError::Stalled { .. } => SimulationStalled::new_err(text),
            SimulationError::Engine(error) => error.into(),
        }
    }
}

/// Sessions of clients, read-only and shared by all runs.
#[pyclass(module = "propius._core", name = "Trace", frozen)]
pub(crate) struct PyTrace(Arc<Trace>);

#[pymethods]
impl PyTrace {
    /// Reads a `.csv` or `.csv.gz` file.
    #[staticmethod]
    fn load_csv(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self(Arc::new(py.detach(|| Trace::load_csv(&path))?)))
    }

    /// A trace of arrays; bit k of `classes` is class k.
    #[staticmethod]
    fn from_columns(
        py: Python<'_>,
        start_s: PyBuffer<f64>,
        end_s: PyBuffer<f64>,
        computation: PyBuffer<f64>,
        communication: PyBuffer<f64>,
        classes: PyBuffer<u16>,
    ) -> PyResult<Self> {
        let numbers = [start_s, end_s, computation, communication];
        let numbers = numbers.map(|column| column.to_vec(py));
        let [start, end, slowness, bandwidth] = numbers;
        let (start, end, slowness, bandwidth) = (start?, end?, slowness?, bandwidth?);
        let classes = classes.to_vec(py)?;
        let lengths = [end.len(), slowness.len(), bandwidth.len(), classes.len()];
        if let Some(other) = lengths.iter().find(|length| **length != start.len()) {
            let text = format!("columns of different lengths, {} and {other}", start.len());
            return Err(TraceError::new_err(text));
        }
        if let Some(row) = classes.iter().position(|set| set >> CLASSES != 0) {
            let text = format!("columns: row {}: classes must be below 2^{CLASSES}", row + 1);
            return Err(TraceError::new_err(text));
        }
        #[expect(clippy::cast_possible_truncation, reason = "speeds need no more than 7 digits")]
        let session = |row: usize| Session {
            start_s: start[row],
            end_s: end[row],
            computation: slowness[row] as f32,
            communication: bandwidth[row] as f32,
            classes: classes[row],
        };
        let trace = Trace::from_sessions("columns", (0..start.len()).map(session))?;
        Ok(Self(Arc::new(trace)))
    }

    /// Writes it to a `.csv` or `.csv.gz` file.
    fn save_csv(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        Ok(py.detach(|| self.0.save_csv(&path))?)
    }

    /// The same days in another order; day k becomes what day `order[k]` was.
    fn with_days(&self, py: Python<'_>, order: Vec<usize>) -> PyResult<Self> {
        Ok(Self(Arc::new(py.detach(|| self.0.with_days(&order))?)))
    }

    /// After how long a replay begins again.
    #[getter]
    fn period_s(&self) -> f64 {
        self.0.period_s()
    }

    /// The classes that any client meets.
    #[getter]
    fn classes(&self) -> Vec<u32> {
        numbers(self.0.all_classes())
    }

    /// Ascending: the classes that clients meet, their sessions, and how long these last.
    #[getter]
    fn signatures(&self, py: Python<'_>) -> Vec<(Vec<u32>, u64, f64)> {
        let found = py.detach(|| self.0.signatures());
        found.iter().map(|s| (numbers(s.classes), s.check_ins, s.online_s)).collect()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("<Trace of {} sessions>", self.0.len())
    }
}

fn numbers(classes: u16) -> Vec<u32> {
    (0..16).filter(|class| classes >> class & 1 == 1).collect()
}

/// The rules of the reference that can be switched to ours: (name, what changes).
pub(crate) fn reference_rules() -> Vec<(&'static str, &'static str)> {
    reference::RULES.iter().map(|(name, what, _)| (*name, *what)).collect()
}

/// Runs one policy with one seed.
#[pyfunction]
#[pyo3(signature = (trace, jobs, *, policy, policy_options=None, seed=0, semantics="propius",
    repeat=None, rules=Vec::new(), period_s=None, managers=1, replan_s=300.0, plan_gap_s=0.02,
    tasks_max=Some(1), progress=None, dispatch_s=2.0, as_daemons=false, record=false,
    owners=None, failures=None, stalled_s=None),
    text_signature = "(trace, jobs, *, policy, policy_options=None, seed=0, semantics='propius', \
        repeat=None, rules=(), period_s=None, managers=1, replan_s=300.0, plan_gap_s=0.02, \
        tasks_max=1, progress=None, dispatch_s=2.0, \
        as_daemons=False, record=False, owners=None, failures=None, \
        stalled_s=None)")]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn simulate(
    py: Python<'_>,
    trace: &PyTrace,
    jobs: Vec<Bound<'_, PyDict>>,
    policy: String,
    policy_options: Option<BTreeMap<String, f64>>,
    seed: u64,
    semantics: &str,
    repeat: Option<u32>,
    rules: Vec<String>,
    period_s: Option<f64>,
    managers: u32,
    replan_s: f64,
    plan_gap_s: f64,
    tasks_max: Option<u32>,
    progress: Option<Py<PyAny>>,
    dispatch_s: f64,
    as_daemons: bool,
    record: bool,
    owners: Option<PyBuffer<u32>>,
    failures: Option<(f64, f64, f64)>,
    stalled_s: Option<f64>,
) -> PyResult<Py<PyDict>> {
    let list: Vec<SimulatedJob> = jobs
        .iter()
        .enumerate()
        .map(|(index, job)| to_job(index + 1, job))
        .collect::<PyResult<_>>()?;
    let options = policy_options.unwrap_or_default();
    let trace = Arc::clone(&trace.0);
    let mut failed = None;
    let mut told = |rounds: u64| tell(progress.as_ref(), rounds, &mut failed);
    let result = match semantics {
        "venn-reference" => {
            if record {
                let text = "record is of semantics 'propius'; venn-reference has none";
                return Err(EngineError::new_err(text));
            }
            if owners.is_some() {
                let text = "owners is of semantics 'propius'; venn-reference has none";
                return Err(EngineError::new_err(text));
            }
            if failures.is_some() {
                let text = "failures is of semantics 'propius'; venn-reference has none";
                return Err(EngineError::new_err(text));
            }
            let mut config = reference_config(&policy, &options, seed, repeat, &rules)?;
            config.stalled_s = stalled_s;
            py.detach(|| reference::run(&trace, &list, &config, &mut told))
        }
        "propius" => {
            if let Some(rule) = rules.first() {
                let text = format!("rule {rule:?} is one of venn-reference, propius has its own");
                return Err(EngineError::new_err(text));
            }
            let config = SimulatorConfig {
                policy_options: options,
                seed,
                repeat: repeat.unwrap_or(REPEAT_MAX),
                period_s,
                managers,
                replan_s,
                plan_gap_s,
                tasks_max,
                stalled_s,
                dispatch_s,
                as_daemons,
                record,
                owners: owners.map(|owners| owners.to_vec(py)).transpose()?,
                failures: failures.map(failure_rates).unwrap_or_default(),
                ..SimulatorConfig::new(&policy)
            };
            let rule = find_rule(py, &policy)?;
            py.detach(|| simulator::run_with_rule(&trace, &list, &config, rule, &mut told))
        }
        other => {
            let text = format!("unknown semantics {other:?}, known are propius, venn-reference");
            return Err(EngineError::new_err(text));
        }
    };
    if let Some(error) = failed {
        return Err(error);
    }
    let result = result?;
    let dict = to_dict(py, &result)?;
    dict.set_item("policy", policy)?;
    dict.set_item("seed", seed)?;
    dict.set_item("semantics", semantics)?;
    Ok(dict.unbind())
}

fn failure_rates(
    (crash_per_hour, battery_per_hour, user_per_hour): (f64, f64, f64),
) -> FailureRates {
    FailureRates { crash_per_hour, battery_per_hour, user_per_hour }
}

/// When a task of a device fails, in seconds of work, and of what: as in [`simulate`].
#[pyfunction]
#[pyo3(text_signature = "(seed, device, job, round, failures)")]
pub(crate) fn task_failure(
    seed: u64,
    device: u64,
    job: u64,
    round: u32,
    failures: (f64, f64, f64),
) -> PyResult<Option<(f64, &'static str)>> {
    let rates = failure_rates(failures);
    rates.check()?;
    Ok(rates.of_task(seed, device, job, round).map(|(after_s, cause)| (after_s, cause.name())))
}

/// As the planner finds it; but here an unknown name is an error of the policy, as a failing one is.
fn find_rule(py: Python<'_>, name: &str) -> PyResult<Rule> {
    if name.contains(':') {
        return python_policy::find(py, name);
    }
    Ok(Rule::Known(policy::find(name).map_err(SimulationError::from)?))
}

/// Whether the run goes on. What Python raised is kept for the end of it.
fn tell(progress: Option<&Py<PyAny>>, rounds: u64, failed: &mut Option<PyErr>) -> bool {
    Python::attach(|py| {
        let go_on = || -> PyResult<bool> {
            py.check_signals()?;
            let Some(progress) = progress else {
                return Ok(true);
            };
            let answer = progress.call1(py, (rounds,))?;
            Ok(!answer.bind(py).is(PyBool::new(py, false)))
        };
        go_on().unwrap_or_else(|error| {
            *failed = Some(error);
            false
        })
    })
}

/// A trace is played at most so often when the caller sets no limit.
const REPEAT_MAX: u32 = 1_000;

fn reference_config(
    policy: &str,
    options: &BTreeMap<String, f64>,
    seed: u64,
    repeat: Option<u32>,
    rules: &[String],
) -> PyResult<ReferenceConfig> {
    let mut config = ReferenceConfig {
        policy: policy.to_owned(),
        seed,
        repeat: repeat.unwrap_or(REPEAT_MAX),
        tiers: 2,
        stalled_s: None,
        rules: Rules::default(),
    };
    for (name, value) in options {
        if name != "tiers" {
            let text =
                format!("unknown policy option {name:?} with venn-reference, known is tiers");
            return Err(EngineError::new_err(text));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked later"
        )]
        let tiers = *value as u32;
        config.tiers = tiers;
    }
    for name in rules {
        if !config.rules.switch(name) {
            let known: Vec<&str> = reference::RULES.iter().map(|(name, _, _)| *name).collect();
            let text = format!("unknown rule {name:?}, known are {}", known.join(", "));
            return Err(EngineError::new_err(text));
        }
    }
    Ok(config)
}

pub(crate) fn to_job(number: usize, dict: &Bound<'_, PyDict>) -> PyResult<SimulatedJob> {
    let wrong = |what: String| JobsError::new_err(format!("job {number}: {what}"));
    let mut job = SimulatedJob::new(f64::NAN, 0, 0, 0.0);
    let mut timeouts = (None, None);
    let mut missing = vec!["start_s", "participants", "rounds", "requirement"];
    for (key, value) in dict.iter() {
        let key: String = key.extract()?;
        missing.retain(|name| *name != key);
        let bad = |error: PyErr| wrong(format!("{key} is wrong: {error}"));
        match key.as_str() {
            "start_s" => job.start_s = value.extract().map_err(bad)?,
            "participants" => job.participants = value.extract().map_err(bad)?,
            "rounds" => job.rounds = value.extract().map_err(bad)?,
            "deadline_s" if value.is_none() => job.deadline_s = 0.0,
            "deadline_s" => job.deadline_s = value.extract().map_err(bad)?,
            "requirement" => job.requirement = value.extract().map_err(bad)?,
            "min_response" => job.min_response = value.extract().map_err(bad)?,
            "workload" => job.workload = value.extract().map_err(bad)?,
            "communication" => job.communication = value.extract().map_err(bad)?,
            "buffer" => job.buffer = value.extract().map_err(bad)?,
            "steps" => job.steps = value.extract().map_err(bad)?,
            "staleness" => job.staleness = value.extract().map_err(bad)?,
            "scheduling_timeout_s" => timeouts.0 = Some(value.extract().map_err(bad)?),
            "response_timeout_s" => timeouts.1 = Some(value.extract().map_err(bad)?),
            "kind" => {
                let name: String = value.extract().map_err(bad)?;
                let unknown = || wrong(format!("kind is {name:?}, known are sync, refill, async"));
                job.kind = JobKind::find(&name).ok_or_else(unknown)?;
            }
            _ => return Err(wrong(format!("unknown field {key:?}"))),
        }
    }
    job.timeouts = match timeouts {
        (None, None) => None,
        (Some(scheduling_s), Some(response_s)) => Some(Timeouts { scheduling_s, response_s }),
        _ => return Err(wrong("both time-outs are needed, or none".to_owned())),
    };
    match missing.first() {
        None => Ok(job),
        Some(name) => Err(wrong(format!("{name} is missing"))),
    }
}

fn to_dict<'py>(py: Python<'py>, result: &RunResult) -> PyResult<Bound<'py, PyDict>> {
    let tally = &result.tally;
    let dict = PyDict::new(py);
    let sum = |count: fn(&JobResult) -> u32| -> u64 {
        result.jobs.iter().map(|job| u64::from(count(job))).sum()
    };
    let seconds = [
        ("avg_jct_s", result.avg_jct_s()),
        ("median_jct_s", result.jct_quantile_s(0.5)),
        ("p95_jct_s", result.jct_quantile_s(0.95)),
        ("max_jct_s", result.jct_quantile_s(1.0)),
        ("makespan_s", result.makespan_s()),
        ("scheduling_delay_s", tally.scheduling_delay_s.get()),
        ("response_time_s", tally.response_time_s.get()),
        ("round_time_s", tally.round_time_s.get()),
        ("end_s", Some(result.end_s)),
        ("fair_share", Some(result.fair_share())),
        ("jain_index", result.jain_index()),
        ("p95_slow_down", result.slow_down_quantile(0.95)),
        ("worst_slow_down", result.slow_down_quantile(1.0)),
    ];
    for (name, value) in seconds {
        dict.set_item(name, value)?;
    }
    let counts = [
        ("jobs", result.jobs.len() as u64),
        ("finished", result.jobs.iter().filter(|job| job.finish_s.is_some()).count() as u64),
        ("rounds", sum(|job| job.rounds)),
        ("aborts", sum(|job| job.aborts)),
        ("rounds_tiered", sum(|job| job.rounds_tiered)),
        ("checkins", tally.checkins),
        ("offers", tally.offers),
        ("dispatched", tally.dispatched),
        ("completed", tally.completed),
        ("failed", tally.failed),
        ("running", tally.running),
        ("late", tally.late),
        ("wasted", tally.wasted),
        ("ineligible", tally.ineligible),
        ("plans", tally.plans),
        ("events", tally.events),
        ("repeats", u64::from(result.repeats)),
    ];
    for (name, value) in counts {
        dict.set_item(name, value)?;
    }
    let causes = PyDict::new(py);
    for (cause, count) in Cause::ALL.into_iter().zip(tally.failures) {
        causes.set_item(cause.name(), count)?;
    }
    dict.set_item("failures", causes)?;
    let per_job: Vec<Bound<'py, PyDict>> =
        result.jobs.iter().map(|job| job_dict(py, job)).collect::<PyResult<_>>()?;
    dict.set_item("per_job", per_job)?;
    if let Some(record) = &result.record {
        set_record(&dict, record)?;
    }
    Ok(dict)
}

/// Rounds and tasks as tuples, in the order of the fields of the stub's docstring.
fn set_record(dict: &Bound<'_, PyDict>, record: &Record) -> PyResult<()> {
    let rounds: Vec<_> = record.rounds.iter().map(round_tuple).collect();
    let tasks: Vec<_> = record
        .tasks
        .iter()
        .map(|it| {
            let end = match it.end {
                TaskEnd::Gone => "gone",
                TaskEnd::Failed(cause) => cause.name(),
                TaskEnd::Late => "late",
                TaskEnd::Counted => "counted",
            };
            (it.session, it.job, it.attempt, it.start_s, it.end_s, it.steps, end)
        })
        .collect();
    dict.set_item("record", (rounds, tasks))
}

/// An attempt at a round, with the history after it.
pub(crate) type RoundTuple =
    (u32, u32, u32, (f64, Option<f64>, f64), (u32, u32, u32), bool, HistoryTuple);

pub(crate) fn round_tuple(it: &RoundRecord) -> RoundTuple {
    let when = (it.opened_s, it.filled_s, it.ended_s);
    let counts = (it.allocated, it.completed, it.failed);
    (it.job, it.round, it.attempt, when, counts, it.is_success, history_tuple(&it.history))
}

fn job_dict<'py>(py: Python<'py>, job: &JobResult) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("start_s", job.start_s)?;
    dict.set_item("finish_s", job.finish_s)?;
    dict.set_item("jct_s", job.jct_s())?;
    dict.set_item("jct_ns", job.jct_ns)?;
    let parts = PyDict::new(py);
    for (name, part_ns) in job.parts.named() {
        parts.set_item(name, part_ns)?;
    }
    dict.set_item("parts_ns", parts)?;
    dict.set_item("fair_jct_s", job.fair_jct_s)?;
    dict.set_item("rounds", job.rounds)?;
    dict.set_item("aborts", job.aborts)?;
    dict.set_item("rounds_tiered", job.rounds_tiered)?;
    Ok(dict)
}
