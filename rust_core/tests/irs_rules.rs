//! IRS against a slow reading of its rules, on small random cases.
//!
//! The reading works on sets of signatures (plain lists) and one list of (demand, rate) pairs a
//! group; it follows the words of `policy/irs.rs` and shares no code with it.

use std::collections::BTreeSet;

use _core::RoundKey;
use _core::policy::{self, Attempts, GroupView, JobHistory, PolicyView, RoundView, SignatureView};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Books {
    own: BTreeSet<usize>,
    num: f64,
    jobs: Vec<(f64, f64)>,
    queue: usize,
}

/// The owner of each signature.
fn by_the_rules(view: &PolicyView) -> Vec<Option<usize>> {
    let all: BTreeSet<usize> = (0..view.signatures.len()).collect();
    let meeting = |group: usize| -> BTreeSet<usize> {
        all.iter().copied().filter(|s| view.signatures[*s].meets(group)).collect()
    };
    let weight =
        |set: &BTreeSet<usize>| set.iter().map(|s| view.signatures[*s].weight).sum::<f64>();
    let mut books: Vec<Books> = Vec::new();
    // 1. Scarcest first, each takes what is left and meets it.
    for group in 0..view.groups.len() {
        let taken: BTreeSet<usize> = books.iter().flat_map(|b| b.own.clone()).collect();
        let own: BTreeSet<usize> = meeting(group).difference(&taken).copied().collect();
        let num = if meeting(group).is_empty() { 0.0 } else { f64::max(1.0, weight(&own)) };
        let mut demands: Vec<u32> =
            view.rounds.iter().filter(|r| r.group == group).map(|r| r.remaining).collect();
        demands.sort_unstable();
        let queue = demands.len();
        let jobs = demands.into_iter().map(|demand| (f64::from(demand), num)).collect();
        books.push(Books { own, num, jobs, queue });
    }
    // 2. Most plentiful first, each looks at the strictly scarcer ones, from the next one on.
    for e in (0..books.len()).rev() {
        if books[e].num == 0.0 {
            continue;
        }
        for c in (0..e).rev() {
            let strictly = weight(&meeting(c)) < weight(&meeting(e));
            if !strictly || meeting(c).is_disjoint(&meeting(e)) {
                continue;
            }
            if books[c].num == 0.0 {
                break;
            }
            let per_device = jobs_before_drained(&books[e].jobs, &books[c].jobs) / books[e].num;
            let queued = f64::from(u32::try_from(books[c].queue).unwrap());
            if per_device <= queued / books[c].num {
                break;
            }
            let moved: BTreeSet<usize> = books[c].own.intersection(&meeting(e)).copied().collect();
            books[c].own.retain(|s| !moved.contains(s));
            let all_gone = books[c].own.is_empty();
            let left = if all_gone { 0.0 } else { f64::max(1.0, weight(&books[c].own)) };
            let gained = books[c].num - left;
            books[c].num = left;
            books[e].own.extend(moved);
            books[e].num += gained;
            books[e].jobs.iter_mut().for_each(|job| job.1 += gained);
            if all_gone {
                let (jobs, queue) = (std::mem::take(&mut books[c].jobs), books[c].queue);
                books[e].jobs.extend(jobs);
                books[e].queue += queue;
            } else {
                books[c].jobs.iter_mut().for_each(|job| job.1 = left);
            }
        }
    }
    all.iter().map(|s| books.iter().position(|b| b.own.contains(s))).collect()
}

fn jobs_before_drained(jobs: &[(f64, f64)], other: &[(f64, f64)]) -> f64 {
    let drained = other.iter().map(|(demand, rate)| demand / rate).sum::<f64>();
    let mut elapsed = Vec::new();
    for (demand, rate) in jobs {
        elapsed.push(elapsed.last().unwrap_or(&0.0) + demand / rate);
    }
    let count = if elapsed.last().is_none_or(|last| *last <= drained) {
        jobs.len()
    } else {
        elapsed.iter().position(|at| *at >= drained).expect("the last is later")
    };
    f64::from(u32::try_from(count).unwrap())
}

/// Up to five groups with up to six rounds and up to eight signatures, scarcest group first.
fn a_view() -> impl Strategy<Value = PolicyView> {
    let signature = (prop::collection::btree_set(0..5_usize, 1..5), 0..400_u32);
    let signatures = prop::collection::vec(signature, 0..9);
    let rounds = prop::collection::vec((0..5_usize, 1..40_u32), 1..12);
    (rounds, signatures).prop_map(|(mut rounds, signatures)| {
        // Every group has an open round, as the planner sees to.
        rounds.extend((0..5).map(|group| (group, 3)));
        let weigh = |(_, weight): &(BTreeSet<usize>, u32)| f64::from(*weight) / 4.0;
        let supply = |group: usize| -> f64 {
            signatures.iter().filter(|(met, _)| met.contains(&group)).map(weigh).sum()
        };
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by(|a, b| supply(*a).total_cmp(&supply(*b)));
        let place = |group: &usize| order.iter().position(|old| old == group).expect("0 to 4");
        let round = |(job, (group, remaining)): (u64, &(usize, u32))| RoundView {
            key: RoundKey { job, round: 0 },
            group: place(group),
            remaining: *remaining,
            demand: *remaining,
            registered_ns: 0,
            opened_ns: 0,
            rounds_estimate: 0,
            demand_estimate: 0,
            place: 0,
            history: JobHistory::default(),
            attempts: Attempts::default(),
        };
        let group = |old: &usize| GroupView {
            requirement_id: u32::try_from(place(old)).expect("0 to 4"),
            supply: supply(*old),
            ..Default::default()
        };
        let to_view = |both: &(BTreeSet<usize>, u32)| {
            let met: Vec<usize> = both.0.iter().map(place).collect();
            SignatureView::new(5, &met, weigh(both))
        };
        PolicyView {
            rounds: (0..).zip(&rounds).map(round).collect(),
            groups: order.iter().map(group).collect(),
            signatures: signatures.iter().map(to_view).collect(),
            ..Default::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn owners_are_as_the_rules_say(view in a_view()) {
        let decision = policy::find("irs").unwrap().decide(&view).unwrap();
        prop_assert_eq!(decision.owners, Some(by_the_rules(&view)));
    }

    /// The fault of the published code that was not copied: no signature is owned by a group for
    /// which it is not eligible, and none that could serve is left without an owner.
    #[test]
    fn every_signature_is_owned_by_a_group_that_it_meets(view in a_view()) {
        let owners = policy::find("irs").unwrap().decide(&view).unwrap().owners.unwrap();
        for (signature, owner) in view.signatures.iter().zip(owners) {
            prop_assert!(owner.is_some_and(|owner| signature.meets(owner)));
        }
    }

    #[test]
    fn rounds_of_a_group_are_served_fewest_missing_first(view in a_view()) {
        let order = policy::find("irs").unwrap().decide(&view).unwrap().order;
        let mut seen = order.clone();
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..view.rounds.len()));
        for pair in order.windows(2) {
            let (a, b) = (&view.rounds[pair[0]], &view.rounds[pair[1]]);
            prop_assert!(a.group != b.group || (a.remaining, a.key) < (b.remaining, b.key));
        }
    }
}

/// How often the random cases move something at all: a test that never does proves nothing.
#[test]
fn the_random_cases_do_take_over() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let moved = |view: &PolicyView| {
        let scarcest = view.signatures.iter().map(|s| s.groups().next());
        by_the_rules(view).into_iter().ne(scarcest)
    };
    let views = (0..500).map(|_| a_view().new_tree(&mut runner).unwrap().current());
    let count = views.filter(moved).count();
    assert!(count > 50, "only {count} of 500 cases move a signature");
}
