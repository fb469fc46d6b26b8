//! What is charged against each round.
//!
//! Kept by round rather than by plan: a round may leave the plan (it looks full) and come back (a
//! lease was lost) while devices still hold offers of it.

use std::collections::BTreeMap;

use crate::RoundKey;

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Devices with an offer or a claim that is charged to the round.
    outstanding: u32,
    /// The sequence numbers of assignments that no plan has seen yet.
    unseen: Vec<u64>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.outstanding == 0 && self.unseen.is_empty()
    }
}

/// As long as the offers, claims and fresh assignments that it counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<RoundKey, Entry>,
}

impl Ledger {
    pub(super) fn charge(&mut self, key: RoundKey) {
        self.entries.entry(key).or_default().outstanding += 1;
    }

    pub(super) fn give_back(&mut self, key: RoundKey) {
        let entry = self.entries.get_mut(&key).expect("a charge is returned once");
        entry.outstanding -= 1;
        if entry.is_empty() {
            self.entries.remove(&key);
        }
    }

    /// The charge becomes an assignment that the plan has not seen.
    pub(super) fn assign(&mut self, key: RoundKey, seq: u64) {
        let entry = self.entries.get_mut(&key).expect("an assigned device was charged");
        entry.outstanding -= 1;
        entry.unseen.push(seq);
    }

    /// A plan has seen everything up to `seq`.
    pub(super) fn settle(&mut self, seq: u64) {
        self.entries.retain(|_, entry| {
            entry.unseen.retain(|unseen| *unseen > seq);
            !entry.is_empty()
        });
    }

    /// The current plan has seen this one assignment already.
    pub(super) fn settle_one(&mut self, key: RoundKey, seq: u64) {
        let entry = self.entries.get_mut(&key).expect("it was just assigned");
        entry.unseen.retain(|unseen| *unseen > seq);
        if entry.is_empty() {
            self.entries.remove(&key);
        }
    }

    /// What the round's quota is reduced by.
    pub(super) fn taken(&self, key: RoundKey) -> i64 {
        self.entries.get(&key).map_or(0, |entry| {
            i64::from(entry.outstanding) + i64::try_from(entry.unseen.len()).unwrap_or(i64::MAX)
        })
    }

    /// The charges by round, without assignments.
    pub(super) fn outstanding(&self) -> BTreeMap<RoundKey, u32> {
        let charged = self.entries.iter().filter(|(_, entry)| entry.outstanding > 0);
        charged.map(|(key, entry)| (*key, entry.outstanding)).collect()
    }
}
