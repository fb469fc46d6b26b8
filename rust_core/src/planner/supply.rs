//! The recent supply: who checked in within the window, by spec, and how many meet which groups.
//!
//! Specs are kept, not signatures, so that the supply of a requirement that is new is known at
//! once: everything in the window is counted again when the set of requirements changes.
//!
//! Weights are integers (devices times [`UNIT`]), so that adding and removing in any order gives
//! the same sums.

use std::collections::{BTreeMap, HashMap};

use super::PlannerConfig;
use crate::bits::Bits;
use crate::policy::SignatureView;
use crate::requirement::RequirementTable;
use crate::{Manager, RequirementId};

/// The weight of one device. With fewer than 2^32 devices in a bucket and at most
/// [`SAMPLES_MAX`] buckets no sum overflows.
const UNIT: u64 = 1 << 12;

/// The largest number of samples that a window may be set to keep.
pub(super) const SAMPLES_MAX: usize = 1 << 19;

/// Devices times [`UNIT`], by manager.
type Weights = BTreeMap<Manager, u64>;

#[derive(Debug)]
struct Spec {
    vector: Box<[f64]>,
    weights: Weights,
}

#[derive(Debug)]
pub(super) struct SupplyWindow {
    dimensions: usize,
    window_ns: u64,
    samples_max: usize,
    samples: usize,
    /// The sampled devices of each bucket, by spec; each stands for the same weight.
    buckets: BTreeMap<(u64, Manager), (u64, Vec<u32>)>,
    /// A slab; free places have no weights.
    specs: Vec<Spec>,
    free: Vec<u32>,
    // Devices choose their specs, hence the standard library's keyed hasher; never iterated.
    spec_of: HashMap<Box<[u64]>, u32>,
    requirements: RequirementTable,
    /// The supply by signature over all known requirements.
    signatures: BTreeMap<Bits, Weights>,
}

impl SupplyWindow {
    pub(super) fn new(config: &PlannerConfig) -> Self {
        Self {
            dimensions: config.dimensions,
            window_ns: config.supply_window_ns,
            samples_max: config.supply_samples_max,
            samples: 0,
            buckets: BTreeMap::new(),
            specs: Vec::new(),
            free: Vec::new(),
            spec_of: HashMap::new(),
            requirements: RequirementTable::new(config.dimensions),
            signatures: BTreeMap::new(),
        }
    }

    pub(super) fn specs(&self) -> usize {
        self.spec_of.len()
    }

    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    pub(super) fn add(&mut self, manager: Manager, start_ns: u64, distinct: u64, specs: &[f64]) {
        self.remove_bucket((start_ns, manager));
        let sampled = specs.len() / self.dimensions;
        if sampled == 0 {
            return;
        }
        let weight = distinct * UNIT / sampled as u64;
        let mut members = Vec::with_capacity(sampled);
        for vector in specs.chunks_exact(self.dimensions) {
            members.push(self.add_spec(vector, manager, weight));
        }
        self.samples += sampled;
        self.buckets.insert((start_ns, manager), (weight, members));
        while self.samples > self.samples_max {
            let oldest = *self.buckets.keys().next().expect("samples are in buckets");
            self.remove_bucket(oldest);
        }
    }

    fn add_spec(&mut self, vector: &[f64], manager: Manager, weight: u64) -> u32 {
        // -0.0 and 0.0 are the same number and must be the same key.
        let key: Box<[u64]> = vector.iter().map(|value| (value + 0.0).to_bits()).collect();
        let index = match self.spec_of.get(&key) {
            Some(index) => *index,
            None => self.new_spec(key, vector),
        };
        *self.specs[index as usize].weights.entry(manager).or_default() += weight;
        let signature = self.sign(index);
        *self.signatures.entry(signature).or_default().entry(manager).or_default() += weight;
        index
    }

    fn new_spec(&mut self, key: Box<[u64]>, vector: &[f64]) -> u32 {
        let spec = Spec { vector: vector.into(), weights: Weights::new() };
        let index = if let Some(index) = self.free.pop() {
            self.specs[index as usize] = spec;
            index
        } else {
            self.specs.push(spec);
            u32::try_from(self.specs.len() - 1).expect("samples are bounded")
        };
        self.spec_of.insert(key, index);
        index
    }

    fn remove_bucket(&mut self, bucket: (u64, Manager)) {
        let Some((weight, members)) = self.buckets.remove(&bucket) else {
            return;
        };
        self.samples -= members.len();
        for index in members {
            self.remove_from_spec(index, bucket.1, weight);
        }
    }

    fn remove_from_spec(&mut self, index: u32, manager: Manager, weight: u64) {
        let signature = self.sign(index);
        let weights = self.signatures.get_mut(&signature).expect("every spec is counted");
        subtract(weights, manager, weight);
        if weights.is_empty() {
            self.signatures.remove(&signature);
        }
        let spec = &mut self.specs[index as usize];
        subtract(&mut spec.weights, manager, weight);
        if spec.weights.is_empty() {
            let key: Box<[u64]> = spec.vector.iter().map(|v| (v + 0.0).to_bits()).collect();
            self.spec_of.remove(&key);
            self.free.push(index);
        }
    }

    fn sign(&self, index: u32) -> Bits {
        let mut signature = Bits::empty(self.requirements.len());
        self.requirements.sign(&self.specs[index as usize].vector, &mut signature);
        signature
    }

    /// Forgets what is older than the window, and counts again if the requirements are others.
    pub(super) fn refresh<'a, I>(&mut self, now_ns: u64, used: I)
    where
        I: Iterator<Item = (RequirementId, &'a [f64])> + Clone,
    {
        let oldest = now_ns.saturating_sub(self.window_ns);
        while let Some(bucket) = self.buckets.keys().next().copied().filter(|b| b.0 < oldest) {
            self.remove_bucket(bucket);
        }
        if self.requirements.ensure(used) {
            self.count_again();
        }
    }

    fn count_again(&mut self) {
        self.signatures.clear();
        for index in 0..self.specs.len() {
            if self.specs[index].weights.is_empty() {
                continue;
            }
            let signature = self.sign(u32::try_from(index).expect("samples are bounded"));
            let sums = self.signatures.entry(signature).or_default();
            for (manager, weight) in &self.specs[index].weights {
                *sums.entry(*manager).or_default() += weight;
            }
        }
    }

    /// How many devices meet each of these requirements, which were known at the last refresh.
    pub(super) fn of_each(&self, requirements: &[RequirementId]) -> Vec<f64> {
        let mut sums = vec![0; self.requirements.len()];
        for (signature, weights) in &self.signatures {
            let weight = weights.values().sum::<u64>();
            signature.iter().for_each(|bit| sums[bit] += weight);
        }
        requirements.iter().map(|id| devices(sums[self.bit(*id)])).collect()
    }

    /// The signatures over these groups alone, and for each group the weights of the managers.
    pub(super) fn count(
        &self,
        groups: &[RequirementId],
        managers: &[Manager],
    ) -> (Vec<SignatureView>, Vec<Vec<u64>>) {
        let bits: Vec<usize> = groups.iter().map(|id| self.bit(*id)).collect();
        let merged = self.merge(&bits, managers);
        let mut shares = vec![vec![0; managers.len()]; groups.len()];
        for (signature, (_, parts)) in &merged {
            signature.iter().for_each(|group| add_each(&mut shares[group], parts));
        }
        let to_view = |(signature, (total, _))| SignatureView::from_bits(signature, devices(total));
        (merged.into_iter().map(to_view).collect(), shares)
    }

    fn bit(&self, requirement: RequirementId) -> usize {
        self.requirements.bit(requirement).expect("refreshed with the requirements of all jobs")
    }

    /// The supply by signature over these groups alone: the total and the managers' parts.
    fn merge(&self, bits: &[usize], managers: &[Manager]) -> BTreeMap<Bits, (u64, Vec<u64>)> {
        let mut group_of = vec![None; self.requirements.len()];
        bits.iter().enumerate().for_each(|(group, bit)| group_of[*bit] = Some(group));
        let mut merged = BTreeMap::new();
        for (signature, weights) in &self.signatures {
            let mut narrow = Bits::empty(bits.len());
            let groups = signature.iter().filter_map(|bit| group_of[bit]);
            groups.for_each(|group| narrow.insert(group));
            if narrow.is_empty() {
                continue;
            }
            let part = |manager: &Manager| weights.get(manager).copied().unwrap_or(0);
            let parts: Vec<u64> = managers.iter().map(part).collect();
            let sum = merged.entry(narrow).or_insert_with(|| (0, vec![0; managers.len()]));
            sum.0 += weights.values().sum::<u64>();
            add_each(&mut sum.1, &parts);
        }
        merged
    }
}

fn subtract(weights: &mut Weights, manager: Manager, weight: u64) {
    let left = weights.get_mut(&manager).expect("what was added is subtracted");
    *left -= weight;
    if *left == 0 {
        weights.remove(&manager);
    }
}

fn add_each(sums: &mut [u64], parts: &[u64]) {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum += part;
    }
}

fn devices(weight: u64) -> f64 {
    weight as f64 / UNIT as f64
}
