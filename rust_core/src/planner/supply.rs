//! The supply: who checked in, by spec, in a short window and over a day, and how many meet which
//! requirements.
//!
//! Specs are kept, not signatures, so that the supply of a requirement that is new is known at
//! once: everything is counted again when the set of requirements changes, and only then. Between
//! plans nothing is summed up twice: sums are made when a plan asks, if supply came or went.
//!
//! The window is kept by the buckets that the managers send; the day in [`DAY_BUCKETS`] coarse
//! buckets over all managers, each with at most [`DAY_SPECS_MAX`] specs (devices choose theirs):
//! what comes beyond is counted as devices, but not by spec.
//!
//! Weights are integers (devices times [`UNIT`]), so that adding and removing in any order gives
//! the same sums.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use super::PlannerConfig;
use super::signatures::{Signatures, UNIT, devices};
use super::speeds::{Speed, Speeds};
use crate::policy::SignatureView;
use crate::{Manager, RequirementId};

/// The largest number of samples that a window may be set to keep.
pub(super) const SAMPLES_MAX: usize = 1 << 19;

/// Into how many buckets the day is divided: 15 minutes each, of 24 hours.
const DAY_BUCKETS: u64 = 96;

/// How many specs a bucket of the day tells apart.
const DAY_SPECS_MAX: usize = 1_024;

/// How many speeds of one bucket are kept; the sample is random already.
const SPEEDS_MAX: usize = 64;

/// Rates are over no less time than this, so that the first second of a system is no flood.
const COVERED_MIN_NS: u64 = 1_000_000_000;

#[derive(Debug)]
struct Bucket {
    /// What each sampled device stands for.
    weight: u64,
    samples: usize,
    /// The sampled devices by spec: which, and how many.
    specs: Vec<(u32, u32)>,
    /// The speeds of some of them, if the policy asks.
    speeds: Vec<(u32, f64)>,
}

#[derive(Debug)]
struct DayBucket {
    number: u64,
    specs: FxHashMap<u32, u64>,
    /// The weight that is not told apart by spec.
    lost: u64,
}

/// How many devices meet a requirement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Met {
    /// By which scarcity goes: of the day, or of the window if there is no day.
    pub(super) supply: f64,
    /// A second, in the window.
    pub(super) rate: f64,
    /// A second, over the day.
    pub(super) rate_day: f64,
}

#[derive(Debug)]
pub(super) struct Supply {
    dimensions: usize,
    window_ns: u64,
    day_ns: u64,
    day_bucket_ns: u64,
    samples_max: usize,
    samples: usize,
    window: BTreeMap<(u64, Manager), Bucket>,
    day: VecDeque<DayBucket>,
    /// The weight of the day that is told apart by spec, and that which is not.
    day_known: u64,
    day_lost: u64,
    /// When the first bucket began.
    first_ns: u64,
    signatures: Signatures,
    /// None: the policy does not use speeds.
    speeds: Option<Speeds>,
    /// How many devices of a bucket have a spec, while it is added: spec by spec, mostly 0.
    tally: Vec<u32>,
}

impl Supply {
    pub(super) fn new(config: &PlannerConfig, uses_speeds: bool) -> Self {
        let classes = config.options.tiers as usize;
        Self {
            dimensions: config.dimensions,
            window_ns: config.supply_window_ns,
            day_ns: config.supply_day_ns,
            day_bucket_ns: config.supply_day_ns.div_ceil(DAY_BUCKETS).max(1),
            samples_max: config.supply_samples_max,
            samples: 0,
            window: BTreeMap::new(),
            day: VecDeque::new(),
            day_known: 0,
            day_lost: 0,
            first_ns: u64::MAX,
            signatures: Signatures::new(config.dimensions),
            speeds: uses_speeds.then(|| Speeds::new(classes, config.supply_window_ns / 20)),
            tally: Vec::new(),
        }
    }

    pub(super) fn specs(&self) -> usize {
        self.signatures.specs()
    }

    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// Counts a bucket; the same one again replaces the first.
    pub(super) fn add(
        &mut self,
        manager: Manager,
        start_ns: u64,
        distinct: u64,
        specs: &[f64],
        options: &[f64],
    ) {
        if let Some(old) = self.window.remove(&(start_ns, manager)) {
            self.forget(manager, &old);
            self.add_to_day(start_ns, &old, false);
        }
        let samples = specs.len() / self.dimensions;
        if samples == 0 {
            return;
        }
        self.first_ns = self.first_ns.min(start_ns);
        let weight = distinct * UNIT / samples as u64;
        let bucket = self.bucket(weight, specs, options);
        let manager_slot = self.signatures.manager_slot(manager);
        for (spec, count) in &bucket.specs {
            self.signatures.add(*spec, manager_slot, weight * u64::from(*count));
        }
        self.samples += samples;
        self.add_to_day(start_ns, &bucket, true);
        self.window.insert((start_ns, manager), bucket);
        while self.samples > self.samples_max {
            self.forget_oldest();
        }
    }

    fn bucket(&mut self, weight: u64, specs: &[f64], options: &[f64]) -> Bucket {
        let samples = specs.len() / self.dimensions;
        let mut bucket = Bucket { weight, samples, specs: Vec::new(), speeds: Vec::new() };
        for (vector, option) in specs.chunks_exact(self.dimensions).zip(options) {
            let spec = self.signatures.spec(vector);
            if self.tally.len() <= spec as usize {
                self.tally.resize(spec as usize + 1, 0);
            }
            let count = &mut self.tally[spec as usize];
            *count += 1;
            if *count == 1 {
                self.signatures.hold(spec);
                bucket.specs.push((spec, 0));
            }
            if self.speeds.is_some() && bucket.speeds.len() < SPEEDS_MAX {
                bucket.speeds.push((spec, *option));
            }
        }
        for (spec, count) in &mut bucket.specs {
            *count = std::mem::take(&mut self.tally[*spec as usize]);
        }
        bucket
    }

    /// Takes a bucket that is no more in the window out of the sums.
    fn forget(&mut self, manager: Manager, bucket: &Bucket) {
        self.samples -= bucket.samples;
        let slot = self.signatures.manager_slot(manager);
        for (spec, count) in &bucket.specs {
            self.signatures.subtract(*spec, slot, bucket.weight * u64::from(*count));
            self.signatures.let_go(*spec);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(((_, manager), bucket)) = self.window.pop_first() {
            self.forget(manager, &bucket);
        }
    }

    /// Adds what is in a bucket to its part of the day, or takes it back.
    fn add_to_day(&mut self, start_ns: u64, bucket: &Bucket, add: bool) {
        let Some(place) = self.day_bucket(start_ns / self.day_bucket_ns, add) else {
            return;
        };
        let day = &mut self.day[place];
        for (spec, count) in &bucket.specs {
            let weight = bucket.weight * u64::from(*count);
            let is_full = day.specs.len() >= DAY_SPECS_MAX;
            match (day.specs.get_mut(spec), add) {
                (Some(sum), true) => {
                    *sum += weight;
                    self.signatures.add_day(*spec, weight);
                    self.day_known += weight;
                }
                (Some(sum), false) if *sum >= weight => {
                    *sum -= weight;
                    self.signatures.subtract_day(*spec, weight);
                    self.day_known -= weight;
                }
                (None, true) if !is_full => {
                    day.specs.insert(*spec, weight);
                    self.signatures.hold(*spec);
                    self.signatures.add_day(*spec, weight);
                    self.day_known += weight;
                }
                (_, true) => {
                    day.lost += weight;
                    self.day_lost += weight;
                }
                // It was lost; what is gone is gone.
                (_, false) => (),
            }
        }
    }

    /// The place of this bucket of the day, which is made if it is missing and `make` says so.
    fn day_bucket(&mut self, number: u64, make: bool) -> Option<usize> {
        if self.day_ns == 0 {
            return None;
        }
        match self.day.binary_search_by_key(&number, |bucket| bucket.number) {
            Ok(place) => Some(place),
            Err(place) if make => {
                self.day.insert(place, DayBucket { number, specs: FxHashMap::default(), lost: 0 });
                Some(place)
            }
            Err(_) => None,
        }
    }

    /// Forgets what is older than the window and the day.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let oldest = now_ns.saturating_sub(self.window_ns);
        while self.window.first_key_value().is_some_and(|(key, _)| key.0 < oldest) {
            self.forget_oldest();
        }
        let day_start = now_ns.saturating_sub(self.day_ns);
        let is_over = |day: &DayBucket| (day.number + 1) * self.day_bucket_ns <= day_start;
        while self.day.front().is_some_and(is_over) {
            let day = self.day.pop_front().expect("there is one");
            self.day_lost -= day.lost;
            for (spec, weight) in day.specs {
                self.day_known -= weight;
                self.signatures.subtract_day(spec, weight);
                self.signatures.let_go(spec);
            }
        }
    }

    /// Makes sure that the requirements in use are counted; everything is counted again if they
    /// are others than before.
    pub(super) fn use_requirements<'a, I>(&mut self, used: I)
    where
        I: Iterator<Item = (RequirementId, &'a [f64])> + Clone,
    {
        if !self.signatures.use_requirements(used) {
            return;
        }
        for ((_, manager), bucket) in &self.window {
            let slot = self.signatures.manager_slot(*manager);
            for (spec, count) in &bucket.specs {
                self.signatures.add(*spec, slot, bucket.weight * u64::from(*count));
            }
        }
        for (spec, weight) in self.day.iter().flat_map(|day| &day.specs) {
            self.signatures.add_day(*spec, *weight);
        }
        if let Some(speeds) = &mut self.speeds {
            speeds.forget();
        }
    }

    /// Sums up if anything came or went. True: something did.
    pub(super) fn refresh(&mut self, now_ns: u64) -> bool {
        let has_changed = self.signatures.sum_up();
        if let Some(speeds) = &mut self.speeds
            && speeds.are_due(now_ns, self.samples)
        {
            let samples: usize = self.window.values().map(|bucket| bucket.speeds.len()).sum();
            let observed = self.window.values().flat_map(|bucket| {
                let signatures = &self.signatures;
                bucket.speeds.iter().map(|(spec, option)| Speed {
                    option: *option,
                    signature: signatures.signature_of(*spec),
                    weight: bucket.weight,
                })
            });
            speeds.divide(now_ns, self.samples, samples, observed, &self.signatures);
        }
        has_changed
    }

    /// What jobs take of the devices that meet each requirement, from what those with each
    /// requirement take (both by place): they take all that meet theirs alike.
    pub(super) fn spread(&self, taken: &[f64]) -> Vec<f64> {
        self.signatures.spread(taken)
    }

    /// The place of a requirement in use in the tables of this module.
    pub(super) fn bit(&self, requirement: RequirementId) -> usize {
        self.signatures.bit(requirement)
    }

    /// How many places there are.
    pub(super) fn bits(&self) -> usize {
        self.signatures.bits()
    }

    /// How many devices meet the requirement at this place.
    pub(super) fn met(&self, now_ns: u64, bit: usize) -> Met {
        let (window, day) = self.signatures.sums(bit);
        let day = day as f64 * self.day_scale() / UNIT as f64;
        let covered_s = |most_ns: u64| {
            let so_far = now_ns.saturating_sub(self.first_ns.min(now_ns));
            so_far.clamp(COVERED_MIN_NS.min(most_ns), most_ns) as f64 / 1e9
        };
        Met {
            supply: if self.day_ns == 0 { devices(window) } else { day },
            rate: devices(window) / covered_s(self.window_ns.max(1)),
            rate_day: if self.day_ns == 0 { 0.0 } else { day / covered_s(self.day_ns) },
        }
    }

    /// By how much the devices that are told apart by spec fall short of all.
    fn day_scale(&self) -> f64 {
        if self.day_lost == 0 {
            return 1.0;
        }
        (self.day_known + self.day_lost) as f64 / self.day_known.max(1) as f64
    }

    /// The lower bounds of the speed classes of those who meet the requirement at this place.
    pub(super) fn speed_classes(&self, bit: usize) -> &[f64] {
        self.speeds.as_ref().map_or(&[], |speeds| speeds.classes_of(bit))
    }

    /// For the requirement at this place, the weight that each of these managers has in the window.
    pub(super) fn add_shares(&self, bit: usize, managers: &[Option<usize>], shares: &mut Vec<u64>) {
        shares
            .extend(managers.iter().map(|slot| slot.map_or(0, |s| self.signatures.share(bit, s))));
    }

    /// Where [`Self::add_shares`] finds this manager; None: it sent no supply.
    pub(super) fn known_manager(&self, manager: Manager) -> Option<usize> {
        self.signatures.known_manager(manager)
    }

    /// The signatures over these groups alone; `group_of` has the group of each place, if any.
    pub(super) fn views(&self, group_of: &[Option<usize>], groups: usize) -> Vec<SignatureView> {
        let (is_day, scale) = (self.day_ns > 0, self.day_scale());
        let merged = self.signatures.merge(group_of, groups, is_day);
        let view = |(bits, weight)| SignatureView::from_bits(bits, devices(weight) * scale);
        merged.into_iter().map(view).collect()
    }
}
