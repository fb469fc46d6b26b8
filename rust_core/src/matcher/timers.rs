//! When holds and offers end.
//!
//! A hierarchical wheel: the timers that end soonest are sorted in `near`; the others lie unsorted
//! in slots, by the highest six bits in which their time differs from `base`, and are sorted out
//! slot by slot as their time comes. So a timer is moved two or three times in its life, and none is
//! compared with all others, which in a heap of 20,000 was the dearest part of a check-in.
//!
//! A timer dies with its device's stamp, and is dropped when it would be due, so that to leave early
//! costs nothing. The first of `near` is always alive, hence [`Timers::due_ns`] is exact; the dead
//! are never more than the living and a few.

use std::collections::VecDeque;

use super::devices::Devices;

/// No timer runs for this time: only the caller ends it.
pub(super) const NEVER: u64 = u64::MAX;
/// More dead timers than living ones, by this, are swept out.
pub(super) const DEAD_MAX: usize = 64;
/// Slots of no more timers than this are not spread over the level below.
const NEAR_MAX: usize = 64;
/// An empty slot keeps room for so many.
const SPARE_MAX: usize = 256;

/// Each level tells 2^6 slots apart; eleven levels make 64 bits.
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 64_usize.div_ceil(LEVEL_BITS as usize);

#[derive(Clone, Copy, Debug)]
struct Timer {
    until_ns: u64,
    /// The stamp and the slot of the device.
    stamp: u64,
    slot: u32,
}

impl Timer {
    fn is_alive(&self, devices: &Devices) -> bool {
        devices.has_stamp(self.slot, self.stamp)
    }
}

/// The slots of one level, and which of them are not empty.
#[derive(Debug)]
struct Level {
    used: u64,
    slots: Vec<Vec<Timer>>,
}

#[derive(Debug)]
pub(super) struct Timers {
    /// The timers before `horizon_ns`, ascending.
    near: VecDeque<Timer>,
    horizon_ns: u64,
    /// Not later than any timer in the levels.
    base_ns: u64,
    /// The latest time that was called now: new timers are later.
    past_ns: u64,
    levels: Vec<Level>,
    alive: usize,
    /// All timers, the dead among them.
    len: usize,
}

impl Timers {
    pub(super) fn new() -> Self {
        let level = || Level { used: 0, slots: vec![Vec::new(); SLOTS] };
        let levels = (0..LEVELS).map(|_| level()).collect();
        Self {
            near: VecDeque::new(),
            horizon_ns: 0,
            base_ns: 0,
            past_ns: 0,
            levels,
            alive: 0,
            len: 0,
        }
    }

    /// The device has just got this stamp.
    pub(super) fn start(&mut self, until_ns: u64, stamp: u64, slot: u32, devices: &Devices) {
        if until_ns == NEVER {
            return;
        }
        self.alive += 1;
        self.len += 1;
        self.put(Timer { until_ns, stamp, slot });
        if self.alive == 1 {
            self.settle(devices);
        }
    }

    fn put(&mut self, timer: Timer) {
        if timer.until_ns >= self.horizon_ns {
            return self.put_in_level(timer);
        }
        let at = match self.near.back() {
            Some(last) if last.until_ns > timer.until_ns => {
                self.near.partition_point(|near| near.until_ns <= timer.until_ns)
            }
            _ => self.near.len(),
        };
        self.near.insert(at, timer);
        if self.near.len() > 2 * NEAR_MAX {
            self.shorten_near();
        }
    }

    fn put_in_level(&mut self, timer: Timer) {
        let differing = (timer.until_ns ^ self.base_ns | 1).ilog2();
        let level = differing / LEVEL_BITS;
        let slot = timer.until_ns >> (level * LEVEL_BITS) & (SLOTS as u64 - 1);
        let level = &mut self.levels[level as usize];
        level.used |= 1 << slot;
        level.slots[usize::try_from(slot).expect("below 64")].push(timer);
    }

    /// Puts the later half of `near` back, if it does not all end at once.
    fn shorten_near(&mut self) {
        let middle_ns = self.near[NEAR_MAX].until_ns;
        let mut keep = self.near.partition_point(|near| near.until_ns < middle_ns);
        if keep == 0 {
            keep = self.near.partition_point(|near| near.until_ns == middle_ns);
        }
        let Some(first) = self.near.get(keep) else { return };
        self.horizon_ns = first.until_ns;
        if self.horizon_ns < self.base_ns {
            self.lower_base();
        }
        for timer in self.near.split_off(keep) {
            self.put_in_level(timer);
        }
    }

    /// Many short timers came after a slot of long ones was taken apart. Costs as much as there are
    /// timers, but not again before all in `near` have ended.
    fn lower_base(&mut self) {
        self.base_ns = self.past_ns.min(self.horizon_ns);
        let slots = self.levels.iter_mut().flat_map(|level| {
            level.used = 0;
            &mut level.slots
        });
        let timers: Vec<Timer> = slots.flat_map(|slot| slot.drain(..)).collect();
        for timer in timers {
            self.put_in_level(timer);
        }
    }

    /// A device that had a timer until then no longer has its stamp.
    pub(super) fn stopped(&mut self, until_ns: u64, devices: &Devices) {
        if until_ns == NEVER {
            return;
        }
        self.alive -= 1;
        if self.len > 2 * self.alive + DEAD_MAX {
            self.sweep(devices);
        }
        if self.near.front().is_some_and(|first| first.until_ns == until_ns) {
            self.settle(devices);
        }
    }

    fn sweep(&mut self, devices: &Devices) {
        self.near.retain(|timer| timer.is_alive(devices));
        for level in &mut self.levels {
            for (index, slot) in level.slots.iter_mut().enumerate() {
                slot.retain(|timer| timer.is_alive(devices));
                slot.shrink_to(2 * slot.len() + SPARE_MAX);
                if slot.is_empty() {
                    level.used &= !(1 << index);
                }
            }
        }
        self.len = self.alive;
        self.settle(devices);
    }

    /// Makes the first of `near` a living timer, if any lives.
    fn settle(&mut self, devices: &Devices) {
        loop {
            match self.near.front() {
                Some(first) if first.is_alive(devices) => return,
                Some(_) => {
                    self.near.pop_front();
                    self.len -= 1;
                }
                None => {
                    if !self.open_next_slot() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes the earliest slot apart: into `near` if it is small, else into the levels below. False:
    /// there is none. `near` is empty.
    fn open_next_slot(&mut self) -> bool {
        let Some(level) = self.levels.iter().position(|level| level.used != 0) else {
            return false;
        };
        let index = self.levels[level].used.trailing_zeros();
        self.levels[level].used &= !(1 << index);
        let mut timers = std::mem::take(&mut self.levels[level].slots[index as usize]);
        let shift = u32::try_from(level).expect("few levels") * LEVEL_BITS;
        let below = (1_u64 << shift) - 1;
        // The bits above this level are those of the base, as for every timer here.
        let above = self.base_ns & !(below | (SLOTS as u64 - 1) << shift);
        let start_ns = above | u64::from(index) << shift;
        if timers.len() <= NEAR_MAX || level == 0 {
            self.horizon_ns = (start_ns | below).saturating_add(1);
            timers.sort_by_key(|timer| timer.until_ns);
            self.near.extend(timers.drain(..));
        } else {
            (self.base_ns, self.horizon_ns) = (start_ns, start_ns);
            for timer in timers.drain(..) {
                self.put_in_level(timer);
            }
        }
        timers.shrink_to(SPARE_MAX);
        self.levels[level].slots[index as usize] = timers;
        true
    }

    /// The earliest end of all.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.near.front().map(|first| first.until_ns)
    }

    /// Ends those whose time is over and gives their slots by (time, device).
    pub(super) fn take_due(&mut self, now_ns: u64, devices: &Devices, due: &mut Vec<u32>) {
        due.clear();
        self.past_ns = self.past_ns.max(now_ns);
        while self.due_ns().is_some_and(|until_ns| until_ns <= now_ns) {
            due.extend(self.near.pop_front().map(|timer| timer.slot));
            self.alive -= 1;
            self.len -= 1;
            self.settle(devices);
        }
        due.sort_by_key(|slot| {
            let record = devices.record(*slot);
            (record.until_ns, record.device())
        });
    }

    /// For checks: the living, as (time, slot), and how many timers there are in all.
    pub(super) fn living(&self, devices: &Devices) -> (Vec<(u64, u32)>, usize) {
        let slots = self.levels.iter().flat_map(|level| &level.slots);
        let timers: Vec<&Timer> = self.near.iter().chain(slots.flatten()).collect();
        let alive = timers.iter().filter(|timer| timer.is_alive(devices));
        (alive.map(|timer| (timer.until_ns, timer.slot)).collect(), timers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::hash::hasher;
    use crate::random::SplitMix64;

    /// Against a sorted list, for times of all sizes: many at once, few, near and far.
    #[test]
    fn timers_end_in_order_and_exactly_then() {
        for seed in 0..20 {
            let mut random = SplitMix64::new(seed);
            let (mut timers, mut devices) = (Timers::new(), Devices::new(1, hasher(0)));
            let (mut model, mut now_ns, mut due) =
                (Vec::<(u64, u128, u32)>::new(), 0_u64, Vec::new());
            for device in 0..2_000 {
                let until_ns = now_ns + (random.next() >> random.below(64)) / 4_000;
                let (slot, stamp) = (devices.add(device), devices.next_stamp());
                let record = devices.record_mut(slot);
                (record.stamp, record.until_ns) = (stamp, until_ns);
                timers.start(until_ns, stamp, slot, &devices);
                model.push((until_ns, device, slot));
                if random.below(3) == 0 {
                    let gone = usize::try_from(random.below(model.len() as u64)).expect("few");
                    let (until_ns, _, slot) = model.swap_remove(gone);
                    devices.remove(slot);
                    timers.stopped(until_ns, &devices);
                }
                now_ns += (random.next() >> random.below(64)) / 8_000;
                timers.take_due(now_ns, &devices, &mut due);
                let mut expected: Vec<_> =
                    model.extract_if(.., |timer| timer.0 <= now_ns).collect();
                expected.sort_unstable();
                assert_eq!(due, expected.iter().map(|timer| timer.2).collect::<Vec<_>>());
                for slot in &due {
                    devices.remove(*slot);
                }
                assert_eq!(timers.due_ns(), model.iter().map(|timer| timer.0).min());
                let (living, len) = timers.living(&devices);
                assert_eq!((living.len(), len), (model.len(), timers.len));
                assert!(len <= 2 * model.len() + DEAD_MAX);
            }
        }
    }

    /// Long ones are taken apart because the first of them stopped, then many short ones come.
    #[test]
    fn many_short_timers_after_long_ones_end_first() {
        let (mut timers, mut devices) = (Timers::new(), Devices::new(1, hasher(0)));
        let mut ends_ns: Vec<u64> = (0..400).map(|i| (1 << 40) + (i << 28)).collect();
        ends_ns.extend((0..400).map(|i| 1_000 + 10 * i));
        for (device, until_ns) in (0..).zip(&ends_ns) {
            if device == 400 {
                for slot in 0..100 {
                    devices.remove(slot);
                    timers.stopped(ends_ns[slot as usize], &devices);
                }
            }
            let (slot, stamp) = (devices.add(device), devices.next_stamp());
            let record = devices.record_mut(slot);
            (record.stamp, record.until_ns) = (stamp, *until_ns);
            timers.start(*until_ns, stamp, slot, &devices);
        }
        let (mut due, mut ended) = (Vec::new(), Vec::new());
        while let Some(now_ns) = timers.due_ns() {
            timers.take_due(now_ns, &devices, &mut due);
            ended.extend(due.iter().map(|slot| devices.record(*slot).until_ns));
            for slot in &due {
                devices.take_standing(*slot);
            }
        }
        ends_ns.drain(..100);
        ends_ns.sort_unstable();
        assert_eq!(ended, ends_ns);
    }
}
