//! The event heap: what happens next, ties in the order in which they were pushed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Clone, Copy, Debug)]
struct Entry<E> {
    at: u64,
    seq: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// Reversed: the library's heap has its greatest on top.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Events by time, then by the order in which they were pushed.
#[derive(Debug)]
pub(crate) struct EventHeap<E> {
    heap: BinaryHeap<Entry<E>>,
    pushed: u64,
}

impl<E> EventHeap<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), pushed: 0 }
    }

    /// Adds what happens at `at`, in whatever unit the caller keeps.
    pub(crate) fn push(&mut self, at: u64, event: E) {
        self.heap.push(Entry { at, seq: self.pushed, event });
        self.pushed += 1;
    }

    /// When the next one happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// The next one, with its time.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_the_order_of_pushing() {
        let mut heap = EventHeap::new();
        [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')].into_iter().for_each(|(at, e)| heap.push(at, e));
        let order: String = std::iter::from_fn(|| heap.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
