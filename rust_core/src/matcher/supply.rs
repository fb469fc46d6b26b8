//! The supply that this manager sees: distinct devices per time bucket, and a sample of them.

use std::collections::VecDeque;

use super::MatcherConfig;
use super::hash::{Hasher, KeyedSet};
use crate::Device;
use crate::random::SplitMix64;

/// A bucket remembers so many devices; beyond, repeated check-ins within it are counted again.
const DISTINCT_MAX: usize = 1 << 20;
/// So many closed buckets wait to be taken; beyond, the oldest are lost.
const CLOSED_MAX: usize = 1024;

/// The devices that checked in within one span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SupplyBucket {
    /// When the span began.
    pub start_ns: u64,
    /// How many distinct devices.
    pub distinct_devices: u64,
    /// The specs of a uniform sample of them, one after the other.
    pub specs: Vec<f64>,
    /// The speed scores of the same sample.
    pub options: Vec<f64>,
}

#[derive(Debug)]
pub(super) struct SupplyCounter {
    bucket_ns: u64,
    sample_max: usize,
    random: SplitMix64,
    open: Option<SupplyBucket>,
    /// The devices of the open bucket.
    seen: KeyedSet<Device>,
    closed: VecDeque<SupplyBucket>,
}

impl SupplyCounter {
    pub(super) fn new(config: &MatcherConfig, hasher: Hasher) -> Self {
        Self {
            bucket_ns: config.supply_bucket_ns,
            sample_max: config.supply_sample_max,
            random: SplitMix64::new(config.seed),
            open: None,
            seen: KeyedSet::with_hasher(hasher),
            closed: VecDeque::new(),
        }
    }

    pub(super) fn count(&mut self, now_ns: u64, device: Device, spec: &[f64], option: f64) {
        self.close(now_ns);
        let is_full = self.seen.len() >= DISTINCT_MAX;
        let is_new = if is_full { !self.seen.contains(&device) } else { self.seen.insert(device) };
        if is_new {
            self.add(now_ns, spec, option);
        }
    }

    /// The same for a device of which the caller knows when it was counted last. A device is
    /// counted either by this alone or by [`Self::count`] alone.
    pub(super) fn count_again(
        &mut self,
        now_ns: u64,
        last_ns: Option<u64>,
        spec: &[f64],
        option: f64,
    ) {
        self.close(now_ns);
        let start_ns = self.open.as_ref().map(|bucket| bucket.start_ns);
        if last_ns.is_none() || last_ns < start_ns || start_ns.is_none() {
            self.add(now_ns, spec, option);
        }
    }

    fn add(&mut self, now_ns: u64, spec: &[f64], option: f64) {
        let new = || {
            let start_ns = now_ns - now_ns % self.bucket_ns;
            SupplyBucket { start_ns, ..Default::default() }
        };
        let bucket = self.open.get_or_insert_with(new);
        bucket.distinct_devices += 1;
        if bucket.options.len() < self.sample_max {
            bucket.specs.extend_from_slice(spec);
            bucket.options.push(option);
            return;
        }
        // Reservoir sampling: the n-th device replaces one of the sample with probability max/n.
        let place = self.random.below(bucket.distinct_devices);
        if let Some(place) = usize::try_from(place).ok().filter(|p| *p < self.sample_max) {
            bucket.specs[place * spec.len()..][..spec.len()].copy_from_slice(spec);
            bucket.options[place] = option;
        }
    }

    fn close(&mut self, now_ns: u64) {
        let ended =
            |bucket: &SupplyBucket| bucket.start_ns.saturating_add(self.bucket_ns) <= now_ns;
        if !self.open.as_ref().is_some_and(ended) {
            return;
        }
        if self.closed.len() == CLOSED_MAX {
            self.closed.pop_front();
        }
        self.closed.extend(self.open.take());
        self.seen.clear();
    }

    pub(super) fn take(&mut self, now_ns: u64) -> Vec<SupplyBucket> {
        self.close(now_ns);
        self.closed.drain(..).collect()
    }

    pub(super) fn due_ns(&self) -> Option<u64> {
        let oldest = self.closed.front().or(self.open.as_ref())?;
        Some(oldest.start_ns.saturating_add(self.bucket_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::hash::hasher;

    /// Whether the devices are remembered, or each says when it was counted last.
    #[test]
    fn both_ways_to_count_find_the_same_devices() {
        let config = MatcherConfig { supply_bucket_ns: 100, ..MatcherConfig::new(1) };
        let counter = || SupplyCounter::new(&config, hasher(1));
        let (mut remembering, mut told) = (counter(), counter());
        let (mut last, mut random) = ([None; 20], SplitMix64::new(5));
        for now_ns in 0..5_000 {
            let device = usize::try_from(random.below(20)).expect("below 20");
            remembering.count(now_ns, device as Device, &[device as f64], 1.0);
            told.count_again(now_ns, last[device].replace(now_ns), &[device as f64], 1.0);
        }
        let buckets = told.take(5_000);
        assert_eq!(buckets.len(), 50);
        assert_eq!(remembering.take(5_000), buckets);
    }
}
