//! The plan as the scheduler sends it.

use rustc_hash::FxHashSet;

use super::classes::Tier;
use crate::requirement::check_value;
use crate::{Error, RequirementId, Result, RoundKey, check_vector};

/// A round in a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlanRound {
    /// Which round.
    pub key: RoundKey,
    /// Its place in the global order, smallest first; equal ranks keep the order of the plan.
    pub rank: u32,
    /// How many devices of this manager it may hold beyond those that the plan has seen.
    pub quota: u32,
    /// Only devices whose speed score lies here are offered it. None: all.
    pub tier: Option<Tier>,
    /// Only devices of this part are offered it, if the plan has parts.
    pub part: u32,
}

/// The rounds with one requirement, in the order in which they are served.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanGroup {
    /// The requirement.
    pub requirement_id: RequirementId,
    /// Its lower bounds.
    pub vector: Vec<f64>,
    /// Its rounds.
    pub rounds: Vec<PlanRound>,
}

/// A plan on its way into a matcher.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanUpdate {
    /// Grows with every plan of one scheduler.
    pub version: u64,
    /// The last sequence number of the job manager that the plan has seen.
    pub seq: u64,
    /// True: offers follow the global rank. False: they follow the preferences.
    pub ranked: bool,
    /// The groups.
    pub groups: Vec<PlanGroup>,
    /// For a signature (requirement ids, ascending) the groups in the order in which such clients
    /// serve them. Groups that are left out follow in the order of `fallback`.
    pub preferences: Vec<(Vec<RequirementId>, Vec<RequirementId>)>,
    /// The order of groups for all other signatures.
    pub fallback: Vec<RequirementId>,
    /// Some: each device goes through all rounds that it may be offered in an order of its own,
    /// drawn from this seed, its id and the version.
    pub shuffle: Option<u64>,
    /// Not 0: each device belongs to one of so many parts (see [`super::part_of`]), and is offered
    /// only rounds of that part.
    pub partitions: u32,
}

impl PlanUpdate {
    pub(super) fn check(&self, dimensions: usize, scratch: &mut Scratch) -> Result<()> {
        scratch.keys.clear();
        scratch.ids.clear();
        for group in &self.groups {
            check_vector("requirement", &group.vector, dimensions)?;
            if !scratch.ids.insert(group.requirement_id) {
                return Err(Error::DuplicateGroup(group.requirement_id));
            }
            for round in &group.rounds {
                if !scratch.keys.insert(round.key) {
                    return Err(Error::DuplicateRound(round.key));
                }
                if let Some((min, max)) = round.tier {
                    check_value("tier", min)?;
                    max.map_or(Ok(()), |max| check_value("tier", max))?;
                }
            }
        }
        let orders = self.preferences.iter().map(|(_, order)| order).chain([&self.fallback]);
        match orders.flatten().find(|id| !scratch.ids.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::UnknownGroup(*id)),
        }
    }

    /// The filters by speed of all rounds.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Tier> + '_ {
        self.groups.iter().flat_map(|group| &group.rounds).filter_map(|round| round.tier)
    }
}

/// What checking needs, kept from plan to plan.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ids: FxHashSet<RequirementId>,
    keys: FxHashSet<RoundKey>,
}
