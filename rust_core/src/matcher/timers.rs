//! When holds and offers end.
//!
//! A binary heap whose entries die with their device's stamp and are dropped when they reach its
//! head, so that to leave early costs nothing. The head is always alive, hence [`Timers::due_ns`]
//! is exact; the dead are never more than the living and a few.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::devices::Devices;

/// No timer runs for this time: only the caller ends it.
pub(super) const NEVER: u64 = u64::MAX;
const DEAD_MAX: usize = 64;

/// When, the device's stamp, its slot.
type Entry = (u64, u64, u32);

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    alive: usize,
}

impl Timers {
    pub(super) fn start(&mut self, until_ns: u64, stamp: u64, slot: u32) {
        if until_ns != NEVER {
            self.heap.push(Reverse((until_ns, stamp, slot)));
            self.alive += 1;
        }
    }

    /// The device whose timer this was no longer has its stamp.
    pub(super) fn stopped(&mut self, until_ns: u64, devices: &Devices) {
        if until_ns == NEVER {
            return;
        }
        self.alive -= 1;
        if self.heap.len() > 2 * self.alive + DEAD_MAX {
            self.heap.retain(|Reverse((_, stamp, slot))| devices.has_stamp(*slot, *stamp));
        } else if self.heap.peek().is_some_and(|Reverse((first_ns, ..))| *first_ns == until_ns) {
            self.drop_dead(devices);
        }
    }

    fn drop_dead(&mut self, devices: &Devices) {
        while let Some(Reverse((_, stamp, slot))) = self.heap.peek() {
            if devices.has_stamp(*slot, *stamp) {
                return;
            }
            self.heap.pop();
        }
    }

    /// The earliest end of all.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((until_ns, ..))| *until_ns)
    }

    /// The slots whose time is over, by (time, device).
    pub(super) fn take_due(&mut self, now_ns: u64, devices: &Devices, due: &mut Vec<u32>) {
        due.clear();
        while let Some(Reverse((until_ns, stamp, slot))) = self.heap.peek().copied() {
            let is_alive = devices.has_stamp(slot, stamp);
            if is_alive && until_ns > now_ns {
                break;
            }
            self.heap.pop();
            if is_alive {
                self.alive -= 1;
                due.push(slot);
            }
        }
        let order = |slot: &u32| {
            let record = devices.record(*slot);
            (record.until_ns, record.device)
        };
        due.sort_by_key(order);
    }

    /// The living, as (time, slot), and how many entries there are in all.
    pub(super) fn living(&self, devices: &Devices) -> (Vec<(u64, u32)>, usize) {
        let alive = |Reverse(entry): &Reverse<Entry>| {
            devices.has_stamp(entry.2, entry.1).then_some((entry.0, entry.2))
        };
        (self.heap.iter().filter_map(alive).collect(), self.heap.len())
    }
}
