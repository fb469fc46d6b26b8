//! The matcher: one client manager's clients, and what they are offered.
//!
//! The life of a client here:
//!
//! ```text
//!   check_in ──► offered ──accept──► claiming ──assigned──► (gone; its charge stays until a
//!      │            ▲   ▲               │                    plan has seen the assignment)
//!      ▼            │   └───refused─────┘
//!   waiting ──match_waiting
//! ```
//!
//! and out of it by `decline`, `forget` or `expire`. An offer lists rounds and is *charged* to one
//! of them, so that the quotas of a plan hold however many clients check in before the next plan:
//!
//! `available(round) = quota − charges (offered or claiming) − assignments the plan has not seen`.
//!
//! Invariants, each re-computed by [`Matcher::check`]:
//! 1. a client is offered only rounds whose vector its spec meets, whatever the plan says;
//! 2. the charges of a round are the offered and claiming devices that hold one for it;
//! 3. it is offered only rounds whose speed tier holds its option, and of its part if there are any;
//! 4. a waiting device stands in exactly one queue, the one of its profile (signature, speed class,
//!    part) and declined rounds; its hold and every offer has a timer, unless it has no end;
//! 5. who waits could be offered nothing, but for rounds that are marked as fresh.
//!
//! Cost: everything is O(1) in the number of devices, but for the timers (a heap), and for a plan
//! that brings a requirement or a tier's bound not seen lately, after which all who wait are sorted
//! into queues again. [`Matcher::match_waiting`] costs nothing while nothing becomes available.
//!
//! Not here: who decides about slots (the job manager), and where devices are reached.

mod check;
mod classes;
mod config;
mod declines;
mod devices;
mod hash;
mod kinds;
mod ledger;
mod plan;
mod profiles;
mod serve;
mod supply;
mod timers;
mod update;
mod waiting;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::bits::Bits;
use crate::requirement::{RequirementTable, check_value};
use crate::{Device, Error, Result, RoundKey, check_vector};

use classes::SpeedClasses;
use declines::{DeclinedRound, Declines};
use devices::{Devices, Promise, Standing};
use kinds::Kinds;
use plan::CurrentPlan;
use profiles::Profiles;
use supply::SupplyCounter;
use timers::Timers;
use waiting::WaitingRoom;

pub use crate::random::part_of;
pub use classes::Tier;
pub use config::{MatcherConfig, MatcherCounts};
pub use kinds::Kind;
pub use serve::{Served, Visitor};
pub use supply::SupplyBucket;
pub use update::{PlanGroup, PlanRound, PlanUpdate};

/// The rounds of an offer, in order. Devices that are offered the same share one.
pub type Tasks = Arc<[RoundKey]>;
/// A device and the rounds it is now offered.
pub type Offer = (Device, Tasks);

fn no_tasks() -> Tasks {
    Tasks::from([].as_slice())
}

/// See the [module](self).
#[derive(Debug)]
pub struct Matcher {
    config: MatcherConfig,
    plan: CurrentPlan,
    requirements: RequirementTable,
    classes: SpeedClasses,
    profiles: Profiles,
    devices: Devices,
    holds: Timers,
    offers: Timers,
    waiting: WaitingRoom,
    offered: usize,
    declines: Declines,
    kinds: Kinds,
    supply: SupplyCounter,
    update_scratch: update::Scratch,
    due_scratch: Vec<u32>,
}

impl Matcher {
    /// A matcher without a plan: nobody is offered anything yet.
    pub fn new(config: MatcherConfig) -> Result<Self> {
        config.check()?;
        let hasher = hash::hasher(config.seed);
        let (declined_max, waiting_max) = (config.declined_max, config.waiting_max);
        Ok(Self {
            plan: CurrentPlan::default(),
            requirements: RequirementTable::new(config.dimensions),
            classes: SpeedClasses::default(),
            profiles: Profiles::new(hasher.clone()),
            devices: Devices::new(config.dimensions, hasher.clone()),
            holds: Timers::new(),
            offers: Timers::new(),
            waiting: WaitingRoom::default(),
            offered: 0,
            declines: Declines::new(declined_max, waiting_max, hasher.clone()),
            kinds: Kinds::default(),
            supply: SupplyCounter::new(&config, hasher),
            update_scratch: update::Scratch::default(),
            due_scratch: Vec::new(),
            config,
        })
    }

    /// Replaces the plan. False: it is older than the current one, and was ignored.
    ///
    /// Charges of rounds that both plans have are kept; assignments that the new plan has seen are
    /// settled. The clients who wait are matched by [`Self::match_waiting`].
    pub fn apply_plan(&mut self, update: PlanUpdate) -> Result<bool> {
        update.check(self.config.dimensions, &mut self.update_scratch)?;
        if self.plan.is_newer_than(update.version) {
            return Ok(false);
        }
        let used = update.groups.iter().map(|g| (g.requirement_id, g.vector.as_slice()));
        let bits_changed = self.requirements.ensure(used);
        let classes_changed = self.classes.ensure(update.tiers());
        let parts_changed = self.plan.partitions() != update.partitions;
        self.plan.replace(update, &self.requirements, &self.classes);
        if bits_changed || parts_changed {
            self.plan.refresh();
        }
        if bits_changed || classes_changed || parts_changed {
            self.queue_all_anew(bits_changed);
        }
        Ok(true)
    }

    /// Forgets the version of the current plan, which stays in force: the next plan is applied
    /// whatever its version is. For a scheduler that started again and counts from 1.
    pub fn expect_new_versions(&mut self) {
        self.plan.forget_version();
    }

    /// A client announces itself. Counts it as supply and offers it what there is; if that is
    /// nothing and `hold_until_ns` is later than now, it waits (`u64::MAX`: until it is forgotten).
    ///
    /// A device that waits or has an unanswered offer starts again from nothing.
    pub fn check_in(
        &mut self,
        now_ns: u64,
        device: Device,
        spec: &[f64],
        option: f64,
        hold_until_ns: u64,
    ) -> Result<&[RoundKey]> {
        check_vector("spec", spec, self.config.dimensions)?;
        check_value("option", option)?;
        self.supply.count(now_ns, device, spec, option);
        let known = self.devices.find(device);
        if let Some(slot) = known {
            if self.devices.record(slot).standing == Standing::Claiming {
                return Err(Error::DeviceClaiming(device));
            }
            self.leave(slot);
        }
        let profile = self.profile(device, spec, option);
        let declined = self.declines.of(device, &self.plan);
        let tasks = self.tasks_for(profile, device, &declined);
        let waits = tasks.is_empty() && hold_until_ns > now_ns;
        let is_full = waits && self.waiting.len() >= self.config.waiting_max;
        if is_full || (tasks.is_empty() && !waits) {
            if let Some(slot) = known {
                self.devices.remove(slot);
            }
        }
        if is_full {
            return Err(Error::MatcherFull { waiting_max: self.config.waiting_max });
        }
        if !waits && tasks.is_empty() {
            return Ok(&[]);
        }
        let slot = known.unwrap_or_else(|| self.devices.add(device));
        if waits {
            self.devices.keep(slot, spec, option);
            self.wait(slot, hold_until_ns, profile, declined);
            return Ok(&[]);
        }
        self.offer(now_ns, slot, tasks);
        Ok(self.devices.tasks(slot))
    }

    /// Offers what has become available to those who wait, first come first served.
    ///
    /// Costs nothing when nothing became available since the last call, and otherwise grows with
    /// the number of queues (distinct profiles of those who wait) and of offers made, not of
    /// clients.
    pub fn match_waiting(&mut self, now_ns: u64) -> Vec<Offer> {
        let mut made = Vec::new();
        if !self.plan.has_fresh() {
            return made;
        }
        let mut heads = self.heads_of_interest();
        while let Some(Reverse((_, queue, slot))) = heads.pop() {
            let (profile, declined) = self.waiting.key(queue);
            let device = self.devices.record(slot).device();
            let max = self.config.tasks_per_offer_max;
            let tasks = self.profiles.tasks(profile, device, &self.plan, declined, max);
            if tasks.is_empty() {
                // Within this call the available rounds only become fewer: the rest of this
                // queue need not be asked.
                continue;
            }
            self.leave(slot);
            if let Some((ticket, next)) = self.waiting.first(queue, &self.devices) {
                heads.push(Reverse((ticket, queue, next)));
            }
            self.offer(now_ns, slot, tasks.clone());
            made.push((device, tasks));
        }
        made
    }

    /// The first ticket, with its slot, of each queue whose signature has a requirement of a fresh
    /// round.
    fn heads_of_interest(&mut self) -> BinaryHeap<Reverse<(u64, u32, u32)>> {
        let mut fresh = Bits::empty(self.requirements.len());
        let mut heads = BinaryHeap::new();
        if !self.plan.take_fresh(&mut fresh) || self.waiting.len() == 0 {
            return heads;
        }
        for queue in self.waiting.queues() {
            let profile = self.waiting.living_profile(queue);
            if profile.is_some_and(|profile| self.profiles.key(profile).bits.intersects(&fresh)) {
                let first = self.waiting.first(queue, &self.devices);
                heads.extend(first.map(|(ticket, slot)| Reverse((ticket, queue, slot))));
            }
        }
        heads
    }

    /// The device takes a task of its offer; its charge moves to that round, and the offer can no
    /// longer time out. False: it was not offered that, or too long ago.
    ///
    /// Accepting the same task again while the claim is undecided is true and changes nothing.
    pub fn accept(&mut self, now_ns: u64, device: Device, key: RoundKey) -> bool {
        let Some(slot) = self.devices.find(device) else {
            return false;
        };
        let record = self.devices.record(slot);
        let (standing, until_ns) = (record.standing, record.until_ns);
        let charged = self.devices.promise(slot).charged;
        match standing {
            Standing::Offered => {}
            Standing::Claiming => return charged == Some(key),
            Standing::Waiting { .. } | Standing::Gone => return false,
        }
        if until_ns <= now_ns || !self.devices.tasks(slot).contains(&key) {
            return false;
        }
        if charged != Some(key) {
            if let Some(old) = charged {
                self.plan.give_back(old);
            }
            self.plan.charge(key);
            self.devices.promise_mut(slot).charged = Some(key);
        }
        let record = self.devices.record_mut(slot);
        (record.standing, record.stamp) = (Standing::Claiming, 0);
        self.offered -= 1;
        self.offers.stopped(until_ns, &self.devices);
        true
    }

    /// The claim was granted by the job manager at its sequence number `seq`. The device leaves;
    /// its charge is kept until a plan that has seen `seq`. Nothing happens if it claims nothing.
    pub fn assigned(&mut self, device: Device, seq: u64) {
        if let Some((slot, charged, _)) = self.claim(device) {
            self.devices.remove(slot);
            self.plan.assign(charged, seq);
        }
    }

    /// The claim was refused: the charge is returned and the task leaves the offer. True: the
    /// device has other tasks of the same offer, and a fresh time to accept one.
    pub fn refused(&mut self, now_ns: u64, device: Device) -> bool {
        let Some((slot, charged, tasks)) = self.claim(device) else {
            return false;
        };
        let others: Tasks = tasks.iter().copied().filter(|task| *task != charged).collect();
        self.plan.give_back(charged);
        if others.is_empty() {
            self.devices.remove(slot);
            return false;
        }
        self.insert_offer(now_ns, slot, others, None);
        true
    }

    /// The slot, the claimed round and the whole offer of a device whose claim is under way.
    fn claim(&self, device: Device) -> Option<(u32, RoundKey, &[RoundKey])> {
        let slot = self.devices.find(device)?;
        let claims = self.devices.record(slot).standing == Standing::Claiming;
        let charged = self.devices.promise(slot).charged.filter(|_| claims)?;
        Some((slot, charged, self.devices.tasks(slot)))
    }

    /// The device wants none of its offer, and is not offered these rounds again while they stay
    /// in the plan. A claim that is under way is not touched.
    pub fn decline(&mut self, device: Device, rounds: &[RoundKey]) {
        self.declines.add(device, rounds, &self.plan);
        let Some(slot) = self.devices.find(device) else { return };
        match self.devices.record(slot).standing {
            Standing::Offered => self.let_go(slot),
            Standing::Waiting { queue } => self.requeue(slot, queue),
            Standing::Claiming | Standing::Gone => {}
        }
    }

    /// The device is gone: it no longer waits and its offer's charge is returned. A claiming
    /// device stays until it is assigned or refused.
    pub fn forget(&mut self, device: Device) {
        let Some(slot) = self.devices.find(device) else { return };
        if self.devices.record(slot).standing != Standing::Claiming {
            self.let_go(slot);
        }
    }

    /// Lets go of those whose hold, and those whose offer, ended at or before now.
    pub fn expire(&mut self, now_ns: u64) -> (Vec<Device>, Vec<Device>) {
        let mut due = std::mem::take(&mut self.due_scratch);
        self.holds.take_due(now_ns, &self.devices, &mut due);
        let holds = due.iter().map(|slot| self.time_out(*slot)).collect();
        self.offers.take_due(now_ns, &self.devices, &mut due);
        let offers = due.iter().map(|slot| self.time_out(*slot)).collect();
        self.due_scratch = due;
        (holds, offers)
    }

    /// The earliest time at which [`Self::expire`] or [`Self::take_supply`] has work.
    pub fn due_ns(&self) -> Option<u64> {
        let times = [self.holds.due_ns(), self.offers.due_ns(), self.supply.due_ns()];
        times.into_iter().flatten().min()
    }

    /// The buckets of supply that have ended, oldest first; each is handed out once.
    pub fn take_supply(&mut self, now_ns: u64) -> Vec<SupplyBucket> {
        self.supply.take(now_ns)
    }

    /// What this device would be offered now if it had declined nothing. Nothing is charged.
    pub fn would_offer(&mut self, device: Device, spec: &[f64], option: f64) -> Result<Tasks> {
        check_vector("spec", spec, self.config.dimensions)?;
        check_value("option", option)?;
        let profile = self.profile(device, spec, option);
        Ok(self.tasks_for(profile, device, &[]))
    }

    /// How many of each thing there are.
    pub fn counts(&self) -> MatcherCounts {
        let (waiting, offered) = (self.waiting.len(), self.offered);
        MatcherCounts {
            waiting,
            offered,
            claiming: self.devices.len() - waiting - offered,
            signatures: self.profiles.len(),
            open_rounds: self.plan.len(),
        }
    }

    // ------------------------------------------------------------------ offers and charges

    fn profile(&mut self, device: Device, spec: &[f64], option: f64) -> u32 {
        if self.profiles.is_full(self.waiting.len()) {
            self.queue_all_anew(true);
            self.plan.refresh();
        }
        let part = part_of(device, self.plan.partitions());
        self.profiles.of_spec(spec, &self.requirements, self.classes.class(option), part)
    }

    fn tasks_for(&mut self, profile: u32, device: Device, declined: &[DeclinedRound]) -> Tasks {
        let max = self.config.tasks_per_offer_max;
        self.profiles.tasks(profile, device, &self.plan, declined, max)
    }

    fn offer(&mut self, now_ns: u64, slot: u32, tasks: Tasks) {
        let first = tasks[0];
        self.plan.charge(first);
        self.insert_offer(now_ns, slot, tasks, Some(first));
    }

    fn insert_offer(&mut self, now_ns: u64, slot: u32, tasks: Tasks, charged: Option<RoundKey>) {
        let until_ns = now_ns.saturating_add(self.config.offer_timeout_ns);
        let stamp = self.devices.next_stamp();
        let record = self.devices.record_mut(slot);
        (record.stamp, record.until_ns) = (stamp, until_ns);
        record.standing = Standing::Offered;
        *self.devices.promise_mut(slot) = Promise { tasks: Some(tasks), charged };
        self.offered += 1;
        self.offers.start(until_ns, stamp, slot, &self.devices);
    }

    fn let_go(&mut self, slot: u32) {
        self.leave(slot);
        self.devices.remove(slot);
    }

    /// The device neither waits nor is offered anything any more; it keeps its slot.
    fn leave(&mut self, slot: u32) {
        let until_ns = self.devices.record(slot).until_ns;
        let (standing, charged) = self.devices.take_standing(slot);
        match standing {
            Standing::Waiting { queue } => {
                self.holds.stopped(until_ns, &self.devices);
                self.waiting.left(queue, &self.devices);
            }
            Standing::Offered => {
                self.offered -= 1;
                self.offers.stopped(until_ns, &self.devices);
                if let Some(key) = charged {
                    self.plan.give_back(key);
                }
            }
            Standing::Claiming | Standing::Gone => {}
        }
    }

    /// The timer, which is over, has gone already.
    fn time_out(&mut self, slot: u32) -> Device {
        let (standing, charged) = self.devices.take_standing(slot);
        if let Standing::Waiting { queue } = standing {
            self.waiting.left(queue, &self.devices);
        } else {
            self.offered -= 1;
            if let Some(key) = charged {
                self.plan.give_back(key);
            }
        }
        self.devices.remove(slot);
        self.devices.record(slot).device()
    }

    // ------------------------------------------------------------------ those who wait

    fn wait(&mut self, slot: u32, until_ns: u64, profile: u32, declined: Vec<DeclinedRound>) {
        let ticket = self.devices.next_stamp();
        let queue = self.waiting.add((profile, declined.into_boxed_slice()), ticket, slot);
        let record = self.devices.record_mut(slot);
        (record.stamp, record.until_ns) = (ticket, until_ns);
        record.standing = Standing::Waiting { queue };
        self.holds.start(until_ns, ticket, slot, &self.devices);
    }

    /// Moves a waiting device, with its ticket, to the queue of its present declines.
    fn requeue(&mut self, slot: u32, queue: u32) {
        let record = self.devices.record(slot);
        let (device, ticket) = (record.device(), record.stamp);
        let declined = self.declines.of(device, &self.plan);
        let (profile, _) = self.waiting.key(queue);
        self.waiting.remove(queue, ticket, &self.devices);
        let queue = self.waiting.add((profile, declined.into_boxed_slice()), ticket, slot);
        self.devices.record_mut(slot).standing = Standing::Waiting { queue };
        // An old decline may have been forgotten for the new one.
        self.plan.refresh();
    }

    /// Requirements, classes or parts are others than before (or there are too many profiles to
    /// keep): every waiting device gets its profile anew and is queued by its ticket.
    fn queue_all_anew(&mut self, bits_changed: bool) {
        let signatures = if bits_changed { Vec::new() } else { self.profiles.signatures() };
        self.profiles.reset(self.requirements.len());
        for (old_queue, (old_profile, old_declined), places) in self.waiting.drain() {
            if !bits_changed {
                self.profiles.seek(&signatures[old_profile as usize]);
            }
            for (ticket, slot) in places {
                if !self.devices.waits_in(slot, ticket, old_queue) {
                    continue;
                }
                let device = self.devices.record(slot).device();
                let class = self.classes.class(self.devices.option(slot));
                let part = part_of(device, self.plan.partitions());
                let key = if bits_changed {
                    let declined = self.declines.of(device, &self.plan).into_boxed_slice();
                    let spec = self.devices.spec(slot);
                    (self.profiles.of_spec(spec, &self.requirements, class, part), declined)
                } else {
                    (self.profiles.of_sought(class, part), old_declined.clone())
                };
                let queue = self.waiting.add_unsorted(key, ticket, slot);
                self.devices.record_mut(slot).standing = Standing::Waiting { queue };
            }
        }
        self.waiting.sort();
    }
}
