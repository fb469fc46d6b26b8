//! Re-computes every invariant of a matcher from scratch. For tests and simulations: it costs as
//! much as everything the matcher holds.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::Standing;
use super::ledger::NO_PLACE;
use super::profiles::ProfileKey;
use super::timers::{DEAD_MAX, NEVER, Timers};
use super::{Matcher, part_of};
use crate::bits::Bits;
use crate::{Error, Result, RoundKey};

impl Matcher {
    /// Fails with [`Error::Broken`], and the reason, if an invariant of the module does not hold.
    pub fn check(&self) -> Result<()> {
        self.check_charges()?;
        self.check_availability()?;
        self.check_queues()?;
        self.check_nobody_is_overlooked()?;
        self.check_devices()
    }

    fn check_charges(&self) -> Result<()> {
        let mut charges: BTreeMap<RoundKey, u32> = BTreeMap::new();
        for (slot, record) in self.devices.iter() {
            let promise = self.devices.promise(slot);
            let is_promised = matches!(record.standing, Standing::Offered | Standing::Claiming);
            ensure(promise.tasks.is_some() == is_promised, || {
                format!("{:032x} is promised something else", record.device())
            })?;
            if let Some(key) = promise.charged {
                ensure(self.devices.tasks(slot).contains(&key), || format!("{key:?}: no task"))?;
                *charges.entry(key).or_default() += 1;
            }
        }
        let ledger = self.plan.ledger();
        let booked = ledger.outstanding();
        ensure(charges == booked, || {
            format!("devices hold {charges:?}, the ledger has {booked:?}")
        })?;
        let [listed, counted] = ledger.unseen();
        ensure(listed == counted, || format!("unseen are {listed:?}, counted are {counted:?}"))
    }

    fn check_availability(&self) -> Result<()> {
        let ledger = self.plan.ledger();
        let mut places = 0;
        for (key, quota, available, place, [marked, listed]) in self.plan.availability() {
            let expected = i64::from(quota) - ledger.taken(key);
            ensure(available == expected, || {
                format!("{key:?} has {available} available, expected {expected}")
            })?;
            ensure(ledger.place(key) == place, || format!("{key:?} is not where it is"))?;
            ensure(marked == listed, || format!("{key:?} is fresh in one place only"))?;
            places += 1;
        }
        let known = ledger.places().filter(|(_, place, _)| *place != NO_PLACE).count();
        ensure(known == places, || format!("{known} rounds have places, the plan has {places}"))?;
        let void = ledger.places().find(|(_, _, is_void)| *is_void);
        ensure(void.is_none(), || format!("the ledger keeps {void:?} for nothing"))
    }

    fn check_queues(&self) -> Result<()> {
        let mut alive: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        for (queue, ticket, device) in self.waiting.places(&self.devices) {
            let slot = self.devices.find(device);
            let (count, last) = alive.entry(queue).or_default();
            ensure(*last < ticket, || format!("{device:032x} is queued out of its turn"))?;
            (*count, *last) = (*count + 1, ticket);
            let slot = slot.map_or_else(|| broken("a queued device is unknown".into()), Ok)?;
            let mut bits = Bits::empty(self.requirements.len());
            self.requirements.sign(self.devices.spec(slot), &mut bits);
            let class = self.classes.class(self.devices.option(slot));
            let part = part_of(device, self.plan.partitions());
            let (profile, _) = self.waiting.key(queue);
            ensure(*self.profiles.key(profile) == ProfileKey { bits, class, part }, || {
                format!("{device:032x} is in the queue of another profile")
            })?;
        }
        for (queue, places, counted) in self.waiting.sizes() {
            let (living, _) = alive.get(&queue).copied().unwrap_or_default();
            ensure(living == counted, || format!("{living} of {counted} wait in queue {queue}"))?;
            ensure(places <= 2 * living + 16 && (living > 0 || places == 0), || {
                format!("queue {queue} keeps {places} places for {living}")
            })?;
        }
        let waiting = alive.values().map(|(count, _)| count).sum::<usize>();
        ensure(waiting == self.waiting.len(), || "the count of those who wait is wrong".into())?;
        ensure(waiting <= self.config.waiting_max, || format!("{waiting} wait, too many"))
    }

    /// Without fresh rounds, nobody who waits could be offered anything.
    fn check_nobody_is_overlooked(&self) -> Result<()> {
        if self.plan.has_fresh() {
            return Ok(());
        }
        for (queue, _, device) in self.waiting.places(&self.devices) {
            let (profile, declined) = self.waiting.key(queue);
            let mut list = Vec::new();
            self.plan.list_for(self.profiles.key(profile), &mut list);
            let missed = list.iter().find(|slot| {
                self.plan.is_available(**slot) && !declined.contains(&self.plan.key_since(**slot))
            });
            ensure(missed.is_none(), || format!("{device:032x} waits though a round is open"))?;
        }
        Ok(())
    }

    fn check_devices(&self) -> Result<()> {
        let (mut holds, mut offers, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
        let (mut waiting, mut offered) = (0, 0);
        for (slot, record) in self.devices.iter() {
            count += 1;
            ensure(self.devices.find(record.device()) == Some(slot), || {
                format!("{:032x} is not found where it is", record.device())
            })?;
            match record.standing {
                Standing::Waiting { .. } => {
                    waiting += 1;
                    holds.insert((record.until_ns, slot));
                }
                Standing::Offered => {
                    offered += 1;
                    offers.insert((record.until_ns, slot));
                }
                Standing::Claiming | Standing::Gone => {}
            }
        }
        let counts = (count, waiting, offered);
        let expected = (self.devices.len(), self.waiting.len(), self.offered);
        ensure(counts == expected, || format!("there are {counts:?}, counted are {expected:?}"))?;
        self.check_timers("holds", &self.holds, holds)?;
        self.check_timers("offers", &self.offers, offers)
    }

    fn check_timers(
        &self,
        what: &str,
        timers: &Timers,
        mut expected: BTreeSet<(u64, u32)>,
    ) -> Result<()> {
        expected.retain(|(until_ns, _)| *until_ns != NEVER);
        let (living, entries) = timers.living(&self.devices);
        let due_ns = expected.first().map(|(until_ns, _)| *until_ns);
        ensure(timers.due_ns() == due_ns, || format!("{what} say a wrong time"))?;
        ensure(entries <= 2 * living.len() + DEAD_MAX, || format!("{what} keep {entries} timers"))?;
        ensure(living.len() == expected.len(), || format!("{what} count wrongly"))?;
        let living: BTreeSet<(u64, u32)> = living.into_iter().collect();
        ensure(living == expected, || format!("the timers of {what} are not those of the devices"))
    }
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { broken(text()) }
}

fn broken<T>(text: String) -> Result<T> {
    Err(Error::Broken(text))
}
