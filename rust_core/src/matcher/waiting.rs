//! Those who wait: one queue for each profile and set of declined rounds.
//!
//! All devices of a queue would be offered something or all would not, so asking the first one is
//! enough. Tickets (the stamps of devices) grow with time, over all queues; they say who came first.
//!
//! A place in a queue dies with its device's stamp. The dead are skipped when they reach the head,
//! and swept out when they are more than the living and a few.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::declines::DeclinedRound;
use super::devices::Devices;
use crate::Device;

const DEAD_MAX: usize = 16;
/// An empty queue keeps room for so many.
const SPARE_MAX: usize = 1024;
/// The profile, and the declined rounds, sorted.
type QueueKey = (u32, Box<[DeclinedRound]>);
/// A queue that was emptied: its number, its key, and its places with the dead among them.
type Drained = (u32, QueueKey, VecDeque<(u64, u32)>);

#[derive(Debug)]
struct Queue {
    key: QueueKey,
    /// Ticket and slot, ascending.
    places: VecDeque<(u64, u32)>,
    alive: usize,
}

/// Queues live in a slab; an empty one is free for the next key.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    queues: Vec<Queue>,
    free: Vec<u32>,
    index_of: FxHashMap<QueueKey, u32>,
    waiting: usize,
}

impl WaitingRoom {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Adds a device and returns its queue.
    pub(super) fn add(&mut self, key: QueueKey, ticket: u64, slot: u32) -> u32 {
        let index = self.queue_of(key);
        let queue = &mut self.queues[index as usize];
        if queue.places.back().is_none_or(|(last, _)| *last < ticket) {
            queue.places.push_back((ticket, slot));
        } else {
            let at = queue.places.partition_point(|(other, _)| *other < ticket);
            queue.places.insert(at, (ticket, slot));
        }
        queue.alive += 1;
        self.waiting += 1;
        index
    }

    fn queue_of(&mut self, key: QueueKey) -> u32 {
        if let Some(index) = self.index_of.get(&key) {
            return *index;
        }
        let index = if let Some(index) = self.free.pop() {
            self.queues[index as usize].key = key.clone();
            index
        } else {
            self.queues.push(Queue { key: key.clone(), places: VecDeque::new(), alive: 0 });
            u32::try_from(self.queues.len() - 1).expect("fewer than 2^32 devices wait")
        };
        self.index_of.insert(key, index);
        index
    }

    /// A device of this queue no longer waits in it, as [`Devices::waits_in`] says already.
    pub(super) fn left(&mut self, index: u32, devices: &Devices) {
        let queue = &mut self.queues[index as usize];
        queue.alive -= 1;
        self.waiting -= 1;
        if queue.alive == 0 {
            queue.places.clear();
            queue.places.shrink_to(SPARE_MAX);
            self.index_of.remove(&queue.key);
            self.free.push(index);
        } else if queue.places.len() > 2 * queue.alive + DEAD_MAX {
            queue.places.retain(|(ticket, slot)| devices.waits_in(*slot, *ticket, index));
        }
    }

    /// Takes a place away at once, for a device that gets another one with the same ticket.
    pub(super) fn remove(&mut self, index: u32, ticket: u64, devices: &Devices) {
        let places = &mut self.queues[index as usize].places;
        if let Ok(at) = places.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            places.remove(at);
        }
        self.left(index, devices);
    }

    /// The profile and the declined rounds of a queue.
    pub(super) fn key(&self, queue: u32) -> (u32, &[DeclinedRound]) {
        let (profile, declined) = &self.queues[queue as usize].key;
        (*profile, declined)
    }

    /// Who came first to this queue: ticket and slot.
    pub(super) fn first(&mut self, index: u32, devices: &Devices) -> Option<(u64, u32)> {
        let places = &mut self.queues[index as usize].places;
        while let Some((ticket, slot)) = places.front().copied() {
            if devices.waits_in(slot, ticket, index) {
                return Some((ticket, slot));
            }
            places.pop_front();
        }
        None
    }

    /// All queues, the empty ones among them.
    pub(super) fn queues(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.queues.len()).expect("fewer than 2^32 devices wait")
    }

    /// The profile of those who wait in this queue, if anybody does.
    pub(super) fn living_profile(&self, queue: u32) -> Option<u32> {
        let queue = &self.queues[queue as usize];
        (queue.alive > 0).then_some(queue.key.0)
    }

    /// Empties the room.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Drained> + use<> {
        let room = std::mem::take(self);
        let queues = (0..).zip(room.queues).filter(|(_, queue)| queue.alive > 0);
        queues.map(|(index, queue)| (index, queue.key, queue.places))
    }

    /// Adds a device whatever its ticket is; [`Self::sort`] must follow.
    pub(super) fn add_unsorted(&mut self, key: QueueKey, ticket: u64, slot: u32) -> u32 {
        let index = self.queue_of(key);
        let queue = &mut self.queues[index as usize];
        queue.places.push_back((ticket, slot));
        queue.alive += 1;
        self.waiting += 1;
        index
    }

    pub(super) fn sort(&mut self) {
        for queue in &mut self.queues {
            queue.places.make_contiguous().sort_unstable();
        }
    }

    /// Every living place: queue, ticket, device; for checks.
    pub(super) fn places<'a>(
        &'a self,
        devices: &'a Devices,
    ) -> impl Iterator<Item = (u32, u64, Device)> + 'a {
        (0..).zip(&self.queues).flat_map(move |(index, queue)| {
            let places = queue.places.iter();
            let living = places.filter(move |(t, slot)| devices.waits_in(*slot, *t, index));
            living.map(move |(ticket, slot)| (index, *ticket, devices.record(*slot).device()))
        })
    }

    /// For checks: how many places, living and counted living, each queue has.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (u32, usize, usize)> + '_ {
        (0..).zip(&self.queues).map(|(index, queue)| (index, queue.places.len(), queue.alive))
    }
}
