//! Vectors and what it means to meet them.

use rustc_hash::FxHashMap;

use crate::bits::Bits;
use crate::{Error, RequirementId, Result};

/// Tables grow to twice what is in use, and by no less than this, before they forget.
const FORGET_SLACK: usize = 64;

/// Whether a client with `spec` is eligible for `requirement`: no value is below its bound.
pub fn meets(spec: &[f64], requirement: &[f64]) -> bool {
    spec.iter().zip(requirement).all(|(have, need)| have >= need)
}

/// Refuses a vector of the wrong length, and values that are NaN, infinite or negative.
pub fn check_vector(what: &str, vector: &[f64], dimensions: usize) -> Result<()> {
    if vector.len() != dimensions {
        let (what, got) = (what.to_owned(), vector.len());
        return Err(Error::WrongLength { what, expected: dimensions, got });
    }
    // Without leaving early, so that several values are looked at in one step.
    if vector.iter().fold(true, |good, value| good & is_good(*value)) {
        return Ok(());
    }
    match vector.iter().position(|value| !is_good(*value)) {
        None => Ok(()),
        Some(i) => Err(Error::BadValue { what: format!("{what}[{i}]"), value: vector[i] }),
    }
}

/// Refuses a number that is NaN, infinite or negative.
pub(crate) fn check_value(what: &str, value: f64) -> Result<()> {
    if is_good(value) {
        return Ok(());
    }
    Err(Error::BadValue { what: what.to_owned(), value })
}

fn is_good(value: f64) -> bool {
    (0.0..=f64::MAX).contains(&value)
}

/// The requirements that clients are compared with, each with a bit of its own.
///
/// A requirement keeps its bit while its group comes and goes with the open rounds, so that a
/// client's signature is stable; bits change only when [`Self::ensure`] says so.
#[derive(Debug, Default)]
pub(crate) struct RequirementTable {
    dimensions: usize,
    ids: Vec<RequirementId>,
    /// The vectors one after the other.
    bounds: Vec<f64>,
    bit_of: FxHashMap<RequirementId, usize>,
    by_dimension: Vec<Dimension>,
}

/// All bounds of one dimension, strictest first, to find in logarithmic time those that a value
/// does not reach.
#[derive(Debug, Default)]
struct Dimension {
    sorted: Vec<(f64, usize)>,
    /// The bits of the first 0, `STRIDE`, 2 · `STRIDE` … bounds: enough to be fast, few enough to
    /// be small with ten thousand requirements.
    strictest: Vec<Bits>,
}

const STRIDE: usize = 16;

impl Dimension {
    fn new(bounds: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<(f64, usize)> = bounds.zip(0..).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut set = Bits::empty(sorted.len());
        let mut strictest = vec![set.clone()];
        for stride in sorted.chunks(STRIDE) {
            for (_, bit) in stride {
                set.insert(*bit);
            }
            strictest.push(set.clone());
        }
        Self { sorted, strictest }
    }

    fn remove_unmet(&self, value: f64, signature: &mut Bits) {
        if self.sorted.first().is_none_or(|(strictest, _)| *strictest <= value) {
            return; // the most usual case
        }
        let unmet = self.sorted.partition_point(|(bound, _)| *bound > value);
        signature.remove_all(&self.strictest[unmet / STRIDE]);
        let rest = &self.sorted[unmet / STRIDE * STRIDE..unmet];
        for (_, bit) in rest {
            signature.remove(*bit);
        }
    }
}

impl RequirementTable {
    pub(crate) fn new(dimensions: usize) -> Self {
        Self { dimensions, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn bit(&self, id: RequirementId) -> Option<usize> {
        self.bit_of.get(&id).copied()
    }

    /// Makes sure that every requirement in use has a bit. True: the bits are others than before,
    /// and every signature made before is void.
    pub(crate) fn ensure<'a, I>(&mut self, used: I) -> bool
    where
        I: Iterator<Item = (RequirementId, &'a [f64])> + Clone,
    {
        let mut count = 0;
        let mut known = true;
        for (id, vector) in used.clone() {
            count += 1;
            known &= self.bit(id).is_some_and(|bit| self.vector(bit) == vector);
        }
        if known && self.len() <= 2 * count + FORGET_SLACK {
            return false;
        }
        self.rebuild(used, count);
        true
    }

    /// The requirements that `spec` meets, as a set of the width of this table.
    pub(crate) fn sign(&self, spec: &[f64], signature: &mut Bits) {
        signature.fill(self.len());
        for (dimension, value) in self.by_dimension.iter().zip(spec) {
            dimension.remove_unmet(*value, signature);
        }
    }

    fn vector(&self, bit: usize) -> &[f64] {
        &self.bounds[bit * self.dimensions..(bit + 1) * self.dimensions]
    }

    /// Keeps the old requirements too while the table stays within its slack.
    fn rebuild<'a>(
        &mut self,
        used: impl Iterator<Item = (RequirementId, &'a [f64])>,
        count: usize,
    ) {
        let old = std::mem::replace(self, Self::new(self.dimensions));
        for (id, vector) in used {
            self.push(id, vector);
        }
        let kept = if old.len() > count + FORGET_SLACK { 0 } else { old.len() };
        for (bit, id) in old.ids[..kept].iter().enumerate() {
            if !self.bit_of.contains_key(id) {
                self.push(*id, old.vector(bit));
            }
        }
        let bounds =
            |dimension| self.bounds.iter().skip(dimension).step_by(self.dimensions).copied();
        self.by_dimension = (0..self.dimensions).map(|d| Dimension::new(bounds(d))).collect();
    }

    fn push(&mut self, id: RequirementId, vector: &[f64]) {
        self.bit_of.insert(id, self.ids.len());
        self.ids.push(id);
        self.bounds.extend_from_slice(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_outlives_the_absence_of_its_group() {
        let mut table = RequirementTable::new(1);
        assert!(table.ensure([(7, [1.0].as_slice()), (8, [2.0].as_slice())].into_iter()));
        assert!(!table.ensure([(8, [2.0].as_slice())].into_iter()));
        assert!(!table.ensure([(7, [1.0].as_slice())].into_iter()));
    }

    #[test]
    fn an_id_with_another_vector_makes_new_bits() {
        let mut table = RequirementTable::new(1);
        table.ensure([(7, [1.0].as_slice())].into_iter());
        assert!(table.ensure([(7, [3.0].as_slice())].into_iter()));
        let mut signature = Bits::empty(table.len());
        table.sign(&[2.0], &mut signature);
        assert!(signature.is_empty());
    }

    #[test]
    fn requirements_long_unused_are_forgotten() {
        let mut table = RequirementTable::new(1);
        for id in 0..1000 {
            table.ensure([(id, [1.0].as_slice())].into_iter());
        }
        assert!(table.len() <= 2 + FORGET_SLACK, "{}", table.len());
    }

    /// The quick signature is the plain comparison, for tables of several strides and words.
    #[test]
    fn signs_as_meets_says() {
        let mut random = crate::random::SplitMix64::new(1);
        let mut value = || f64::from(u8::try_from(random.below(9)).expect("below 9"));
        let vectors: Vec<[f64; 3]> = (0..150).map(|_| [value(), value(), value()]).collect();
        for count in [0, 1, 15, 16, 17, 63, 64, 65, 150] {
            let mut table = RequirementTable::new(3);
            table.ensure((0..).zip(vectors[..count].iter().map(<[f64; 3]>::as_slice)));
            for _ in 0..50 {
                let spec = [value(), value(), value()];
                let mut signature = Bits::empty(table.len());
                table.sign(&spec, &mut signature);
                let plain = (0..count).filter(|i| meets(&spec, &vectors[*i]));
                assert!(signature.iter().eq(plain), "{count} requirements, {spec:?}");
            }
        }
    }
}
