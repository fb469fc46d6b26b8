//! Re-computes every invariant of a matcher from scratch. For tests and simulations: it costs as
//! much as everything the matcher holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Matcher, State};
use crate::bits::Bits;
use crate::{Error, Result, RoundKey};

impl Matcher {
    /// Fails with [`Error::Broken`], and the reason, if an invariant of the module does not hold.
    pub fn check(&self) -> Result<()> {
        self.check_charges()?;
        self.check_availability()?;
        self.check_queues()?;
        self.check_tables()
    }

    fn check_charges(&self) -> Result<()> {
        let mut charges: BTreeMap<RoundKey, u32> = BTreeMap::new();
        for state in self.devices.values() {
            let held = match state {
                State::Waiting(_) => None,
                State::Offered(offer) => offer.charged,
                State::Claiming { charged, .. } => Some(*charged),
            };
            if let Some(key) = held {
                *charges.entry(key).or_default() += 1;
            }
        }
        let booked = self.ledger.outstanding();
        ensure(charges == booked, || format!("devices hold {charges:?}, the ledger has {booked:?}"))
    }

    fn check_availability(&self) -> Result<()> {
        for (key, quota, available) in self.plan.availability() {
            let expected = i64::from(quota) - self.ledger.taken(key);
            ensure(available == expected, || {
                format!("{key:?} has {available} available, expected {expected}")
            })?;
        }
        Ok(())
    }

    fn check_queues(&self) -> Result<()> {
        let mut placed = 0;
        for (queue, ticket, device) in self.waiting.places() {
            placed += 1;
            let Some(State::Waiting(waiting)) = self.devices.get(&device) else {
                return broken(format!("{device:032x} is queued but does not wait"));
            };
            let here = (waiting.queue, waiting.ticket) == (queue, ticket);
            ensure(here, || format!("{device:032x} is in a queue that it does not know"))?;
            let mut bits = Bits::empty(self.requirements.len());
            self.requirements.sign(&waiting.spec, &mut bits);
            let (signature, _) = self.waiting.key(queue);
            ensure(*self.signatures.bits(signature) == bits, || {
                format!("{device:032x} is in the queue of another signature")
            })?;
        }
        ensure(placed == self.holds.len(), || {
            format!("{placed} queued, {} held", self.holds.len())
        })?;
        ensure(placed <= self.config.waiting_max, || format!("{placed} wait, too many"))
    }

    fn check_tables(&self) -> Result<()> {
        let (mut holds, mut offers) = (BTreeSet::new(), BTreeSet::new());
        for (device, state) in &self.devices {
            match state {
                State::Waiting(waiting) => holds.insert((waiting.hold_until_ns, *device)),
                State::Offered(offer) => offers.insert((offer.until_ns, *device)),
                State::Claiming { .. } => true,
            };
        }
        ensure(holds == self.holds, || "the table of holds is not that of the devices".to_owned())?;
        ensure(offers == self.offers, || {
            "the table of offers is not that of the devices".to_owned()
        })
    }
}

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { broken(text()) }
}

fn broken<T>(text: String) -> Result<T> {
    Err(Error::Broken(text))
}
