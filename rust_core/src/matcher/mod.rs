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
//! 3. a waiting device stands in exactly one queue, the one of its signature and declined rounds,
//!    and is in the table of holds; an offered one is in the table of offers.
//!
//! Not here: who decides about slots (the job manager), and where devices are reached.

mod check;
mod config;
mod declines;
mod ledger;
mod plan;
mod signatures;
mod supply;
mod waiting;

use std::collections::{BTreeSet, HashMap};

use crate::requirement::{RequirementTable, check_value};
use crate::{Device, Error, Result, RoundKey, check_vector};

use declines::{DeclinedRound, Declines};
use ledger::Ledger;
use plan::CurrentPlan;
use signatures::Signatures;
use supply::SupplyCounter;
use waiting::WaitingRoom;

pub use config::{MatcherConfig, MatcherCounts};
pub use plan::{PlanGroup, PlanRound, PlanUpdate};
pub use supply::SupplyBucket;

/// Where a device stands.
#[derive(Debug)]
enum State {
    Waiting(Waiting),
    Offered(Offered),
    /// The claim is on its way. `others` are the tasks it may still try if this one is refused.
    Claiming {
        charged: RoundKey,
        others: Vec<RoundKey>,
    },
}

#[derive(Debug)]
struct Waiting {
    /// Kept to sign the device anew when the requirements change.
    spec: Box<[f64]>,
    hold_until_ns: u64,
    ticket: u64,
    queue: u32,
}

#[derive(Debug)]
struct Offered {
    tasks: Vec<RoundKey>,
    /// None after a refusal: what is left of the offer is charged when it is accepted.
    charged: Option<RoundKey>,
    until_ns: u64,
}

/// A device and the rounds it is now offered.
pub type Offer = (Device, Vec<RoundKey>);

/// See the [module](self).
#[derive(Debug)]
pub struct Matcher {
    config: MatcherConfig,
    plan: CurrentPlan,
    requirements: RequirementTable,
    signatures: Signatures,
    // Device ids are chosen by strangers, hence the standard library's keyed hasher here. These
    // maps are never iterated (but by `check`), so the hidden key decides nothing.
    devices: HashMap<Device, State>,
    holds: BTreeSet<(u64, Device)>,
    offers: BTreeSet<(u64, Device)>,
    waiting: WaitingRoom,
    ledger: Ledger,
    declines: Declines,
    supply: SupplyCounter,
    next_ticket: u64,
    /// Something may have become available for those who wait.
    changed: bool,
}

impl Matcher {
    /// A matcher without a plan: nobody is offered anything yet.
    pub fn new(config: MatcherConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            plan: CurrentPlan::default(),
            requirements: RequirementTable::new(config.dimensions),
            signatures: Signatures::default(),
            devices: HashMap::new(),
            holds: BTreeSet::new(),
            offers: BTreeSet::new(),
            waiting: WaitingRoom::default(),
            ledger: Ledger::default(),
            declines: Declines::new(config.declined_max, config.waiting_max),
            supply: SupplyCounter::new(&config),
            next_ticket: 0,
            changed: false,
            config,
        })
    }

    /// Replaces the plan. False: it is older than the current one, and was ignored.
    ///
    /// Charges of rounds that both plans have are kept; assignments that the new plan has seen are
    /// settled. The clients who wait are matched by [`Self::match_waiting`].
    pub fn apply_plan(&mut self, update: PlanUpdate) -> Result<bool> {
        update.check(self.config.dimensions)?;
        if self.plan.is_newer_than(update.version) {
            return Ok(false);
        }
        self.ledger.settle(update.seq);
        let used = update.groups.iter().map(|g| (g.requirement_id, g.vector.as_slice()));
        let bits_changed = self.requirements.ensure(used);
        self.plan.replace(update, &self.requirements, &self.ledger);
        self.signatures.plan_changed();
        if bits_changed {
            self.sign_all_anew();
        }
        self.changed = true;
        Ok(true)
    }

    /// Forgets the version of the current plan, which stays in force: the next plan is applied
    /// whatever its version is. For a scheduler that started again and counts from 1.
    pub fn expect_new_versions(&mut self) {
        self.plan.forget_version();
    }

    /// A client announces itself. Counts it as supply and offers it what there is; if that is
    /// nothing and `hold_until_ns` is later than now, it waits.
    ///
    /// A device that waits or has an unanswered offer starts again from nothing.
    pub fn check_in(
        &mut self,
        now_ns: u64,
        device: Device,
        spec: &[f64],
        option: f64,
        hold_until_ns: u64,
    ) -> Result<Vec<RoundKey>> {
        check_vector("spec", spec, self.config.dimensions)?;
        check_value("option", option)?;
        self.supply.count(now_ns, device, spec, option);
        match self.devices.get(&device) {
            Some(State::Claiming { .. }) => return Err(Error::DeviceClaiming(device)),
            Some(State::Waiting(_) | State::Offered(_)) => self.forget(device),
            None => {}
        }
        let signature = self.sign(spec);
        let declined = self.declines.of(device, &self.plan);
        let tasks = self.tasks_for(signature, &declined);
        if !tasks.is_empty() {
            self.offer(now_ns, device, tasks.clone());
        } else if hold_until_ns > now_ns {
            self.wait(device, spec, hold_until_ns, signature, declined)?;
        }
        Ok(tasks)
    }

    /// Offers what has become available to those who wait, first come first served.
    ///
    /// Costs nothing when nothing changed since the last call, and otherwise grows with the number
    /// of queues (distinct signatures of those who wait) and of offers made, not of clients.
    pub fn match_waiting(&mut self, now_ns: u64) -> Vec<Offer> {
        let mut made = Vec::new();
        if !std::mem::take(&mut self.changed) {
            return made;
        }
        let mut heads = self.waiting.heads();
        while let Some((ticket, queue)) = heads.pop_first() {
            let (signature, declined) = self.waiting.key(queue);
            let declined = declined.to_vec();
            let tasks = self.tasks_for(signature, &declined);
            if tasks.is_empty() {
                // Within this call the available rounds only become fewer: the rest of this
                // queue need not be asked.
                continue;
            }
            let device = self.waiting.device(queue, ticket);
            if let Some(next) = self.waiting.next_after(queue, ticket) {
                heads.insert((next, queue));
            }
            self.forget(device);
            self.offer(now_ns, device, tasks.clone());
            made.push((device, tasks));
        }
        made
    }

    /// The device takes a task of its offer; its charge moves to that round, and the offer can no
    /// longer time out. False: it was not offered that, or too long ago.
    ///
    /// Accepting the same task again while the claim is undecided is true and changes nothing.
    pub fn accept(&mut self, now_ns: u64, device: Device, key: RoundKey) -> bool {
        let offer = match self.devices.get_mut(&device) {
            Some(State::Offered(offer)) => offer,
            Some(State::Claiming { charged, .. }) => return *charged == key,
            _ => return false,
        };
        if offer.until_ns <= now_ns || !offer.tasks.contains(&key) {
            return false;
        }
        let (until_ns, charged) = (offer.until_ns, offer.charged);
        let mut others = std::mem::take(&mut offer.tasks);
        others.retain(|task| *task != key);
        self.offers.remove(&(until_ns, device));
        if charged != Some(key) {
            if let Some(old) = charged {
                self.give_back(old);
            }
            self.charge(key);
        }
        self.devices.insert(device, State::Claiming { charged: key, others });
        true
    }

    /// The claim was granted by the job manager at its sequence number `seq`. The device leaves;
    /// its charge is kept until a plan that has seen `seq`. Nothing happens if it claims nothing.
    pub fn assigned(&mut self, device: Device, seq: u64) {
        if let Some(State::Claiming { charged, .. }) = self.devices.get(&device) {
            let charged = *charged;
            self.devices.remove(&device);
            self.ledger.assign(charged, seq);
            if seq <= self.plan.seq() {
                self.give_back_assigned(charged, seq);
            }
        }
    }

    /// The claim was refused: the charge is returned and the task leaves the offer. True: the
    /// device has other tasks of the same offer, and a fresh time to accept one.
    pub fn refused(&mut self, now_ns: u64, device: Device) -> bool {
        let Some(State::Claiming { charged, others }) = self.devices.get_mut(&device) else {
            return false;
        };
        let (charged, tasks) = (*charged, std::mem::take(others));
        self.devices.remove(&device);
        self.give_back(charged);
        if tasks.is_empty() {
            return false;
        }
        self.insert_offer(now_ns, device, tasks, None);
        true
    }

    /// The device wants none of its offer, and is not offered these rounds again while they stay
    /// in the plan. A claim that is under way is not touched.
    pub fn decline(&mut self, device: Device, rounds: &[RoundKey]) {
        self.declines.add(device, rounds, &self.plan);
        match self.devices.get(&device) {
            Some(State::Offered(_)) => self.forget(device),
            Some(State::Waiting(_)) => self.requeue(device),
            Some(State::Claiming { .. }) | None => {}
        }
    }

    /// The device is gone: it no longer waits and its offer's charge is returned. A claiming
    /// device stays until it is assigned or refused.
    pub fn forget(&mut self, device: Device) {
        if !matches!(self.devices.get(&device), Some(State::Waiting(_) | State::Offered(_))) {
            return;
        }
        match self.devices.remove(&device) {
            Some(State::Waiting(waiting)) => {
                self.holds.remove(&(waiting.hold_until_ns, device));
                self.waiting.remove(waiting.queue, waiting.ticket);
            }
            Some(State::Offered(offer)) => {
                self.offers.remove(&(offer.until_ns, device));
                if let Some(charged) = offer.charged {
                    self.give_back(charged);
                }
            }
            Some(State::Claiming { .. }) | None => {}
        }
    }

    /// Lets go of those whose hold, and those whose offer, ended at or before now.
    pub fn expire(&mut self, now_ns: u64) -> (Vec<Device>, Vec<Device>) {
        let due = |table: &BTreeSet<(u64, Device)>| -> Vec<Device> {
            table.range(..=(now_ns, Device::MAX)).map(|(_, device)| *device).collect()
        };
        let (holds, offers) = (due(&self.holds), due(&self.offers));
        holds.iter().chain(&offers).for_each(|device| self.forget(*device));
        (holds, offers)
    }

    /// The earliest time at which [`Self::expire`] or [`Self::take_supply`] has work.
    pub fn due_ns(&self) -> Option<u64> {
        let first = |table: &BTreeSet<(u64, Device)>| table.first().map(|(at, _)| *at);
        [first(&self.holds), first(&self.offers), self.supply.due_ns()].into_iter().flatten().min()
    }

    /// The buckets of supply that have ended, oldest first; each is handed out once.
    pub fn take_supply(&mut self, now_ns: u64) -> Vec<SupplyBucket> {
        self.supply.take(now_ns)
    }

    /// What a new device with this spec would be offered now. Nothing is charged.
    pub fn would_offer(&mut self, spec: &[f64]) -> Result<Vec<RoundKey>> {
        check_vector("spec", spec, self.config.dimensions)?;
        let signature = self.sign(spec);
        Ok(self.tasks_for(signature, &[]))
    }

    /// How many of each thing there are.
    pub fn counts(&self) -> MatcherCounts {
        MatcherCounts {
            waiting: self.holds.len(),
            offered: self.offers.len(),
            claiming: self.devices.len() - self.holds.len() - self.offers.len(),
            signatures: self.signatures.len(),
            open_rounds: self.plan.len(),
        }
    }

    // ------------------------------------------------------------------ offers and charges

    fn sign(&mut self, spec: &[f64]) -> u32 {
        if self.signatures.is_full(self.holds.len()) {
            self.sign_all_anew();
        }
        self.signatures.sign(spec, &self.requirements)
    }

    fn tasks_for(&mut self, signature: u32, declined: &[DeclinedRound]) -> Vec<RoundKey> {
        self.signatures.tasks(signature, &self.plan, declined, self.config.tasks_per_offer_max)
    }

    fn offer(&mut self, now_ns: u64, device: Device, tasks: Vec<RoundKey>) {
        let first = tasks[0];
        self.charge(first);
        self.insert_offer(now_ns, device, tasks, Some(first));
    }

    fn insert_offer(
        &mut self,
        now_ns: u64,
        device: Device,
        tasks: Vec<RoundKey>,
        charged: Option<RoundKey>,
    ) {
        let until_ns = now_ns.saturating_add(self.config.offer_timeout_ns);
        self.offers.insert((until_ns, device));
        self.devices.insert(device, State::Offered(Offered { tasks, charged, until_ns }));
    }

    fn charge(&mut self, key: RoundKey) {
        self.ledger.charge(key);
        self.plan.add_available(key, -1);
    }

    fn give_back(&mut self, key: RoundKey) {
        self.ledger.give_back(key);
        self.available_again(key);
    }

    fn give_back_assigned(&mut self, key: RoundKey, seq: u64) {
        self.ledger.settle_one(key, seq);
        self.available_again(key);
    }

    fn available_again(&mut self, key: RoundKey) {
        if self.plan.add_available(key, 1) == Some(1) {
            self.signatures.something_available();
            self.changed = true;
        }
    }

    // ------------------------------------------------------------------ those who wait

    fn wait(
        &mut self,
        device: Device,
        spec: &[f64],
        hold_until_ns: u64,
        signature: u32,
        declined: Vec<DeclinedRound>,
    ) -> Result<()> {
        let waiting_max = self.config.waiting_max;
        if self.holds.len() >= waiting_max {
            return Err(Error::MatcherFull { waiting_max });
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let queue = self.waiting.add(signature, declined, ticket, device);
        self.holds.insert((hold_until_ns, device));
        let waiting = Waiting { spec: spec.into(), hold_until_ns, ticket, queue };
        self.devices.insert(device, State::Waiting(waiting));
        Ok(())
    }

    /// Moves a waiting device, with its ticket, to the queue of its present signature and declines.
    fn requeue(&mut self, device: Device) {
        let declined = self.declines.of(device, &self.plan);
        if let Some(State::Waiting(waiting)) = self.devices.get_mut(&device) {
            let (signature, _) = self.waiting.key(waiting.queue);
            self.waiting.remove(waiting.queue, waiting.ticket);
            waiting.queue = self.waiting.add(signature, declined, waiting.ticket, device);
        }
    }

    /// The bits mean other requirements than before (or there are too many signatures to keep):
    /// every waiting device is signed again and queued by its ticket.
    fn sign_all_anew(&mut self) {
        self.signatures.reset(self.requirements.len());
        for (ticket, device) in self.waiting.drain() {
            let declined = self.declines.of(device, &self.plan);
            if let Some(State::Waiting(waiting)) = self.devices.get_mut(&device) {
                let signature = self.signatures.sign(&waiting.spec, &self.requirements);
                waiting.queue = self.waiting.add(signature, declined, ticket, device);
            }
        }
    }
}
