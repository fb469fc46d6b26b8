//! A user's policy: a Python class behind the trait that the built-in ones have.
//!
//! The class is found and called through `propius/policy.py`, which has the frozen snapshot that it
//! sees. What it answers is checked here, so that live and simulated it fails in the same way.

use std::collections::BTreeMap;

use pyo3::prelude::*;

use crate::policy::{self, Decision, Policy, PolicyError, PolicyView, Rule};
use crate::{Error, RoundKey};

/// The policy of this name: of the table, or `package.module:Class`.
pub(crate) fn find(py: Python<'_>, name: &str) -> PyResult<Rule> {
    if !name.contains(':') {
        return Ok(Rule::Known(policy::find(name)?));
    }
    let load = || py.import("propius.policy")?.getattr("load")?.call1((name,));
    let adapter = load().map_err(|error| failure(py, name, "cannot be loaded", &error))?;
    Ok(Rule::Own(Box::new(PyPolicy { name: name.to_owned(), adapter: adapter.unbind() })))
}

struct PyPolicy {
    name: String,
    adapter: Py<PyAny>,
}

impl Policy for PyPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn uses_speeds(&self) -> bool {
        true
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let answer = Python::attach(|py| {
            let call = || -> PyResult<Vec<(u64, u32)>> {
                let seen = (view.now_ns, view.seed, view.jobs, options(view));
                let arguments = (seen, rounds(view), groups(view), signatures(view));
                self.adapter.bind(py).call1(arguments)?.extract()
            };
            call().map_err(|error| Error::Policy(error_of(py, &self.name, "raised", &error)))
        });
        match answer {
            Ok(keys) => self.complete(view, &keys),
            Err(Error::Policy(error)) => Err(error),
            Err(other) => Err(self.error(other.to_string())),
        }
    }
}

impl PyPolicy {
    fn error(&self, text: String) -> PolicyError {
        PolicyError { policy: self.name.clone(), text }
    }

    /// The answer as indices; what it left out follows in the order of registration.
    fn complete(&self, view: &PolicyView, keys: &[(u64, u32)]) -> Result<Decision, PolicyError> {
        let index_of: BTreeMap<RoundKey, usize> =
            view.rounds.iter().zip(0..).map(|(round, index)| (round.key, index)).collect();
        let mut is_named = vec![false; view.rounds.len()];
        let mut order = Vec::with_capacity(view.rounds.len());
        for (job, round) in keys.iter().copied() {
            let Some(index) = index_of.get(&RoundKey { job, round }) else {
                let text = format!("returned round {round} of job {job}, which is not open");
                return Err(self.error(text));
            };
            if std::mem::replace(&mut is_named[*index], true) {
                return Err(self.error(format!("returned round {round} of job {job} twice")));
            }
            order.push(*index);
        }
        let named = order.len();
        order.extend((0..view.rounds.len()).filter(|index| !is_named[*index]));
        order[named..].sort_by_key(|index| view.rounds[*index].registration());
        Ok(Decision { order, ..Decision::default() })
    }
}

fn failure(py: Python<'_>, name: &str, what: &str, error: &PyErr) -> PyErr {
    Error::Policy(error_of(py, name, what, error)).into()
}

/// One line: the kind of the exception and the first line of its text.
fn error_of(py: Python<'_>, name: &str, what: &str, error: &PyErr) -> PolicyError {
    let kind = error.get_type(py).name().map_or_else(|_| String::new(), |name| name.to_string());
    let value = error.value(py).to_string();
    let line: String = value.lines().next().unwrap_or("").chars().take(300).collect();
    PolicyError { policy: name.to_owned(), text: format!("{what}: {kind}: {line}") }
}

fn options(view: &PolicyView) -> BTreeMap<&'static str, f64> {
    let options = view.options;
    [
        ("fairness", options.fairness),
        ("tiers", f64::from(options.tiers)),
        ("partitions", f64::from(options.partitions)),
        ("response_s", options.response_s),
    ]
    .into()
}

type History = (u32, u64, u64, u64, u64);
type Round = (u64, u32, u32, u32, u32, u64, u64, u64, u64, History);

fn rounds(view: &PolicyView) -> Vec<Round> {
    let seen = |round: &policy::RoundView| {
        let past = round.history;
        let history = (
            past.rounds_succeeded,
            past.devices_served,
            past.last_scheduling_ns,
            past.last_response_ns,
            past.rounds_ns,
        );
        (
            round.key.job,
            round.key.round,
            view.groups[round.group].requirement_id,
            round.remaining,
            round.demand,
            round.registered_ns,
            round.opened_ns,
            round.rounds_estimate,
            round.demand_estimate,
            history,
        )
    };
    view.rounds.iter().map(seen).collect()
}

fn groups(view: &PolicyView) -> Vec<(u32, f64, f64, f64, Vec<f64>)> {
    let seen = |group: &policy::GroupView| {
        (group.requirement_id, group.supply, group.rate, group.rate_day, group.speeds.clone())
    };
    view.groups.iter().map(seen).collect()
}

fn signatures(view: &PolicyView) -> Vec<(Vec<u32>, f64)> {
    let id = |group: usize| view.groups[group].requirement_id;
    view.signatures.iter().map(|s| (s.groups().map(id).collect(), s.weight)).collect()
}
