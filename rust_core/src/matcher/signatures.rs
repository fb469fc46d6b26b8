//! The signatures of clients, and for each the eligible rounds in the order of its offer.
//!
//! A list is made when it is first needed after a plan, so a plan costs nothing for signatures
//! that do not check in. A cursor skips the rounds at the head of a list that are used up, so that
//! a long list of full rounds is walked once and not once per check-in.

use rustc_hash::FxHashMap;

use super::declines::DeclinedRound;
use super::plan::CurrentPlan;
use crate::RoundKey;
use crate::bits::Bits;
use crate::requirement::RequirementTable;

/// When there are more signatures than this, and than twice those who wait, the table starts again
/// with those who wait: each restart is paid for by as many new signatures.
const SIGNATURES_MAX: usize = 65_536;
/// More rounds than this in all lists together are not kept (16 MiB); lists are made again.
const LISTED_MAX: usize = 4 << 20;

#[derive(Debug)]
struct Signature {
    bits: Bits,
    list: Box<[u32]>,
    /// The plan (counted by `Signatures::plans`) that the list was made from.
    list_plan: u64,
    /// No round before this place is available, as long as nothing was given back since.
    cursor: usize,
    cursor_returns: u64,
}

/// The table of signatures; indices are valid until [`Signatures::reset`].
#[derive(Debug, Default)]
pub(super) struct Signatures {
    index_of: FxHashMap<Bits, u32>,
    entries: Vec<Signature>,
    /// Kept to sign without an allocation.
    scratch: Bits,
    /// Counts the plans; lists of earlier ones are void.
    plans: u64,
    /// Counts the times when a round became available again; cursors of earlier ones are void.
    returns: u64,
    listed: usize,
}

impl Signatures {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self, waiting: usize) -> bool {
        self.entries.len() >= SIGNATURES_MAX.max(2 * waiting)
    }

    pub(super) fn reset(&mut self, width: usize) {
        self.index_of.clear();
        self.entries.clear();
        self.scratch = Bits::empty(width);
        self.listed = 0;
    }

    pub(super) fn plan_changed(&mut self) {
        self.plans += 1;
        self.listed = 0;
    }

    pub(super) fn something_available(&mut self) {
        self.returns += 1;
    }

    pub(super) fn sign(&mut self, spec: &[f64], requirements: &RequirementTable) -> u32 {
        requirements.sign(spec, &mut self.scratch);
        if let Some(index) = self.index_of.get(&self.scratch) {
            return *index;
        }
        let index = u32::try_from(self.entries.len()).expect("the table is bounded");
        let bits = self.scratch.clone();
        self.index_of.insert(bits.clone(), index);
        let list = Box::default();
        self.entries.push(Signature { bits, list, list_plan: 0, cursor: 0, cursor_returns: 0 });
        index
    }

    pub(super) fn bits(&self, index: u32) -> &Bits {
        &self.entries[index as usize].bits
    }

    /// The first `max` available rounds for this signature that were not declined.
    pub(super) fn tasks(
        &mut self,
        index: u32,
        plan: &CurrentPlan,
        declined: &[DeclinedRound],
        max: usize,
    ) -> Vec<RoundKey> {
        self.make_list(index, plan);
        let returns = self.returns;
        let entry = &mut self.entries[index as usize];
        if entry.cursor_returns != returns {
            (entry.cursor, entry.cursor_returns) = (0, returns);
        }
        let used_up = entry.list[entry.cursor..].iter().take_while(|s| !plan.is_available(**s));
        entry.cursor += used_up.count();
        let rest = &entry.list[entry.cursor..];
        let is_wanted = |slot: &u32| {
            plan.is_available(*slot)
                && (declined.is_empty() || !declined.contains(&plan.key_since(*slot)))
        };
        // The room is made at once: growing step by step costs as much as all the rest here.
        let mut tasks = Vec::with_capacity(max.min(rest.len()));
        tasks.extend(rest.iter().copied().filter(is_wanted).take(max).map(|slot| plan.key(slot)));
        tasks
    }

    fn make_list(&mut self, index: u32, plan: &CurrentPlan) {
        if self.entries[index as usize].list_plan == self.plans {
            return;
        }
        if self.listed > LISTED_MAX {
            self.entries.iter_mut().for_each(|entry| {
                (entry.list, entry.list_plan) = (Box::default(), 0);
            });
            self.listed = 0;
        }
        let entry = &mut self.entries[index as usize];
        entry.list = plan.eligible_in_order(&entry.bits);
        entry.list_plan = self.plans;
        entry.cursor = 0;
        self.listed += entry.list.len();
    }
}
