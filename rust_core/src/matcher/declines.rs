//! What devices declined, so that they are not woken for it again.
//!
//! Bounded twice: the oldest rounds of a device and the devices that declined first are forgotten.
//! Forgetting costs one needless wake-up, no more.

use std::collections::VecDeque;

use super::hash::{Hasher, KeyedMap};
use super::plan::CurrentPlan;
use crate::{Device, RoundKey};

/// A declined round, with the time (in plans) when it had entered the plan: when it leaves and
/// comes back, the decline no longer counts.
pub(super) type DeclinedRound = (RoundKey, u64);

#[derive(Debug)]
pub(super) struct Declines {
    rounds_max: usize,
    devices_max: usize,
    of_device: KeyedMap<Device, VecDeque<DeclinedRound>>,
    /// The devices of the map, in the order in which they entered it.
    order: VecDeque<Device>,
}

impl Declines {
    pub(super) fn new(rounds_max: usize, devices_max: usize, hasher: Hasher) -> Self {
        let (of_device, order) = (KeyedMap::with_hasher(hasher), VecDeque::new());
        Self { rounds_max, devices_max, of_device, order }
    }

    pub(super) fn add(&mut self, device: Device, rounds: &[RoundKey], plan: &CurrentPlan) {
        for key in rounds {
            if let Some(since) = plan.since(*key) {
                self.add_one(device, (*key, since), plan);
            }
        }
    }

    fn add_one(&mut self, device: Device, round: DeclinedRound, plan: &CurrentPlan) {
        if !self.of_device.contains_key(&device) {
            self.make_room();
            self.order.push_back(device);
        }
        let declined = self.of_device.entry(device).or_default();
        declined.retain(|(key, since)| plan.since(*key) == Some(*since));
        if declined.contains(&round) {
            return;
        }
        if declined.len() == self.rounds_max {
            declined.pop_front();
        }
        declined.push_back(round);
    }

    fn make_room(&mut self) {
        if self.order.len() >= self.devices_max {
            if let Some(oldest) = self.order.pop_front() {
                self.of_device.remove(&oldest);
            }
        }
    }

    /// The rounds of the current plan that the device declined, sorted.
    pub(super) fn of(&self, device: Device, plan: &CurrentPlan) -> Vec<DeclinedRound> {
        // Asked at every check-in, and usually there is nobody in the table at all.
        if self.order.is_empty() {
            return Vec::new();
        }
        let Some(declined) = self.of_device.get(&device) else {
            return Vec::new();
        };
        let mut now: Vec<_> =
            declined.iter().copied().filter(|(key, s)| plan.since(*key) == Some(*s)).collect();
        now.sort_unstable();
        now
    }
}
