//! What happens next: events by time, ties in the order in which they were pushed.

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
    /// Reversed: what happens first is the greatest, on top of the library's heap and at the end
    /// of a sorted list.
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

/// The pages of a calendar, of 2^30 ns (about a second) each.
const PAGES: u64 = 2_048;
const PAGE_SHIFT: u32 = 30;

/// An [`EventHeap`] for times in nanoseconds and tens of thousands of events, most of them within
/// half an hour: they are put on the page of their second, and a page is sorted when its time
/// comes. What is further off waits in a heap.
#[derive(Debug)]
pub(crate) struct Calendar<E> {
    /// The page of today, sorted, the next event last. Empty only if there are no events at all.
    today: Vec<Entry<E>>,
    page: u64,
    /// The pages after today's, by their number modulo [`PAGES`].
    pages: Vec<Vec<Entry<E>>>,
    on_pages: usize,
    later: BinaryHeap<Entry<E>>,
    pushed: u64,
}

impl<E: Copy> Calendar<E> {
    pub(crate) fn new() -> Self {
        let pages = (0..PAGES).map(|_| Vec::new()).collect();
        Self { today: Vec::new(), page: 0, pages, on_pages: 0, later: BinaryHeap::new(), pushed: 0 }
    }

    /// Adds what happens at `at_ns`; that may be earlier than all there is, but not than what was
    /// popped last.
    pub(crate) fn push(&mut self, at_ns: u64, event: E) {
        let entry = Entry { at: at_ns, seq: self.pushed, event };
        self.pushed += 1;
        let page = at_ns >> PAGE_SHIFT;
        if page <= self.page {
            let place = self.today.partition_point(|other| *other < entry);
            self.today.insert(place, entry);
        } else if page - self.page < PAGES {
            self.page_mut(page).push(entry);
            self.on_pages += 1;
        } else {
            self.later.push(entry);
        }
        self.turn();
    }

    /// When the next one happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.today.last().map(|entry| entry.at)
    }

    /// The next one, with its time.
    pub(crate) fn pop(&mut self) -> Option<(u64, E)> {
        let entry = self.today.pop();
        self.turn();
        entry.map(|entry| (entry.at, entry.event))
    }

    fn page_mut(&mut self, page: u64) -> &mut Vec<Entry<E>> {
        let place = usize::try_from(page % PAGES).expect("below the number of pages");
        &mut self.pages[place]
    }

    /// Turns to the next page with events, if today has none left.
    fn turn(&mut self) {
        while self.today.is_empty() && self.on_pages + self.later.len() > 0 {
            let first_later = self.later.peek().map(|entry| entry.at >> PAGE_SHIFT);
            self.page = match first_later {
                Some(page) if self.on_pages == 0 => page,
                _ => self.page + 1,
            };
            let last = self.page + PAGES - 1;
            while self.later.peek().is_some_and(|entry| entry.at >> PAGE_SHIFT <= last) {
                let entry = self.later.pop().expect("just seen");
                self.page_mut(entry.at >> PAGE_SHIFT).push(entry);
                self.on_pages += 1;
            }
            let place = usize::try_from(self.page % PAGES).expect("below the number of pages");
            std::mem::swap(&mut self.today, &mut self.pages[place]);
            self.on_pages -= self.today.len();
            self.today.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    #[test]
    fn equal_times_keep_the_order_of_pushing() {
        let mut heap = EventHeap::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            heap.push(at, event);
        }
        let order: String = std::iter::from_fn(|| heap.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }

    /// Near, far and equal times, pushed in between pops: the same sequence from both.
    #[test]
    fn a_calendar_is_a_heap() {
        let (mut heap, mut calendar) = (EventHeap::new(), Calendar::new());
        let mut random = SplitMix64::new(3);
        let mut now = 0;
        for event in 0..20_000_u32 {
            let ahead = match random.below(4) {
                0 => 0,
                1 => random.below(3) << PAGE_SHIFT,
                2 => random.below(100 << PAGE_SHIFT),
                _ => random.below((10 * PAGES) << PAGE_SHIFT),
            };
            heap.push(now + ahead, event);
            calendar.push(now + ahead, event);
            if random.below(2) == 0 {
                assert_eq!(heap.next_at(), calendar.next_at());
                let next = heap.pop();
                assert_eq!(next, calendar.pop());
                now = next.map_or(now, |(at, _)| at);
            }
        }
        while let Some(next) = heap.pop() {
            assert_eq!(Some(next), calendar.pop());
        }
        assert_eq!((calendar.pop(), calendar.next_at()), (None, None));
    }
}
