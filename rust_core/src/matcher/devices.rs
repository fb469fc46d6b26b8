//! The devices of a matcher: where each stands, in a slab with an index by device id.
//!
//! A slot of the slab is reused; its *stamp* is not. A stamp is given to a device whenever it begins
//! to wait or is offered something, and it grows for ever, so an entry of a queue or a timer that
//! names a slot and a stamp is dead, without being searched, once the device has moved on.

use hashbrown::HashTable;

use super::Tasks;
use super::hash::Hasher;
use crate::{Device, RoundKey};

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    /// Nowhere: the slot is free, or about to be.
    Gone,
    /// In this queue; its stamp is its ticket.
    Waiting { queue: u32 },
    /// It has an offer.
    Offered,
    /// The claim is on its way.
    Claiming,
}

/// What is looked at all the time, small because it is looked at in no order.
#[derive(Debug)]
pub(super) struct Record {
    halves: [u64; 2],
    pub(super) stamp: u64,
    /// When the hold or the offer ends.
    pub(super) until_ns: u64,
    pub(super) standing: Standing,
}

impl Record {
    pub(super) fn device(&self) -> Device {
        Device::from(self.halves[0]) << 64 | Device::from(self.halves[1])
    }
}

/// What a device is offered or claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Promise {
    /// The whole offer, also of a device that claims one of them. Empty: nothing is promised.
    pub(super) tasks: Option<Tasks>,
    /// None after a refusal: what is left of an offer is charged when it is accepted.
    pub(super) charged: Option<RoundKey>,
}

#[derive(Debug)]
pub(super) struct Devices {
    dimensions: usize,
    hasher: Hasher,
    /// The slots of all devices, found by the hash of the device id. Never iterated.
    slots: HashTable<u32>,
    records: Vec<Record>,
    /// By slot.
    promises: Vec<Promise>,
    /// The option and the spec of the device in slot s are the s-th stretch; kept to find the
    /// profile of those who wait anew when plans tell others apart.
    kept: Vec<f64>,
    free: Vec<u32>,
    stamps: u64,
}

impl Devices {
    pub(super) fn new(dimensions: usize, hasher: Hasher) -> Self {
        Self {
            dimensions,
            hasher,
            slots: HashTable::new(),
            records: Vec::new(),
            promises: Vec::new(),
            kept: Vec::new(),
            free: Vec::new(),
            stamps: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, device: Device) -> Option<u32> {
        let is_it = |slot: &u32| self.records[*slot as usize].device() == device;
        self.slots.find(self.hasher.hash_one(device), is_it).copied()
    }

    /// A slot for a device that has none.
    pub(super) fn add(&mut self, device: Device) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        self.records[slot as usize].halves = halves(device);
        let Self { slots, hasher, records, .. } = self;
        let hash = |slot: &u32| hasher.hash_one(records[*slot as usize].device());
        slots.insert_unique(hasher.hash_one(device), slot, hash);
        slot
    }

    fn grow(&mut self) -> u32 {
        let (halves, standing) = ([0, 0], Standing::Gone);
        self.records.push(Record { halves, stamp: 0, until_ns: 0, standing });
        self.promises.push(Promise::default());
        self.kept.resize(self.records.len() * (self.dimensions + 1), 0.0);
        u32::try_from(self.records.len() - 1).expect("fewer than 2^32 devices are here")
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.take_standing(slot);
        let hash = self.hasher.hash_one(self.records[slot as usize].device());
        if let Ok(found) = self.slots.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
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
        &self.stretch(slot)[1..]
    }

    pub(super) fn option(&self, slot: u32) -> f64 {
        self.stretch(slot)[0]
    }

    fn stretch(&self, slot: u32) -> &[f64] {
        let width = self.dimensions + 1;
        &self.kept[slot as usize * width..][..width]
    }

    pub(super) fn keep(&mut self, slot: u32, spec: &[f64], option: f64) {
        let width = self.dimensions + 1;
        let stretch = &mut self.kept[slot as usize * width..][..width];
        stretch[0] = option;
        stretch[1..].copy_from_slice(spec);
    }

    pub(super) fn promise(&self, slot: u32) -> &Promise {
        &self.promises[slot as usize]
    }

    pub(super) fn promise_mut(&mut self, slot: u32) -> &mut Promise {
        &mut self.promises[slot as usize]
    }

    /// The rounds that the device is offered, or claims one of; none if it is not.
    pub(super) fn tasks(&self, slot: u32) -> &[RoundKey] {
        self.promises[slot as usize].tasks.as_deref().unwrap_or(&[])
    }

    /// The device leaves where it stands for nowhere. Returns where it stood, and its charge.
    pub(super) fn take_standing(&mut self, slot: u32) -> (Standing, Option<RoundKey>) {
        let record = &mut self.records[slot as usize];
        record.stamp = 0;
        let standing = std::mem::replace(&mut record.standing, Standing::Gone);
        let charged = match standing {
            Standing::Gone | Standing::Waiting { .. } => None,
            Standing::Offered | Standing::Claiming => {
                std::mem::take(&mut self.promises[slot as usize]).charged
            }
        };
        (standing, charged)
    }

    /// All devices that stand somewhere, with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        let here = |(_, record): &(u32, &Record)| record.standing != Standing::Gone;
        (0..).zip(&self.records).filter(here)
    }
}

fn halves(device: Device) -> [u64; 2] {
    let half = |shift: u32| u64::try_from(device >> shift & Device::from(u64::MAX));
    [64, 0].map(|shift| half(shift).expect("64 bits"))
}
