//! Speed classes: what the tier filters of the plans tell apart.
//!
//! A class is the devices between two neighbours of the bounds that plans use, so devices of one
//! class and one signature are offered the same. Bounds are kept for a while after the last round
//! that used them, so that the classes of those who wait seldom change.

/// Twice the bounds in use, and so many, are kept.
const FORGET_SLACK: usize = 32;

/// A filter by speed: at least the first, less than the second.
pub type Tier = (f64, Option<f64>);

#[derive(Debug, Default)]
pub(super) struct SpeedClasses {
    /// Ascending. Class c is the options with c of the bounds at or below them.
    bounds: Vec<f64>,
    scratch: Vec<f64>,
}

impl SpeedClasses {
    /// Makes sure that these filters can be told apart. True: classes are others than before.
    pub(super) fn ensure(&mut self, tiers: impl Iterator<Item = Tier>) -> bool {
        self.scratch.clear();
        // No option is below 0, so a bound of 0 tells nothing apart.
        let bounds = tiers.flat_map(|(min, max)| [Some(min), max]).flatten();
        self.scratch.extend(bounds.filter(|bound| *bound > 0.0));
        let known = self.scratch.iter().all(|bound| self.is_known(*bound));
        if known && self.bounds.len() <= FORGET_SLACK {
            return false;
        }
        self.scratch.sort_unstable_by(f64::total_cmp);
        self.scratch.dedup();
        if known && self.bounds.len() <= 2 * self.scratch.len() + FORGET_SLACK {
            return false;
        }
        if self.bounds.len() <= self.scratch.len() + FORGET_SLACK {
            self.scratch.extend_from_slice(&self.bounds);
            self.scratch.sort_unstable_by(f64::total_cmp);
            self.scratch.dedup();
        }
        std::mem::swap(&mut self.bounds, &mut self.scratch);
        true
    }

    fn is_known(&self, bound: f64) -> bool {
        self.bounds.binary_search_by(|known| known.total_cmp(&bound)).is_ok()
    }

    pub(super) fn class(&self, option: f64) -> u32 {
        let below = self.bounds.partition_point(|bound| *bound <= option);
        u32::try_from(below).expect("a plan has fewer than 2^32 bounds")
    }

    /// The classes that a filter lets through, as a half-open range.
    pub(super) fn range(&self, tier: Option<Tier>) -> std::ops::Range<u32> {
        match tier {
            None => 0..u32::MAX,
            Some((min, max)) => self.class(min)..max.map_or(u32::MAX, |max| self.class(max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_lies_in_the_range_of_a_tier_just_if_its_options_do() {
        let tiers = [(0.0, Some(1.0)), (1.0, Some(2.5)), (2.5, None), (1.5, Some(2.0))];
        let mut classes = SpeedClasses::default();
        assert!(classes.ensure(tiers.into_iter()));
        assert!(!classes.ensure(tiers.into_iter().take(2)), "nothing new");
        for tenth in 0..40 {
            let option = f64::from(tenth) / 10.0;
            for (min, max) in tiers {
                let inside = min <= option && max.is_none_or(|max| option < max);
                let range = classes.range(Some((min, max)));
                assert_eq!(range.contains(&classes.class(option)), inside, "{option} {min}");
            }
            assert!(classes.range(None).contains(&classes.class(option)));
        }
    }

    #[test]
    fn bounds_long_unused_are_forgotten() {
        let mut classes = SpeedClasses::default();
        for i in 1..1_000 {
            classes.ensure([(f64::from(i), None)].into_iter());
        }
        assert!(classes.bounds.len() <= 2 + 2 * FORGET_SLACK, "{}", classes.bounds.len());
    }
}
