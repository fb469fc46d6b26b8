//! Policies: the rules by which a plan is made from open rounds and supply.
//!
//! A policy suggests an order; the planner and the matcher keep the invariants (a policy cannot
//! cause an ineligible offer). To add one: a file here with the rule in words, its cost, the
//! implementation and its tests, and a line in [`TABLE`].

mod estimate;
mod fifo;
mod irs;
mod las;
mod options;
mod random;
mod random_per_client;
mod srsf;
mod srsf_total;
mod srtf;
mod static_partition;
mod venn;

use std::fmt;

use crate::bits::Bits;
use crate::{Error, Job, RequirementId, RoundKey};

pub use options::{OPTIONS, PolicyOptions};
pub(crate) use options::{SEED_MAX, whole, within};

/// What a job's earlier rounds came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobHistory {
    /// Rounds that got enough reports.
    pub rounds_succeeded: u32,
    /// Devices that served the job: as each round ended, however it ended, as many as then held a
    /// slot or had completed. It does not move while a round fills, so that a policy which goes by it
    /// keeps its order until then. (Of the simulator's asynchronous jobs: one with each result.)
    pub devices_served: u64,
    /// The scheduling delay of the last round that succeeded: opened to first filled.
    pub last_scheduling_ns: u64,
    /// Its response time: first filled to enough reports.
    pub last_response_ns: u64,
    /// The sum of the times of the successful rounds, opened to ended.
    pub rounds_ns: u64,
}

/// Whether a round has a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TierState {
    /// No plan was made for it yet.
    #[default]
    New,
    /// The last plan gave it this one.
    Held(Tier),
    /// The last plan gave it none.
    Without,
}

/// What the planner learned of a job's attempts at rounds; only for policies that choose tiers (see
/// [`Policy::uses_speeds`]), else all 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attempts {
    /// The tier of the open round so far.
    pub state: TierState,
    /// Rounds that succeeded without a tier …
    pub rounds: u32,
    /// … their mean scheduling delay, the last ones counting most …
    pub delay_s: f64,
    /// … and their mean response time.
    pub response_s: f64,
    /// Rounds with a tier that count, up to a bound …
    pub tiered: u32,
    /// … and their mean scheduling delay.
    pub tiered_delay_s: f64,
    /// So many rounds are to be made without a tier: it did not pay, or must be compared.
    pub rest: u32,
    /// Devices a second that the job took lately.
    pub taken: f64,
}

/// An open round as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundView {
    /// Which round.
    pub key: RoundKey,
    /// Its group, as an index into [`PolicyView::groups`].
    pub group: usize,
    /// How many devices it still lacks, at least 1.
    pub remaining: u32,
    /// How many it asked for.
    pub demand: u32,
    /// When its job registered.
    pub registered_ns: u64,
    /// When it was opened.
    pub opened_ns: u64,
    /// The rounds that its job registered, 0 = unknown.
    pub rounds_estimate: u64,
    /// The devices a round that its job registered.
    pub demand_estimate: u64,
    /// How many registered jobs have smaller ids.
    pub place: u32,
    /// What the job's earlier rounds came to.
    pub history: JobHistory,
    /// And its attempts, with the tiers that they had.
    pub attempts: Attempts,
}

impl RoundView {
    /// The order of registration; job ids break ties.
    pub(crate) fn registration(&self) -> (u64, Job) {
        (self.registered_ns, self.key.job)
    }
}

/// A group of open rounds as a policy sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupView {
    /// The requirement that its rounds share.
    pub requirement_id: RequirementId,
    /// How many devices of the supply (over the day, or in the short window if the day is switched
    /// off) meet it: what scarcity goes by, in the unit of [`SignatureView::weight`].
    pub supply: f64,
    /// Devices a second that meet it, in the short window.
    pub rate: f64,
    /// Devices a second that meet it, over the day.
    pub rate_day: f64,
    /// The lower bounds of the equal-count speed classes of the devices that meet it, slowest
    /// first; the first is the slowest speed that counts. Empty: too few devices are known, or the
    /// policy does not use speeds.
    pub speeds: Vec<f64>,
    /// Devices a second, of those that meet it, that all jobs took lately. 0 if the policy does not
    /// use speeds.
    pub taken: f64,
}

/// The devices of the supply that meet exactly these groups.
#[derive(Clone, Debug, PartialEq)]
pub struct SignatureView {
    groups: Bits,
    /// How many devices.
    pub weight: f64,
}

impl SignatureView {
    /// A signature that meets these groups, of `group_count`.
    pub fn new(group_count: usize, groups: &[usize], weight: f64) -> Self {
        let mut bits = Bits::empty(group_count);
        for group in groups {
            bits.insert(*group);
        }
        Self { groups: bits, weight }
    }

    pub(crate) fn from_bits(groups: Bits, weight: f64) -> Self {
        Self { groups, weight }
    }

    /// The groups, ascending: scarcest first.
    pub fn groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.groups.iter()
    }

    /// Whether such devices meet this group's requirement.
    pub fn meets(&self, group: usize) -> bool {
        self.groups.has(group)
    }
}

/// Everything that a policy decides from.
#[derive(Clone, Debug, Default)]
pub struct PolicyView {
    /// When the plan is made.
    pub now_ns: u64,
    /// The seed of the planner.
    pub seed: u64,
    /// The settings of policies.
    pub options: PolicyOptions,
    /// How many jobs are registered, with or without an open round.
    pub jobs: u32,
    /// The rounds that still lack devices, by job.
    pub rounds: Vec<RoundView>,
    /// The groups, **scarcest first**: by supply, ties with the larger sum of lower bounds first,
    /// then the smaller requirement id.
    pub groups: Vec<GroupView>,
    /// The signatures of the recent supply.
    pub signatures: Vec<SignatureView>,
}

/// The devices to which a round is offered: those with `min <= option < max`; None = no bound.
pub type Tier = (f64, Option<f64>);

/// What a policy answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Indices into [`PolicyView::rounds`]: the global order, or for a policy that is not ranked
    /// at least the order within each group.
    pub order: Vec<usize>,
    /// None: ranked, every client follows the global order. Otherwise the group that owns each
    /// signature and is served first by it; the other groups follow, scarcest first.
    pub owners: Option<Vec<Option<usize>>>,
    /// By index into [`PolicyView::rounds`], or empty for no tiers at all.
    pub tiers: Vec<Option<Tier>>,
    /// Every client goes through its eligible rounds in an order of its own, drawn from this.
    pub shuffle: Option<u64>,
    /// Into how many parts devices are divided, 0 = not at all.
    pub partitions: u32,
    /// By index into [`PolicyView::rounds`], the part whose devices serve it; empty if there are
    /// no partitions.
    pub parts: Vec<u32>,
    /// When it decides otherwise though nothing happens: the next plan is made by then.
    pub again_ns: Option<u64>,
}

/// A policy failed: it raised, or answered something that is no order of the open rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The name of the policy.
    pub policy: String,
    /// What it did, in one line.
    pub text: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {} {}", self.policy, self.text)
    }
}

impl std::error::Error for PolicyError {}

/// A rule. Stateless: everything is in the view, so the same view gives the same decision.
pub trait Policy: Send + Sync {
    /// Its name in configurations.
    fn name(&self) -> &str;
    /// Whether its answer is a global order of rounds.
    fn is_ranked(&self) -> bool {
        true
    }
    /// Whether it looks at [`GroupView::speeds`]; they cost something to know.
    fn uses_speeds(&self) -> bool {
        false
    }
    /// The rule itself. Built-in policies never fail; a user's may.
    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError>;
}

/// A policy in use: one of the table, or somebody's own.
pub enum Rule {
    /// A built-in policy.
    Known(&'static dyn Policy),
    /// Another one.
    Own(Box<dyn Policy>),
}

impl std::ops::Deref for Rule {
    type Target = dyn Policy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Known(policy) => *policy,
            Self::Own(policy) => policy.as_ref(),
        }
    }
}

/// Every built-in policy.
static TABLE: [&dyn Policy; 10] = [
    &fifo::Fifo,
    &random::Random,
    &random_per_client::RandomPerClient,
    &srsf::Srsf,
    &srsf_total::SrsfTotal,
    &srtf::Srtf,
    &las::Las,
    &irs::Irs,
    &venn::Venn,
    &static_partition::StaticPartition,
];

/// The names of the policies, in the order of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|policy| policy.name())
}

/// The policy of this name.
pub fn find(name: &str) -> Result<&'static dyn Policy, Error> {
    let found = TABLE.iter().copied().find(|policy| policy.name() == name);
    found.ok_or_else(|| Error::UnknownPolicy { name: name.to_owned() })
}

/// The decision of a ranked policy: rounds by a key, smallest first.
fn ranked_by<K: Ord>(view: &PolicyView, key: impl Fn(&RoundView) -> K) -> Decision {
    let rounds = view.rounds.iter().zip(0..);
    let mut keys: Vec<(K, usize)> = rounds.map(|(round, index)| (key(round), index)).collect();
    keys.sort_unstable();
    let order = keys.into_iter().map(|(_, index)| index).collect();
    Decision { order, ..Decision::default() }
}

/// The same by a number that is not negative; then by registration.
fn ranked_by_number(view: &PolicyView, number: impl Fn(&RoundView) -> f64) -> Decision {
    // Such floats are in the order of their bits.
    ranked_by(view, |round| (number(round).to_bits(), round.registration()))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A round of job `job` in `group`, registered at second `job`.
    pub(crate) fn round(job: Job, group: usize, remaining: u32) -> RoundView {
        RoundView {
            key: RoundKey { job, round: 0 },
            group,
            remaining,
            demand: remaining,
            registered_ns: job,
            opened_ns: job,
            rounds_estimate: 0,
            demand_estimate: u64::from(remaining),
            place: 0,
            history: JobHistory::default(),
            attempts: Attempts::default(),
        }
    }

    /// The jobs in the order of the decision.
    pub(crate) fn jobs(policy: &dyn Policy, view: &PolicyView) -> Vec<Job> {
        policy
            .decide(view)
            .expect("it has no bug")
            .order
            .iter()
            .map(|round| view.rounds[*round].key.job)
            .collect()
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = find("best").err().expect("no such policy");
        let text = error.to_string();
        assert_eq!(
            text,
            "unknown policy \"best\", known are fifo, random, random-per-client, srsf, srsf-total, \
             srtf, las, irs, venn, static-partition"
        );
    }

    #[test]
    fn every_policy_orders_every_round_once() {
        let rounds = (1..=9).map(|job| round(job, 0, u32::try_from(job * 7 % 5 + 1).unwrap()));
        let groups = vec![GroupView::default()];
        let view = PolicyView { rounds: rounds.collect(), groups, ..Default::default() };
        for policy in TABLE {
            let mut seen = jobs(policy, &view);
            seen.sort_unstable();
            assert_eq!(seen, (1..=9).collect::<Vec<_>>(), "{}", policy.name());
        }
    }
}
