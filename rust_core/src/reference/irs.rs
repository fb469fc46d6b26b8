//! The policy of the paper as the reference has it: groups of requests, and who owns which devices.
//!
//! Each class of requirement has a group of requests. Who checked in lately is kept by signature
//! (the set of classes that a device meets). A plan gives signatures to groups:
//!
//! 1. Scarcest class first, each takes the signatures that are left and meet it.
//! 2. Most plentiful class first, each looks at the scarcer ones in turn and takes over *all* that
//!    one of them has, whether its requests can use it or not, if that one has no requests, or as
//!    long as more of its own requests per device would be done meanwhile than wait there.
//!
//! A device goes to the first group in the order of scarcity that has its signature, and there to
//! the request that lacks the fewest devices. A plan is made when a request comes, is met or ends.
//!
//! With tiers (`venn`), the request at the head of a group may be reserved, by a draw, for devices
//! of one tier of speed, where that should end its round sooner.
//!
//! Cost: a check-in O(1) and the requests of a group; a plan O(classes² + signatures · classes).

use std::collections::VecDeque;

use super::Rules;
use super::baselines::Demands;
use super::engine::{Client, Scheduler};
use crate::random::SplitMix64;
use crate::simulator::{CLASSES, SimulatedJob};

/// So many check-ins are the supply.
const WINDOW: usize = 1_000;
/// Or, where that rule is ours, those of so many seconds.
const WINDOW_S: f64 = 600.0;
/// The traffic of a class is measured over so many check-ins.
const RECENT: usize = 100;

/// A request in its group: the amount asked for, the job.
type Request = (u32, u32);

#[derive(Debug)]
pub(super) struct Irs {
    rules: Rules,
    demands: Demands,
    deadline_s: Vec<f64>,
    supply: Supply,
    /// By class: its requests, fewest devices first.
    groups: Vec<Vec<Request>>,
    /// For each signature the classes whose groups have requests and own it, in the order of
    /// scarcity; only the first one counts.
    owner: Vec<Option<u8>>,
    tiers: Option<Tiers>,
}

impl Irs {
    /// `tiers`: how many, and the seed of the draws.
    pub(super) fn new(jobs: &[SimulatedJob], rules: Rules, tiers: Option<(u32, u64)>) -> Self {
        Self {
            rules,
            demands: Demands::new(jobs),
            deadline_s: jobs.iter().map(|job| job.deadline_s).collect(),
            supply: Supply::new(),
            groups: vec![Vec::new(); CLASSES],
            owner: vec![None; 1 << CLASSES],
            tiers: tiers.map(|(count, seed)| Tiers::new(count, seed, jobs.len())),
        }
    }

    fn class(&self, job: u32) -> usize {
        self.demands.class(job) as usize
    }

    fn add(&mut self, job: u32, amount: u32) {
        let group = &mut self.groups[self.demands.class(job) as usize];
        if group.iter().all(|(_, known)| *known != job) {
            let place = group.partition_point(|request| *request < (amount, job));
            group.insert(place, (amount, job));
        }
    }

    fn remove(&mut self, job: u32) {
        let class = self.class(job);
        self.groups[class].retain(|(_, known)| *known != job);
    }

    /// How many minutes the job's demand takes to arrive, by the recent traffic.
    fn minutes_of(&self, job: u32, amount: u32) -> f64 {
        f64::from(amount) / self.supply.per_minute(self.class(job))
    }

    /// Turns a request down that could not nearly be met before its deadline.
    fn admit(&mut self, job: u32, amount: u32) -> bool {
        let minutes = (self.deadline_s[job as usize] / 60.0).floor();
        let rate = f64::from(amount) / minutes.max(1.0);
        let has_deadline = self.deadline_s[job as usize] > 0.0;
        self.rules.no_admission
            || !has_deadline
            || 0.5 * rate <= self.supply.per_minute(self.class(job))
    }

    fn replan(&mut self) {
        let plan = self.supply.plan(&self.groups, self.rules.eligible);
        for signature in self.supply.signatures() {
            let owns = |(class, set): &&(usize, Vec<u16>)| {
                !self.groups[*class].is_empty()
                    && set.contains(&signature)
                    && (!self.rules.eligible || signature >> class & 1 == 1)
            };
            let class = plan.iter().find(owns).map(|(class, _)| *class);
            self.owner[usize::from(signature)] =
                class.map(|class| u8::try_from(class).expect("there are ten classes"));
        }
    }

    /// The request that lacks the fewest devices; the head of the group even if it lacks none.
    fn smallest(&self, group: &[Request]) -> u32 {
        let mut found = group[0].1;
        let mut least = self.demands.of(found);
        for (_, job) in group {
            let demand = self.demands.of(*job);
            if 0 < demand && demand < least {
                (found, least) = (*job, demand);
            }
        }
        found
    }

    /// The request that lacks the fewest devices and is open to the client's tier.
    fn smallest_of_tier(&self, tiers: &Tiers, group: &[Request], client: &Client) -> Option<u32> {
        let tier = tiers.tier(client);
        let open = |job: &u32| {
            let only = tiers.of_job[*job as usize];
            self.demands.of(*job) > 0 && only.is_none_or(|only| only == tier)
        };
        group.iter().map(|(_, job)| *job).filter(open).min_by_key(|job| self.demands.of(*job))
    }
}

impl Scheduler for Irs {
    fn count(&mut self, now_s: f64, classes: u16) {
        self.supply.count(now_s, classes, self.rules.time_window);
    }

    fn offer(&mut self, client: &Client, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let class = self.owner[usize::from(client.classes)]?;
        let group = &self.groups[usize::from(class)];
        let job = match &self.tiers {
            None => Some(self.smallest(group)),
            Some(tiers) => self.smallest_of_tier(tiers, group, client),
        };
        // With our rule of counting at the offer nothing is given away twice.
        let open = |job: &u32| !self.rules.count_at_offer || self.demands.of(*job) > 0;
        job.filter(open).filter(|job| fits(*job))
    }

    fn request(&mut self, job: u32, amount: u32, now_s: f64) {
        let _ = now_s;
        self.add(job, amount);
        self.replan();
        if self.admit(job, amount) {
            self.demands.request(job, amount);
        } else {
            self.demands.clear(job);
        }
        if amount > 1 && self.groups[self.class(job)][0].1 == job {
            let sched_min = self.minutes_of(job, amount);
            let deadline_min = self.deadline_s[job as usize] / 60.0;
            if let Some(tiers) = &mut self.tiers {
                tiers.draw(job, sched_min, deadline_min);
            }
        }
    }

    fn demands(&mut self) -> &mut Demands {
        &mut self.demands
    }

    fn taken(&mut self, job: u32) {
        if self.demands.add(job, -1) == 0 {
            self.remove(job);
            self.replan();
        }
    }

    fn give_back(&mut self, job: u32) {
        if self.demands.add(job, 1) == 1 {
            self.add(job, 1);
            self.replan();
        }
    }

    fn round_over(&mut self, job: u32, is_done: bool) {
        self.remove(job);
        self.replan();
        if let Some(tiers) = &mut self.tiers {
            tiers.of_job[job as usize] = None;
        }
        if is_done {
            self.demands.clear(job);
        }
    }

    fn is_tiered(&self, job: u32) -> bool {
        self.tiers.as_ref().is_some_and(|tiers| tiers.of_job[job as usize].is_some())
    }
}

/// Who checked in lately.
#[derive(Debug)]
struct Supply {
    window: VecDeque<(f64, u16)>,
    /// By signature: how many in the window.
    of: Vec<u32>,
    /// Every signature that was ever seen, but the one that meets nothing.
    seen: Vec<u16>,
    /// By class: when eligible clients checked in last.
    recent: Vec<VecDeque<f64>>,
}

impl Supply {
    fn new() -> Self {
        Self {
            window: VecDeque::with_capacity(WINDOW + 1),
            of: vec![0; 1 << CLASSES],
            seen: Vec::new(),
            recent: vec![VecDeque::with_capacity(RECENT + 1); CLASSES],
        }
    }

    fn count(&mut self, now_s: f64, signature: u16, by_time: bool) {
        self.window.push_back((now_s, signature));
        let count = &mut self.of[usize::from(signature)];
        *count += 1;
        if *count == 1 && signature != 0 && !self.seen.contains(&signature) {
            self.seen.push(signature);
        }
        let is_old = |(at_s, _): &(f64, u16), len: usize| {
            if by_time { *at_s < now_s - WINDOW_S } else { len > WINDOW }
        };
        while self.window.front().is_some_and(|oldest| is_old(oldest, self.window.len())) {
            let (_, gone) = self.window.pop_front().expect("just seen");
            self.of[usize::from(gone)] -= 1;
        }
        for class in classes(signature) {
            let recent = &mut self.recent[class];
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(now_s);
        }
    }

    fn signatures(&self) -> impl Iterator<Item = u16> + '_ {
        self.seen.iter().copied()
    }

    fn per_minute(&self, class: usize) -> f64 {
        let recent = &self.recent[class];
        let first = recent.front().copied().unwrap_or(0.0);
        let span_s = recent.back().copied().unwrap_or(0.0) - first;
        60.0 * RECENT as f64 / span_s.max(1.0)
    }

    /// The classes of the window, scarcest first, with how many clients of the window meet each;
    /// equal ones in the order of their first client in the window.
    fn by_scarcity(&self) -> Vec<(u32, usize)> {
        let mut counts = [0; CLASSES];
        for signature in self.signatures() {
            classes(signature).for_each(|class| counts[class] += self.of[usize::from(signature)]);
        }
        let mut order: Vec<(u32, usize)> =
            (0..CLASSES).map(|class| (counts[class], class)).filter(|(n, _)| *n > 0).collect();
        order.sort_unstable();
        if order.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            let first = |class: usize| self.window.iter().position(|(_, s)| s >> class & 1 == 1);
            order.sort_by_cached_key(|(count, class)| (*count, first(*class), *class));
        }
        order
    }

    /// The signatures of each class, scarcest class first.
    fn plan(&self, groups: &[Vec<Request>], eligible_only: bool) -> Vec<(usize, Vec<u16>)> {
        let order = self.by_scarcity();
        let mut left: Vec<u16> =
            self.signatures().filter(|s| self.of[usize::from(*s)] > 0).collect();
        let mut parts = Vec::with_capacity(order.len());
        for (count, class) in &order {
            let set: Vec<u16> = left.iter().copied().filter(|s| s >> class & 1 == 1).collect();
            left.retain(|s| s >> class & 1 == 0);
            let num = f64::from(self.weight(&set).max(1));
            let demand: Vec<f64> =
                groups[*class].iter().map(|(amount, _)| f64::from(*amount)).collect();
            let (rate, queue) = (vec![num; demand.len()], demand.len());
            let _ = count;
            parts.push(Part { class: *class, set, num, queue, demand, rate });
        }
        self.reallocate(&mut parts, groups, eligible_only);
        parts.into_iter().map(|part| (part.class, part.set)).collect()
    }

    fn weight(&self, set: &[u16]) -> u32 {
        set.iter().map(|signature| self.of[usize::from(*signature)]).sum()
    }

    fn reallocate(&self, parts: &mut [Part], groups: &[Vec<Request>], eligible_only: bool) {
        for taker in (0..parts.len()).rev() {
            let (scarcer, rest) = parts.split_at_mut(taker);
            let taker = &mut rest[0];
            if groups[taker.class].is_empty() || taker.num == 0.0 {
                taker.clear();
                continue;
            }
            for giver in scarcer.iter_mut().rev() {
                let is_idle = groups[giver.class].is_empty();
                if !is_idle && !taker.wants(giver) {
                    break;
                }
                if eligible_only {
                    self.take_eligible(taker, giver, is_idle);
                } else {
                    taker.take_all(giver, is_idle);
                }
            }
        }
    }

    /// Our rule: only what the taker is eligible for.
    fn take_eligible(&self, taker: &mut Part, giver: &mut Part, is_idle: bool) {
        let class = taker.class;
        let moved: Vec<u16> = giver.set.iter().copied().filter(|s| s >> class & 1 == 1).collect();
        let gained = f64::from(self.weight(&moved));
        taker.num += gained;
        taker.set.extend(&moved);
        taker.rate.iter_mut().for_each(|rate| *rate += gained);
        if is_idle {
            return;
        }
        giver.set.retain(|s| s >> class & 1 == 0);
        giver.num = f64::from(self.weight(&giver.set));
        if giver.set.is_empty() {
            taker.queue += giver.queue;
            taker.demand.append(&mut giver.demand);
            taker.rate.append(&mut giver.rate);
        } else {
            giver.num = giver.num.max(1.0);
            giver.rate.fill(giver.num);
        }
    }
}

/// The books of one class while a plan is made.
#[derive(Debug)]
struct Part {
    class: usize,
    set: Vec<u16>,
    num: f64,
    queue: usize,
    demand: Vec<f64>,
    rate: Vec<f64>,
}

impl Part {
    fn clear(&mut self) {
        self.set.clear();
        self.num = 0.0;
    }

    fn wants(&self, giver: &Self) -> bool {
        giver.num > 0.0 && self.affected(giver) / self.num > giver.queue as f64 / giver.num
    }

    /// How many requests are done before the giver has none left.
    fn affected(&self, giver: &Self) -> f64 {
        let delays = |part: &Self| part.demand.iter().zip(&part.rate).map(|(d, r)| d / r).sum();
        let (own_s, drained_s): (f64, f64) = (delays(self), delays(giver));
        if own_s <= drained_s {
            return self.demand.len() as f64;
        }
        let mut elapsed = 0.0;
        let is_before = |(demand, rate): &(&f64, &f64)| {
            elapsed += **demand / **rate;
            elapsed < drained_s
        };
        self.demand.iter().zip(&self.rate).take_while(is_before).count() as f64
    }

    /// Takes everything that the other has. An idle one keeps its books until its own turn.
    fn take_all(&mut self, giver: &mut Self, is_idle: bool) {
        let gained = giver.num;
        self.num += gained;
        let new = giver.set.iter().filter(|s| !self.set.contains(*s));
        let new: Vec<u16> = new.copied().collect();
        self.set.extend(new);
        if is_idle {
            return;
        }
        self.queue += giver.queue;
        self.rate.iter_mut().for_each(|rate| *rate += gained);
        self.demand.append(&mut giver.demand);
        self.rate.append(&mut giver.rate);
        giver.clear();
    }
}

fn classes(signature: u16) -> impl Iterator<Item = usize> {
    (0..CLASSES).filter(move |class| signature >> class & 1 == 1)
}

/// Tiers of speed as the reference has them: cut and weighed by constants of its own profile.
#[derive(Debug)]
struct Tiers {
    /// A device whose profile takes less than the n-th of these is of the n-th fastest tier.
    bounds_s: &'static [f64],
    random: SplitMix64,
    of_job: Vec<Option<u32>>,
}

/// The longest that a task of the profile takes.
const TASK_S: f64 = 274.0;

impl Tiers {
    fn new(count: u32, seed: u64, jobs: usize) -> Self {
        let bounds_s: &[f64] = match count {
            3 => &[72.0, 170.0],
            4 => &[57.0, 120.0, 170.0],
            _ => &[120.0],
        };
        Self { bounds_s, random: SplitMix64::new(seed), of_job: vec![None; jobs] }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.bounds_s.len()).expect("at most three") + 1
    }

    /// 0 is the slowest.
    fn tier(&self, client: &Client) -> u32 {
        let task_s = client.slowness * 60.0 + 10.0 / client.bandwidth;
        let faster = self.bounds_s.iter().filter(|bound| task_s < **bound).count();
        u32::try_from(faster).expect("at most three")
    }

    /// How much of its time a round of this tier takes.
    fn ratio(&self, tier: u32) -> f64 {
        match tier {
            0 => 1.0,
            tier => self.bounds_s[self.bounds_s.len() - tier as usize] / TASK_S,
        }
    }

    /// A draw for a request at the head of its group, whose demand takes `sched_min` to arrive.
    fn draw(&mut self, job: u32, sched_min: f64, deadline_min: f64) {
        let (count, response_min) = (f64::from(self.count()), TASK_S / 60.0);
        if deadline_min > 0.0 && count * sched_min + response_min >= deadline_min {
            return;
        }
        let tier = u32::try_from(self.random.below(u64::from(self.count()))).expect("at most 3");
        if count < (1.0 - self.ratio(tier)) * (response_min / sched_min) + 1.0 {
            self.of_job[job as usize] = Some(tier);
        }
    }
}
