//! Intersection resource scheduling, the rule of Venn (paper §4.2; without tiers).
//!
//! Groups contend where the sets of devices that meet them intersect. Every signature gets one
//! owner, the group that its devices serve first:
//!
//! 1. Scarcest group first, each group takes the signatures that are left and meet it.
//! 2. Most plentiful group first, each group `e` looks at the strictly scarcer groups `c`, from
//!    the next scarcer on, and takes over what `c` owns *and `e` is eligible for*, as long as more
//!    jobs per owned device wait for it than for `c`: `affected / num[e] > queue[c] / num[c]`.
//!    `affected` is the number of jobs of `e` that are served before `c` has none left. What a
//!    group owns, its queue and the rates of its jobs change with each take-over.
//! 3. Within a group: fewest missing devices first, then by registration.
//!
//! **Fairness** (paper §4.4), the knob ε: with t the time that a job has been here (at least one
//! round) and T its fair share (registered jobs × its time without contention), a round that lacks
//! d devices counts as `d · (T/t)^ε` in the order of rule 3, and each job of a group counts as
//! `(Σt/ΣT)^ε` jobs in rule 2. So whoever waits comes forward, whatever it asks for. With ε = 0
//! this is pure IRS; the greater ε, the nearer to max-min fairness. With ε > 0 there is one rule
//! more, without which a group could be passed over for ever whose devices all meet another group
//! too: 4. A group that owns nothing takes what meets it from an owner that has fewer jobs per
//! device, counted in the same way: `queue[e] / supply[e] > queue[owner] / num[owner]`.
//!
//! Two differences from the code published with the paper, both on purpose. A group never takes a
//! signature for which it is not eligible, hence a take-over may leave `c` a part; then `c`
//! stays a group of its own, and only a group that keeps nothing is merged into `e`'s queue. And
//! groups of equal supply do not take from one another (the paper's condition; the code goes by
//! their order of appearance).
//!
//! Cost: O(rounds log rounds + groups² · signatures / 64), in practice far less, since a group
//! stops at the first scarcer one that it does not take from.

use super::estimate::Fair;
use super::{Decision, Policy, PolicyError, PolicyView, RoundView, SignatureView};
use crate::bits::Bits;

pub(super) struct Irs;

impl Policy for Irs {
    fn name(&self) -> &'static str {
        "irs"
    }

    fn is_ranked(&self) -> bool {
        false
    }

    fn decide(&self, view: &PolicyView) -> Result<Decision, PolicyError> {
        Ok(decide(view))
    }
}

/// The rule; the order is group after group.
pub(super) fn decide(view: &PolicyView) -> Decision {
    let epsilon = view.options.fairness;
    let (order, weights) = if epsilon == 0.0 {
        (order(view, |round| f64::from(round.remaining)), vec![1.0; view.groups.len()])
    } else {
        (order(view, |round| fair_demand(view, round)), fair_weights(view))
    };
    let mut groups = initial_allocation(view, &order, &weights);
    reallocate(&mut groups, &view.signatures);
    if epsilon > 0.0 {
        rescue(&mut groups, &view.signatures);
    }
    let mut owners = vec![None; view.signatures.len()];
    for (index, group) in groups.iter().enumerate() {
        group.own.iter().for_each(|signature| owners[signature] = Some(index));
    }
    Decision { order, owners: Some(owners), ..Decision::default() }
}

/// Rounds by group, then by what they count as, then by registration.
fn order(view: &PolicyView, counts_as: impl Fn(&RoundView) -> f64) -> Vec<usize> {
    let key = |(index, round): (usize, &RoundView)| {
        // Non-negative floats are in the order of their bits.
        (round.group, counts_as(round).to_bits(), round.registration(), index)
    };
    let mut keys: Vec<_> = view.rounds.iter().enumerate().map(key).collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| key.3).collect()
}

/// d' = d · (T/t)^ε.
fn fair_demand(view: &PolicyView, round: &RoundView) -> f64 {
    let fair = Fair::of(view, round);
    f64::from(round.remaining) * (fair.share_s / fair.time_s).powf(view.options.fairness)
}

/// For each group (Σt/ΣT)^ε over its rounds: what a job of it counts as in its queue.
fn fair_weights(view: &PolicyView) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); view.groups.len()];
    for round in &view.rounds {
        let fair = Fair::of(view, round);
        let sum: &mut (f64, f64) = &mut sums[round.group];
        *sum = (sum.0 + fair.time_s, sum.1 + fair.share_s);
    }
    let weight = |(time_s, share_s): (f64, f64)| (time_s / share_s).powf(view.options.fairness);
    sums.into_iter().map(weight).collect()
}

/// A job that waits in the queue of a group.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The devices that it lacks …
    demand: f64,
    /// … and the devices that it is served from.
    rate: f64,
    /// As how many jobs it counts.
    weight: f64,
}

impl Waiting {
    fn delay(&self) -> f64 {
        self.demand / self.rate
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
    /// How many jobs of its own wait …
    own_queue: f64,
    /// … and with those of groups that were merged into this one.
    queue: f64,
    jobs: Vec<Waiting>,
    /// After what time it has no jobs left.
    drained: f64,
}

impl Group {
    fn count_drained(&mut self) {
        self.drained = self.jobs.iter().map(Waiting::delay).sum();
    }
}

fn initial_allocation(view: &PolicyView, order: &[usize], weights: &[f64]) -> Vec<Group> {
    let signatures = &view.signatures;
    let mut left = Bits::empty(signatures.len());
    left.fill(signatures.len());
    let mut groups = Vec::with_capacity(view.groups.len());
    let mut rounds = order.iter().map(|index| &view.rounds[*index]).peekable();
    for (index, eligible) in eligible_signatures(view).into_iter().enumerate() {
        let own = eligible.intersection(&left);
        left.remove_all(&own);
        let num = if eligible.is_empty() { 0.0 } else { weight(&own, signatures).max(1.0) };
        let mut jobs = Vec::new();
        while let Some(round) = rounds.next_if(|round| round.group == index) {
            let demand = f64::from(round.remaining);
            jobs.push(Waiting { demand, rate: num, weight: weights[index] });
        }
        let queue = jobs.len() as f64 * weights[index];
        let supply = view.groups[index].supply;
        let (own_queue, drained) = (queue, 0.0);
        let mut group = Group { supply, eligible, own, num, own_queue, queue, jobs, drained };
        group.count_drained();
        groups.push(group);
    }
    groups
}

/// For each group the signatures that meet it.
fn eligible_signatures(view: &PolicyView) -> Vec<Bits> {
    let mut eligible = vec![Bits::empty(view.signatures.len()); view.groups.len()];
    for (index, signature) in view.signatures.iter().enumerate() {
        signature.groups().for_each(|group| eligible[group].insert(index));
    }
    eligible
}

fn reallocate(groups: &mut [Group], signatures: &[SignatureView]) {
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
    if taker.drained <= giver.drained {
        return taker.jobs.iter().map(|job| job.weight).sum();
    }
    let mut elapsed = 0.0;
    let served = taker.jobs.iter().take_while(|job| {
        elapsed += job.delay();
        elapsed < giver.drained
    });
    served.map(|job| job.weight).sum()
}

fn take(taker: &mut Group, giver: &mut Group, signatures: &[SignatureView]) {
    let moved = giver.own.intersection(&taker.eligible);
    giver.own.remove_all(&moved);
    taker.own.insert_all(&moved);
    let kept = weight(&giver.own, signatures);
    let kept = if giver.own.is_empty() { 0.0 } else { kept.max(1.0) };
    let gained = giver.num - kept;
    taker.num += gained;
    taker.jobs.iter_mut().for_each(|job| job.rate += gained);
    giver.num = kept;
    if giver.own.is_empty() {
        taker.queue += giver.queue;
        taker.jobs.append(&mut giver.jobs);
    } else {
        giver.jobs.iter_mut().for_each(|job| job.rate = kept);
    }
    giver.count_drained();
    taker.count_drained();
}

/// Rule 4. Of several groups that want the same, the one with the most jobs per device is last and
/// keeps it.
fn rescue(groups: &mut [Group], signatures: &[SignatureView]) {
    let is_poor = |group: &Group| group.own.is_empty() && !group.eligible.is_empty();
    let claim = |group: &Group| group.own_queue / group.supply.max(1.0);
    let poor = groups.iter().enumerate().filter(|(_, group)| is_poor(group));
    let mut claims: Vec<(f64, usize)> = poor.map(|(i, group)| (claim(group), i)).collect();
    claims.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    for (claim, taker) in claims {
        for owner in (0..groups.len()).filter(|owner| *owner != taker) {
            let moved = groups[owner].own.intersection(&groups[taker].eligible);
            let has_fewer = claim > groups[owner].own_queue / groups[owner].num.max(1.0);
            if has_fewer && !moved.is_empty() {
                groups[owner].own.remove_all(&moved);
                groups[taker].own.insert_all(&moved);
                groups[owner].num = weight(&groups[owner].own, signatures);
                groups[taker].num = weight(&groups[taker].own, signatures);
            }
        }
    }
}

fn weight(set: &Bits, signatures: &[SignatureView]) -> f64 {
    set.iter().map(|signature| signatures[signature].weight).sum()
}
