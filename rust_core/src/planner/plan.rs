//! A plan as the planner makes it: for every manager the same, but for the quotas.

use std::fmt::Write;

use crate::policy::{Decision, GroupView, PolicyView, Tier};
use crate::{Error, Manager, RequirementId, Result, RoundKey};

/// A round that lacks devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedRound {
    /// Which round.
    pub key: RoundKey,
    /// Its place in the global order, from 0.
    pub rank: u32,
    /// How many devices it lacks.
    pub remaining: u32,
    /// Only devices with `min <= option < max` (None = no bound) are offered it.
    pub tier: Option<Tier>,
    /// If devices are divided into [`Plan::partitions`], those of this part are offered it.
    pub part: u32,
}

/// The open rounds with one requirement, in the order in which they are served.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedGroup {
    /// The requirement.
    pub requirement_id: RequirementId,
    /// Its lower bounds.
    pub vector: Vec<f64>,
    /// How many devices of the recent supply meet it.
    pub supply: f64,
    /// Its rounds.
    pub rounds: Vec<PlannedRound>,
}

/// The scheduler's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Grows by one with each plan.
    pub version: u64,
    /// True: clients follow the global rank. False: they follow the preferences.
    pub ranked: bool,
    /// The groups, scarcest first.
    pub groups: Vec<PlannedGroup>,
    /// For a signature (requirement ids, ascending) the groups that its devices serve first. The
    /// others follow in the order of `fallback`, so a signature whose owner is its scarcest group
    /// needs no entry and has none.
    pub preferences: Vec<(Vec<RequirementId>, Vec<RequirementId>)>,
    /// All groups, scarcest first.
    pub fallback: Vec<RequirementId>,
    /// Every client goes through its eligible rounds in an order of its own, drawn from this, the
    /// device and the version.
    pub shuffle: Option<u64>,
    /// A device belongs to one of so many parts and is offered the rounds of its part; 0 = none.
    pub partitions: u32,
    /// The next plan is to be made by then, though nothing happens; None: nothing is to be changed.
    pub again_ns: Option<u64>,
    managers: Vec<Manager>,
    /// For each group the weight of each manager in its supply.
    shares: Vec<u64>,
}

/// What a plan is made of beside the policy's view and decision.
pub(super) struct Made {
    pub(super) version: u64,
    pub(super) ranked: bool,
    pub(super) managers: Vec<Manager>,
    /// For each group the weight of each manager in its supply.
    pub(super) shares: Vec<u64>,
}

impl Made {
    /// `vectors` are the requirements of the groups.
    pub(super) fn into_plan(
        self,
        view: &PolicyView,
        vectors: Vec<Vec<f64>>,
        decision: &Decision,
    ) -> Plan {
        let mut counts = vec![0; view.groups.len()];
        view.rounds.iter().for_each(|round| counts[round.group] += 1);
        let empty = |((group, vector), count): ((&GroupView, _), usize)| PlannedGroup {
            requirement_id: group.requirement_id,
            vector,
            supply: group.supply,
            rounds: Vec::with_capacity(count),
        };
        let mut groups: Vec<PlannedGroup> =
            view.groups.iter().zip(vectors).zip(counts).map(empty).collect();
        for (rank, index) in (0..).zip(&decision.order) {
            let round = &view.rounds[*index];
            groups[round.group].rounds.push(PlannedRound {
                key: round.key,
                rank,
                remaining: round.remaining,
                tier: decision.tiers.get(*index).copied().flatten(),
                part: decision.parts.get(*index).copied().unwrap_or(0),
            });
        }
        Plan {
            version: self.version,
            ranked: self.ranked,
            preferences: preferences(view, decision),
            fallback: groups.iter().map(|group| group.requirement_id).collect(),
            groups,
            shuffle: decision.shuffle,
            partitions: decision.partitions,
            again_ns: decision.again_ns,
            managers: self.managers,
            shares: self.shares,
        }
    }
}

impl Plan {
    /// For each round, in the order of the groups, how many devices this manager may hold for it:
    /// its share (by the supply of the round's group) of what the round lacks, rounded up, at
    /// least 1 and never more than the round lacks.
    ///
    /// So N managers wake at most N − 1 devices too many for a round, and none can starve because
    /// the right devices came to another manager than before.
    pub fn quotas(&self, manager: Manager) -> Result<Vec<u32>> {
        let place = self.managers.binary_search(&manager);
        let place = place.map_err(|_| Error::UnknownManager(manager))?;
        let managers = self.managers.len();
        let rounds = self.groups.iter().map(|group| group.rounds.len()).sum();
        let mut quotas = Vec::with_capacity(rounds);
        for (group, shares) in self.groups.iter().zip(self.shares.chunks(managers)) {
            let (part, whole) = match shares.iter().sum::<u64>() {
                0 => (1, managers as u64),
                total => (shares[place], total),
            };
            if part == whole {
                // No other manager has such devices. (The division below is dear.)
                quotas.extend(group.rounds.iter().map(|round| round.remaining));
                continue;
            }
            quotas.extend(group.rounds.iter().map(|round| {
                let share =
                    (u128::from(round.remaining) * u128::from(part)).div_ceil(u128::from(whole));
                u32::try_from(share).unwrap_or(round.remaining).clamp(1, round.remaining)
            }));
        }
        Ok(quotas)
    }

    /// The managers that have quotas, ascending.
    pub fn managers(&self) -> &[Manager] {
        &self.managers
    }

    /// The plan in words, a line a round and a line a preference, for people.
    pub fn explain(&self) -> String {
        let rule = if self.ranked { "by rank" } else { "by preference of signatures" };
        let mut text = format!("plan {} serves {rule}\n", self.version);
        for group in &self.groups {
            let _ = writeln!(text, "group {} supply {:.1}", group.requirement_id, group.supply);
            for PlannedRound { key, rank, remaining, tier, part } in &group.rounds {
                let (job, round) = (key.job, key.round);
                let _ = write!(text, "  rank {rank} job {job} round {round} lacks {remaining}");
                if let Some((min, max)) = tier {
                    let _ = write!(text, ", speeds from {min}");
                    let _ = max.map_or(Ok(()), |max| write!(text, " to {max}"));
                }
                if self.partitions > 0 {
                    let _ = write!(text, ", part {part} of {}", self.partitions);
                }
                text.push('\n');
            }
        }
        for (signature, order) in &self.preferences {
            let _ = writeln!(text, "signature {signature:?} serves {order:?} first");
        }
        text
    }
}

fn preferences(
    view: &PolicyView,
    decision: &Decision,
) -> Vec<(Vec<RequirementId>, Vec<RequirementId>)> {
    let id = |group: usize| view.groups[group].requirement_id;
    let mut by_id: Vec<usize> = (0..view.groups.len()).collect();
    by_id.sort_unstable_by_key(|group| id(*group));
    let signatures = view.signatures.iter().zip(decision.owners.iter().flatten());
    let unusual = signatures.filter_map(|(signature, owner)| {
        let owner = owner.filter(|owner| signature.groups().next() != Some(*owner))?;
        let ids = by_id.iter().filter(|group| signature.meets(**group)).map(|group| id(*group));
        Some((ids.collect(), vec![id(owner)]))
    });
    unusual.collect()
}
