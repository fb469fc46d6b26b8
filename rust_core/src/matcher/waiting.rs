//! Those who wait: one queue for each signature and set of declined rounds.
//!
//! All devices of a queue would be offered exactly the same, so asking the first one is enough.
//! Tickets grow with time, over all queues; they say who came first.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::declines::DeclinedRound;
use crate::Device;

type QueueKey = (u32, Box<[DeclinedRound]>);

#[derive(Debug)]
struct Queue {
    key: QueueKey,
    devices: BTreeMap<u64, Device>,
}

/// Queues live in a slab; an empty one is free for the next key.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    queues: Vec<Queue>,
    free: Vec<u32>,
    index_of: FxHashMap<QueueKey, u32>,
}

impl WaitingRoom {
    /// Adds a device and returns its queue.
    pub(super) fn add(
        &mut self,
        signature: u32,
        declined: Vec<DeclinedRound>,
        ticket: u64,
        device: Device,
    ) -> u32 {
        let key = (signature, declined.into_boxed_slice());
        let index = match self.index_of.get(&key) {
            Some(index) => *index,
            None => self.open_queue(key),
        };
        self.queues[index as usize].devices.insert(ticket, device);
        index
    }

    fn open_queue(&mut self, key: QueueKey) -> u32 {
        let queue = Queue { key: key.clone(), devices: BTreeMap::new() };
        let index = if let Some(index) = self.free.pop() {
            self.queues[index as usize] = queue;
            index
        } else {
            self.queues.push(queue);
            u32::try_from(self.queues.len() - 1).expect("fewer than 2^32 devices wait")
        };
        self.index_of.insert(key, index);
        index
    }

    pub(super) fn remove(&mut self, queue: u32, ticket: u64) {
        let Queue { key, devices } = &mut self.queues[queue as usize];
        devices.remove(&ticket);
        if devices.is_empty() {
            self.index_of.remove(key);
            self.free.push(queue);
        }
    }

    /// The signature and the declined rounds of a queue.
    pub(super) fn key(&self, queue: u32) -> (u32, &[DeclinedRound]) {
        let (signature, declined) = &self.queues[queue as usize].key;
        (*signature, declined)
    }

    pub(super) fn device(&self, queue: u32, ticket: u64) -> Device {
        self.queues[queue as usize].devices[&ticket]
    }

    /// The ticket behind this one in the same queue.
    pub(super) fn next_after(&self, queue: u32, ticket: u64) -> Option<u64> {
        self.queues[queue as usize].devices.range(ticket + 1..).next().map(|(next, _)| *next)
    }

    /// The first ticket of each queue, with the queue.
    pub(super) fn heads(&self) -> BTreeSet<(u64, u32)> {
        let first = |queue: &Queue| queue.devices.first_key_value().map(|(ticket, _)| *ticket);
        self.queues.iter().zip(0..).filter_map(|(queue, i)| Some((first(queue)?, i))).collect()
    }

    /// Empties the room: everybody by ticket.
    pub(super) fn drain(&mut self) -> BTreeMap<u64, Device> {
        let room = std::mem::take(self);
        room.queues.into_iter().flat_map(|queue| queue.devices).collect()
    }

    /// Every place: queue, ticket, device.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, u64, Device)> + '_ {
        self.queues.iter().zip(0..).flat_map(|(queue, index)| {
            queue.devices.iter().map(move |(ticket, device)| (index, *ticket, *device))
        })
    }
}
