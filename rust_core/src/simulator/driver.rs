//! The run: a trace and a job list, driven through the matchers and the planner in virtual time.
//!
//! * **A session** is a device of its own. It checks in at its start with its client manager and
//!   waits until its session ends. It accepts the first task that it is offered at once; the job's
//!   book (see `rounds.rs`) grants the slot or refuses it, and then it tries the next task of its
//!   offer. The task starts up to [`SimulatorConfig::dispatch_s`] later and takes the time that the
//!   trace says. If that is longer than the session, it does fewer steps if its job allows that
//!   ([`SimulatedJob::steps`]); else the device is gone when its session ends, and its slot is
//!   offered again while the round is open. A device that has done its task checks in
//!   again if its session lasts, unless it has done [`SimulatorConfig::tasks_max`] tasks: one, unless
//!   the caller wants another number, as in the paper. Where devices may do as many as they can,
//!   there are always more of them than the paper's jobs can use, and policies hardly differ.
//!   Where the caller says whose each session is ([`SimulatorConfig::owners`]), nobody has two
//!   slots of a round, whatever became of the first: done, failed or gone.
//!   A device may also fail in the middle of a task, at [`SimulatorConfig::failures`] (see
//!   `failures.rs`): none does unless the caller says so.
//! * **A round** ends as the job manager would end it; the next one opens at once.
//! * **A plan** is made when a round opened, was filled, ended or lost a device, at the end of that
//!   instant, but not within [`SimulatorConfig::plan_gap_s`] of the last one; when the last one
//!   said so; and every [`SimulatorConfig::replan_s`], when the supply is brought to the planner.
//! * **The seed** makes the delays of the tasks' starts, the samples of supply and what the policy
//!   draws; never the trace, nor the jobs. Times are nanoseconds; at the same time, events come in
//!   the order in which they were scheduled, and then the sessions that begin, in the order of the
//!   trace.

use super::record::TaskLog;
use super::rounds::{JobBook, Outcome, to_ns, to_s};
use super::specs::Specs;
use super::{
    CLASSES, Calendar, Cause, Record, RunResult, Session, SimulatedJob, SimulationError,
    SimulatorConfig, Tally, TaskEnd, Trace,
};
use crate::matcher::{
    Kind, Matcher, MatcherConfig, PlanGroup, PlanRound, PlanUpdate, Served, Visitor,
};
use crate::planner::{JobSpec, Plan, Planner, PlannerConfig};
use crate::policy::{self, Rule};
use crate::random::{SplitMix64, draw};
use crate::{Device, Job, Manager, Result, RoundKey};

/// The caller hears of the progress, and may stop the run, once in so many events.
const PROGRESS_EVENTS: u64 = 1 << 17;
/// A device whose whole offer was refused checks in again after so long.
const TRY_AGAIN_S: f64 = 1.0;
/// The time of the last check-in of one that has not checked in.
const NEVER: u64 = u64::MAX;
/// So many clients may wait with one manager.
const WAITING_MAX: usize = 1 << 30;

/// Plays the trace to the jobs until all are done or the trace has been played `repeat` times.
///
/// `progress` is told now and then how many rounds have succeeded; on false the run stops.
pub fn run(
    trace: &Trace,
    jobs: &[SimulatedJob],
    config: &SimulatorConfig,
    progress: &mut dyn FnMut(u64) -> bool,
) -> std::result::Result<RunResult, SimulationError> {
    run_with_rule(trace, jobs, config, Rule::Known(policy::find(&config.policy)?), progress)
}

/// The same with a policy that need not be in the table; the name in `config` is not read.
pub fn run_with_rule(
    trace: &Trace,
    jobs: &[SimulatedJob],
    config: &SimulatorConfig,
    rule: Rule,
    progress: &mut dyn FnMut(u64) -> bool,
) -> std::result::Result<RunResult, SimulationError> {
    super::check_jobs(jobs, trace)?;
    config.check(trace.len())?;
    let mut driver = Driver::new(trace, jobs, config, rule)?;
    let (end_ns, repeats) = driver.play(progress)?;
    let record = driver.take_record();
    let mut result = RunResult {
        jobs: driver.jobs.into_iter().map(|job| job.result).collect(),
        tally: driver.tally,
        end_s: to_s(end_ns),
        repeats,
        record,
    };
    result.set_fair_jcts(jobs, trace, driver.period_s);
    Ok(result)
}

/// A device in the middle of its session. A run is bound by how fast these come from memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Visit {
    end_ns: u64,
    /// Sessions are numbered through all replays of the trace.
    number: u64,
    computation: f32,
    communication: f32,
    /// How many tasks it has taken.
    tasks: u32,
    classes: u16,
}

impl Visit {
    fn session(&self) -> Session {
        let Self { computation, communication, classes, .. } = *self;
        Session { start_s: 0.0, end_s: to_s(self.end_ns), computation, communication, classes }
    }
}

/// Those who are here, waiting or working: a slab, so that the few that are here lie together.
///
/// A device's id is the number of its session with its place in the slab above it.
#[derive(Debug, Default)]
struct Visits {
    places: Vec<Visit>,
    /// When each checked in last; apart, because most do it once.
    last_ns: Vec<u64>,
    free: Vec<u32>,
}

impl Visits {
    fn add(&mut self, visit: Visit) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = visit;
            self.last_ns[place as usize] = NEVER;
            return place;
        }
        self.places.push(visit);
        self.last_ns.push(NEVER);
        u32::try_from(self.places.len() - 1).expect("fewer than 2^32 sessions at a time")
    }

    fn remove(&mut self, place: u32) {
        self.free.push(place);
    }

    fn get(&self, place: u32) -> &Visit {
        &self.places[place as usize]
    }

    fn device(&self, place: u32) -> Device {
        Device::from(place) << 64 | Device::from(self.get(place).number)
    }

    /// Notes when it checks in, and returns when it did before.
    fn check_in(&mut self, place: u32, now_ns: u64) -> Option<u64> {
        let last_ns = std::mem::replace(&mut self.last_ns[place as usize], now_ns);
        (last_ns != NEVER).then_some(last_ns)
    }

    fn place_of(device: Device) -> u32 {
        u32::try_from(device >> 64).expect("made by `device`")
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive {
        job: u32,
    },
    Deadline {
        job: u32,
        round: u32,
    },
    TaskDone {
        job: u32,
        stamp: u32,
        visit: u32,
    },
    DeviceGone {
        job: u32,
        stamp: u32,
        visit: u32,
    },
    Failed {
        job: u32,
        stamp: u32,
        visit: u32,
        cause: Cause,
    },
    /// Of a device that failed without a word: its slot comes back.
    LeaseOver {
        job: u32,
        stamp: u32,
    },
    TryAgain {
        visit: u32,
    },
    Supply,
    Plan,
}

struct Driver<'a> {
    trace: &'a Trace,
    config: &'a SimulatorConfig,
    period_s: f64,
    jobs: Vec<JobBook>,
    unfinished: usize,
    /// The id of the first job of the list.
    first_job: Job,
    matchers: Vec<Matcher>,
    planner: Planner,
    specs: Specs,
    /// By set of classes, for all matchers the same.
    kinds: Vec<Kind>,
    visits: Visits,
    heap: Calendar<Event>,
    random: SplitMix64,
    /// Counts the grants, as the job manager counts its records.
    seq: u64,
    /// Jobs of which the planner does not know everything yet.
    changed: Vec<u32>,
    plan_wanted: bool,
    plan_scheduled: bool,
    next_plan_ns: u64,
    tally: Tally,
    log: Option<TaskLog>,
}

impl<'a> Driver<'a> {
    fn new(
        trace: &'a Trace,
        jobs: &[SimulatedJob],
        config: &'a SimulatorConfig,
        rule: Rule,
    ) -> Result<Self> {
        let specs = Specs::new(trace);
        let mut planner_config = PlannerConfig {
            seed: if config.as_daemons { config.seed } else { draw(config.seed, 0x706c_616e, 0) },
            ..PlannerConfig::new(&config.policy, specs.dimensions)
        };
        for (name, value) in &config.policy_options {
            planner_config.set_option(name, *value)?;
        }
        let mut planner = Planner::with_rule(&planner_config, rule)?;
        (0..config.managers).for_each(|manager| planner.add_manager(manager));
        let matcher = |manager: Manager| {
            Matcher::new(MatcherConfig {
                waiting_max: WAITING_MAX,
                supply_bucket_ns: to_ns(config.supply_bucket_s),
                seed: draw(config.seed, 0x6d61_7463, u64::from(manager)),
                ..MatcherConfig::new(specs.dimensions)
            })
        };
        let mut matchers: Vec<Matcher> =
            (0..config.managers).map(matcher).collect::<Result<_>>()?;
        let mut kinds = Vec::new();
        for matcher in &mut matchers {
            let sets = 0..1 << CLASSES;
            kinds = sets.map(|set| matcher.add_kind(specs.of(set))).collect::<Result<_>>()?;
        }
        let mut heap = Calendar::new();
        for (job, index) in jobs.iter().zip(0..) {
            heap.push(to_ns(job.start_s), Event::Arrive { job: index });
        }
        heap.push(to_ns(config.replan_s), Event::Supply);
        Ok(Self {
            trace,
            config,
            period_s: config.period_s.unwrap_or_else(|| trace.period_s()),
            jobs: jobs.iter().map(|job| JobBook::new(job, config.record)).collect(),
            unfinished: jobs.len(),
            first_job: Job::from(config.as_daemons),
            matchers,
            planner,
            specs,
            kinds,
            visits: Visits::default(),
            heap,
            random: SplitMix64::new(draw(config.seed, 0x6472_6976, 0)),
            seq: 0,
            changed: Vec::new(),
            plan_wanted: false,
            plan_scheduled: false,
            next_plan_ns: 0,
            tally: Tally::default(),
            log: config.record.then(TaskLog::default),
        })
    }

    /// Returns when the run ended, and how often the trace was played.
    fn play(
        &mut self,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> std::result::Result<(u64, u32), SimulationError> {
        let rows = self.trace.len();
        let end_ns = to_ns(f64::from(self.config.repeat) * self.period_s);
        let (mut row, mut played, mut now_ns) = (0, 0, 0);
        while self.unfinished > 0 {
            let check_in_ns = if played < self.config.repeat {
                to_ns(self.trace.start_s(row) + f64::from(played) * self.period_s)
            } else {
                u64::MAX
            };
            let event_ns = self.heap.next_at().unwrap_or(u64::MAX);
            let next_ns = check_in_ns.min(event_ns);
            if next_ns > now_ns && self.plan_wanted {
                // The instant is over; what its plan brings about belongs to it.
                self.make_due_plan(now_ns)?;
                continue;
            }
            if next_ns > end_ns {
                now_ns = end_ns;
                break;
            }
            now_ns = next_ns;
            if event_ns <= check_in_ns {
                let (_, event) = self.heap.pop().expect("just seen");
                self.handle(now_ns, event)?;
            } else {
                self.start_session(now_ns, row, played)?;
                row += 1;
                if row == rows {
                    (row, played) = (0, played + 1);
                }
            }
            self.tally.events += 1;
            if self.tally.events % PROGRESS_EVENTS == 0 && !progress(self.rounds_done()) {
                return Err(SimulationError::Stopped);
            }
        }
        self.tally.running = self.tally.dispatched - self.tally.completed - self.tally.failed;
        Ok((now_ns, (played + u32::from(row > 0)).min(self.config.repeat)))
    }

    /// What was remembered of the run, if the caller wanted it.
    fn take_record(&mut self) -> Option<Record> {
        let tasks = self.log.take()?.into_tasks();
        let jobs = self.jobs.iter_mut().zip(0..);
        let rounds = jobs.flat_map(|(book, job)| book.take_record(job)).collect();
        Some(Record { rounds, tasks })
    }

    fn log_end(&mut self, now_ns: u64, visit: u32, task: (u32, u32), end: TaskEnd) {
        if let Some(log) = &mut self.log {
            log.end(now_ns, visit, self.visits.get(visit).number, task, end);
        }
    }

    fn rounds_done(&self) -> u64 {
        self.jobs.iter().map(|job| u64::from(job.result.rounds)).sum()
    }

    fn start_session(&mut self, now_ns: u64, row: usize, played: u32) -> Result<()> {
        let session = self.trace.session(row);
        let end_ns = to_ns(session.end_s + f64::from(played) * self.period_s);
        let number = u64::from(played) * self.trace.len() as u64 + row as u64;
        let Session { computation, communication, classes, .. } = session;
        let visit = Visit { end_ns, number, computation, communication, tasks: 0, classes };
        let visit = self.visits.add(visit);
        self.check_in(now_ns, visit)
    }

    fn check_in(&mut self, now_ns: u64, visit: u32) -> Result<()> {
        self.tally.checkins += 1;
        let here = *self.visits.get(visit);
        let manager = self.manager_of(here.number);
        let visitor = Visitor {
            device: self.visits.device(visit),
            kind: self.kinds[usize::from(here.classes)],
            option: here.session().option(),
            last_ns: self.visits.check_in(visit, now_ns),
            hold_until_ns: here.end_ns,
        };
        let (first_job, owner) = (self.first_job, self.owner(here.number));
        let Self { matchers, jobs, tally, seq, .. } = self;
        let mut served = Vec::new();
        let grant = |key: RoundKey| {
            let job = job_of(key, first_job) as usize;
            if jobs[job].has(key.round, owner) {
                served.push(key);
                return None;
            }
            let is_granted = jobs[job].grant(now_ns, key.round, tally);
            is_granted.then(|| {
                *seq += 1;
                *seq
            })
        };
        let what = matchers[manager].serve(now_ns, &visitor, grant)?;
        if !served.is_empty() {
            matchers[manager].decline(visitor.device, &served);
        }
        match what {
            Served::Assigned(key) => {
                self.tally.offers += 1;
                self.start_task(now_ns, job_of(key, first_job), visit);
            }
            Served::Refused => {
                self.tally.offers += 1;
                self.try_again(now_ns, visit);
            }
            Served::Waits => {}
            Served::Leaves => self.visits.remove(visit),
        }
        Ok(())
    }

    /// A device that is free again checks in, if its session lasts.
    fn come_back(&mut self, now_ns: u64, visit: u32) -> Result<()> {
        let Visit { end_ns, tasks, .. } = self.visits.get(visit);
        if *end_ns > now_ns && self.config.tasks_max.is_none_or(|most| *tasks < most) {
            return self.check_in(now_ns, visit);
        }
        self.visits.remove(visit);
        Ok(())
    }

    /// Whose session this is, if the caller said so.
    fn owner(&self, number: u64) -> Option<u32> {
        let owners = self.config.owners.as_ref()?;
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
        let row = (number % owners.len() as u64) as usize;
        Some(owners[row])
    }

    fn manager_of(&self, number: u64) -> usize {
        if self.matchers.len() == 1 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
        let manager = (draw(1, number, 0) % self.matchers.len() as u64) as usize;
        manager
    }

    /// Offers what the plan brought to those who wait, and what one of them declined to the next.
    ///
    /// What was refused because a round is over or another manager's device was faster waits for the
    /// next plan: live that is made before the manager could offer it to many more.
    fn match_waiting(&mut self, now_ns: u64, manager: usize) {
        let mut is_declined = true;
        while std::mem::take(&mut is_declined) {
            for (device, tasks) in self.matchers[manager].match_waiting(now_ns) {
                is_declined |= self.accept(now_ns, manager, Visits::place_of(device), &tasks);
            }
        }
    }

    /// The device takes the first of these tasks that is granted. True: it declined one before.
    fn accept(&mut self, now_ns: u64, manager: usize, visit: u32, tasks: &[RoundKey]) -> bool {
        self.tally.offers += 1;
        let mut declines = false;
        let device = self.visits.device(visit);
        let owner = self.owner(self.visits.get(visit).number);
        let matcher = &mut self.matchers[manager];
        for key in tasks {
            if !matcher.accept(now_ns, device, *key) {
                break;
            }
            let job = job_of(*key, self.first_job);
            let book = &mut self.jobs[job as usize];
            if book.has(key.round, owner) {
                matcher.decline(device, &[*key]); // A claim: it goes on to the next.
                declines = true;
            } else if book.grant(now_ns, key.round, &mut self.tally) {
                self.seq += 1;
                matcher.assigned(device, self.seq);
                self.start_task(now_ns, job, visit);
                return declines;
            }
            if !matcher.refused(now_ns, device) {
                break;
            }
        }
        // Everything was refused: the round ended, or another manager's device was faster.
        matcher.forget(device);
        self.try_again(now_ns, visit);
        declines
    }

    fn try_again(&mut self, now_ns: u64, visit: u32) {
        self.heap.push(now_ns + to_ns(TRY_AGAIN_S), Event::TryAgain { visit });
    }

    fn start_task(&mut self, now_ns: u64, job: u32, visit: u32) {
        let here = &mut self.visits.places[visit as usize];
        here.tasks += 1;
        let (session, end_ns, number) = (here.session(), here.end_ns, here.number);
        let owner = self.owner(number);
        let book = &mut self.jobs[job as usize];
        book.note_owner(owner);
        let spec = book.spec();
        self.tally.dispatched += 1;
        self.tally.ineligible += u64::from(session.classes >> spec.requirement & 1 == 0);
        let delay_s = self.config.dispatch_s * unit(&mut self.random);
        let left_s = to_s(end_ns.saturating_sub(now_ns)) - delay_s;
        let (steps, takes_s) = spec.task_on(&session, left_s);
        let mut done_ns = now_ns.saturating_add(to_ns(delay_s + takes_s));
        if steps > 0 && takes_s <= left_s {
            done_ns = done_ns.min(end_ns); // What just fits is not lost by rounding.
        }
        let stamp = book.stamp();
        let key = book.key(self.first_job + Job::from(job));
        let device = owner.map_or(number, u64::from);
        let failure = self.config.failures.of_task(self.config.seed, device, key.job, key.round);
        let failure = failure.map(|(s, cause)| (now_ns.saturating_add(to_ns(delay_s + s)), cause));
        if let Some((at_ns, cause)) = failure.filter(|(at_ns, _)| *at_ns < done_ns.min(end_ns)) {
            self.heap.push(at_ns, Event::Failed { job, stamp, visit, cause });
            if cause == Cause::Battery {
                let lease_ns = now_ns.saturating_add(to_ns(book.spec().lease_s()));
                self.heap.push(lease_ns.max(at_ns), Event::LeaseOver { job, stamp });
            }
        } else if done_ns <= end_ns {
            self.heap.push(done_ns, Event::TaskDone { job, stamp, visit });
        } else {
            self.heap.push(end_ns.max(now_ns), Event::DeviceGone { job, stamp, visit });
        }
        if let Some(log) = &mut self.log {
            log.start(now_ns, visit, steps);
        }
        let granted = book.after_grant(now_ns, &mut self.tally);
        if let Some(deadline_ns) = granted.deadline_ns {
            self.heap.push(deadline_ns, Event::Deadline { job, round: stamp });
        }
        self.note(job, granted.outcome);
        self.touch(job);
        self.plan_wanted |= granted.is_full;
    }

    fn handle(&mut self, now_ns: u64, event: Event) -> Result<()> {
        match event {
            Event::Arrive { job } => self.arrive(now_ns, job)?,
            Event::Deadline { job, round } => {
                if self.jobs[job as usize].deadline(now_ns, round, &mut self.tally) {
                    self.note(job, Outcome::Over);
                }
            }
            Event::TaskDone { job, stamp, visit } => {
                self.tally.completed += 1;
                let late = self.tally.late;
                let outcome = self.jobs[job as usize].report(now_ns, stamp, &mut self.tally);
                let is_late = self.tally.late > late;
                let end = if is_late { TaskEnd::Late } else { TaskEnd::Counted };
                self.log_end(now_ns, visit, (job, stamp), end);
                self.note(job, outcome);
                self.come_back(now_ns, visit)?;
            }
            Event::DeviceGone { job, stamp, visit } => {
                self.tally.failed += 1;
                self.log_end(now_ns, visit, (job, stamp), TaskEnd::Gone);
                self.visits.remove(visit);
                let outcome = self.jobs[job as usize].lose(stamp);
                self.note(job, outcome);
            }
            Event::Failed { job, stamp, visit, cause } => {
                self.fail(now_ns, (job, stamp), visit, cause)?;
            }
            Event::LeaseOver { job, stamp } => {
                let outcome = self.jobs[job as usize].lose(stamp);
                self.note(job, outcome);
            }
            Event::TryAgain { visit } => self.come_back(now_ns, visit)?,
            Event::Supply => {
                self.bring_supply(now_ns)?;
                self.heap.push(now_ns + to_ns(self.config.replan_s), Event::Supply);
            }
            Event::Plan => (self.plan_scheduled, self.plan_wanted) = (false, true),
        }
        Ok(())
    }

    /// A device failed in the middle of a task; who has no power left does not say so.
    fn fail(&mut self, now_ns: u64, task: (u32, u32), visit: u32, cause: Cause) -> Result<()> {
        self.tally.failed += 1;
        self.tally.failures[cause as usize] += 1;
        self.log_end(now_ns, visit, task, TaskEnd::Failed(cause));
        if cause != Cause::Battery {
            let outcome = self.jobs[task.0 as usize].lose(task.1);
            self.note(task.0, outcome);
        }
        if cause == Cause::Crash {
            return self.come_back(now_ns, visit);
        }
        self.visits.remove(visit);
        Ok(())
    }

    fn arrive(&mut self, now_ns: u64, job: u32) -> Result<()> {
        let book = &mut self.jobs[job as usize];
        book.arrive(now_ns);
        let spec = book.spec();
        let registration = JobSpec {
            requirement_id: spec.requirement,
            requirement: self.specs.unit_vector(spec.requirement),
            registered_ns: now_ns,
            demand_estimate: u64::from(spec.participants),
            rounds_estimate: u64::from(spec.rounds),
        };
        self.planner.put_job(self.first_job + Job::from(job), registration)?;
        self.open(job);
        Ok(())
    }

    /// The job's current round is new.
    fn open(&mut self, job: u32) {
        let book = &self.jobs[job as usize];
        if let Some(deadline_ns) = book.deadline_ns() {
            let round = book.key(self.first_job + Job::from(job)).round;
            self.heap.push(deadline_ns, Event::Deadline { job, round });
        }
        self.touch(job);
        self.plan_wanted = true;
    }

    /// What came of a report, a loss or a deadline.
    fn note(&mut self, job: u32, outcome: Outcome) {
        match outcome {
            Outcome::GoesOn => {}
            Outcome::FreesSlot => {
                self.touch(job);
                self.plan_wanted = true;
            }
            Outcome::Over => {
                if self.jobs[job as usize].is_done() {
                    self.unfinished -= 1;
                    self.planner.remove_job(self.first_job + Job::from(job));
                    self.plan_wanted = true;
                } else {
                    self.open(job);
                }
            }
        }
    }

    /// The planner hears of the job before the next plan.
    fn touch(&mut self, job: u32) {
        if self.changed.last() != Some(&job) {
            self.changed.push(job);
        }
    }

    // ------------------------------------------------------------------------------- plans

    fn make_due_plan(&mut self, now_ns: u64) -> Result<()> {
        self.plan_wanted = false;
        if now_ns >= self.next_plan_ns {
            return self.make_plan(now_ns);
        }
        if !self.plan_scheduled {
            self.heap.push(self.next_plan_ns, Event::Plan);
        }
        (self.plan_scheduled, self.plan_wanted) = (true, false);
        Ok(())
    }

    fn make_plan(&mut self, now_ns: u64) -> Result<()> {
        self.next_plan_ns = now_ns + to_ns(self.config.plan_gap_s);
        self.tell_planner()?;
        let plan = self.planner.plan(now_ns)?;
        self.tally.plans += 1;
        if let Some(again_ns) = plan.again_ns.filter(|again_ns| *again_ns > now_ns) {
            self.heap.push(again_ns, Event::Plan);
        }
        let rounds = plan.groups.iter().flat_map(|group| &group.rounds);
        for round in rounds.filter(|round| round.tier.is_some()) {
            let job = job_of(round.key, self.first_job) as usize;
            self.jobs[job].mark_tiered();
        }
        for manager in 0..self.matchers.len() {
            let number = Manager::try_from(manager).expect("at most 1000 managers");
            let update = update_for(&plan, number, self.seq)?;
            self.expire(now_ns, manager);
            self.matchers[manager].apply_plan(update)?;
            self.match_waiting(now_ns, manager);
            if self.config.check {
                self.matchers[manager].check()?;
            }
        }
        Ok(())
    }

    /// Lets those go whose session has ended. Nobody waits with an offer: all are answered at once.
    fn expire(&mut self, now_ns: u64, manager: usize) {
        let (gone, _) = self.matchers[manager].expire(now_ns);
        for device in gone {
            self.visits.remove(Visits::place_of(device));
        }
    }

    fn tell_planner(&mut self) -> Result<()> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        for job in changed.drain(..) {
            let book = &self.jobs[job as usize];
            if book.is_active() {
                let key = book.key(self.first_job + Job::from(job));
                let (demand, allocated) = (book.spec().participants, book.allocated());
                self.planner.open_round(key, demand, allocated, book.opened_ns())?;
                self.planner.set_history(key.job, book.history())?;
            }
        }
        self.changed = changed;
        Ok(())
    }

    fn bring_supply(&mut self, now_ns: u64) -> Result<()> {
        for manager in 0..self.matchers.len() {
            self.expire(now_ns, manager);
            let number = Manager::try_from(manager).expect("at most 1000 managers");
            for bucket in self.matchers[manager].take_supply(now_ns) {
                self.planner.add_supply(
                    number,
                    bucket.start_ns,
                    bucket.distinct_devices,
                    &bucket.specs,
                    &bucket.options,
                )?;
            }
        }
        self.plan_wanted = true;
        Ok(())
    }
}

fn update_for(plan: &Plan, manager: Manager, seq: u64) -> Result<PlanUpdate> {
    let mut quotas = plan.quotas(manager)?.into_iter();
    let groups = plan.groups.iter().map(|group| PlanGroup {
        requirement_id: group.requirement_id,
        vector: group.vector.clone(),
        rounds: group
            .rounds
            .iter()
            .zip(&mut quotas)
            .map(|(round, quota)| PlanRound {
                key: round.key,
                rank: round.rank,
                quota,
                tier: round.tier,
                part: round.part,
            })
            .collect(),
    });
    Ok(PlanUpdate {
        version: plan.version,
        seq,
        ranked: plan.ranked,
        groups: groups.collect(),
        preferences: plan.preferences.clone(),
        fallback: plan.fallback.clone(),
        shuffle: plan.shuffle,
        partitions: plan.partitions,
    })
}

/// The place in the list of the job of this round.
fn job_of(key: RoundKey, first_job: Job) -> u32 {
    u32::try_from(key.job - first_job).expect("jobs are numbered by u32")
}

fn unit(random: &mut SplitMix64) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}
