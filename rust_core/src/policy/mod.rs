//! Policies: the rules by which a plan is made from open rounds and supply.
//!
//! A policy suggests an order; the planner and the matcher keep the invariants (a policy cannot
//! cause an ineligible offer). To add one: a file here with the rule in words, its cost, the
//! implementation and its tests, and a line in [`TABLE`].

mod fifo;
mod irs;
mod random;
mod srsf;

use crate::bits::Bits;
use crate::{Error, Job, RequirementId, Result, RoundKey};

/// An open round as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundView {
    /// Which round.
    pub key: RoundKey,
    /// Its group, as an index into [`PolicyView::groups`].
    pub group: usize,
    /// How many devices it still lacks, at least 1.
    pub remaining: u32,
    /// When its job registered.
    pub registered_ns: u64,
}

impl RoundView {
    /// The order of registration; job ids break ties.
    fn registration(&self) -> (u64, Job) {
        (self.registered_ns, self.key.job)
    }
}

/// A group of open rounds as a policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupView {
    /// The requirement that its rounds share.
    pub requirement_id: RequirementId,
    /// How many devices of the recent supply meet it.
    pub supply: f64,
}

/// The devices of the recent supply that meet exactly these groups.
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
    /// The seed of the planner.
    pub seed: u64,
    /// The rounds that still lack devices, by job.
    pub rounds: Vec<RoundView>,
    /// The groups, **scarcest first**: by supply, ties with the larger sum of lower bounds first,
    /// then the smaller requirement id.
    pub groups: Vec<GroupView>,
    /// The signatures of the recent supply.
    pub signatures: Vec<SignatureView>,
}

/// What a policy answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Indices into [`PolicyView::rounds`]: the global order, or for a policy that is not ranked
    /// at least the order within each group.
    pub order: Vec<usize>,
    /// None: ranked, every client follows the global order. Otherwise the group that owns each
    /// signature and is served first by it; the other groups follow, scarcest first.
    pub owners: Option<Vec<Option<usize>>>,
}

/// A rule. Stateless: everything is in the view, so the same view gives the same decision.
pub trait Policy: Send + Sync {
    /// Its name in configurations.
    fn name(&self) -> &'static str;
    /// Whether its answer is a global order of rounds.
    fn is_ranked(&self) -> bool {
        true
    }
    /// The rule itself.
    fn decide(&self, view: &PolicyView) -> Decision;
}

/// Every built-in policy.
static TABLE: [&dyn Policy; 4] = [&fifo::Fifo, &random::Random, &srsf::Srsf, &irs::Irs];

/// The names of the policies, in the order of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|policy| policy.name())
}

/// The policy of this name.
pub fn find(name: &str) -> Result<&'static dyn Policy> {
    let found = TABLE.iter().copied().find(|policy| policy.name() == name);
    found.ok_or_else(|| Error::UnknownPolicy { name: name.to_owned() })
}

/// The decision of a ranked policy: rounds by a key, smallest first.
fn ranked_by<K: Ord>(view: &PolicyView, key: impl Fn(&RoundView) -> K) -> Decision {
    let mut order: Vec<usize> = (0..view.rounds.len()).collect();
    order.sort_by_cached_key(|round| key(&view.rounds[*round]));
    Decision { order, owners: None }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A round of job `job` in `group`, registered at second `job`.
    pub(crate) fn round(job: Job, group: usize, remaining: u32) -> RoundView {
        RoundView { key: RoundKey { job, round: 0 }, group, remaining, registered_ns: job }
    }

    /// The jobs in the order of the decision.
    pub(crate) fn jobs(policy: &dyn Policy, view: &PolicyView) -> Vec<Job> {
        policy.decide(view).order.iter().map(|round| view.rounds[*round].key.job).collect()
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = find("best").err().expect("no such policy");
        let text = error.to_string();
        assert_eq!(text, "unknown policy \"best\", known are fifo, random, srsf, irs");
    }

    #[test]
    fn every_policy_orders_every_round_once() {
        let rounds = (1..=9).map(|job| round(job, 0, u32::try_from(job * 7 % 5 + 1).unwrap()));
        let groups = vec![GroupView { requirement_id: 0, supply: 0.0 }];
        let view = PolicyView { rounds: rounds.collect(), groups, ..Default::default() };
        for policy in TABLE {
            let mut seen = jobs(policy, &view);
            seen.sort_unstable();
            assert_eq!(seen, (1..=9).collect::<Vec<_>>(), "{}", policy.name());
        }
    }
}
