//! The matcher against a model that keeps everything in plain lists and computes each answer from
//! scratch, over random conversations. What must be equal: every answer, hence eligibility, order,
//! quotas, charges, who waits, and in which order those who wait are served.

use std::collections::BTreeMap;

use _core::matcher::{
    Matcher, MatcherConfig, PlanGroup, PlanRound, PlanUpdate, Served, Tier, Visitor,
};
use _core::{Device, Error, RoundKey, meets};
use proptest::prelude::*;

const TASKS_MAX: usize = 3;
const TIMEOUT_NS: u64 = 10;

/// The vectors of requirements 0 to 5, and of the specs that devices have.
const VECTORS: [[f64; 2]; 6] =
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [3.0, 3.0]];
const SPECS: [[f64; 2]; 5] = [[0.0, 0.0], [1.0, 0.5], [0.5, 2.0], [2.0, 2.0], [9.0, 9.0]];
/// The speed scores of devices, and the filters of rounds.
const OPTIONS: [f64; 5] = [0.0, 1.0, 1.5, 2.0, 3.0];
const TIERS: [Option<Tier>; 8] = [
    None,
    None,
    None,
    Some((0.0, None)),
    Some((1.0, Some(2.0))),
    Some((1.5, None)),
    Some((0.0, Some(1.5))),
    Some((2.0, Some(2.0))),
];

/// What a device is: its spec (by its index) and its speed score.
type Kind = (usize, f64);

#[derive(Clone, Debug)]
enum Op {
    Plan(PlanUpdate),
    CheckIn {
        device: Device,
        kind: Kind,
        hold_ns: u64,
    },
    /// A device that answers at once checks in: what it is offered first is refused so many times,
    /// then granted. Only if it is not here already.
    Serve {
        device: Device,
        kind: Kind,
        hold_ns: u64,
        refusals: usize,
        seq: u64,
    },
    Match,
    /// One of the tasks that the device is offered, or one that it is not.
    Accept {
        device: Device,
        pick: usize,
    },
    Assigned {
        device: Device,
        seq: u64,
    },
    Refused {
        device: Device,
    },
    Decline {
        device: Device,
        rounds: Vec<RoundKey>,
    },
    Forget {
        device: Device,
    },
    Pass {
        ns: u64,
    },
}

/// So many devices, whose ids differ in both halves.
fn a_device(devices: u128) -> impl Strategy<Value = Device> {
    (1..=devices).prop_map(|number| (number << 64) | (number * 7))
}

fn a_round() -> impl Strategy<Value = RoundKey> {
    (0..6_u64, prop::sample::select(vec![0, 0, 0, 1_u32]))
        .prop_map(|(job, round)| RoundKey { job, round })
}

/// A plan of up to six rounds: job j has requirement j, and the version and seq may go back.
fn a_plan() -> impl Strategy<Value = PlanUpdate> {
    let rounds = prop::collection::vec(
        (
            a_round(),
            0..9_u32,
            prop::sample::select(vec![0, 1, 1, 2, 3_u32]),
            prop::sample::select(TIERS.as_slice()),
            0..3_u32,
        ),
        0..7,
    );
    let order = || prop::sample::subsequence(vec![5, 3, 0, 1, 4, 2_u32], 0..6).prop_shuffle();
    let preferences = prop::collection::vec((0..SPECS.len(), order()), 0..3);
    // Mostly a version that is applied (the same again is), so that charges meet many plans.
    let version = prop::sample::select(vec![1, 9, 9, 9, 9, 9, 9_u64]);
    let special = (
        prop::sample::select(vec![None, None, None, Some(1), Some(2_u64)]),
        prop::sample::select(vec![0, 0, 0, 1, 2, 3_u32]),
    );
    (version, 0..3_u64, any::<bool>(), rounds, preferences, order(), special).prop_map(
        |(version, seq, ranked, rounds, preferences, fallback, (shuffle, partitions))| {
            let mut groups: Vec<PlanGroup> = Vec::new();
            for (key, rank, quota, tier, part) in rounds {
                let id = u32::try_from(key.job).expect("small");
                if groups.iter().flat_map(|g| &g.rounds).any(|round| round.key == key) {
                    continue;
                }
                let round = PlanRound { key, rank, quota, tier, part };
                match groups.iter_mut().find(|group| group.requirement_id == id) {
                    Some(group) => group.rounds.push(round),
                    None => groups.push(PlanGroup {
                        requirement_id: id,
                        vector: VECTORS[id as usize].to_vec(),
                        rounds: vec![round],
                    }),
                }
            }
            let ids: Vec<u32> = groups.iter().map(|group| group.requirement_id).collect();
            let known = |order: Vec<u32>| -> Vec<u32> {
                order.into_iter().filter(|id| ids.contains(id)).collect()
            };
            let signature = |spec: usize| eligible_ids(&groups, &SPECS[spec]);
            let preferences = preferences.into_iter().map(|(s, o)| (signature(s), known(o)));
            let (preferences, fallback) = (preferences.collect(), known(fallback));
            PlanUpdate { version, seq, ranked, groups, preferences, fallback, shuffle, partitions }
        },
    )
}

fn eligible_ids(groups: &[PlanGroup], spec: &[f64]) -> Vec<u32> {
    let eligible = groups.iter().filter(|group| meets(spec, &group.vector));
    let mut ids: Vec<u32> = eligible.map(|group| group.requirement_id).collect();
    ids.sort_unstable();
    ids
}

fn an_op(devices: u128) -> impl Strategy<Value = Op> {
    let a_device = move || a_device(devices);
    let kind = (0..SPECS.len(), prop::sample::select(OPTIONS.as_slice()));
    let hold_ns = || prop::sample::select(vec![0, 5, 30, 1_000_000_u64]);
    let serve = (a_device(), kind.clone(), hold_ns(), 0..3_usize, 0..4_u64).prop_map(
        |(device, kind, hold_ns, refusals, seq)| Op::Serve { device, kind, hold_ns, refusals, seq },
    );
    let check_in = (a_device(), kind, hold_ns()).prop_map(|(device, kind, hold_ns)| Op::CheckIn {
        device,
        kind,
        hold_ns,
    });
    let rounds = prop::collection::vec(a_round(), 0..3);
    prop_oneof![
        2 => a_plan().prop_map(Op::Plan),
        5 => check_in,
        3 => serve,
        3 => Just(Op::Match),
        5 => (a_device(), prop::sample::select(vec![0, 0, 1, 2, 3_usize])).prop_map(|(device, pick)| Op::Accept { device, pick }),
        4 => (a_device(), 0..4_u64).prop_map(|(device, seq)| Op::Assigned { device, seq }),
        2 => a_device().prop_map(|device| Op::Refused { device }),
        2 => (a_device(), rounds).prop_map(|(device, rounds)| Op::Decline { device, rounds }),
        1 => a_device().prop_map(|device| Op::Forget { device }),
        2 => (0..12_u64).prop_map(|ns| Op::Pass { ns }),
    ]
}

/// One conversation after another with the same few devices.
fn some_ops(devices: u128, most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(an_op(devices), 1..most)
}

#[derive(Clone, Debug)]
enum Standing {
    Waiting { kind: Kind, until: u64, ticket: u64 },
    Offered { tasks: Vec<RoundKey>, charged: Option<RoundKey>, until: u64 },
    Claiming { tasks: Vec<RoundKey>, charged: RoundKey },
}

/// `SplitMix64`'s mixing of a sequence of numbers, as the plan's draws are defined.
fn mix_all(seed: u64, values: &[u64]) -> u64 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let step =
        |state: u64, value: &u64| mix(state ^ mix(value.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    values.iter().fold(mix(seed), step)
}

fn halves(device: Device) -> [u64; 2] {
    [device >> 64, device & u128::from(u64::MAX)].map(|half| u64::try_from(half).expect("64 bits"))
}

#[derive(Default)]
struct Model {
    waiting_max: usize,
    plan: PlanUpdate,
    has_plan: bool,
    standing: BTreeMap<Device, Standing>,
    assigned: Vec<(RoundKey, u64)>,
    declined: Vec<(Device, RoundKey)>,
    tickets: u64,
}

impl Model {
    fn rounds(&self) -> impl Iterator<Item = &PlanRound> {
        self.plan.groups.iter().flat_map(|group| &group.rounds)
    }

    fn available(&self, round: &PlanRound) -> i64 {
        let holds = |standing: &&Standing| match standing {
            Standing::Waiting { .. } => false,
            Standing::Offered { charged, .. } => *charged == Some(round.key),
            Standing::Claiming { charged, .. } => *charged == round.key,
        };
        let charged = self.standing.values().filter(holds).count();
        let unseen = |(key, seq): &&(RoundKey, u64)| *key == round.key && *seq > self.plan.seq;
        let taken = charged + self.assigned.iter().filter(unseen).count();
        i64::from(round.quota) - i64::try_from(taken).expect("few")
    }

    fn in_order(&self, spec: &[f64]) -> Vec<PlanRound> {
        let groups = &self.plan.groups;
        if self.plan.ranked || self.plan.shuffle.is_some() {
            let eligible = groups.iter().filter(|group| meets(spec, &group.vector));
            let mut rounds: Vec<PlanRound> = eligible.flat_map(|g| g.rounds.clone()).collect();
            rounds.sort_by_key(|round| round.rank);
            return rounds;
        }
        let ids = eligible_ids(groups, spec);
        // The last one counts if a careless plan has two for the same signature.
        let preference =
            self.plan.preferences.iter().rev().find(|(signature, _)| *signature == ids);
        let mut order: Vec<u32> = preference.map_or(Vec::new(), |(_, order)| order.clone());
        order.extend(&self.plan.fallback);
        order.extend(groups.iter().map(|group| group.requirement_id));
        let mut rounds: Vec<PlanRound> = Vec::new();
        for id in order.into_iter().filter(|id| ids.contains(id)) {
            let group = groups.iter().find(|group| group.requirement_id == id).expect("eligible");
            let new = group.rounds.iter().filter(|r| rounds.iter().all(|had| had.key != r.key));
            let new: Vec<PlanRound> = new.copied().collect();
            rounds.extend(new);
        }
        rounds
    }

    /// Whether the filters of the round let the device through.
    fn admits(&self, round: &PlanRound, device: Device, option: f64) -> bool {
        let [high, low] = halves(device);
        let parts = u64::from(self.plan.partitions);
        let part_fits = parts == 0 || mix_all(0, &[high, low]) % parts == u64::from(round.part);
        let tier_fits = match round.tier {
            None => true,
            Some((min, max)) => min <= option && max.is_none_or(|max| option < max),
        };
        part_fits && tier_fits
    }

    fn tasks(&self, device: Device, (spec, option): Kind) -> Vec<RoundKey> {
        let wanted = |round: &PlanRound| {
            self.available(round) > 0
                && self.admits(round, device, option)
                && !self.declined.contains(&(device, round.key))
        };
        let rounds = self.in_order(&SPECS[spec]).into_iter().filter(wanted);
        let mut keys: Vec<RoundKey> = rounds.map(|round| round.key).collect();
        if let Some(seed) = self.plan.shuffle {
            let [high, low] = halves(device);
            keys.sort_by_key(|key| {
                mix_all(seed, &[self.plan.version, high, low, key.job, u64::from(key.round)])
            });
        }
        keys.truncate(TASKS_MAX);
        keys
    }

    fn offer(&mut self, now: u64, device: Device, tasks: &[RoundKey]) {
        let (charged, until) = (Some(tasks[0]), now + TIMEOUT_NS);
        let tasks = tasks.to_vec();
        self.standing.insert(device, Standing::Offered { tasks, charged, until });
    }

    fn apply(&mut self, update: &PlanUpdate) -> bool {
        if self.has_plan && update.version < self.plan.version {
            return false;
        }
        self.has_plan = true;
        // What a plan has seen is settled for good, even if a later plan has seen less.
        self.assigned.retain(|(_, seq)| *seq > update.seq);
        self.plan = update.clone();
        let keys: Vec<RoundKey> = self.rounds().map(|round| round.key).collect();
        self.declined.retain(|(_, key)| keys.contains(key));
        true
    }

    fn check_in(&mut self, now: u64, device: Device, kind: Kind, hold: u64) -> Answer {
        if let Some(Standing::Claiming { .. }) = self.standing.get(&device) {
            return Answer::Refused(Error::DeviceClaiming(device));
        }
        self.standing.remove(&device);
        let tasks = self.tasks(device, kind);
        if !tasks.is_empty() {
            self.offer(now, device, &tasks);
        } else if hold > 0 {
            let waits = |standing: &&Standing| matches!(standing, Standing::Waiting { .. });
            if self.standing.values().filter(waits).count() == self.waiting_max {
                return Answer::Refused(Error::MatcherFull { waiting_max: self.waiting_max });
            }
            self.tickets += 1;
            let (until, ticket) = (now + hold, self.tickets);
            self.standing.insert(device, Standing::Waiting { kind, until, ticket });
        }
        Answer::Tasks(tasks)
    }

    /// In the words of the other steps.
    fn serve(&mut self, now: u64, op: &Op) -> Answer {
        let Op::Serve { device, kind, hold_ns, refusals, seq } = *op else { unreachable!() };
        if self.standing.contains_key(&device) {
            return Answer::Nothing;
        }
        let tasks = match self.check_in(now, device, kind, hold_ns) {
            Answer::Tasks(tasks) => tasks,
            error => return error,
        };
        for (place, task) in tasks.iter().enumerate() {
            self.accept(now, device, *task);
            if place == refusals {
                self.assign(device, seq);
                return Answer::Served(Served::Assigned(*task));
            }
            self.refused(now, device);
        }
        Answer::Served(match (tasks.is_empty(), hold_ns) {
            (false, _) => Served::Refused,
            (true, 0) => Served::Leaves,
            (true, _) => Served::Waits,
        })
    }

    fn match_waiting(&mut self, now: u64) -> Answer {
        let mut waiting: Vec<(u64, Device, Kind)> = Vec::new();
        for (device, standing) in &self.standing {
            if let Standing::Waiting { kind, ticket, .. } = standing {
                waiting.push((*ticket, *device, *kind));
            }
        }
        waiting.sort_unstable_by_key(|(ticket, ..)| *ticket);
        let mut made = Vec::new();
        for (_, device, kind) in waiting {
            let tasks = self.tasks(device, kind);
            if !tasks.is_empty() {
                self.offer(now, device, &tasks);
                made.push((device, tasks));
            }
        }
        Answer::Offers(made)
    }

    fn picked(&self, device: Device, pick: usize) -> RoundKey {
        let none = RoundKey { job: 99, round: 0 };
        match self.standing.get(&device) {
            Some(Standing::Offered { tasks, .. }) => tasks.get(pick).copied().unwrap_or(none),
            Some(Standing::Claiming { charged, .. }) if pick == 0 => *charged,
            _ => none,
        }
    }

    fn accept(&mut self, now: u64, device: Device, key: RoundKey) -> bool {
        match self.standing.get(&device).cloned() {
            Some(Standing::Offered { mut tasks, until, .. }) => {
                let good = now < until && tasks.contains(&key);
                if good {
                    tasks.retain(|task| *task != key);
                    self.standing.insert(device, Standing::Claiming { tasks, charged: key });
                }
                good
            }
            Some(Standing::Claiming { charged, .. }) => charged == key,
            _ => false,
        }
    }

    fn refused(&mut self, now: u64, device: Device) -> bool {
        let Some(Standing::Claiming { tasks, .. }) = self.standing.get(&device).cloned() else {
            return false;
        };
        self.standing.remove(&device);
        let again = !tasks.is_empty();
        if again {
            let until = now + TIMEOUT_NS;
            self.standing.insert(device, Standing::Offered { tasks, charged: None, until });
        }
        again
    }

    fn assign(&mut self, device: Device, seq: u64) {
        if let Some(Standing::Claiming { charged, .. }) = self.standing.get(&device) {
            self.assigned.push((*charged, seq));
            self.assigned.retain(|(_, seq)| *seq > self.plan.seq);
            self.standing.remove(&device);
        }
    }

    fn leave(&mut self, device: Device, only_if: impl Fn(&Standing) -> bool) {
        if self.standing.get(&device).is_some_and(only_if) {
            self.standing.remove(&device);
        }
    }

    fn expire(&mut self, now: u64) -> Answer {
        let (mut holds, mut offers) = (Vec::new(), Vec::new());
        for (device, standing) in &self.standing {
            match standing {
                Standing::Waiting { until, .. } if *until <= now => holds.push((*until, *device)),
                Standing::Offered { until, .. } if *until <= now => offers.push((*until, *device)),
                _ => {}
            }
        }
        holds.sort_unstable();
        offers.sort_unstable();
        let gone = |list: Vec<(u64, Device)>| list.into_iter().map(|(_, device)| device).collect();
        let (holds, offers): (Vec<Device>, Vec<Device>) = (gone(holds), gone(offers));
        holds.iter().chain(&offers).for_each(|device| drop(self.standing.remove(device)));
        Answer::Expired(holds, offers)
    }

    fn step(&mut self, now: u64, op: &Op) -> Answer {
        match op {
            Op::Plan(update) => Answer::Yes(self.apply(update)),
            Op::CheckIn { device, kind, hold_ns } => self.check_in(now, *device, *kind, *hold_ns),
            Op::Serve { .. } => self.serve(now, op),
            Op::Match => self.match_waiting(now),
            Op::Accept { device, pick } => {
                Answer::Yes(self.accept(now, *device, self.picked(*device, *pick)))
            }
            Op::Assigned { device, seq } => {
                self.assign(*device, *seq);
                Answer::Nothing
            }
            Op::Refused { device } => Answer::Yes(self.refused(now, *device)),
            Op::Decline { device, rounds } => {
                let open: Vec<RoundKey> = self.rounds().map(|round| round.key).collect();
                let open = rounds.iter().filter(|key| open.contains(key));
                self.declined.extend(open.map(|key| (*device, *key)));
                self.leave(*device, |standing| matches!(standing, Standing::Offered { .. }));
                Answer::Nothing
            }
            Op::Forget { device } => {
                self.leave(*device, |standing| !matches!(standing, Standing::Claiming { .. }));
                Answer::Nothing
            }
            Op::Pass { .. } => self.expire(now),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Answer {
    Nothing,
    Yes(bool),
    Tasks(Vec<RoundKey>),
    Served(Served),
    Offers(Vec<(Device, Vec<RoundKey>)>),
    Expired(Vec<Device>, Vec<Device>),
    Refused(Error),
}

fn step(matcher: &mut Matcher, model: &Model, now: u64, op: &Op) -> Answer {
    match op {
        Op::Plan(update) => Answer::Yes(matcher.apply_plan(update.clone()).expect("a good plan")),
        Op::CheckIn { device, kind: (spec, option), hold_ns } => {
            let result = matcher.check_in(now, *device, &SPECS[*spec], *option, now + hold_ns);
            result.map_or_else(Answer::Refused, |tasks| Answer::Tasks(tasks.to_vec()))
        }
        Op::Serve { device, .. } if model.standing.contains_key(device) => Answer::Nothing,
        Op::Serve { .. } => serve(matcher, now, op),
        Op::Match => {
            let offers = matcher.match_waiting(now).into_iter();
            Answer::Offers(offers.map(|(device, tasks)| (device, tasks.to_vec())).collect())
        }
        Op::Accept { device, pick } => {
            Answer::Yes(matcher.accept(now, *device, model.picked(*device, *pick)))
        }
        Op::Assigned { device, seq } => {
            matcher.assigned(*device, *seq);
            Answer::Nothing
        }
        Op::Refused { device } => Answer::Yes(matcher.refused(now, *device)),
        Op::Decline { device, rounds } => {
            matcher.decline(*device, rounds);
            Answer::Nothing
        }
        Op::Forget { device } => {
            matcher.forget(*device);
            Answer::Nothing
        }
        Op::Pass { .. } => {
            let (holds, offers) = matcher.expire(now);
            Answer::Expired(holds, offers)
        }
    }
}

fn serve(matcher: &mut Matcher, now: u64, op: &Op) -> Answer {
    let Op::Serve { device, kind: (spec, option), hold_ns, refusals, seq } = *op else {
        unreachable!()
    };
    let kind = matcher.add_kind(&SPECS[spec]).expect("a good spec");
    let hold_until_ns = now + hold_ns;
    let visitor = Visitor { device, kind, option, last_ns: None, hold_until_ns };
    let mut asked = 0;
    let result = matcher.serve(now, &visitor, |_| {
        asked += 1;
        (asked > refusals).then_some(seq)
    });
    result.map_or_else(Answer::Refused, Answer::Served)
}

fn a_matcher(waiting_max: usize) -> Matcher {
    let config = MatcherConfig {
        tasks_per_offer_max: TASKS_MAX,
        waiting_max,
        offer_timeout_ns: TIMEOUT_NS,
        ..MatcherConfig::new(2)
    };
    Matcher::new(config).expect("a good configuration")
}

/// Lets both answer, compares, and asks what strangers would be offered.
fn compare(ops: &[Op], waiting_max: usize) -> Result<(), TestCaseError> {
    let mut matcher = a_matcher(waiting_max);
    let (mut model, mut now) = (Model { waiting_max, ..Model::default() }, 0);
    for op in ops {
        if let Op::Pass { ns } = op {
            now += ns;
        }
        let got = step(&mut matcher, &model, now, op);
        let expected = model.step(now, op);
        prop_assert_eq!(got, expected, "at {} after {:?}", now, op);
        prop_assert_eq!(matcher.check(), Ok(()), "after {:?}", op);
        for (index, spec) in SPECS.iter().enumerate() {
            let (stranger, option) = (index as u128, OPTIONS[index]);
            let open = matcher.would_offer(stranger, spec, option).expect("a good spec");
            let expected = model.tasks(stranger, (index, option));
            prop_assert_eq!(open.to_vec(), expected, "after {:?}", op);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn answers_as_the_model_does(ops in some_ops(4, 60)) {
        compare(&ops, 3)?;
    }

    /// The same calls give the same answers, whatever was hashed where.
    #[test]
    fn is_deterministic(ops in some_ops(4, 60), seed in any::<u64>()) {
        let (mut one, mut two) = (a_matcher(3), a_matcher(3));
        let mut model = Model { waiting_max: 3, ..Model::default() };
        let config = MatcherConfig {
            tasks_per_offer_max: TASKS_MAX, waiting_max: 3, offer_timeout_ns: TIMEOUT_NS, seed, ..MatcherConfig::new(2)
        };
        let mut other_hash = Matcher::new(config).expect("a good configuration");
        for (now, op) in (0..).zip(&ops) {
            let answer = step(&mut one, &model, now, op);
            prop_assert_eq!(&answer, &step(&mut two, &model, now, op));
            prop_assert_eq!(&answer, &step(&mut other_hash, &model, now, op));
            model.step(now, op);
        }
        prop_assert_eq!(one.take_supply(u64::MAX), two.take_supply(u64::MAX));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..Default::default() })]

    /// With so many that queues and timers fill with the dead, and are swept.
    #[test]
    fn answers_as_the_model_does_for_many_devices(ops in some_ops(150, 1_500)) {
        compare(&ops, 120)?;
    }
}
