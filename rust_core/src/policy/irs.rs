//! Intersection resource scheduling, the rule of Venn (paper §4; without tiers).
//!
//! Groups contend where the sets of devices that meet them intersect. Every signature gets one
//! owner, the group that its devices serve first:
//!
//! 1. Scarcest group first, each group takes the signatures that are left and meet it.
//! 2. Most plentiful group first, each group `e` looks at the strictly scarcer groups `c`, from
//!    the next scarcer on, and takes over what `c` owns *and `e` is eligible for*, as long as more
//!    jobs per owned device wait for it than for `c`: `affected / num[e] > queue[c] / num[c]`.
//!    `affected` is the number of jobs of `e` that are served before `c` has none left.
//! 3. Within a group: fewest missing devices first, then by registration.
//!
//! Two differences from the code published with the paper, both on purpose. A group never takes a
//! signature for which it is not eligible, hence a take-over may leave `c` a part; then `c`
//! stays a group of its own, and only a group that keeps nothing is merged into `e`'s queue. And
//! groups of equal supply do not take from one another (the paper's condition; the code goes by
//! their order of appearance).
//!
//! Cost: O(rounds log rounds + groups² · signatures / 64), in practice far less, since a group
//! stops at the first scarcer one that it does not take from.

use super::{Decision, Policy, PolicyError, PolicyView};
use crate::bits::Bits;

pub(super) struct Irs;

impl Policy for Irs {
    fn name(&self) -> &str {
        "irs"
    }

    fn is_ranked(&self) -> bool {
        false
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        let mut order: Vec<usize> = (0..view.rounds.len()).collect();
        order.sort_by_key(|index| {
            let round = &view.rounds[*index];
            (round.group, round.remaining, round.registration())
        });
        let mut groups = initial_allocation(view, &order);
        reallocate(&mut groups, &view.signatures);
        let mut owners = vec![None; view.signatures.len()];
        for (index, group) in groups.iter().enumerate() {
            group.own.iter().for_each(|signature| owners[signature] = Some(index));
        }
        Ok(Decision { order, owners: Some(owners), ..Decision::default() })
    }
}

/// The books of one group. Index order is scarcity order.
#[derive(Debug)]
struct Group {
    supply: f64,
    /// The signatures that meet the group (S in the paper).
    eligible: Bits,
    /// Those of them that it owns (S').
    own: Bits,
    /// The devices that it owns, at least 1 if any are eligible; 0 after giving everything away.
    num: f64,
    /// How many jobs wait, with those of groups that were merged into this one.
    queue: f64,
    /// For each of these jobs: the devices that it lacks …
    demand: Vec<f64>,
    /// … and the devices that it is served from.
    rate: Vec<f64>,
}

fn initial_allocation(view: &PolicyView, order: &[usize]) -> Vec<Group> {
    let signatures = &view.signatures;
    let mut left = Bits::empty(signatures.len());
    (0..signatures.len()).for_each(|signature| left.insert(signature));
    let mut demands = vec![Vec::new(); view.groups.len()];
    for round in order.iter().map(|index| &view.rounds[*index]) {
        demands[round.group].push(f64::from(round.remaining));
    }
    let allocate = |(index, (demand, eligible)): (usize, (Vec<f64>, Bits))| {
        let own = eligible.intersection(&left);
        left.remove_all(&own);
        let num = if eligible.is_empty() { 0.0 } else { weight(&own, signatures).max(1.0) };
        let (queue, rate) = (demand.len() as f64, vec![num; demand.len()]);
        let supply = view.groups[index].supply;
        Group { supply, eligible, own, num, queue, demand, rate }
    };
    demands.into_iter().zip(eligible_signatures(view)).enumerate().map(allocate).collect()
}

/// For each group the signatures that meet it.
fn eligible_signatures(view: &PolicyView) -> Vec<Bits> {
    let mut eligible = vec![Bits::empty(view.signatures.len()); view.groups.len()];
    for (index, signature) in view.signatures.iter().enumerate() {
        signature.groups().for_each(|group| eligible[group].insert(index));
    }
    eligible
}

fn reallocate(groups: &mut [Group], signatures: &[super::SignatureView]) {
    for taker in (0..groups.len()).rev() {
        let (scarcer, rest) = groups.split_at_mut(taker);
        let taker = &mut rest[0];
        if taker.num == 0.0 {
            continue;
        }
        for giver in scarcer.iter_mut().rev() {
            if giver.supply >= taker.supply || !giver.eligible.intersects(&taker.eligible) {
                continue;
            }
            if !wants(taker, giver) {
                break;
            }
            take(taker, giver, signatures);
        }
    }
}

fn wants(taker: &Group, giver: &Group) -> bool {
    giver.num > 0.0 && affected(taker, giver) / taker.num > giver.queue / giver.num
}

/// How many jobs of the taker are served before the giver has none left.
fn affected(taker: &Group, giver: &Group) -> f64 {
    let delays = |group: &Group| -> Vec<f64> {
        group.demand.iter().zip(&group.rate).map(|(demand, rate)| demand / rate).collect()
    };
    let giver_drains: f64 = delays(giver).iter().sum();
    let taker_delays = delays(taker);
    if taker_delays.iter().sum::<f64>() <= giver_drains {
        return taker_delays.len() as f64;
    }
    let mut elapsed = 0.0;
    let served = taker_delays.iter().take_while(|delay| {
        elapsed += **delay;
        elapsed < giver_drains
    });
    served.count() as f64
}

fn take(taker: &mut Group, giver: &mut Group, signatures: &[super::SignatureView]) {
    let moved = giver.own.intersection(&taker.eligible);
    giver.own.remove_all(&moved);
    taker.own.insert_all(&moved);
    let kept = weight(&giver.own, signatures);
    let kept = if giver.own.is_empty() { 0.0 } else { kept.max(1.0) };
    let gained = giver.num - kept;
    taker.num += gained;
    taker.rate.iter_mut().for_each(|rate| *rate += gained);
    giver.num = kept;
    if giver.own.is_empty() {
        taker.queue += giver.queue;
        taker.demand.append(&mut giver.demand);
        taker.rate.append(&mut giver.rate);
    } else {
        giver.rate.fill(kept);
    }
}

fn weight(set: &Bits, signatures: &[super::SignatureView]) -> f64 {
    set.iter().map(|signature| signatures[signature].weight).sum()
}
