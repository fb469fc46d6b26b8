//! The matcher's rules one by one, as short conversations.

use _core::matcher::{Matcher, MatcherConfig, PlanGroup, PlanRound, PlanUpdate};
use _core::{Error, RoundKey};

const S: u64 = 1_000_000_000;

fn round(job: u64) -> RoundKey {
    RoundKey { job, round: 0 }
}

/// A group whose requirement is one bound, with rounds (job, rank, quota).
fn group(id: u32, bound: f64, rounds: &[(u64, u32, u32)]) -> PlanGroup {
    let rounds = rounds.iter().map(|(job, rank, quota)| PlanRound {
        key: round(*job),
        rank: *rank,
        quota: *quota,
        ..Default::default()
    });
    PlanGroup { requirement_id: id, vector: vec![bound], rounds: rounds.collect() }
}

fn plan(version: u64, seq: u64, groups: Vec<PlanGroup>) -> PlanUpdate {
    PlanUpdate { version, seq, ranked: true, groups, ..Default::default() }
}

fn matcher(groups: Vec<PlanGroup>) -> Matcher {
    let mut matcher = Matcher::new(MatcherConfig::new(1)).unwrap();
    assert!(matcher.apply_plan(plan(1, 0, groups)).unwrap());
    matcher
}

/// Checks a device with this spec in; nobody waits.
fn check_in(matcher: &mut Matcher, device: u128, spec: f64) -> Vec<RoundKey> {
    matcher.check_in(0, device, &[spec], 1.0, 0).unwrap().to_vec()
}

fn would_offer(matcher: &mut Matcher, spec: f64) -> Vec<RoundKey> {
    matcher.would_offer(0, &[spec], 1.0).unwrap().to_vec()
}

/// What those who wait are offered now.
fn matched(matcher: &mut Matcher, now_ns: u64) -> Vec<(u128, Vec<RoundKey>)> {
    let offers = matcher.match_waiting(now_ns).into_iter();
    offers.map(|(device, tasks)| (device, tasks.to_vec())).collect()
}

/// Invariant 3 of the design: the original hid every job behind the hundredth.
#[test]
fn no_job_is_hidden_behind_two_thousand_others() {
    let groups: Vec<PlanGroup> = (0..2_000_u32)
        .map(|job| group(job, f64::from(2_000 - job), &[(u64::from(job), job, 1)]))
        .collect();
    for ranked in [true, false] {
        let mut matcher = Matcher::new(MatcherConfig::new(1)).unwrap();
        let fallback = (0..2_000).collect();
        let update = PlanUpdate { ranked, fallback, ..plan(1, 0, groups.clone()) };
        matcher.apply_plan(update).unwrap();
        assert_eq!(check_in(&mut matcher, 1, 1.0), [round(1_999)]);
        assert_eq!(check_in(&mut matcher, 2, 0.5), []);
    }
}

#[test]
fn an_offer_lists_rounds_with_room_in_order_and_is_charged_to_the_first() {
    let mut matcher =
        matcher(vec![group(0, 1.0, &[(5, 2, 1), (6, 1, 1)]), group(1, 2.0, &[(7, 0, 1)])]);
    assert_eq!(check_in(&mut matcher, 1, 3.0), [round(7), round(6), round(5)]);
    assert_eq!(check_in(&mut matcher, 2, 3.0), [round(6), round(5)]);
    assert_eq!(would_offer(&mut matcher, 3.0), [round(5)]);
    matcher.check().unwrap();
}

#[test]
fn without_ranks_a_signature_follows_its_preference_then_the_fallback() {
    let groups =
        vec![group(0, 1.0, &[(5, 0, 9)]), group(1, 2.0, &[(6, 0, 9)]), group(2, 3.0, &[(7, 0, 9)])];
    let mut matcher = Matcher::new(MatcherConfig::new(1)).unwrap();
    let preferences = vec![(vec![0, 1, 2], vec![1])];
    let update =
        PlanUpdate { ranked: false, preferences, fallback: vec![2, 1, 0], ..plan(1, 0, groups) };
    matcher.apply_plan(update).unwrap();
    assert_eq!(check_in(&mut matcher, 1, 3.0), [round(6), round(7), round(5)]);
    // A signature that the plan does not name: the fallback alone.
    assert_eq!(check_in(&mut matcher, 2, 2.0), [round(6), round(5)]);
}

#[test]
fn an_accepted_task_holds_the_charge_until_a_plan_has_seen_the_assignment() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1), (6, 1, 2)])]);
    assert_eq!(check_in(&mut matcher, 1, 1.0), [round(5), round(6)]);
    assert!(matcher.accept(1, 1, round(6)), "the charge moves");
    assert_eq!(would_offer(&mut matcher, 1.0), [round(5), round(6)]);
    matcher.assigned(1, 7);
    assert_eq!(matcher.counts().claiming, 0);
    // Seen: sequence 6, so the assignment at 7 still counts against the quota of 1 …
    let groups = || vec![group(0, 1.0, &[(6, 0, 1)])];
    matcher.apply_plan(plan(2, 6, groups())).unwrap();
    assert_eq!(would_offer(&mut matcher, 1.0), []);
    // … seen: sequence 7, so the quota is what is left beside it.
    matcher.apply_plan(plan(3, 7, groups())).unwrap();
    assert_eq!(would_offer(&mut matcher, 1.0), [round(6)]);
    matcher.check().unwrap();
}

#[test]
fn only_what_was_offered_can_be_accepted_and_only_in_time() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1)]), group(1, 2.0, &[(6, 1, 1)])]);
    check_in(&mut matcher, 1, 1.0);
    assert!(!matcher.accept(1, 1, round(6)), "not eligible, not offered");
    assert!(!matcher.accept(1, 2, round(5)), "offered to another device");
    assert!(!matcher.accept(10 * S, 1, round(5)), "too late");
    assert!(matcher.accept(10 * S - 1, 1, round(5)));
    assert!(matcher.accept(10 * S, 1, round(5)), "the same again, while it is undecided");
}

#[test]
fn a_refused_device_may_try_its_other_tasks() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1), (6, 1, 1)])]);
    check_in(&mut matcher, 1, 1.0);
    assert!(matcher.accept(1, 1, round(5)));
    assert!(matcher.refused(2, 1), "round 6 is left");
    assert!(!matcher.accept(3, 1, round(5)), "the refused task is not");
    assert!(matcher.accept(3, 1, round(6)));
    assert!(!matcher.refused(4, 1), "nothing is left");
    assert_eq!(matcher.counts().offered + matcher.counts().claiming, 0);
}

#[test]
fn those_who_wait_are_served_first_come_first_served_over_all_signatures() {
    let mut matcher = matcher(vec![]);
    for (device, spec) in [(1, 1.0), (2, 2.0), (3, 1.0), (4, 2.0)] {
        assert_eq!(matcher.check_in(0, device, &[spec], 1.0, 9 * S), Ok([].as_slice()));
    }
    matcher.apply_plan(plan(2, 0, vec![group(0, 1.0, &[(5, 0, 3)])])).unwrap();
    let served: Vec<u128> =
        matcher.match_waiting(1).into_iter().map(|(device, _)| device).collect();
    assert_eq!(served, [1, 2, 3]);
    assert_eq!(matched(&mut matcher, 1), []);
    // Device 2 goes; its charge wakes device 4.
    matcher.forget(2);
    assert_eq!(matched(&mut matcher, 2), [(4, vec![round(5)])]);
    matcher.check().unwrap();
}

#[test]
fn a_declined_round_is_not_offered_again_until_it_left_the_plan() {
    let groups = || vec![group(0, 1.0, &[(5, 0, 9)])];
    let mut matcher = matcher(groups());
    check_in(&mut matcher, 1, 1.0);
    matcher.decline(1, &[round(5)]);
    assert_eq!(check_in(&mut matcher, 1, 1.0), []);
    assert_eq!(check_in(&mut matcher, 2, 1.0), [round(5)], "others are asked");
    matcher.apply_plan(plan(2, 0, groups())).unwrap();
    assert_eq!(check_in(&mut matcher, 1, 1.0), [], "it was in the plan all the time");
    matcher.apply_plan(plan(3, 0, vec![])).unwrap();
    matcher.apply_plan(plan(4, 0, groups())).unwrap();
    assert_eq!(check_in(&mut matcher, 1, 1.0), [round(5)]);
}

#[test]
fn what_was_declined_is_bounded_the_oldest_is_forgotten() {
    let config = MatcherConfig { declined_max: 1, waiting_max: 1, ..MatcherConfig::new(1) };
    let mut matcher = Matcher::new(config).unwrap();
    matcher.apply_plan(plan(1, 0, vec![group(0, 1.0, &[(5, 0, 9), (6, 1, 9)])])).unwrap();
    matcher.decline(1, &[round(5), round(6)]);
    assert_eq!(check_in(&mut matcher, 1, 1.0), [round(5)]);
    matcher.decline(2, &[round(5)]);
    assert_eq!(check_in(&mut matcher, 1, 1.0), [round(5), round(6)]);
    assert_eq!(check_in(&mut matcher, 2, 1.0), [round(6)]);
}

#[test]
fn holds_and_offers_end_at_their_time_and_say_when() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1)])]);
    check_in(&mut matcher, 1, 1.0);
    assert_eq!(matcher.check_in(0, 2, &[1.0], 1.0, 30 * S), Ok([].as_slice()));
    assert_eq!(matcher.due_ns(), Some(S), "the bucket of supply");
    assert_eq!(matcher.take_supply(S).len(), 1);
    assert_eq!(matcher.due_ns(), Some(10 * S));
    assert_eq!(matcher.expire(10 * S - 1), (vec![], vec![]));
    assert_eq!(matcher.expire(10 * S), (vec![], vec![1]));
    assert_eq!(matched(&mut matcher, 10 * S), [(2, vec![round(5)])], "the charge came back");
    assert_eq!(matcher.expire(30 * S), (vec![], vec![2]));
    assert_eq!(matcher.due_ns(), None);
}

#[test]
fn a_device_whose_claim_is_undecided_cannot_check_in() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 2)])]);
    check_in(&mut matcher, 1, 1.0);
    matcher.accept(1, 1, round(5));
    let again = matcher.check_in(2, 1, &[1.0], 1.0, 0);
    assert_eq!(again, Err(Error::DeviceClaiming(1)));
    matcher.forget(1);
    assert_eq!(matcher.counts().claiming, 1, "the claim stays until it is decided");
}

#[test]
fn no_more_than_waiting_max_wait_but_all_are_counted() {
    let config = MatcherConfig { waiting_max: 1, ..MatcherConfig::new(1) };
    let mut matcher = Matcher::new(config).unwrap();
    matcher.check_in(0, 1, &[1.0], 1.0, 9).unwrap();
    let full = matcher.check_in(0, 2, &[1.0], 1.0, 9);
    assert_eq!(full, Err(Error::MatcherFull { waiting_max: 1 }));
    assert_eq!(matcher.take_supply(S)[0].distinct_devices, 2);
}

#[test]
fn supply_counts_distinct_devices_and_keeps_a_bounded_sample() {
    let config = MatcherConfig { supply_sample_max: 4, ..MatcherConfig::new(1) };
    let mut matcher = Matcher::new(config).unwrap();
    for device in (0..100_u32).chain(0..100) {
        matcher.check_in(3 * S + 5, u128::from(device), &[f64::from(device)], 2.0, 0).unwrap();
    }
    assert!(matcher.take_supply(4 * S - 1).is_empty(), "the bucket is open");
    let buckets = matcher.take_supply(4 * S);
    assert_eq!((buckets[0].start_ns, buckets[0].distinct_devices), (3 * S, 100));
    assert_eq!((buckets[0].specs.len(), buckets[0].options.as_slice()), (4, [2.0; 4].as_slice()));
    assert!(buckets[0].specs.iter().any(|spec| *spec >= 4.0), "not only the first ones");
    assert!(matcher.take_supply(9 * S).is_empty(), "handed out once");
}

#[test]
fn an_older_plan_is_ignored_until_new_versions_are_expected() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1)])]);
    matcher.apply_plan(plan(8, 0, vec![])).unwrap();
    let old = || plan(2, 0, vec![group(0, 1.0, &[(5, 0, 1)])]);
    assert_eq!(matcher.apply_plan(old()), Ok(false));
    matcher.expect_new_versions();
    assert_eq!(matcher.apply_plan(old()), Ok(true));
}

#[test]
fn a_bad_plan_is_refused_as_a_whole() {
    let mut matcher = matcher(vec![group(0, 1.0, &[(5, 0, 1)])]);
    let twice = vec![group(0, 1.0, &[]), group(0, 1.0, &[])];
    assert_eq!(matcher.apply_plan(plan(2, 0, twice)), Err(Error::DuplicateGroup(0)));
    let twice = vec![group(0, 1.0, &[(5, 0, 1)]), group(1, 1.0, &[(5, 0, 1)])];
    assert_eq!(matcher.apply_plan(plan(2, 0, twice)), Err(Error::DuplicateRound(round(5))));
    assert!(matcher.apply_plan(plan(2, 0, vec![group(0, f64::NAN, &[])])).is_err());
    let unknown = PlanUpdate { fallback: vec![3], ..plan(2, 0, vec![]) };
    assert_eq!(matcher.apply_plan(unknown), Err(Error::UnknownGroup(3)));
    assert_eq!(would_offer(&mut matcher, 1.0), [round(5)], "the plan in force still is");
}

/// A plan of one group that all meet, with these rounds.
fn special(version: u64, rounds: Vec<PlanRound>) -> PlanUpdate {
    plan(version, 0, vec![PlanGroup { requirement_id: 0, vector: vec![0.0], rounds }])
}

fn plain(job: u64, quota: u32) -> PlanRound {
    PlanRound { key: round(job), rank: u32::try_from(job).unwrap(), quota, ..Default::default() }
}

#[test]
fn a_tier_is_for_devices_of_its_speed_also_among_those_who_wait() {
    let mut matcher = matcher(vec![]);
    for (device, option) in [(1, 3.0), (2, 1.9), (3, 1.0), (4, 0.5)] {
        matcher.check_in(0, device, &[1.0], option, 9 * S).unwrap();
    }
    let tiered = |tier| PlanRound { tier: Some(tier), ..plain(5, 9) };
    matcher.apply_plan(special(2, vec![tiered((1.0, Some(2.0)))])).unwrap();
    assert_eq!(matched(&mut matcher, 1), [(2, vec![round(5)]), (3, vec![round(5)])]);
    matcher.check().unwrap();
    // The round now wants others: it is fresh for them, though it was available all the time.
    matcher.apply_plan(special(3, vec![tiered((2.5, None))])).unwrap();
    assert_eq!(matched(&mut matcher, 2), [(1, vec![round(5)])]);
    matcher.apply_plan(special(4, vec![plain(5, 9)])).unwrap();
    assert_eq!(matched(&mut matcher, 3), [(4, vec![round(5)])]);
    let bad = special(5, vec![tiered((f64::NAN, None))]);
    assert!(matcher.apply_plan(bad).is_err());
}

#[test]
fn with_parts_a_device_is_offered_the_rounds_of_its_part_only() {
    let mut matcher = Matcher::new(MatcherConfig::new(1)).unwrap();
    let rounds = (0..3).map(|part| PlanRound { part, ..plain(u64::from(part), 99) }).collect();
    matcher.apply_plan(PlanUpdate { partitions: 3, ..special(1, rounds) }).unwrap();
    let mut sizes = [0; 3];
    for device in 0..60 {
        let part = _core::matcher::part_of(device, 3);
        assert_eq!(check_in(&mut matcher, device, 1.0), [round(u64::from(part))]);
        sizes[part as usize] += 1;
    }
    assert!(sizes.iter().all(|size| *size > 9), "{sizes:?} is far from even");
}

#[test]
fn shuffled_each_device_has_an_order_of_its_own_that_lasts_as_long_as_the_plan() {
    let mut matcher = Matcher::new(MatcherConfig::new(1)).unwrap();
    let shuffled = |version, seed| PlanUpdate {
        shuffle: Some(seed),
        ..special(version, (0..4).map(|job| plain(job, 99)).collect())
    };
    matcher.apply_plan(shuffled(1, 7)).unwrap();
    let orders: Vec<_> = (0..20).map(|device| check_in(&mut matcher, device, 1.0)).collect();
    let again: Vec<_> = (0..20).map(|device| check_in(&mut matcher, device, 1.0)).collect();
    assert_eq!(orders, again);
    let distinct: std::collections::BTreeSet<_> = orders.iter().collect();
    assert!(distinct.len() > 5 && orders.iter().all(|order| order.len() == 4));
    for other in [shuffled(2, 7), shuffled(3, 8)] {
        matcher.apply_plan(other).unwrap();
        let new: Vec<_> = (0..20).map(|device| check_in(&mut matcher, device, 1.0)).collect();
        assert_ne!(new, orders);
    }
}

#[test]
fn who_waits_without_end_is_held_until_forgotten() {
    let mut matcher = matcher(vec![]);
    matcher.check_in(0, 1, &[1.0], 1.0, u64::MAX).unwrap();
    assert_eq!(matcher.expire(u64::MAX), (vec![], vec![]));
    matcher.check().unwrap();
    matcher.forget(1);
    assert_eq!(matcher.counts().waiting, 0);
}
