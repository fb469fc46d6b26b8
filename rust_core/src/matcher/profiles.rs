//! Profiles: all that decides what a client is offered besides what it declined. That is its
//! signature, and its speed class and part where the plan tells such apart.
//!
//! For each profile the eligible rounds are kept in the order of its offer, and the offer itself as
//! long as nothing becomes available or is used up: usually many clients in a row get the same.
//! Both are made when first needed, so a plan costs nothing for profiles that do not check in. A
//! cursor skips the rounds at the head of a list that are used up, so that a long list of full
//! rounds is walked once and not once per check-in.

use super::declines::DeclinedRound;
use super::hash::{Hasher, KeyedMap};
use super::plan::CurrentPlan;
use super::{Tasks, no_tasks};
use crate::bits::Bits;
use crate::random::DeviceOrder;
use crate::requirement::RequirementTable;
use crate::{Device, RoundKey};

/// When there are more profiles than this, and than twice those who wait, the table starts again
/// with those who wait: each restart is paid for by as many new profiles.
const PROFILES_MAX: usize = 65_536;
/// More rounds than this in all lists together are not kept (16 MiB); lists are made again.
const LISTED_MAX: usize = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ProfileKey {
    /// The signature.
    pub(super) bits: Bits,
    /// The speed class.
    pub(super) class: u32,
    pub(super) part: u32,
}

#[derive(Debug)]
struct Profile {
    key: ProfileKey,
    list: Vec<u32>,
    /// The plan (in plans applied) that the list was made from.
    list_plan: u64,
    /// No round before this place is available, as long as nothing became so since.
    cursor: usize,
    cursor_returns: u64,
    tasks: Tasks,
    /// The plan's epoch that the tasks were made in.
    tasks_epoch: u64,
}

/// The table of profiles; indices are valid until [`Profiles::reset`].
#[derive(Debug)]
pub(super) struct Profiles {
    index_of: KeyedMap<ProfileKey, u32>,
    entries: Vec<Profile>,
    /// Kept to look up without an allocation.
    sought: ProfileKey,
    found: Vec<RoundKey>,
    nothing: Tasks,
    listed: usize,
    listed_plan: u64,
    resets: u64,
}

impl Profiles {
    pub(super) fn new(hasher: Hasher) -> Self {
        Self {
            index_of: KeyedMap::with_hasher(hasher),
            entries: Vec::new(),
            sought: ProfileKey::default(),
            found: Vec::new(),
            nothing: no_tasks(),
            listed: 0,
            listed_plan: 0,
            resets: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self, waiting: usize) -> bool {
        self.entries.len() >= PROFILES_MAX.max(2 * waiting)
    }

    /// Grows whenever indices become invalid.
    pub(super) fn resets(&self) -> u64 {
        self.resets
    }

    /// Forgets all profiles. `width`: how many requirements have a bit.
    pub(super) fn reset(&mut self, width: usize) {
        self.resets += 1;
        self.index_of.clear();
        self.entries.clear();
        self.sought.bits = Bits::empty(width);
        self.listed = 0;
    }

    pub(super) fn of_spec(
        &mut self,
        spec: &[f64],
        requirements: &RequirementTable,
        class: u32,
        part: u32,
    ) -> u32 {
        requirements.sign(spec, &mut self.sought.bits);
        self.of_sought(class, part)
    }

    /// The signatures of all profiles.
    pub(super) fn signatures(&self) -> Vec<Bits> {
        self.entries.iter().map(|entry| entry.key.bits.clone()).collect()
    }

    /// Sets the signature for [`Self::of_sought`].
    pub(super) fn seek(&mut self, signature: &Bits) {
        self.sought.bits = signature.clone();
    }

    pub(super) fn of_sought(&mut self, class: u32, part: u32) -> u32 {
        (self.sought.class, self.sought.part) = (class, part);
        if let Some(index) = self.index_of.get(&self.sought) {
            return *index;
        }
        self.add()
    }

    fn add(&mut self) -> u32 {
        let index = u32::try_from(self.entries.len()).expect("the table is bounded");
        let (key, tasks) = (self.sought.clone(), self.nothing.clone());
        self.index_of.insert(key.clone(), index);
        let (list, list_plan, tasks_epoch) = (Vec::new(), 0, 0);
        let (cursor, cursor_returns) = (0, 0);
        let profile = Profile { key, list, list_plan, cursor, cursor_returns, tasks, tasks_epoch };
        self.entries.push(profile);
        index
    }

    pub(super) fn key(&self, index: u32) -> &ProfileKey {
        &self.entries[index as usize].key
    }

    /// The first `max` available rounds for a device with this profile that were not declined.
    pub(super) fn tasks(
        &mut self,
        index: u32,
        device: Device,
        plan: &CurrentPlan,
        declined: &[DeclinedRound],
        max: usize,
    ) -> Tasks {
        let own = self.own_tasks(index, device, plan, declined, max);
        own.unwrap_or_else(|| self.common_tasks(index).clone())
    }

    /// The same if they are this device's own; none if they are [`Self::common_tasks`].
    pub(super) fn own_tasks(
        &mut self,
        index: u32,
        device: Device,
        plan: &CurrentPlan,
        declined: &[DeclinedRound],
        max: usize,
    ) -> Option<Tasks> {
        if self.entries[index as usize].tasks_epoch != plan.epoch() {
            self.make_tasks(index, plan, max);
        }
        let is_common = declined.is_empty() && plan.shuffle().is_none();
        if is_common || self.common_tasks(index).is_empty() {
            return None;
        }
        Some(self.tasks_of_device(index, device, plan, declined, max))
    }

    /// What all with this profile are offered, as it was when somebody's was last asked for.
    pub(super) fn common_tasks(&self, index: u32) -> &Tasks {
        &self.entries[index as usize].tasks
    }

    /// What all with this profile are offered who declined nothing.
    fn make_tasks(&mut self, index: u32, plan: &CurrentPlan, max: usize) {
        self.make_list(index, plan);
        let entry = &mut self.entries[index as usize];
        if entry.cursor_returns != plan.returns() {
            (entry.cursor, entry.cursor_returns) = (0, plan.returns());
        }
        let used_up = entry.list[entry.cursor..].iter().take_while(|s| !plan.is_available(**s));
        entry.cursor += used_up.count();
        let rest = entry.list[entry.cursor..].iter().filter(|slot| plan.is_available(**slot));
        self.found.clear();
        self.found.extend(rest.take(max).map(|slot| plan.key(*slot)));
        entry.tasks = if self.found.is_empty() {
            self.nothing.clone()
        } else if *entry.tasks == self.found[..] {
            return entry.tasks_epoch = plan.epoch();
        } else {
            Tasks::from(self.found.as_slice())
        };
        entry.tasks_epoch = plan.epoch();
    }

    fn tasks_of_device(
        &mut self,
        index: u32,
        device: Device,
        plan: &CurrentPlan,
        declined: &[DeclinedRound],
        max: usize,
    ) -> Tasks {
        let entry = &self.entries[index as usize];
        let rest = entry.list[entry.cursor..].iter().copied();
        let is_wanted =
            |slot: &u32| plan.is_available(*slot) && !declined.contains(&plan.key_since(*slot));
        let wanted = rest.filter(is_wanted).map(|slot| plan.key(slot));
        self.found.clear();
        if let Some((seed, version)) = plan.shuffle() {
            let order = DeviceOrder::new(seed, device, version);
            let mut drawn: Vec<(u64, RoundKey)> = wanted.map(|key| (order.of(key), key)).collect();
            drawn.sort_unstable();
            self.found.extend(drawn.into_iter().map(|(_, key)| key).take(max));
        } else {
            self.found.extend(wanted.take(max));
        }
        if self.found.is_empty() {
            self.nothing.clone()
        } else {
            Tasks::from(self.found.as_slice())
        }
    }

    fn make_list(&mut self, index: u32, plan: &CurrentPlan) {
        if self.listed_plan != plan.plans_applied() {
            (self.listed, self.listed_plan) = (0, plan.plans_applied());
        }
        if self.entries[index as usize].list_plan == plan.plans_applied() {
            return;
        }
        if self.listed > LISTED_MAX {
            self.entries.iter_mut().for_each(|entry| {
                (entry.list, entry.list_plan, entry.tasks_epoch) = (Vec::new(), 0, 0);
            });
            self.listed = 0;
        }
        let entry = &mut self.entries[index as usize];
        plan.list_for(&entry.key, &mut entry.list);
        entry.list_plan = plan.plans_applied();
        entry.cursor = 0;
        self.listed += entry.list.len();
    }
}
