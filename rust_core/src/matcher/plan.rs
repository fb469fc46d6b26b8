//! The plan as the matcher keeps it: what is open, in which order, and what is available of it.
//!
//! It also knows what is *fresh*: the rounds that have become available, or available to more
//! devices, since those who wait were last asked. Only for these can somebody who waits be offered
//! something, which is why asking costs nothing most of the time.

use rustc_hash::FxHashMap;

use super::classes::{SpeedClasses, Tier};
use super::ledger::Ledger;
use super::profiles::ProfileKey;
use super::update::{PlanGroup, PlanRound, PlanUpdate};
use crate::bits::Bits;
use crate::requirement::RequirementTable;
use crate::{RequirementId, RoundKey};

#[derive(Clone, Debug)]
struct Slot {
    key: RoundKey,
    /// The bit of the group's requirement.
    bit: usize,
    rank: u32,
    quota: u32,
    tier: Option<Tier>,
    /// The classes that the tier lets through.
    classes: std::ops::Range<u32>,
    part: u32,
    /// The quota less what the ledger holds; negative after an accept beyond the quota.
    available: i64,
    /// When the round entered the plan, in plans applied: tells a round that came back from the
    /// one that was declined before.
    since: u64,
    fresh: bool,
    /// For the old slots while a plan is replaced: the new plan has the round too.
    stays: bool,
}

#[derive(Debug)]
struct Group {
    requirement_id: RequirementId,
    bit: usize,
    /// Its rounds, as a range of slots.
    slots: std::ops::Range<u32>,
}

/// The plan in force, and the ledger of its rounds.
#[derive(Debug, Default)]
pub(super) struct CurrentPlan {
    version: Option<u64>,
    seq: u64,
    ranked: bool,
    shuffle: Option<u64>,
    shuffle_version: u64,
    partitions: u32,
    groups: Vec<Group>,
    /// All rounds, group after group, in the order of the plan.
    slots: Vec<Slot>,
    /// Those of the plan before, while it is replaced.
    old_slots: Vec<Slot>,
    by_rank: Vec<u32>,
    /// Indices into `groups`, ascending by requirement id, to spell a signature.
    by_id: Vec<u32>,
    preferences: FxHashMap<Vec<RequirementId>, Vec<RequirementId>>,
    index_of: FxHashMap<RequirementId, u32>,
    fallback: Vec<u32>,
    plans_applied: u64,
    ledger: Ledger,
    /// Grows whenever a round becomes available or ceases to be, and with every plan.
    epoch: u64,
    /// Grows whenever a round becomes available.
    returns: u64,
    fresh: Vec<u32>,
}

impl CurrentPlan {
    pub(super) fn is_newer_than(&self, version: u64) -> bool {
        self.version.is_some_and(|current| version < current)
    }

    pub(super) fn forget_version(&mut self) {
        self.version = None;
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Changes when any list of tasks may have changed.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn returns(&self) -> u64 {
        self.returns
    }

    pub(super) fn plans_applied(&self) -> u64 {
        self.plans_applied
    }

    /// Takes a checked update over. If bits changed their meaning, [`Self::refresh`] must follow.
    pub(super) fn replace(
        &mut self,
        update: PlanUpdate,
        requirements: &RequirementTable,
        classes: &SpeedClasses,
    ) {
        self.ledger.settle(update.seq);
        self.plans_applied += 1;
        self.epoch += 1;
        (self.version, self.seq) = (Some(update.version), update.seq);
        (self.shuffle, self.shuffle_version) = (update.shuffle, update.version);
        (self.ranked, self.partitions) = (update.ranked, update.partitions);
        std::mem::swap(&mut self.slots, &mut self.old_slots);
        self.slots.clear();
        self.groups.clear();
        self.fresh.clear();
        for group in &update.groups {
            self.push_group(group, requirements, classes);
        }
        for old in self.old_slots.drain(..).filter(|old| !old.stays) {
            self.ledger.clear_place(old.key);
        }
        self.set_orders(update);
    }

    fn push_group(
        &mut self,
        group: &PlanGroup,
        requirements: &RequirementTable,
        classes: &SpeedClasses,
    ) {
        let requirement_id = group.requirement_id;
        let bit = requirements.bit(requirement_id).expect("the plan's requirements have bits");
        let first = to_u32(self.slots.len());
        for round in &group.rounds {
            self.push_round(round, bit, classes.range(round.tier));
        }
        self.groups.push(Group { requirement_id, bit, slots: first..to_u32(self.slots.len()) });
    }

    fn push_round(&mut self, round: &PlanRound, bit: usize, classes: std::ops::Range<u32>) {
        let PlanRound { key, rank, quota, tier, part } = *round;
        let place = to_u32(self.slots.len());
        let (place_before, taken) = self.ledger.set_place(key, place);
        let available = i64::from(quota) - taken;
        let (mut since, mut served) = (self.plans_applied, false);
        if let Some(old) = self.old_slots.get_mut(place_before as usize) {
            old.stays = true;
            since = old.since;
            // It was available already, to the same devices, and those who wait were asked.
            let same = (old.bit, old.tier, old.part) == (bit, tier, part);
            served = same && old.available > 0 && !old.fresh;
        }
        let fresh = available > 0 && !served;
        if fresh {
            self.fresh.push(place);
            self.returns += 1;
        }
        let stays = false;
        let slot =
            Slot { key, bit, rank, quota, tier, classes, part, available, since, fresh, stays };
        self.slots.push(slot);
    }

    fn set_orders(&mut self, update: PlanUpdate) {
        self.by_rank.clear();
        if self.ranked || self.shuffle.is_some() {
            self.by_rank.extend(0..to_u32(self.slots.len()));
            self.by_rank.sort_by_key(|slot| self.slots[*slot as usize].rank);
        }
        self.index_of.clear();
        self.index_of.extend(self.groups.iter().map(|group| group.requirement_id).zip(0..));
        self.fallback.clear();
        self.fallback.extend(update.fallback.iter().map(|id| self.index_of[id]));
        self.by_id.clear();
        self.preferences.clear();
        if !update.preferences.is_empty() {
            self.by_id.extend(0..to_u32(self.groups.len()));
            self.by_id.sort_unstable_by_key(|group| self.groups[*group as usize].requirement_id);
            self.preferences.extend(update.preferences);
        }
    }

    // ------------------------------------------------------------------ charges

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn charge(&mut self, key: RoundKey) {
        let place = self.ledger.charge(key);
        self.change(place, -1);
    }

    pub(super) fn give_back(&mut self, key: RoundKey) {
        let place = self.ledger.give_back(key);
        self.change(place, 1);
    }

    /// The charge becomes an assignment, which stands until a plan has seen it. If this one has,
    /// it knows already that the slot is taken, and the charge is returned.
    pub(super) fn assign(&mut self, key: RoundKey, seq: u64) {
        if seq <= self.seq {
            self.give_back(key);
        } else {
            self.ledger.assign(key, seq);
        }
    }

    /// A charge and its assignment in one.
    pub(super) fn take(&mut self, key: RoundKey, seq: u64) {
        if seq > self.seq {
            let place = self.ledger.take(key, seq);
            self.change(place, -1);
        }
    }

    fn change(&mut self, place: u32, by: i64) {
        let Some(slot) = self.slots.get_mut(place as usize) else {
            return; // the plan does not have the round
        };
        let was_available = slot.available > 0;
        slot.available += by;
        let is_available = slot.available > 0;
        if was_available == is_available {
            return;
        }
        self.epoch += 1;
        if is_available {
            self.returns += 1;
            if !std::mem::replace(&mut slot.fresh, true) {
                self.fresh.push(place);
            }
        }
    }

    /// Collects the requirements (their bits) of the rounds that are fresh and still available, and
    /// ends their freshness. False: there are none.
    pub(super) fn take_fresh(&mut self, bits: &mut Bits) -> bool {
        let mut any = false;
        for place in self.fresh.drain(..) {
            let slot = &mut self.slots[place as usize];
            slot.fresh = false;
            if slot.available > 0 {
                bits.insert(slot.bit);
                any = true;
            }
        }
        any
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Everything that is available becomes fresh.
    pub(super) fn refresh(&mut self) {
        self.fresh.clear();
        for (place, slot) in (0..).zip(&mut self.slots) {
            slot.fresh = slot.available > 0;
            self.fresh.extend(slot.fresh.then_some(place));
        }
    }

    // ------------------------------------------------------------------ rounds

    fn slot_of(&self, key: RoundKey) -> Option<&Slot> {
        self.slots.get(self.ledger.place(key) as usize)
    }

    /// When the round entered the plan; none if it is not in it.
    pub(super) fn since(&self, key: RoundKey) -> Option<u64> {
        self.slot_of(key).map(|slot| slot.since)
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

    /// The seed and the version from which each device's own order is drawn, if it is.
    pub(super) fn shuffle(&self) -> Option<(u64, u64)> {
        self.shuffle.map(|seed| (seed, self.shuffle_version))
    }

    /// All rounds that such a client may be offered, in the order of its offer.
    pub(super) fn list_for(&self, profile: &ProfileKey, list: &mut Vec<u32>) {
        let admits = |slot: &u32| {
            let slot = &self.slots[*slot as usize];
            let part_fits = self.partitions == 0 || slot.part == profile.part;
            part_fits && slot.classes.contains(&profile.class)
        };
        list.clear();
        if self.ranked || self.shuffle.is_some() {
            let meets = |slot: &u32| profile.bits.has(self.slots[*slot as usize].bit);
            list.extend(self.by_rank.iter().copied().filter(meets).filter(admits));
            return;
        }
        let mut seen = Bits::empty(self.groups.len());
        let preferred = self.preferred(&profile.bits).iter().map(|id| self.index_of[id]);
        for index in preferred.chain(self.fallback_complete()) {
            let group = &self.groups[index as usize];
            if profile.bits.has(group.bit) && !seen.has(index as usize) {
                seen.insert(index as usize);
                list.extend(group.slots.clone().filter(admits));
            }
        }
    }

    fn preferred(&self, signature: &Bits) -> &[RequirementId] {
        if self.preferences.is_empty() {
            return &[];
        }
        self.preferences.get(&self.spell(signature)).map_or(&[], |order| order)
    }

    /// The order of the fallback, then the groups that a careless plan left out of it.
    fn fallback_complete(&self) -> impl Iterator<Item = u32> {
        self.fallback.iter().copied().chain(0..to_u32(self.groups.len()))
    }

    fn spell(&self, signature: &Bits) -> Vec<RequirementId> {
        let groups = self.by_id.iter().map(|index| &self.groups[*index as usize]);
        groups.filter(|group| signature.has(group.bit)).map(|group| group.requirement_id).collect()
    }

    /// For checks, each round: its key, quota, what is available of it, its place, whether it is
    /// marked as fresh and listed so.
    pub(super) fn availability(
        &self,
    ) -> impl Iterator<Item = (RoundKey, u32, i64, u32, [bool; 2])> + '_ {
        (0..).zip(&self.slots).map(|(place, slot)| {
            let fresh = [slot.fresh, self.fresh.contains(&place)];
            (slot.key, slot.quota, slot.available, place, fresh)
        })
    }
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("a plan has fewer than 2^32 rounds")
}
