//! Those who wait, where that rule is ours: by what they are eligible for, first come first served.

use std::collections::{BTreeMap, VecDeque};

/// A client in the middle of its session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Visit {
    pub(super) row: u32,
    /// When its session ends.
    pub(super) end_s: f64,
}

/// One queue for each set of classes. Tickets say who came first over all queues.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: BTreeMap<u16, VecDeque<(u64, Visit)>>,
    tickets: u64,
}

impl Waiting {
    pub(super) fn add(&mut self, classes: u16, visit: Visit) {
        self.queues.entry(classes).or_default().push_back((self.tickets, visit));
        self.tickets += 1;
    }

    /// Offers to those who wait, in the order in which they came. `take` says whether a client
    /// takes a task; when it does not, nobody else of the same classes would.
    pub(super) fn offer(&mut self, now_s: f64, mut take: impl FnMut(u16, Visit) -> bool) {
        let mut refused: Vec<u16> = Vec::new();
        loop {
            for queue in self.queues.values_mut() {
                while queue.front().is_some_and(|(_, visit)| visit.end_s <= now_s) {
                    queue.pop_front();
                }
            }
            let fronts = self.queues.iter().filter(|(classes, _)| !refused.contains(classes));
            let first =
                fronts.filter_map(|(c, queue)| Some((queue.front()?, *c))).min_by_key(|f| f.0.0);
            let Some((&(_, visit), classes)) = first else {
                return;
            };
            if take(classes, visit) {
                self.queues.get_mut(&classes).expect("just seen").pop_front();
            } else {
                refused.push(classes);
            }
        }
    }
}
