//! The plan as the scheduler sends it, and as the matcher keeps it.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::ledger::Ledger;
use crate::bits::Bits;
use crate::requirement::RequirementTable;
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
    /// Only devices with `min <= option < max` (None = no bound) are offered it.
    pub tier: Option<(f64, Option<f64>)>,
    /// If devices are divided into [`PlanUpdate::partitions`], those of this part are offered it.
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
    /// Every client goes through its eligible rounds in an order of its own, drawn from this, the
    /// device and the version.
    pub shuffle: Option<u64>,
    /// A device belongs to one of so many parts and is offered the rounds of its part; 0 = none.
    pub partitions: u32,
}

impl PlanUpdate {
    pub(super) fn check(&self, dimensions: usize) -> Result<()> {
        let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for group in &self.groups {
            check_vector("requirement", &group.vector, dimensions)?;
            if !ids.insert(group.requirement_id) {
                return Err(Error::DuplicateGroup(group.requirement_id));
            }
            if let Some(twice) = group.rounds.iter().find(|round| !keys.insert(round.key)) {
                return Err(Error::DuplicateRound(twice.key));
            }
        }
        let orders = self.preferences.iter().map(|(_, order)| order).chain([&self.fallback]);
        match orders.flatten().find(|id| !ids.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::UnknownGroup(*id)),
        }
    }
}

#[derive(Debug)]
struct Slot {
    key: RoundKey,
    group: u32,
    rank: u32,
    quota: u32,
    /// The quota less what the ledger holds; negative after an accept beyond the quota.
    available: i64,
    /// When the round entered the plan, in plans applied: tells a round that came back from the
    /// one that was declined before.
    since: u64,
}

#[derive(Debug)]
struct Group {
    requirement_id: RequirementId,
    bit: usize,
    /// Its rounds, as a range of slots.
    slots: std::ops::Range<u32>,
}

/// The plan in force.
#[derive(Debug, Default)]
pub(super) struct CurrentPlan {
    version: Option<u64>,
    seq: u64,
    ranked: bool,
    groups: Vec<Group>,
    /// All rounds, group after group, in the order of the plan.
    slots: Vec<Slot>,
    slot_of: FxHashMap<RoundKey, u32>,
    by_rank: Vec<u32>,
    /// Indices into `groups`, ascending by requirement id, to spell a signature.
    by_id: Vec<u32>,
    preferences: FxHashMap<Vec<RequirementId>, Vec<u32>>,
    fallback: Vec<u32>,
    plans_applied: u64,
}

impl CurrentPlan {
    pub(super) fn is_newer_than(&self, version: u64) -> bool {
        self.version.is_some_and(|current| version < current)
    }

    pub(super) fn forget_version(&mut self) {
        self.version = None;
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes a checked update over.
    pub(super) fn replace(
        &mut self,
        update: PlanUpdate,
        requirements: &RequirementTable,
        ledger: &Ledger,
    ) {
        let old = std::mem::take(self);
        self.plans_applied = old.plans_applied + 1;
        (self.version, self.seq) = (Some(update.version), update.seq);
        self.ranked = update.ranked;
        for group in &update.groups {
            self.push_group(group, requirements, ledger, &old);
        }
        self.by_rank = indices(self.slots.len());
        self.by_rank.sort_by_key(|slot| self.slots[*slot as usize].rank);
        self.by_id = indices(self.groups.len());
        self.by_id.sort_by_key(|group| self.groups[*group as usize].requirement_id);
        self.set_preferences(update);
    }

    fn push_group(
        &mut self,
        group: &PlanGroup,
        requirements: &RequirementTable,
        ledger: &Ledger,
        old: &Self,
    ) {
        let index = to_u32(self.groups.len());
        let first = to_u32(self.slots.len());
        for PlanRound { key, rank, quota, .. } in group.rounds.iter().copied() {
            let available = i64::from(quota) - ledger.taken(key);
            let since = old.since(key).unwrap_or(self.plans_applied);
            self.slot_of.insert(key, to_u32(self.slots.len()));
            self.slots.push(Slot { key, group: index, rank, quota, available, since });
        }
        let requirement_id = group.requirement_id;
        let bit = requirements.bit(requirement_id).expect("every group's requirement is known");
        self.groups.push(Group { requirement_id, bit, slots: first..to_u32(self.slots.len()) });
    }

    fn set_preferences(&mut self, update: PlanUpdate) {
        let index_of: FxHashMap<RequirementId, u32> = self
            .groups
            .iter()
            .zip(0..)
            .map(|(group, index)| (group.requirement_id, index))
            .collect();
        let order = |ids: Vec<RequirementId>| ids.iter().map(|id| index_of[id]).collect();
        self.preferences = update
            .preferences
            .into_iter()
            .map(|(signature, ids)| (signature, order(ids)))
            .collect();
        self.fallback = order(update.fallback);
    }

    /// When the round entered the plan; none if it is not in it.
    pub(super) fn since(&self, key: RoundKey) -> Option<u64> {
        self.slot_of.get(&key).map(|slot| self.slots[*slot as usize].since)
    }

    /// Changes what is available of a round, if the plan has it, and returns it.
    pub(super) fn add_available(&mut self, key: RoundKey, change: i64) -> Option<i64> {
        let slot = &mut self.slots[*self.slot_of.get(&key)? as usize];
        slot.available += change;
        Some(slot.available)
    }

    pub(super) fn is_available(&self, slot: u32) -> bool {
        self.slots[slot as usize].available > 0
    }

    pub(super) fn key(&self, slot: u32) -> RoundKey {
        self.slots[slot as usize].key
    }

    pub(super) fn key_since(&self, slot: u32) -> (RoundKey, u64) {
        let slot = &self.slots[slot as usize];
        (slot.key, slot.since)
    }

    /// All rounds for which a client with this signature is eligible, in the order of its offer.
    pub(super) fn eligible_in_order(&self, signature: &Bits) -> Box<[u32]> {
        if self.ranked {
            let group = |slot: u32| &self.groups[self.slots[slot as usize].group as usize];
            let eligible = |slot: &u32| signature.has(group(*slot).bit);
            return self.by_rank.iter().copied().filter(eligible).collect();
        }
        let mut slots = Vec::new();
        let mut seen = Bits::empty(self.groups.len());
        let preferred = self.preferences.get(&self.spell(signature)).map_or([].as_slice(), |p| p);
        for index in preferred.iter().copied().chain(self.fallback_complete()) {
            let group = &self.groups[index as usize];
            if signature.has(group.bit) && !seen.has(index as usize) {
                seen.insert(index as usize);
                slots.extend(group.slots.clone());
            }
        }
        slots.into_boxed_slice()
    }

    /// The order of the fallback, then the groups that a careless plan left out of it.
    fn fallback_complete(&self) -> impl Iterator<Item = u32> {
        self.fallback.iter().copied().chain(0..to_u32(self.groups.len()))
    }

    fn spell(&self, signature: &Bits) -> Vec<RequirementId> {
        let groups = self.by_id.iter().map(|index| &self.groups[*index as usize]);
        groups.filter(|group| signature.has(group.bit)).map(|group| group.requirement_id).collect()
    }

    /// Each round with its quota and what is available of it.
    pub(super) fn availability(&self) -> impl Iterator<Item = (RoundKey, u32, i64)> + '_ {
        self.slots.iter().map(|slot| (slot.key, slot.quota, slot.available))
    }
}

fn indices(len: usize) -> Vec<u32> {
    (0..to_u32(len)).collect()
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a plan has fewer than 2^32 rounds")
}
