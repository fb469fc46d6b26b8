//! The devices of a matcher: where each stands, in a slab with an index by device id.
//!
//! A slot of the slab is reused; its *stamp* is not. A stamp is given to a device whenever it begins
//! to wait or is offered something, and it grows for ever, so an entry of a queue or a timer that
//! names a slot and a stamp is dead, without being searched, once the device has moved on.

use super::Tasks;
use super::hash::{Hasher, KeyedMap};
use crate::{Device, RoundKey};

/// Where a device stands.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Nowhere: the slot is free, or about to be.
    Gone,
    /// In this queue; its stamp is its ticket.
    Waiting { queue: u32 },
    /// `charged` is none after a refusal: what is left of an offer is charged when it is accepted.
    Offered { tasks: Tasks, charged: Option<RoundKey> },
    /// The claim is on its way. `tasks` is the whole offer, of which others may still be tried.
    Claiming { tasks: Tasks, charged: RoundKey },
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) device: Device,
    pub(super) stamp: u64,
    /// When the hold or the offer ends.
    pub(super) until_ns: u64,
    /// The speed score.
    pub(super) option: f64,
    pub(super) standing: Standing,
}

#[derive(Debug)]
pub(super) struct Devices {
    dimensions: usize,
    slots: KeyedMap<Device, u32>,
    records: Vec<Record>,
    /// The spec of the device in slot s is the s-th stretch of as many values as there are
    /// dimensions; kept to sign those who wait anew when the requirements change.
    specs: Vec<f64>,
    free: Vec<u32>,
    stamps: u64,
}

impl Devices {
    pub(super) fn new(dimensions: usize, hasher: Hasher) -> Self {
        let slots = KeyedMap::with_hasher(hasher);
        let (records, specs, free) = (Vec::new(), Vec::new(), Vec::new());
        Self { dimensions, slots, records, specs, free, stamps: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, device: Device) -> Option<u32> {
        self.slots.get(&device).copied()
    }

    /// A slot for a device that has none.
    pub(super) fn add(&mut self, device: Device) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        self.records[slot as usize].device = device;
        self.slots.insert(device, slot);
        slot
    }

    fn grow(&mut self) -> u32 {
        let (device, stamp, until_ns, option) = (0, 0, 0, 0.0);
        self.records.push(Record { device, stamp, until_ns, option, standing: Standing::Gone });
        self.specs.resize(self.records.len() * self.dimensions, 0.0);
        u32::try_from(self.records.len() - 1).expect("fewer than 2^32 devices are here")
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let record = &mut self.records[slot as usize];
        (record.standing, record.stamp) = (Standing::Gone, 0);
        self.slots.remove(&record.device);
        self.free.push(slot);
    }

    /// A stamp larger than any before.
    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    pub(super) fn record(&self, slot: u32) -> &Record {
        &self.records[slot as usize]
    }

    pub(super) fn record_mut(&mut self, slot: u32) -> &mut Record {
        &mut self.records[slot as usize]
    }

    /// Whether the device is still where it got this stamp.
    pub(super) fn has_stamp(&self, slot: u32, stamp: u64) -> bool {
        self.records[slot as usize].stamp == stamp
    }

    pub(super) fn waits_in(&self, slot: u32, stamp: u64, queue: u32) -> bool {
        let record = &self.records[slot as usize];
        let here = matches!(record.standing, Standing::Waiting { queue: q } if q == queue);
        record.stamp == stamp && here
    }

    pub(super) fn spec(&self, slot: u32) -> &[f64] {
        &self.specs[slot as usize * self.dimensions..][..self.dimensions]
    }

    pub(super) fn keep_spec(&mut self, slot: u32, spec: &[f64]) {
        self.specs[slot as usize * self.dimensions..][..self.dimensions].copy_from_slice(spec);
    }

    /// The rounds that the device is offered; none if it is not.
    pub(super) fn tasks(&self, slot: u32) -> &[RoundKey] {
        match &self.records[slot as usize].standing {
            Standing::Offered { tasks, .. } => tasks,
            _ => &[],
        }
    }

    /// Takes the device from where it stands, which it leaves for nowhere.
    pub(super) fn take_standing(&mut self, slot: u32) -> Standing {
        let record = &mut self.records[slot as usize];
        record.stamp = 0;
        std::mem::replace(&mut record.standing, Standing::Gone)
    }

    /// All devices that stand somewhere, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        let here = |(_, record): &(u32, &Record)| !matches!(record.standing, Standing::Gone);
        (0..).zip(&self.records).filter(here)
    }
}
