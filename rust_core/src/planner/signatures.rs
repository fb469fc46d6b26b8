//! Which specs there are, which requirements each meets, and sums over both.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxHashMap;

use crate::bits::Bits;
use crate::requirement::RequirementTable;
use crate::{Manager, RequirementId};

/// The weight of one device. With fewer than 2^32 devices in a bucket and at most 2^19 buckets no
/// sum overflows.
pub(super) const UNIT: u64 = 1 << 12;

/// How many specs are found without hashing.
const RECENT: usize = 256;
/// An odd number without a pattern.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// A weight in devices.
pub(super) fn devices(weight: u64) -> f64 {
    weight as f64 / UNIT as f64
}

#[derive(Debug, Default)]
struct Spec {
    vector: Box<[f64]>,
    /// How many buckets know it; a place in the slab without any is free.
    holds: u32,
    signature: u32,
}

#[derive(Debug)]
struct Signature {
    met: Bits,
    /// Weight in the window, in all and by manager, and over the day.
    window: u64,
    by_manager: Vec<u64>,
    day: u64,
    /// How many specs have it; a place in the slab without any is free.
    specs: u32,
}

/// Specs and signatures are slabs: what refers to them does so by number.
#[derive(Debug)]
pub(super) struct Signatures {
    requirements: RequirementTable,
    specs: Vec<Spec>,
    free_specs: Vec<u32>,
    // Devices choose their specs, hence the standard library's keyed hasher; never iterated.
    spec_of: HashMap<Box<[u64]>, u32>,
    key: Vec<u64>,
    /// The specs that were looked up last, by a cheap mix of their values: a wrong or old number
    /// here only makes the look-up above necessary.
    recent: [u32; RECENT],
    slab: Vec<Signature>,
    free: Vec<u32>,
    signature_of: FxHashMap<Bits, u32>,
    managers: BTreeMap<Manager, usize>,
    /// Sums by requirement: window and day, and for each manager of the window.
    sums: Vec<(u64, u64)>,
    shares: Vec<u64>,
    is_changed: bool,
}

impl Signatures {
    pub(super) fn new(dimensions: usize) -> Self {
        Self {
            requirements: RequirementTable::new(dimensions),
            specs: Vec::new(),
            free_specs: Vec::new(),
            spec_of: HashMap::new(),
            key: Vec::new(),
            recent: [u32::MAX; RECENT],
            slab: Vec::new(),
            free: Vec::new(),
            signature_of: FxHashMap::default(),
            managers: BTreeMap::new(),
            sums: Vec::new(),
            shares: Vec::new(),
            is_changed: true,
        }
    }

    pub(super) fn specs(&self) -> usize {
        self.spec_of.len()
    }

    /// The number of this spec. It stays its number while somebody holds it.
    pub(super) fn spec(&mut self, vector: &[f64]) -> u32 {
        let place = recent_place(vector);
        let recent = self.recent[place];
        let known = self.specs.get(recent as usize);
        if known.is_some_and(|known| known.vector.as_ref() == vector) {
            return recent;
        }
        let index = self.find_spec(vector);
        self.recent[place] = index;
        index
    }

    fn find_spec(&mut self, vector: &[f64]) -> u32 {
        self.key.clear();
        // -0.0 and 0.0 are the same number and must be the same key.
        self.key.extend(vector.iter().map(|value| (value + 0.0).to_bits()));
        if let Some(index) = self.spec_of.get(self.key.as_slice()) {
            return *index;
        }
        let signature = self.sign(vector);
        self.slab[signature as usize].specs += 1;
        let spec = Spec { vector: vector.into(), holds: 0, signature };
        let index = place(&mut self.specs, &mut self.free_specs, spec);
        self.spec_of.insert(self.key.as_slice().into(), index);
        index
    }

    fn sign(&mut self, vector: &[f64]) -> u32 {
        let mut met = Bits::empty(self.requirements.len());
        self.requirements.sign(vector, &mut met);
        if let Some(index) = self.signature_of.get(&met) {
            return *index;
        }
        let key = met.clone();
        let new = Signature { met, window: 0, by_manager: Vec::new(), day: 0, specs: 0 };
        let index = place(&mut self.slab, &mut self.free, new);
        self.signature_of.insert(key, index);
        index
    }

    pub(super) fn hold(&mut self, spec: u32) {
        self.specs[spec as usize].holds += 1;
    }

    pub(super) fn let_go(&mut self, spec: u32) {
        let known = &mut self.specs[spec as usize];
        known.holds -= 1;
        if known.holds > 0 {
            return;
        }
        let Spec { vector, signature, .. } = std::mem::take(known);
        let key: Box<[u64]> = vector.iter().map(|value| (value + 0.0).to_bits()).collect();
        self.spec_of.remove(&key);
        self.free_specs.push(spec);
        let of_it = &mut self.slab[signature as usize];
        of_it.specs -= 1;
        if of_it.specs == 0 {
            self.signature_of.remove(&of_it.met);
            self.free.push(signature);
        }
    }

    pub(super) fn signature_of(&self, spec: u32) -> u32 {
        self.specs[spec as usize].signature
    }

    /// The requirements that are met, by their places.
    pub(super) fn met(&self, signature: u32) -> &Bits {
        &self.slab[signature as usize].met
    }

    fn of(&mut self, spec: u32) -> &mut Signature {
        self.is_changed = true;
        &mut self.slab[self.specs[spec as usize].signature as usize]
    }

    pub(super) fn add(&mut self, spec: u32, manager_slot: usize, weight: u64) {
        let signature = self.of(spec);
        signature.window += weight;
        if signature.by_manager.len() <= manager_slot {
            signature.by_manager.resize(manager_slot + 1, 0);
        }
        signature.by_manager[manager_slot] += weight;
    }

    pub(super) fn subtract(&mut self, spec: u32, manager_slot: usize, weight: u64) {
        let signature = self.of(spec);
        signature.window -= weight;
        signature.by_manager[manager_slot] -= weight;
    }

    pub(super) fn add_day(&mut self, spec: u32, weight: u64) {
        self.of(spec).day += weight;
    }

    pub(super) fn subtract_day(&mut self, spec: u32, weight: u64) {
        self.of(spec).day -= weight;
    }

    /// A number of its own for each manager that ever sent supply.
    pub(super) fn manager_slot(&mut self, manager: Manager) -> usize {
        let next = self.managers.len();
        *self.managers.entry(manager).or_insert(next)
    }

    pub(super) fn known_manager(&self, manager: Manager) -> Option<usize> {
        self.managers.get(&manager).copied()
    }

    pub(super) fn bit(&self, requirement: RequirementId) -> usize {
        self.requirements.bit(requirement).expect("the requirements of all jobs are in use")
    }

    pub(super) fn bits(&self) -> usize {
        self.requirements.len()
    }

    /// True: the places of requirements are others than before, all weights are 0, and the caller
    /// has to add everything again.
    pub(super) fn use_requirements<'a, I>(&mut self, used: I) -> bool
    where
        I: Iterator<Item = (RequirementId, &'a [f64])> + Clone,
    {
        if !self.requirements.ensure(used) {
            return false;
        }
        self.is_changed = true;
        self.slab.clear();
        self.free.clear();
        self.signature_of.clear();
        for index in 0..self.specs.len() {
            if self.specs[index].holds > 0 {
                let vector = std::mem::take(&mut self.specs[index].vector);
                let signature = self.sign(&vector);
                self.slab[signature as usize].specs += 1;
                (self.specs[index].vector, self.specs[index].signature) = (vector, signature);
            }
        }
        true
    }

    /// Makes the sums by requirement, if anything changed since; whether it did.
    pub(super) fn sum_up(&mut self) -> bool {
        if !std::mem::take(&mut self.is_changed) {
            return false;
        }
        let managers = self.managers.len();
        self.sums.clear();
        self.sums.resize(self.requirements.len(), (0, 0));
        self.shares.clear();
        self.shares.resize(self.requirements.len() * managers, 0);
        for signature in self.slab.iter().filter(|signature| signature.specs > 0) {
            for bit in signature.met.iter() {
                let sum = &mut self.sums[bit];
                *sum = (sum.0 + signature.window, sum.1 + signature.day);
                let shares = &mut self.shares[bit * managers..];
                for (share, weight) in shares.iter_mut().zip(&signature.by_manager) {
                    *share += weight;
                }
            }
        }
        true
    }

    /// The weight that meets a requirement, in the window and over the day.
    pub(super) fn sums(&self, bit: usize) -> (u64, u64) {
        self.sums[bit]
    }

    /// The weight in the window that meets a requirement and came to this manager.
    pub(super) fn share(&self, bit: usize, manager_slot: usize) -> u64 {
        self.shares[bit * self.managers.len() + manager_slot]
    }

    /// By place, what is taken of those who meet a requirement, if what is taken for each
    /// requirement comes in equal shares from all who meet it, of the window. If nobody does, it
    /// comes from nowhere else.
    pub(super) fn spread(&self, taken: &[f64]) -> Vec<f64> {
        let share = |(taken, (window, _)): (&f64, &(u64, u64))| taken / (*window).max(1) as f64;
        let shares: Vec<f64> = taken.iter().zip(&self.sums).map(share).collect();
        let mut spread = vec![0.0; taken.len()];
        for signature in self.slab.iter().filter(|signature| signature.specs > 0) {
            let density: f64 = signature.met.iter().map(|bit| shares[bit]).sum();
            for bit in signature.met.iter() {
                spread[bit] += density * signature.window as f64;
            }
        }
        spread
    }

    /// The weights by signature over some requirements alone: `group_of` has their new places.
    pub(super) fn merge(
        &self,
        group_of: &[Option<usize>],
        groups: usize,
        is_day: bool,
    ) -> Vec<(Bits, u64)> {
        let mut merged: Vec<(Bits, u64)> = Vec::new();
        let mut place_of: FxHashMap<Bits, usize> = FxHashMap::default();
        // If all requirements are among the groups, different signatures stay different.
        let are_all_open = group_of.iter().all(Option::is_some);
        let mut narrow = Bits::empty(groups);
        for signature in self.slab.iter().filter(|signature| signature.specs > 0) {
            let weight = if is_day { signature.day } else { signature.window };
            if weight == 0 {
                continue;
            }
            narrow.clear();
            signature.met.iter().filter_map(|bit| group_of[bit]).for_each(|g| narrow.insert(g));
            if narrow.is_empty() {
                continue;
            }
            if are_all_open {
                merged.push((narrow.clone(), weight));
            } else if let Some(place) = place_of.get(&narrow) {
                merged[*place].1 += weight;
            } else {
                place_of.insert(narrow.clone(), merged.len());
                merged.push((narrow.clone(), weight));
            }
        }
        merged
    }
}

fn recent_place(vector: &[f64]) -> usize {
    let mix = |sum: u64, value: &f64| (sum.rotate_left(5) ^ value.to_bits()).wrapping_mul(MIX);
    let mixed = vector.iter().fold(0, mix) >> 56;
    usize::try_from(mixed).expect("8 bits")
}

/// Puts a thing where one is free, or at the end.
fn place<T>(slab: &mut Vec<T>, free: &mut Vec<u32>, thing: T) -> u32 {
    if let Some(index) = free.pop() {
        slab[index as usize] = thing;
        return index;
    }
    slab.push(thing);
    u32::try_from(slab.len() - 1).expect("samples are bounded")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four devices meet A, and one of them B as well. A's jobs take 4 a second, one of each device;
    /// B's take 1, of the one. So of A's devices 5 are taken, and of B's 2.
    #[test]
    fn what_is_taken_comes_in_equal_shares_from_all_who_meet_it() {
        let mut signatures = Signatures::new(2);
        let (a, b) = ([1.0, 0.0], [1.0, 1.0]);
        signatures.use_requirements([(7, a.as_slice()), (8, b.as_slice())].into_iter());
        let manager = signatures.manager_slot(0);
        for (vector, devices) in [([1.0, 0.0], 3), ([1.0, 1.0], 1), ([0.0, 9.0], 50)] {
            let spec = signatures.spec(&vector);
            signatures.hold(spec);
            signatures.add(spec, manager, devices * UNIT);
        }
        signatures.sum_up();
        let mut taken = [0.0; 2];
        (taken[signatures.bit(7)], taken[signatures.bit(8)]) = (4.0, 1.0);
        let spread = signatures.spread(&taken);
        assert_eq!((spread[signatures.bit(7)], spread[signatures.bit(8)]), (5.0, 2.0));
    }
}
