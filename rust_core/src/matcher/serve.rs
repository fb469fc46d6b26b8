//! Check-ins of clients who answer an offer at once, as they do in the simulator.
//!
//! The same as `check_in`, `accept` and `assigned` or `refused` one after the other, with the same
//! tables; but since nothing can come in between, a client that takes a task is never written down
//! as one that is offered something, and has no timer.

use super::kinds::Kind;
use super::profiles::Profiles;
use super::{Matcher, Tasks};
use crate::{Device, Error, Result, RoundKey, check_vector};

/// A client that checks in by [`Matcher::serve`].
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// Who it is. The caller knows that it neither waits nor was offered anything.
    pub device: Device,
    /// Its spec.
    pub kind: Kind,
    /// Its speed score; neither negative, infinite nor NaN.
    pub option: f64,
    /// When it checked in last, if it ever did: it is counted as supply once in a bucket.
    pub last_ns: Option<u64>,
    /// Until when it waits if there is nothing for it.
    pub hold_until_ns: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It has the task of this round.
    Assigned(RoundKey),
    /// Every task that it was offered was refused; it is gone.
    Refused,
    /// There was nothing; it waits.
    Waits,
    /// There was nothing, and its time is over.
    Leaves,
}

impl Matcher {
    /// Makes a spec known that [`Self::serve`] is going to meet often.
    pub fn add_kind(&mut self, spec: &[f64]) -> Result<Kind> {
        check_vector("spec", spec, self.config.dimensions)?;
        Ok(self.kinds.add(spec))
    }

    /// A client checks in; `grant` is asked for each task of its offer in turn, until it answers
    /// with a sequence number of the job manager.
    pub fn serve(
        &mut self,
        now_ns: u64,
        visitor: &Visitor,
        mut grant: impl FnMut(RoundKey) -> Option<u64>,
    ) -> Result<Served> {
        let Visitor { device, kind, option, last_ns, hold_until_ns } = *visitor;
        debug_assert!(self.devices.find(device).is_none(), "{device:032x} is here already");
        self.supply.count_again(now_ns, last_ns, self.kinds.spec(kind), option);
        let profile = self.profile_of_kind(device, kind, option);
        let declined = self.declines.of(device, &self.plan);
        let own: Option<Tasks> = self.profiles.own_tasks(
            profile,
            device,
            &self.plan,
            &declined,
            self.config.tasks_per_offer_max,
        );
        let mut place = 0;
        while let Some(key) = task(&self.profiles, own.as_ref(), profile, place) {
            if let Some(seq) = grant(key) {
                self.plan.take(key, seq);
                return Ok(Served::Assigned(key));
            }
            place += 1;
        }
        if place > 0 {
            return Ok(Served::Refused);
        }
        if hold_until_ns <= now_ns {
            return Ok(Served::Leaves);
        }
        if self.waiting.len() >= self.config.waiting_max {
            return Err(Error::MatcherFull { waiting_max: self.config.waiting_max });
        }
        let slot = self.devices.add(device);
        self.devices.keep(slot, self.kinds.spec(kind), option);
        self.wait(slot, hold_until_ns, profile, declined);
        Ok(Served::Waits)
    }

    fn profile_of_kind(&mut self, device: Device, kind: Kind, option: f64) -> u32 {
        let has_parts = self.plan.partitions() > 0;
        let class = self.classes.class(option);
        let known = self.kinds.profile(kind, class, self.profiles.resets());
        if let Some(profile) = known.filter(|_| !has_parts) {
            return profile;
        }
        let spec = self.kinds.take_spec(kind);
        let profile = self.profile(device, &spec, option);
        self.kinds.put_back(kind, spec);
        if !has_parts {
            self.kinds.learn(kind, class, self.profiles.resets(), profile);
        }
        profile
    }
}

fn task(profiles: &Profiles, own: Option<&Tasks>, profile: u32, place: usize) -> Option<RoundKey> {
    own.unwrap_or_else(|| profiles.common_tasks(profile)).get(place).copied()
}
