//! The Python module `propius._core`: conversions and nothing else.
//!
//! Wrong types raise `TypeError` as everywhere in Python; everything else that is wrong raises
//! `EngineError` or a subclass, made from [`Error`] in one place. What the calls mean is written
//! at their Rust counterparts and in `propius/engine.py`.

#![expect(clippy::needless_pass_by_value, reason = "pyo3 passes what it extracted")]

use std::collections::BTreeMap;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use crate::matcher::{self, MatcherConfig, PlanGroup, PlanRound, PlanUpdate};
use crate::planner::{self, JobSpec, PlannerConfig};
use crate::policy::{JobHistory, Tier};
use crate::{Device, Error, RoundKey, python_policy};

pyo3::create_exception!(
    propius._core,
    EngineError,
    PyValueError,
    "A call of the engine was wrong."
);
pyo3::create_exception!(propius._core, MatcherFull, EngineError, "No more clients may wait.");
pyo3::create_exception!(
    propius._core,
    DeviceClaiming,
    EngineError,
    "The device's claim is undecided."
);
pyo3::create_exception!(
    propius._core,
    PolicyError,
    EngineError,
    "The policy raised, or its answer is no order of the open rounds."
);
pyo3::create_exception!(propius._core, InvariantBroken, EngineError, "A bug of the engine.");

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::MatcherFull { .. } => MatcherFull::new_err(text),
            Error::DeviceClaiming(_) => DeviceClaiming::new_err(text),
            Error::Policy(_) => PolicyError::new_err(text),
            Error::Broken(_) => InvariantBroken::new_err(text),
            _ => EngineError::new_err(text),
        }
    }
}

/// An unsigned integer from Python: one that does not fit is an `EngineError`, not the
/// `OverflowError` that pyo3 raises by itself.
#[derive(Clone, Copy)]
struct Nat<T>(T);

impl<'a, 'py, T> FromPyObject<'a, 'py> for Nat<T>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract::<T>().map(Self).map_err(|error| {
            if !error.is_instance_of::<PyOverflowError>(object.py()) {
                return error;
            }
            let bits = 8 * size_of::<T>();
            Error::BadInteger(format!("{} is not between 0 and 2^{bits} - 1", *object)).into()
        })
    }
}

/// A device id, which Python writes as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy)]
struct DeviceId(Device);

impl<'a, 'py> FromPyObject<'a, 'py> for DeviceId {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let text: String = object.extract()?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 32 && text.bytes().all(is_digit) {
            let device = Device::from_str_radix(&text, 16);
            return Ok(Self(device.expect("32 hexadecimal digits are 128 bits")));
        }
        let shown: String = text.chars().take(40).collect();
        Err(Error::BadDevice(shown).into())
    }
}

fn hex(device: Device) -> String {
    format!("{device:032x}")
}

type Task = (u64, u32);
type NatTask = (Nat<u64>, Nat<u32>);

fn key((job, round): NatTask) -> RoundKey {
    RoundKey { job: job.0, round: round.0 }
}

fn tasks(keys: &[RoundKey]) -> Vec<Task> {
    keys.iter().map(|key| (key.job, key.round)).collect()
}

fn ids(list: Vec<Nat<u32>>) -> Vec<u32> {
    list.into_iter().map(|id| id.0).collect()
}

type NatRound = (Nat<u64>, Nat<u32>, Nat<u32>, Nat<u32>, Option<Tier>, Nat<u32>);
type NatGroup = (Nat<u32>, Vec<f64>, Vec<NatRound>);
type NatPreference = (Vec<Nat<u32>>, Vec<Nat<u32>>);

fn plan_group((requirement_id, vector, rounds): NatGroup) -> PlanGroup {
    let round = |(job, round, rank, quota, tier, part): NatRound| PlanRound {
        key: key((job, round)),
        rank: rank.0,
        quota: quota.0,
        tier,
        part: part.0,
    };
    let rounds = rounds.into_iter().map(round).collect();
    PlanGroup { requirement_id: requirement_id.0, vector, rounds }
}

/// One client manager's clients, and what they are offered.
#[pyclass(module = "propius._core", name = "Matcher")]
struct PyMatcher(matcher::Matcher);

#[pymethods]
impl PyMatcher {
    #[new]
    #[pyo3(signature = (*, dimensions, tasks_per_offer_max=Nat(20),
        offer_timeout_ns=Nat(10_000_000_000), waiting_max=Nat(100_000), declined_max=Nat(64),
        supply_bucket_ns=Nat(1_000_000_000), supply_sample_max=Nat(256), seed=Nat(0)),
        text_signature = "(*, dimensions, tasks_per_offer_max=20, offer_timeout_ns=10000000000, \
            waiting_max=100000, declined_max=64, supply_bucket_ns=1000000000, \
            supply_sample_max=256, seed=0)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        dimensions: Nat<usize>,
        tasks_per_offer_max: Nat<usize>,
        offer_timeout_ns: Nat<u64>,
        waiting_max: Nat<usize>,
        declined_max: Nat<usize>,
        supply_bucket_ns: Nat<u64>,
        supply_sample_max: Nat<usize>,
        seed: Nat<u64>,
    ) -> PyResult<Self> {
        let config = MatcherConfig {
            dimensions: dimensions.0,
            tasks_per_offer_max: tasks_per_offer_max.0,
            offer_timeout_ns: offer_timeout_ns.0,
            waiting_max: waiting_max.0,
            declined_max: declined_max.0,
            supply_bucket_ns: supply_bucket_ns.0,
            supply_sample_max: supply_sample_max.0,
            seed: seed.0,
        };
        Ok(Self(matcher::Matcher::new(config)?))
    }

    /// Replaces the plan; False if it is older than the current one.
    #[pyo3(signature = (now_ns, *, version, seq, ranked, groups, preferences, fallback,
        shuffle=None, partitions=Nat(0)),
        text_signature = "(self, now_ns, *, version, seq, ranked, groups, preferences, fallback, \
            shuffle=None, partitions=0)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn apply_plan(
        &mut self,
        now_ns: Nat<u64>,
        version: Nat<u64>,
        seq: Nat<u64>,
        ranked: bool,
        groups: Vec<NatGroup>,
        preferences: Vec<NatPreference>,
        fallback: Vec<Nat<u32>>,
        shuffle: Option<Nat<u64>>,
        partitions: Nat<u32>,
    ) -> PyResult<bool> {
        let _ = now_ns;
        let preference = |(signature, order)| (ids(signature), ids(order));
        let update = PlanUpdate {
            version: version.0,
            seq: seq.0,
            ranked,
            groups: groups.into_iter().map(plan_group).collect(),
            preferences: preferences.into_iter().map(preference).collect(),
            fallback: ids(fallback),
            shuffle: shuffle.map(|seed| seed.0),
            partitions: partitions.0,
        };
        Ok(self.0.apply_plan(update)?)
    }

    /// The next plan is applied whatever its version: the scheduler started again.
    fn expect_new_versions(&mut self) {
        self.0.expect_new_versions();
    }

    /// Counts the device as supply and offers it rounds; it waits if there are none.
    fn check_in(
        &mut self,
        now_ns: Nat<u64>,
        device: DeviceId,
        spec: Vec<f64>,
        option: f64,
        hold_until_ns: Nat<u64>,
    ) -> PyResult<Vec<Task>> {
        Ok(tasks(self.0.check_in(now_ns.0, device.0, &spec, option, hold_until_ns.0)?))
    }

    /// New offers to those who wait, first come first served.
    fn match_waiting(&mut self, now_ns: Nat<u64>) -> Vec<(String, Vec<Task>)> {
        let made = self.0.match_waiting(now_ns.0);
        made.iter().map(|(device, keys)| (hex(*device), tasks(keys))).collect()
    }

    /// The device takes a task of its offer; False if it was not offered that in time.
    fn accept(
        &mut self,
        now_ns: Nat<u64>,
        device: DeviceId,
        job: Nat<u64>,
        round: Nat<u32>,
    ) -> bool {
        self.0.accept(now_ns.0, device.0, key((job, round)))
    }

    /// The claim was granted at the job manager's sequence number `seq`.
    fn assigned(&mut self, now_ns: Nat<u64>, device: DeviceId, seq: Nat<u64>) {
        let _ = now_ns;
        self.0.assigned(device.0, seq.0);
    }

    /// The claim was refused; True if the device has other tasks of its offer.
    fn refused(&mut self, now_ns: Nat<u64>, device: DeviceId) -> bool {
        self.0.refused(now_ns.0, device.0)
    }

    /// The device's offer ends, and these rounds are not offered to it again.
    fn decline(&mut self, now_ns: Nat<u64>, device: DeviceId, rounds: Vec<NatTask>) {
        let _ = now_ns;
        let rounds: Vec<RoundKey> = rounds.into_iter().map(key).collect();
        self.0.decline(device.0, &rounds);
    }

    /// The device is gone; one whose claim is undecided stays.
    fn forget(&mut self, now_ns: Nat<u64>, device: DeviceId) {
        let _ = now_ns;
        self.0.forget(device.0);
    }

    /// Lets go of, and returns, those whose hold and those whose offer has ended.
    fn expire(&mut self, now_ns: Nat<u64>) -> (Vec<String>, Vec<String>) {
        let (holds, offers) = self.0.expire(now_ns.0);
        (holds.into_iter().map(hex).collect(), offers.into_iter().map(hex).collect())
    }

    /// When `expire` or `take_supply` has work next.
    fn due_ns(&self) -> Option<u64> {
        self.0.due_ns()
    }

    /// The buckets of supply that have ended, oldest first.
    fn take_supply(&mut self, now_ns: Nat<u64>) -> Vec<(u64, u64, Vec<f64>, Vec<f64>)> {
        let buckets = self.0.take_supply(now_ns.0).into_iter();
        buckets.map(|b| (b.start_ns, b.distinct_devices, b.specs, b.options)).collect()
    }

    /// What such a device would be offered now; nothing changes.
    #[pyo3(signature = (spec, option=0.0, device=DeviceId(0)),
        text_signature = "($self, spec, option=0.0, device='00000000000000000000000000000000')")]
    fn would_offer(
        &mut self,
        spec: Vec<f64>,
        option: f64,
        device: DeviceId,
    ) -> PyResult<Vec<Task>> {
        Ok(tasks(&self.0.would_offer(device.0, &spec, option)?))
    }

    /// How many of each thing there are.
    fn counts(&self) -> BTreeMap<&'static str, usize> {
        let counts = self.0.counts();
        [
            ("waiting", counts.waiting),
            ("offered", counts.offered),
            ("claiming", counts.claiming),
            ("signatures", counts.signatures),
            ("open_rounds", counts.open_rounds),
        ]
        .into()
    }

    /// Re-computes every invariant; raises `InvariantBroken`.
    fn check(&self) -> PyResult<()> {
        Ok(self.0.check()?)
    }

    fn __repr__(&self) -> String {
        format!("<Matcher {:?}>", self.0.counts())
    }
}

/// Jobs, rounds and supply, made into plans.
#[pyclass(module = "propius._core", name = "Planner")]
struct PyPlanner(planner::Planner);

#[pymethods]
impl PyPlanner {
    #[new]
    #[pyo3(signature = (*, policy, dimensions, seed=Nat(0), supply_window_ns=Nat(600_000_000_000),
        supply_samples_max=Nat(65_536), first_version=Nat(0), options=None),
        text_signature = "(*, policy, dimensions, seed=0, supply_window_ns=600000000000, \
            supply_samples_max=65536, first_version=0, options=None)")]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        policy: String,
        dimensions: Nat<usize>,
        seed: Nat<u64>,
        supply_window_ns: Nat<u64>,
        supply_samples_max: Nat<usize>,
        first_version: Nat<u64>,
        options: Option<BTreeMap<String, f64>>,
    ) -> PyResult<Self> {
        let mut config = PlannerConfig {
            seed: seed.0,
            supply_window_ns: supply_window_ns.0,
            supply_samples_max: supply_samples_max.0,
            first_version: first_version.0,
            ..PlannerConfig::new(&policy, dimensions.0)
        };
        for (name, value) in options.unwrap_or_default() {
            config.set_option(&name, value)?;
        }
        let rule = python_policy::find(py, &policy)?;
        Ok(Self(planner::Planner::with_rule(&config, rule)?))
    }

    /// Forgets jobs and rounds, before a snapshot; supply and managers stay.
    fn reset(&mut self) {
        self.0.reset();
    }

    /// Adds a job or replaces what is known of it; its round stays.
    fn put_job(
        &mut self,
        job: Nat<u64>,
        requirement_id: Nat<u32>,
        requirement: Vec<f64>,
        registered_ns: Nat<u64>,
        demand_estimate: Nat<u64>,
        rounds_estimate: Nat<u64>,
    ) -> PyResult<()> {
        let spec = JobSpec {
            requirement_id: requirement_id.0,
            requirement,
            registered_ns: registered_ns.0,
            demand_estimate: demand_estimate.0,
            rounds_estimate: rounds_estimate.0,
        };
        Ok(self.0.put_job(job.0, spec)?)
    }

    /// What the job's earlier rounds came to.
    fn set_history(
        &mut self,
        job: Nat<u64>,
        rounds_succeeded: Nat<u32>,
        devices_served: Nat<u64>,
        last_scheduling_ns: Nat<u64>,
        last_response_ns: Nat<u64>,
        rounds_ns: Nat<u64>,
    ) -> PyResult<()> {
        let history = JobHistory {
            rounds_succeeded: rounds_succeeded.0,
            devices_served: devices_served.0,
            last_scheduling_ns: last_scheduling_ns.0,
            last_response_ns: last_response_ns.0,
            rounds_ns: rounds_ns.0,
        };
        Ok(self.0.set_history(job.0, history)?)
    }

    /// Forgets a job and its round.
    fn remove_job(&mut self, job: Nat<u64>) {
        self.0.remove_job(job.0);
    }

    /// Sets the job's one current round.
    fn open_round(
        &mut self,
        job: Nat<u64>,
        round: Nat<u32>,
        demand: Nat<u32>,
        allocated: Nat<u32>,
        opened_ns: Nat<u64>,
    ) -> PyResult<()> {
        Ok(self.0.open_round(key((job, round)), demand.0, allocated.0, opened_ns.0)?)
    }

    /// Sets the allocated slots; False if it is not the job's current round.
    fn set_allocated(&mut self, job: Nat<u64>, round: Nat<u32>, allocated: Nat<u32>) -> bool {
        self.0.set_allocated(key((job, round)), allocated.0)
    }

    /// The round has ended.
    fn close_round(&mut self, job: Nat<u64>, round: Nat<u32>) {
        self.0.close_round(key((job, round)));
    }

    /// Counts a bucket of a manager's supply; the same bucket again replaces the first.
    fn add_supply(
        &mut self,
        manager: Nat<u32>,
        bucket_start_ns: Nat<u64>,
        distinct_devices: Nat<u64>,
        specs_flat: Vec<f64>,
        options: Vec<f64>,
    ) -> PyResult<()> {
        let (manager, start_ns, distinct) = (manager.0, bucket_start_ns.0, distinct_devices.0);
        Ok(self.0.add_supply(manager, start_ns, distinct, &specs_flat, &options)?)
    }

    /// A client manager that gets quotas from now on.
    fn add_manager(&mut self, manager: Nat<u32>) {
        self.0.add_manager(manager.0);
    }

    /// A client manager that gets no quotas any more; its supply stays.
    fn remove_manager(&mut self, manager: Nat<u32>) {
        self.0.remove_manager(manager.0);
    }

    /// Makes the next plan; raises `PolicyError`.
    fn plan(&mut self, now_ns: Nat<u64>) -> PyResult<PyPlan> {
        Ok(PyPlan(self.0.plan(now_ns.0)?))
    }

    /// How many of each thing there are.
    fn counts(&self) -> BTreeMap<&'static str, usize> {
        let counts = self.0.counts();
        [
            ("jobs", counts.jobs),
            ("open_rounds", counts.open_rounds),
            ("requirements", counts.requirements),
            ("managers", counts.managers),
            ("specs", counts.specs),
            ("samples", counts.samples),
            ("tiered_rounds", counts.tiered_rounds),
        ]
        .into()
    }

    fn __repr__(&self) -> String {
        format!("<Planner {:?}>", self.0.counts())
    }
}

type RoundTuple = (u64, u32, u32, u32, Option<Tier>, u32);
type GroupTuple = (u32, Vec<f64>, Vec<RoundTuple>);

/// One plan, read-only.
#[pyclass(module = "propius._core", name = "Plan", frozen)]
struct PyPlan(planner::Plan);

#[pymethods]
impl PyPlan {
    /// Grows by one with each plan.
    #[getter]
    fn version(&self) -> u64 {
        self.0.version
    }

    /// Whether offers follow the global rank, and not the preferences.
    #[getter]
    fn ranked(&self) -> bool {
        self.0.ranked
    }

    /// The groups, scarcest first, each with its rounds in the order of service.
    #[getter]
    fn groups(&self) -> Vec<GroupTuple> {
        let round = |r: &planner::PlannedRound| {
            (r.key.job, r.key.round, r.rank, r.remaining, r.tier, r.part)
        };
        let group = |g: &planner::PlannedGroup| {
            (g.requirement_id, g.vector.clone(), g.rounds.iter().map(round).collect())
        };
        self.0.groups.iter().map(group).collect()
    }

    /// By signature, the groups served before the order of `fallback`.
    #[getter]
    fn preferences(&self) -> Vec<(Vec<u32>, Vec<u32>)> {
        self.0.preferences.clone()
    }

    /// All groups, scarcest first.
    #[getter]
    fn fallback(&self) -> Vec<u32> {
        self.0.fallback.clone()
    }

    /// What every client's own order of its rounds is drawn from, if there is one.
    #[getter]
    fn shuffle(&self) -> Option<u64> {
        self.0.shuffle
    }

    /// Into how many parts devices are divided; 0 = none.
    #[getter]
    fn partitions(&self) -> u32 {
        self.0.partitions
    }

    /// By when the next plan is to be made though nothing happens, if it matters.
    #[getter]
    fn again_ns(&self) -> Option<u64> {
        self.0.again_ns
    }

    /// The managers that have quotas.
    #[getter]
    fn managers(&self) -> Vec<u32> {
        self.0.managers().to_vec()
    }

    /// This manager's quota for each round, in the order of the groups.
    fn quotas(&self, manager: Nat<u32>) -> PyResult<Vec<u32>> {
        Ok(self.0.quotas(manager.0)?)
    }

    /// The plan in words.
    fn explain(&self) -> String {
        self.0.explain()
    }

    fn __repr__(&self) -> String {
        format!("<Plan {} of {} groups>", self.0.version, self.0.groups.len())
    }
}

/// The engine of Propius, compiled. Use it through `propius.engine`.
#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        DeviceClaiming, EngineError, InvariantBroken, MatcherFull, PolicyError, PyMatcher, PyPlan,
        PyPlanner,
    };
    #[pymodule_export]
    use crate::python_rounds::PyPlayedRounds;
    #[pymodule_export]
    use crate::python_simulator::{
        JobsError, PyTrace, SimulationStalled, SimulationStopped, TraceError, simulate,
        task_failure,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("build_profile", crate::BUILD_PROFILE)?;
        module.add("__version__", crate::VERSION)?;
        module.add("POLICIES", crate::policy::names().collect::<Vec<_>>())?;
        module.add("REFERENCE_POLICIES", crate::reference::POLICIES.to_vec())?;
        module.add("REFERENCE_RULES", crate::python_simulator::reference_rules())?;
        module.add("POLICY_OPTIONS", crate::policy::OPTIONS.to_vec())
    }
}
