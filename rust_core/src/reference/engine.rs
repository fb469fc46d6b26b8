//! The event loop of the reference.

use super::baselines::Demands;
use super::job::{JobState, Wish};
use super::waiting::{Visit, Waiting};
use super::{PERIOD_S, ReferenceConfig, Rules};
use crate::random::SplitMix64;
use crate::simulator::{
    EventHeap, RunResult, Session, SimulatedJob, SimulationError, Tally, Trace, Watch, to_ns,
};

/// Sessions are lengthened by so much.
const LENGTHENED_S: f64 = 80.0;
/// From the opening of a round until the policy hears of it.
const GAP_S: f64 = 0.1;
/// The delay between an offer and the start of its task is drawn below this.
const DISPATCH_S: f64 = 2.0;
/// The caller hears of the progress, and may stop the run, once in so many events.
const PROGRESS_EVENTS: u64 = 1 << 17;

/// A client as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) classes: u16,
    /// Relative to the mean device: how slow it is.
    pub(super) slowness: f64,
    /// Relative to the mean device: its bandwidth.
    pub(super) bandwidth: f64,
}

/// A policy of the reference. Jobs are numbered from 0.
pub(super) trait Scheduler {
    /// A client checked in, with or without finding anything.
    fn count(&mut self, _now_s: f64, _classes: u16) {}
    /// The job whose task the client takes; `fits` says whether a job's task fits its session.
    fn offer(&mut self, client: &Client, fits: impl Fn(u32) -> bool) -> Option<u32>;
    /// A job wants this many devices.
    fn request(&mut self, job: u32, amount: u32, now_s: f64);
    /// What the jobs want.
    fn demands(&mut self) -> &mut Demands;
    /// A device of the job's demand was found.
    fn taken(&mut self, job: u32) {
        self.demands().add(job, -1);
    }
    /// The device left again.
    fn give_back(&mut self, job: u32) {
        self.demands().add(job, 1);
    }
    /// The job's round ended, and perhaps the job.
    fn round_over(&mut self, job: u32, is_done: bool) {
        if is_done {
            self.demands().clear(job);
        }
    }
    /// Whether the job's request is open to a tier of the devices only.
    fn is_tiered(&self, _job: u32) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Request {
        job: u32,
        amount: u32,
    },
    /// A task starts, of this attempt where the rule is ours, and else of the attempt of then.
    Assign {
        job: u32,
        attempt: u32,
        visit: Visit,
    },
    Finish {
        job: u32,
        attempt: u32,
        visit: Visit,
    },
    /// A device left before its task was done.
    Lost {
        job: u32,
        attempt: u32,
    },
    Close {
        job: u32,
    },
}

pub(super) struct Engine<'a, S> {
    trace: &'a Trace,
    rules: Rules,
    repeat: u32,
    jobs: Vec<JobState>,
    unfinished: usize,
    scheduler: S,
    heap: EventHeap<Event>,
    random: SplitMix64,
    waiting: Waiting,
    /// Something may have become open for those who wait.
    changed: bool,
    wishes: Vec<Wish>,
    tally: Tally,
    rounds: u64,
    watch: Watch,
    /// The policy's name and the seed.
    which: (&'a str, u64),
}

impl<'a, S: Scheduler> Engine<'a, S> {
    pub(super) fn new(
        trace: &'a Trace,
        jobs: &[SimulatedJob],
        config: &'a ReferenceConfig,
        scheduler: S,
    ) -> Self {
        let mut engine = Self {
            trace,
            rules: config.rules,
            repeat: config.repeat,
            jobs: jobs.iter().map(|job| JobState::new(job, config.rules)).collect(),
            unfinished: jobs.len(),
            scheduler,
            heap: EventHeap::new(),
            random: SplitMix64::new(crate::random::draw(config.seed, 0x7665_6e6e, 0)),
            waiting: Waiting::default(),
            changed: false,
            wishes: Vec::new(),
            tally: Tally::default(),
            rounds: 0,
            watch: Watch::new(jobs, config.stalled_s),
            which: (&config.policy, config.seed),
        };
        for job in 0..u32::try_from(jobs.len()).expect("fewer than 2^32 jobs") {
            let start_s = engine.jobs[job as usize].spec().start_s;
            engine.jobs[job as usize].open(start_s, &mut engine.wishes);
            engine.grant_wishes(start_s, job);
        }
        engine
    }

    /// Fails if `progress` asks to stop, or if nothing succeeds any more.
    pub(super) fn run(
        mut self,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<RunResult, SimulationError> {
        let rows = self.trace.len();
        let (mut row, mut played) = (0, 0);
        let mut now_s = 0.0;
        let end_s = f64::from(self.repeat) * PERIOD_S;
        while self.unfinished > 0 {
            let offset_s = f64::from(played) * PERIOD_S;
            let check_in_s = if played < self.repeat {
                self.trace.start_s(row) + offset_s
            } else {
                f64::INFINITY
            };
            let event_s = self.heap.next_at().map_or(f64::INFINITY, f64::from_bits);
            now_s = check_in_s.min(event_s);
            if now_s > end_s {
                break;
            }
            if check_in_s <= event_s {
                self.start_session(now_s, row, offset_s);
                row += 1;
                if row == rows || self.trace.start_s(row) > PERIOD_S {
                    (row, played) = (0, played + 1);
                }
            } else if let Some((_, event)) = self.heap.pop() {
                self.handle(now_s, event);
            }
            if self.changed && self.rules.wait {
                self.offer_to_waiting(now_s);
            }
            self.tally.events += 1;
            if self.tally.events % PROGRESS_EVENTS == 0 && !progress(self.rounds) {
                return Err(SimulationError::Stopped);
            }
            let at_ns = to_ns(now_s);
            if self.watch.is_stalled(at_ns, self.rounds, self.unfinished) {
                let jobs = self.jobs.iter().map(|job| &job.result);
                return Err(self.watch.error(self.which, at_ns, jobs));
            }
        }
        self.tally.running = self.tally.dispatched - self.tally.completed - self.tally.failed;
        let jobs = self.jobs.into_iter().map(|job| job.result).collect();
        let repeats = (played + u32::from(row > 0)).min(self.repeat);
        Ok(RunResult { jobs, tally: self.tally, end_s: now_s.min(end_s), repeats, record: None })
    }

    fn start_session(&mut self, now_s: f64, row: usize, offset_s: f64) {
        let session = self.trace.session(row);
        let longer_s = if self.rules.exact_sessions { 0.0 } else { LENGTHENED_S };
        let end_s = session.end_s + offset_s + longer_s;
        let row = u32::try_from(row).expect("a trace has fewer than 2^32 rows");
        self.check_in(now_s, &session, Visit { row, end_s });
    }

    fn check_in(&mut self, now_s: f64, session: &Session, visit: Visit) {
        self.tally.checkins += 1;
        self.scheduler.count(now_s, session.classes);
        if !self.offer(now_s, session, visit) && self.rules.wait {
            self.waiting.add(session.classes, visit);
        }
    }

    /// True: the client took a task.
    fn offer(&mut self, now_s: f64, session: &Session, visit: Visit) -> bool {
        let client = Client {
            classes: session.classes,
            slowness: session.slowness(),
            bandwidth: session.bandwidth(),
        };
        let start_s = now_s + DISPATCH_S * unit(&mut self.random);
        let (jobs, any) = (&self.jobs, self.rules.exact_sessions);
        let fits = |job: u32| {
            let spec = jobs[job as usize].spec();
            any || start_s + spec.workload + 2.0 * spec.communication <= visit.end_s
        };
        let Some(job) = self.scheduler.offer(&client, fits) else {
            return false;
        };
        self.tally.offers += 1;
        if self.rules.count_at_offer {
            self.taken(job);
        }
        let attempt = self.jobs[job as usize].attempt();
        self.push(start_s, Event::Assign { job, attempt, visit });
        true
    }

    fn offer_to_waiting(&mut self, now_s: f64) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.offer(now_s, |_, visit| {
            let session = self.trace.session(visit.row as usize);
            self.offer(now_s, &session, visit)
        });
        self.waiting = waiting;
        self.changed = false;
    }

    fn handle(&mut self, now_s: f64, event: Event) {
        match event {
            Event::Request { job, amount } => {
                if !self.jobs[job as usize].is_done() {
                    self.scheduler.request(job, amount, now_s);
                    self.changed = true;
                    let tiered = self.scheduler.is_tiered(job);
                    self.jobs[job as usize].result.rounds_tiered += u32::from(tiered);
                }
            }
            Event::Assign { job, attempt, visit } => self.assign(now_s, job, attempt, visit),
            Event::Finish { job, attempt, visit } => self.finish(now_s, job, attempt, visit),
            Event::Lost { job, attempt } => {
                let state = &mut self.jobs[job as usize];
                if attempt == state.attempt() && !state.is_done() {
                    state.lose();
                    self.scheduler.give_back(job);
                    self.changed = true;
                }
            }
            Event::Close { job } => self.close(now_s, job),
        }
    }

    fn taken(&mut self, job: u32) {
        self.scheduler.taken(job);
        self.changed = true;
    }

    fn assign(&mut self, now_s: f64, job: u32, offered_in: u32, visit: Visit) {
        let session = self.trace.session(visit.row as usize);
        let state = &mut self.jobs[job as usize];
        let attempt = if self.rules.count_at_offer { offered_in } else { state.attempt() };
        self.tally.dispatched += 1;
        let requirement = state.spec().requirement;
        self.tally.ineligible += u64::from(session.classes >> requirement & 1 == 0);
        let end_s = now_s + session.task_s(state.spec().workload, state.spec().communication);
        if attempt == state.attempt() && !state.is_done() {
            state.dispatch(now_s, &mut self.tally, &mut self.wishes);
        }
        if !self.rules.count_at_offer {
            self.taken(job);
        }
        self.grant_wishes(now_s, job);
        if end_s <= visit.end_s {
            self.push(end_s, Event::Finish { job, attempt, visit });
        } else {
            self.tally.failed += 1;
            if self.rules.refill {
                self.push(visit.end_s.max(now_s), Event::Lost { job, attempt });
            }
        }
    }

    fn finish(&mut self, now_s: f64, job: u32, attempt: u32, visit: Visit) {
        self.tally.completed += 1;
        self.jobs[job as usize].receive(now_s, attempt, &mut self.tally, &mut self.wishes);
        self.grant_wishes(now_s, job);
        if self.rules.come_back && visit.end_s > now_s {
            let session = self.trace.session(visit.row as usize);
            self.check_in(now_s, &session, visit);
        }
    }

    fn close(&mut self, now_s: f64, job: u32) {
        let state = &mut self.jobs[job as usize];
        let before = state.result.rounds;
        if !state.close(now_s, &mut self.tally, &mut self.wishes) {
            return;
        }
        self.rounds += u64::from(state.result.rounds - before);
        let is_done = state.is_done();
        self.unfinished -= usize::from(is_done);
        self.scheduler.round_over(job, is_done);
        self.changed = true;
        self.grant_wishes(now_s, job);
    }

    fn grant_wishes(&mut self, now_s: f64, job: u32) {
        for wish in std::mem::take(&mut self.wishes) {
            match wish {
                Wish::Request { amount, after_gap } => {
                    let gap_s = if after_gap && !self.rules.no_gap { GAP_S } else { 0.0 };
                    self.push(now_s + gap_s, Event::Request { job, amount });
                }
                Wish::Close { at_s } => self.push(at_s, Event::Close { job }),
            }
        }
    }

    fn push(&mut self, at_s: f64, event: Event) {
        // The bits of numbers that are not negative are in the order of the numbers.
        self.heap.push(at_s.to_bits(), event);
    }
}

/// A number from 0 to 1, 1 excluded.
pub(super) fn unit(random: &mut SplitMix64) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}
