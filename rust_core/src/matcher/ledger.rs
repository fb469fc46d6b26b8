//! What is charged against each round, and where the plan has it.
//!
//! Kept by round rather than by plan: a round may leave the plan (it looks full) and come back (a
//! lease was lost) while devices still hold offers of it.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::RoundKey;

/// The place of a round that the plan does not have.
pub(super) const NO_PLACE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Devices with an offer or a claim that is charged to the round.
    outstanding: u32,
    /// Assignments that no plan has seen yet.
    unseen: u32,
    /// Its index among the rounds of the plan.
    place: u32,
}

impl Entry {
    const NEW: Self = Self { outstanding: 0, unseen: 0, place: NO_PLACE };

    fn is_void(&self) -> bool {
        self.outstanding == 0 && self.unseen == 0 && self.place == NO_PLACE
    }

    fn taken(&self) -> i64 {
        i64::from(self.outstanding) + i64::from(self.unseen)
    }
}

/// As long as the rounds of the plan, and the offers, claims and fresh assignments that it counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    // Rounds are numbered by the job manager, so a plain hash will do; no answer depends on order.
    entries: FxHashMap<RoundKey, Entry>,
    /// The assignments that no plan has seen yet, with their sequence numbers.
    unseen: Vec<(u64, RoundKey)>,
}

impl Ledger {
    /// Each of these returns the place of the round.
    pub(super) fn charge(&mut self, key: RoundKey) -> u32 {
        let entry = self.entries.entry(key).or_insert(Entry::NEW);
        entry.outstanding += 1;
        entry.place
    }

    pub(super) fn give_back(&mut self, key: RoundKey) -> u32 {
        let entry = self.entries.get_mut(&key).expect("a charge is returned once");
        entry.outstanding -= 1;
        let (place, is_void) = (entry.place, entry.is_void());
        if is_void {
            self.entries.remove(&key);
        }
        place
    }

    /// The charge becomes an assignment that the plan has not seen.
    pub(super) fn assign(&mut self, key: RoundKey, seq: u64) {
        let entry = self.entries.get_mut(&key).expect("an assigned device was charged");
        entry.outstanding -= 1;
        entry.unseen += 1;
        self.unseen.push((seq, key));
    }

    /// A charge and its assignment in one; returns the place of the round.
    pub(super) fn take(&mut self, key: RoundKey, seq: u64) -> u32 {
        let entry = self.entries.entry(key).or_insert(Entry::NEW);
        entry.unseen += 1;
        self.unseen.push((seq, key));
        entry.place
    }

    /// A plan has seen everything up to `seq`.
    pub(super) fn settle(&mut self, seq: u64) {
        let entries = &mut self.entries;
        self.unseen.retain(|(unseen, key)| {
            if *unseen > seq {
                return true;
            }
            let entry = entries.get_mut(key).expect("unseen assignments are counted");
            entry.unseen -= 1;
            if entry.is_void() {
                entries.remove(key);
            }
            false
        });
    }

    /// The round's place in the plan; [`NO_PLACE`] if it is not there.
    pub(super) fn place(&self, key: RoundKey) -> u32 {
        self.entries.get(&key).map_or(NO_PLACE, |entry| entry.place)
    }

    /// Puts the round at a place; returns the place before, and what its quota is reduced by.
    pub(super) fn set_place(&mut self, key: RoundKey, place: u32) -> (u32, i64) {
        let entry = self.entries.entry(key).or_insert(Entry::NEW);
        (std::mem::replace(&mut entry.place, place), entry.taken())
    }

    /// The round has left the plan.
    pub(super) fn clear_place(&mut self, key: RoundKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = NO_PLACE;
            if entry.is_void() {
                self.entries.remove(&key);
            }
        }
    }

    /// What the round's quota is reduced by.
    pub(super) fn taken(&self, key: RoundKey) -> i64 {
        self.entries.get(&key).map_or(0, Entry::taken)
    }

    /// The charges by round, without assignments; for checks.
    pub(super) fn outstanding(&self) -> BTreeMap<RoundKey, u32> {
        let charged = self.entries.iter().filter(|(_, entry)| entry.outstanding > 0);
        charged.map(|(key, entry)| (*key, entry.outstanding)).collect()
    }

    /// The unseen assignments by round, counted in both ways; and how many rounds are of no use.
    pub(super) fn unseen(&self) -> [BTreeMap<RoundKey, u32>; 2] {
        let mut listed = BTreeMap::new();
        self.unseen.iter().for_each(|(_, key)| *listed.entry(*key).or_default() += 1);
        let unseen = self.entries.iter().filter(|(_, entry)| entry.unseen > 0);
        [listed, unseen.map(|(key, entry)| (*key, entry.unseen)).collect()]
    }

    /// Every round with its place, for checks; a void one should not be here.
    pub(super) fn places(&self) -> impl Iterator<Item = (RoundKey, u32, bool)> + '_ {
        self.entries.iter().map(|(key, entry)| (*key, entry.place, entry.is_void()))
    }
}
