//! A set of small numbers as bits: the requirements that a client meets, or the signatures that
//! meet a requirement.

/// A set of numbers below a fixed width; sets that are compared have equal widths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bits(Words);

/// Few groups and signatures are the rule, and their sets are made many times for each plan, so
/// small ones are kept in place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Words {
    /// The width is at most 64.
    One(u64),
    Many(Box<[u64]>),
}

impl Words {
    fn get(&self) -> &[u64] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }

    fn get_mut(&mut self) -> &mut [u64] {
        match self {
            Self::One(word) => std::slice::from_mut(word),
            Self::Many(words) => words,
        }
    }
}

impl Default for Bits {
    fn default() -> Self {
        Self::empty(0)
    }
}

impl Bits {
    pub(crate) fn empty(width: usize) -> Self {
        if width <= 64 {
            return Self(Words::One(0));
        }
        Self(Words::Many(vec![0; width.div_ceil(64)].into_boxed_slice()))
    }

    pub(crate) fn insert(&mut self, bit: usize) {
        self.0.get_mut()[bit / 64] |= 1 << (bit % 64);
    }

    pub(crate) fn remove(&mut self, bit: usize) {
        self.0.get_mut()[bit / 64] &= !(1 << (bit % 64));
    }

    /// Makes it the set of all numbers below `width`, which is the width that it was made with.
    pub(crate) fn fill(&mut self, width: usize) {
        let words = self.0.get_mut();
        words.fill(if width == 0 { 0 } else { u64::MAX });
        if let (Some(last), 1..) = (words.last_mut(), width % 64) {
            *last = (1 << (width % 64)) - 1;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.get_mut().fill(0);
    }

    pub(crate) fn has(&self, bit: usize) -> bool {
        self.0.get()[bit / 64] >> (bit % 64) & 1 == 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.get().iter().all(|word| *word == 0)
    }

    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.0.get().iter().zip(other.0.get()).any(|(a, b)| a & b != 0)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (word, wanted) in both.0.get_mut().iter_mut().zip(other.0.get()) {
            *word &= wanted;
        }
        both
    }

    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (word, gone) in self.0.get_mut().iter_mut().zip(other.0.get()) {
            *word &= !gone;
        }
    }

    pub(crate) fn insert_all(&mut self, other: &Self) {
        for (word, more) in self.0.get_mut().iter_mut().zip(other.0.get()) {
            *word |= more;
        }
    }

    /// The numbers in the set, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.get().iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(index * 64 + bit)
            })
        })
    }
}
