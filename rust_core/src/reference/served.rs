//! The jobs that `random` is serving, in the order in which the reference finds them.
//!
//! The reference keeps them in a hash set of small integers and asks the first one that wants a
//! device, so the order of that table decides. Numbers hash to themselves; a number that finds its
//! place taken looks at the nine places behind it if the table has them, and then jumps. Places of
//! jobs that left are used again, but count as used until the table is made anew, four times as
//! large as what is in it, when three fifths of the places were used.

const NEIGHBOURS: usize = 9;
const SMALLEST: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Unused,
    Left,
    Job(u32),
}

#[derive(Debug)]
pub(super) struct ServedJobs {
    places: Vec<Place>,
    jobs: usize,
    used: usize,
}

impl ServedJobs {
    pub(super) fn new() -> Self {
        Self { places: vec![Place::Unused; SMALLEST], jobs: 0, used: 0 }
    }

    /// The jobs in the order of the table.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.places.iter().filter_map(|place| match place {
            Place::Job(job) => Some(*job),
            Place::Unused | Place::Left => None,
        })
    }

    /// Adds a job that is not in the set.
    pub(super) fn insert(&mut self, job: u32) {
        let (unused, left) = self.find_room(job);
        self.jobs += 1;
        self.places[left.unwrap_or(unused)] = Place::Job(job);
        if left.is_some() {
            return;
        }
        self.used += 1;
        if self.used * 5 >= (self.places.len() - 1) * 3 {
            self.make_anew();
        }
    }

    pub(super) fn remove(&mut self, job: u32) {
        if let Some(place) = self.places.iter().position(|place| *place == Place::Job(job)) {
            self.places[place] = Place::Left;
            self.jobs -= 1;
        }
    }

    /// The first unused place on the job's way, and the last one before it that somebody left.
    fn find_room(&self, job: u32) -> (usize, Option<usize>) {
        let mask = self.places.len() - 1;
        let (mut place, mut rest, mut left) = (job as usize & mask, job as usize, None);
        loop {
            let neighbours = if place + NEIGHBOURS <= mask { NEIGHBOURS } else { 0 };
            for near in place..=place + neighbours {
                match self.places[near] {
                    Place::Unused => return (near, left),
                    Place::Left => left = Some(near),
                    Place::Job(_) => {}
                }
            }
            rest >>= 5;
            place = (place * 5 + 1 + rest) & mask;
        }
    }

    fn make_anew(&mut self) {
        let jobs: Vec<u32> = self.iter().collect();
        let size = (4 * jobs.len() + 1).next_power_of_two().max(SMALLEST);
        self.places = vec![Place::Unused; size];
        self.used = jobs.len();
        for job in jobs {
            let (place, _) = self.find_room(job);
            self.places[place] = Place::Job(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a set of integers of the reference's language shows after the same steps.
    #[test]
    fn the_order_is_that_of_the_table() {
        let mut served = ServedJobs::new();
        for job in [48, 6, 24] {
            served.insert(job);
        }
        assert_eq!(served.iter().collect::<Vec<_>>(), [48, 24, 6]);
        served.remove(48);
        served.insert(28);
        served.insert(8);
        assert_eq!(served.iter().collect::<Vec<_>>(), [8, 24, 28, 6]);
        served.insert(40);
        assert_eq!(served.iter().collect::<Vec<_>>(), [6, 8, 40, 24, 28]);
    }
}
