//! The baselines of the reference: they know the demand of each job and nothing of supply.

use super::engine::{Client, Scheduler};
use super::served::ServedJobs;
use crate::random::SplitMix64;
use crate::simulator::SimulatedJob;

/// The demand of each job, and which class it requires.
#[derive(Debug)]
pub(super) struct Demands {
    demand: Vec<i64>,
    class: Vec<u32>,
}

impl Demands {
    pub(super) fn new(jobs: &[SimulatedJob]) -> Self {
        let class = jobs.iter().map(|job| job.requirement).collect();
        Self { demand: vec![0; jobs.len()], class }
    }

    /// A request for one device adds to what is open, any other replaces it.
    pub(super) fn request(&mut self, job: u32, amount: u32) {
        let demand = &mut self.demand[job as usize];
        *demand = if amount <= 1 { *demand + 1 } else { i64::from(amount) };
    }

    pub(super) fn add(&mut self, job: u32, change: i64) -> i64 {
        self.demand[job as usize] += change;
        self.demand[job as usize]
    }

    pub(super) fn clear(&mut self, job: u32) {
        self.demand[job as usize] = 0;
    }

    pub(super) fn of(&self, job: u32) -> i64 {
        self.demand[job as usize]
    }

    pub(super) fn class(&self, job: u32) -> u32 {
        self.class[job as usize]
    }

    fn wants(&self, job: u32, client: &Client) -> bool {
        self.of(job) > 0 && client.classes >> self.class(job) & 1 == 1
    }
}

/// Jobs in the order of their first request.
#[derive(Debug)]
pub(super) struct Fifo {
    demands: Demands,
    order: Vec<u32>,
}

impl Fifo {
    pub(super) fn new(jobs: &[SimulatedJob]) -> Self {
        Self { demands: Demands::new(jobs), order: Vec::new() }
    }
}

impl Scheduler for Fifo {
    fn offer(&mut self, client: &Client, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let first = self.order.iter().copied().find(|job| self.demands.wants(*job, client));
        first.filter(|job| fits(*job))
    }

    fn request(&mut self, job: u32, amount: u32, _now_s: f64) {
        self.demands.request(job, amount);
        if !self.order.contains(&job) {
            self.order.push(job);
        }
    }

    fn demands(&mut self) -> &mut Demands {
        &mut self.demands
    }
}

/// Each request draws a lot, the lowest is served first; but who is being served stays first until
/// its demand is met.
#[derive(Debug)]
pub(super) struct RandomOrder {
    demands: Demands,
    lots: Vec<Option<u64>>,
    order: Vec<u32>,
    served: ServedJobs,
    random: SplitMix64,
}

impl RandomOrder {
    pub(super) fn new(jobs: &[SimulatedJob], seed: u64) -> Self {
        Self {
            demands: Demands::new(jobs),
            lots: vec![None; jobs.len()],
            order: Vec::new(),
            served: ServedJobs::new(),
            random: SplitMix64::new(seed),
        }
    }
}

impl Scheduler for RandomOrder {
    fn offer(&mut self, client: &Client, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let wants = |job: &u32| self.demands.wants(*job, client);
        let job = if let Some(job) = self.served.iter().find(wants) {
            job
        } else {
            let job = self.order.iter().copied().find(wants)?;
            self.served.insert(job);
            job
        };
        fits(job).then_some(job)
    }

    fn request(&mut self, job: u32, amount: u32, _now_s: f64) {
        self.demands.request(job, amount);
        if self.lots[job as usize].is_none() {
            self.order.push(job);
        }
        self.lots[job as usize] = Some(self.random.next());
        self.order.sort_by_key(|job| self.lots[*job as usize]);
    }

    fn demands(&mut self) -> &mut Demands {
        &mut self.demands
    }

    fn taken(&mut self, job: u32) {
        if self.demands.add(job, -1) == 0 {
            self.served.remove(job);
        }
    }
}

/// The smallest open request first. The order is made anew with each request of more than one
/// device, and stays while the demands fall.
#[derive(Debug)]
pub(super) struct SmallestRequest {
    demands: Demands,
    known: Vec<u32>,
    order: Vec<u32>,
}

impl SmallestRequest {
    pub(super) fn new(jobs: &[SimulatedJob]) -> Self {
        Self { demands: Demands::new(jobs), known: Vec::new(), order: Vec::new() }
    }
}

impl Scheduler for SmallestRequest {
    fn offer(&mut self, client: &Client, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let wanted = self.order.iter().copied().filter(|job| self.demands.wants(*job, client));
        wanted.into_iter().find(|job| fits(*job))
    }

    fn request(&mut self, job: u32, amount: u32, _now_s: f64) {
        self.demands.request(job, amount);
        if !self.known.contains(&job) {
            self.known.push(job);
        }
        if amount > 1 {
            let open = self.known.iter().copied().filter(|job| self.demands.of(*job) > 0);
            self.order.clear();
            self.order.extend(open);
            self.order.sort_by_key(|job| self.demands.of(*job));
        }
    }

    fn demands(&mut self) -> &mut Demands {
        &mut self.demands
    }
}
