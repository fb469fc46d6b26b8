//! The planner: jobs, their open rounds and the recent supply, made into plans by a policy.
//!
//! Not here: the rules (see [`crate::policy`]), and what a plan does to clients (see
//! [`crate::matcher`]).

mod attempts;
mod plan;
mod signatures;
mod speeds;
mod supply;

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{
    self, Decision, GroupView, JobHistory, PolicyOptions, PolicyView, RoundView, Rule,
};
use crate::{Error, Job, Manager, RequirementId, Result, RoundKey, check_vector};

use attempts::JobAttempts;
use supply::Supply;

use plan::Made;

pub use plan::{Plan, PlannedGroup, PlannedRound};

/// The settings of a planner.
#[derive(Clone, Debug)]
pub struct PlannerConfig {
    /// The name of the policy.
    pub policy: String,
    /// The length of every spec and requirement.
    pub dimensions: usize,
    /// The seed of policies that draw.
    pub seed: u64,
    /// The settings of policies.
    pub options: PolicyOptions,
    /// How far back the recent supply counts.
    pub supply_window_ns: u64,
    /// How far back the average supply counts; 0 = policies go by the recent supply alone.
    pub supply_day_ns: u64,
    /// How many sampled devices are kept at most; the oldest buckets are forgotten first.
    pub supply_samples_max: usize,
    /// The version of the first plan is one more than this.
    pub first_version: u64,
}

impl PlannerConfig {
    /// The defaults for a policy and specs of this length.
    pub fn new(policy: &str, dimensions: usize) -> Self {
        Self {
            policy: policy.to_owned(),
            dimensions,
            seed: 0,
            options: PolicyOptions::default(),
            supply_window_ns: 600_000_000_000,
            supply_day_ns: 86_400_000_000_000,
            supply_samples_max: 65_536,
            first_version: 0,
        }
    }

    /// Sets an option by the name that configurations use (see [`policy::OPTIONS`]).
    pub fn set_option(&mut self, name: &str, value: f64) -> Result<()> {
        let nanoseconds = |name, min| policy::within(name, value, min, 2_592_000.0).map(to_ns);
        match name {
            "supply_window_s" => self.supply_window_ns = nanoseconds("supply_window_s", 1e-9)?,
            "supply_day_s" => self.supply_day_ns = nanoseconds("supply_day_s", 0.0)?,
            "seed" => {
                self.seed = policy::whole("seed", value, 0, policy::SEED_MAX)?;
            }
            _ if self.options.set(name, value)? => (),
            _ => return Err(Error::UnknownOption { name: name.to_owned() }),
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "30 days at most")]
fn to_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// What jobs take is counted so often within the window of the supply.
const TAKEN_COUNTS: u64 = 20;

/// What a job registers with.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// The id of its requirement.
    pub requirement_id: RequirementId,
    /// The lower bounds that a device must meet.
    pub requirement: Vec<f64>,
    /// When it registered.
    pub registered_ns: u64,
    /// The demand that it expects of a round.
    pub demand_estimate: u64,
    /// The rounds that it expects to run.
    pub rounds_estimate: u64,
}

#[derive(Debug)]
struct JobState {
    spec: JobSpec,
    history: JobHistory,
    /// Its one current round, if any.
    round: Option<OpenRound>,
    attempts: JobAttempts,
}

#[derive(Clone, Copy, Debug)]
struct OpenRound {
    round: u32,
    demand: u32,
    allocated: u32,
    opened_ns: u64,
}

impl OpenRound {
    fn remaining(self) -> u32 {
        self.demand.saturating_sub(self.allocated)
    }
}

#[derive(Debug)]
struct Requirement {
    vector: Vec<f64>,
    /// The sum of the bounds: of two that the same devices meet, the greater counts as scarcer.
    strictness: f64,
    /// How many jobs registered with it.
    jobs: usize,
}

/// How many of each thing a planner holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannerCounts {
    /// Registered jobs.
    pub jobs: usize,
    /// Rounds that lack devices.
    pub open_rounds: usize,
    /// Distinct requirements of registered jobs.
    pub requirements: usize,
    /// Known client managers.
    pub managers: usize,
    /// Distinct specs in the supply window.
    pub specs: usize,
    /// Sampled devices in the supply window.
    pub samples: usize,
    /// Rounds that were ever given a tier.
    pub tiered_rounds: usize,
}

/// See the [module](self).
pub struct Planner {
    policy: Rule,
    dimensions: usize,
    version: u64,
    jobs: BTreeMap<Job, JobState>,
    requirements: BTreeMap<RequirementId, Requirement>,
    /// Some came or went since they were last counted.
    requirements_changed: bool,
    managers: BTreeSet<Manager>,
    supply: Supply,
    /// What the policy saw last; its parts are used again.
    view: PolicyView,
    /// By place of the requirement (see [`Supply::bit`]), its group in the view.
    group_of: Vec<Option<usize>>,
    tiered_rounds: usize,
    window_ns: u64,
    /// When it was last counted what jobs take …
    taken_ns: Option<u64>,
    /// … and of the devices that meet the requirement at each place, how many a second.
    taken: Vec<f64>,
}

impl Planner {
    /// A planner without jobs, managers and supply.
    pub fn new(config: &PlannerConfig) -> Result<Self> {
        Self::with_rule(config, Rule::Known(policy::find(&config.policy)?))
    }

    /// A planner with a policy that need not be in the table; the name in `config` is not read.
    pub fn with_rule(config: &PlannerConfig, policy: Rule) -> Result<Self> {
        if config.dimensions == 0 {
            return Err(Error::OutOfRange { what: "dimensions", rule: "at least 1" });
        }
        if !(1..=supply::SAMPLES_MAX).contains(&config.supply_samples_max) {
            return Err(Error::OutOfRange { what: "supply_samples_max", rule: "1 to 524288" });
        }
        let supply = Supply::new(config, policy.uses_speeds());
        let (seed, options) = (config.seed, config.options);
        Ok(Self {
            policy,
            dimensions: config.dimensions,
            version: config.first_version,
            jobs: BTreeMap::new(),
            requirements: BTreeMap::new(),
            requirements_changed: true,
            managers: BTreeSet::new(),
            supply,
            view: PolicyView { seed, options, ..PolicyView::default() },
            group_of: Vec::new(),
            tiered_rounds: 0,
            window_ns: config.supply_window_ns,
            taken_ns: None,
            taken: Vec::new(),
        })
    }

    /// Forgets jobs and rounds, before a snapshot; supply, managers and the version stay.
    pub fn reset(&mut self) {
        self.jobs.clear();
        self.requirements.clear();
        self.requirements_changed = true;
    }

    /// Adds a job, or replaces what is known of it; its round stays.
    pub fn put_job(&mut self, job: Job, spec: JobSpec) -> Result<()> {
        check_vector("requirement", &spec.requirement, self.dimensions)?;
        let before = self.jobs.get(&job).map(|known| known.spec.requirement_id);
        if let Some(known) = self.requirements.get(&spec.requirement_id) {
            let others = known.jobs - usize::from(before == Some(spec.requirement_id));
            if others > 0 && known.vector != spec.requirement {
                return Err(Error::ConflictingRequirement(spec.requirement_id));
            }
        }
        let old = self.jobs.remove(&job);
        if let Some(id) = before {
            self.release_requirement(id);
        }
        let new = || {
            self.requirements_changed = true;
            let vector = spec.requirement.clone();
            Requirement { strictness: vector.iter().sum(), vector, jobs: 0 }
        };
        self.requirements.entry(spec.requirement_id).or_insert_with(new).jobs += 1;
        let state = match old {
            Some(old) => JobState { spec, ..old },
            None => JobState {
                spec,
                history: JobHistory::default(),
                round: None,
                attempts: JobAttempts::default(),
            },
        };
        self.jobs.insert(job, state);
        Ok(())
    }

    /// Says what the job's earlier rounds came to.
    pub fn set_history(&mut self, job: Job, history: JobHistory) -> Result<()> {
        self.jobs.get_mut(&job).ok_or(Error::UnknownJob(job))?.history = history;
        Ok(())
    }

    /// Forgets a job and its round; an unknown one is forgotten already.
    pub fn remove_job(&mut self, job: Job) {
        if let Some(known) = self.jobs.remove(&job) {
            self.release_requirement(known.spec.requirement_id);
        }
    }

    fn release_requirement(&mut self, id: RequirementId) {
        let requirement = self.requirements.get_mut(&id).expect("a job's requirement is known");
        requirement.jobs -= 1;
        if requirement.jobs == 0 {
            self.requirements.remove(&id);
            self.requirements_changed = true;
        }
    }

    /// Sets the job's one current round.
    pub fn open_round(
        &mut self,
        key: RoundKey,
        demand: u32,
        allocated: u32,
        opened_ns: u64,
    ) -> Result<()> {
        let job = self.jobs.get_mut(&key.job).ok_or(Error::UnknownJob(key.job))?;
        let before = job.round.filter(|before| before.round == key.round);
        job.attempts.take(allocated.saturating_sub(before.map_or(0, |before| before.allocated)));
        job.round = Some(OpenRound { round: key.round, demand, allocated, opened_ns });
        Ok(())
    }

    /// Sets how many slots of the round are allocated. False: it is not the job's current round,
    /// and nothing changed.
    pub fn set_allocated(&mut self, key: RoundKey, allocated: u32) -> bool {
        let Some(job) = self.jobs.get_mut(&key.job) else { return false };
        let Some(round) = job.round.as_mut().filter(|round| round.round == key.round) else {
            return false;
        };
        job.attempts.take(allocated.saturating_sub(round.allocated));
        round.allocated = allocated;
        true
    }

    /// The round ended. One that is not the job's current round is ignored.
    pub fn close_round(&mut self, key: RoundKey) {
        if let Some(job) = self.jobs.get_mut(&key.job) {
            job.round = job.round.filter(|round| round.round != key.round);
        }
    }

    /// Counts a bucket of a manager's supply: `distinct_devices`, of which the specs (one after the
    /// other) and speeds are a sample. The same bucket again replaces the first.
    pub fn add_supply(
        &mut self,
        manager: Manager,
        bucket_start_ns: u64,
        distinct_devices: u64,
        specs: &[f64],
        options: &[f64],
    ) -> Result<()> {
        let expected = options.len() * self.dimensions;
        check_vector("specs", specs, expected)?;
        check_vector("options", options, options.len())?;
        if u32::try_from(distinct_devices).is_err() || (options.len() as u64) > distinct_devices {
            let rule = "no less than the sample and below 2^32";
            return Err(Error::OutOfRange { what: "distinct_devices", rule });
        }
        self.supply.add(manager, bucket_start_ns, distinct_devices, specs, options);
        Ok(())
    }

    /// A client manager that gets quotas from now on.
    pub fn add_manager(&mut self, manager: Manager) {
        self.managers.insert(manager);
    }

    /// A client manager is gone. Its supply stays in the window: its clients go to the others.
    pub fn remove_manager(&mut self, manager: Manager) {
        self.managers.remove(&manager);
    }

    /// Makes the next plan; versions grow by one. An error is the policy's ([`Error::Policy`]): it
    /// takes no version, and the planner can be asked again.
    pub fn plan(&mut self, now_ns: u64) -> Result<Plan> {
        self.look(now_ns);
        let decision = self.policy.decide(&self.view).map_err(Error::Policy)?;
        self.version += 1;
        self.count_tiers(&decision);
        let managers: Vec<Manager> = self.managers.iter().copied().collect();
        let slots: Vec<Option<usize>> =
            managers.iter().map(|manager| self.supply.known_manager(*manager)).collect();
        let mut shares = Vec::with_capacity(slots.len() * self.view.groups.len());
        let mut vectors = Vec::with_capacity(self.view.groups.len());
        for id in self.view.groups.iter().map(|group| group.requirement_id) {
            self.supply.add_shares(self.supply.bit(id), &slots, &mut shares);
            vectors.push(self.requirements[&id].vector.clone());
        }
        let made =
            Made { version: self.version, ranked: self.policy.is_ranked(), managers, shares };
        Ok(made.into_plan(&self.view, vectors, &decision))
    }

    fn count_tiers(&mut self, decision: &Decision) {
        if !self.policy.uses_speeds() {
            return;
        }
        for (index, round) in self.view.rounds.iter().enumerate() {
            let tier = decision.tiers.get(index).copied().flatten();
            let job = self.jobs.get_mut(&round.key.job).expect("the view has registered jobs");
            self.tiered_rounds += usize::from(job.attempts.decide(tier));
        }
    }

    /// How many of each thing there are.
    pub fn counts(&self) -> PlannerCounts {
        let rounds = self.jobs.values().filter_map(|job| job.round);
        PlannerCounts {
            jobs: self.jobs.len(),
            open_rounds: rounds.filter(|round| round.remaining() > 0).count(),
            requirements: self.requirements.len(),
            managers: self.managers.len(),
            specs: self.supply.specs(),
            samples: self.supply.samples(),
            tiered_rounds: self.tiered_rounds,
        }
    }

    /// The jobs with rounds that lack devices: place, id, state, round.
    fn open_rounds(&self) -> impl Iterator<Item = (u32, Job, &JobState, OpenRound)> + '_ {
        (0..).zip(&self.jobs).filter_map(|(place, (job, state))| {
            let round = state.round.filter(|round| round.remaining() > 0)?;
            Some((place, *job, state, round))
        })
    }

    /// Brings the view up to date.
    fn look(&mut self, now_ns: u64) {
        let places_changed = std::mem::take(&mut self.requirements_changed);
        if places_changed {
            let used = self.requirements.iter().map(|(id, r)| (*id, r.vector.as_slice()));
            self.supply.use_requirements(used);
        }
        self.supply.expire(now_ns);
        let supply_changed = self.supply.refresh(now_ns);
        if self.policy.uses_speeds() {
            self.observe_attempts(now_ns, places_changed);
        }
        let mut view = std::mem::take(&mut self.view);
        view.now_ns = now_ns;
        view.jobs = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX);
        self.put_rounds(&mut view.rounds);
        let groups_changed = self.put_groups(now_ns, &mut view);
        if supply_changed || groups_changed {
            view.signatures = self.supply.views(&self.group_of, view.groups.len());
        }
        self.view = view;
    }

    /// Judges the attempts that ended, and counts now and then what jobs take.
    fn observe_attempts(&mut self, now_ns: u64, places_changed: bool) {
        for job in self.jobs.values_mut() {
            if let Some(round) = job.round {
                job.attempts.observe(round, &job.history);
            }
        }
        let passed_ns = now_ns.saturating_sub(*self.taken_ns.get_or_insert(now_ns));
        let is_due = passed_ns > 0 && passed_ns >= self.window_ns / TAKEN_COUNTS;
        if !is_due && !places_changed {
            return;
        }
        let mut taken = vec![0.0; self.supply.bits()];
        for job in self.jobs.values_mut() {
            if is_due {
                job.attempts.count_taken(passed_ns as f64 / 1e9, self.window_ns as f64 / 1e9);
            }
            taken[self.supply.bit(job.spec.requirement_id)] += job.attempts.seen().taken;
        }
        self.taken = self.supply.spread(&taken);
        self.taken_ns = if is_due { Some(now_ns) } else { self.taken_ns };
    }

    /// The rounds that lack devices; each has the place of its requirement for its group.
    fn put_rounds(&self, rounds: &mut Vec<RoundView>) {
        rounds.clear();
        let mut last = (None, 0);
        for (place, job, state, round) in self.open_rounds() {
            let spec = &state.spec;
            if last.0 != Some(spec.requirement_id) {
                last = (Some(spec.requirement_id), self.supply.bit(spec.requirement_id));
            }
            rounds.push(RoundView {
                key: RoundKey { job, round: round.round },
                group: last.1,
                remaining: round.remaining(),
                demand: round.demand,
                registered_ns: spec.registered_ns,
                opened_ns: round.opened_ns,
                rounds_estimate: spec.rounds_estimate,
                demand_estimate: spec.demand_estimate,
                place,
                history: state.history,
                attempts: state.attempts.seen(),
            });
        }
    }

    /// The groups of these rounds, in the order of [`PolicyView::groups`], and the rounds' places
    /// among them. True: they are not those of the last view, in the same order.
    fn put_groups(&mut self, now_ns: u64, view: &mut PolicyView) -> bool {
        let bits = self.supply.bits();
        let mut found = vec![false; bits];
        view.rounds.iter().for_each(|round| found[round.group] = true);
        let mut groups: Vec<(f64, f64, RequirementId, usize)> = Vec::new();
        for (id, requirement) in &self.requirements {
            let bit = self.supply.bit(*id);
            if found[bit] {
                let supply = self.supply.met(now_ns, bit).supply;
                groups.push((supply, requirement.strictness, *id, bit));
            }
        }
        groups.sort_unstable_by(|a, b| {
            a.0.total_cmp(&b.0).then_with(|| b.1.total_cmp(&a.1)).then_with(|| a.2.cmp(&b.2))
        });
        let before = std::mem::take(&mut self.group_of);
        self.group_of.resize(bits, None);
        view.groups.clear();
        for (index, (supply, _, requirement_id, bit)) in groups.into_iter().enumerate() {
            self.group_of[bit] = Some(index);
            let (met, speeds) = (self.supply.met(now_ns, bit), self.supply.speed_classes(bit));
            let (rate, rate_day, speeds) = (met.rate, met.rate_day, speeds.to_vec());
            let taken = self.taken.get(bit).copied().unwrap_or(0.0);
            view.groups.push(GroupView { requirement_id, supply, rate, rate_day, speeds, taken });
        }
        for round in &mut view.rounds {
            round.group = self.group_of[round.group].expect("each round is in a group");
        }
        before != self.group_of
    }
}
