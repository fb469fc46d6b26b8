//! Speed classes: for each requirement the observed speeds of those who meet it, divided into
//! classes of equal count.
//!
//! Made from a sample of the window, and not for every plan: when a twentieth of the window has
//! passed, when the sample has doubled, or when the requirements changed.

use super::signatures::Signatures;

/// How many speeds are looked at in all.
const LOOKED_AT_MAX: usize = 4_096;

/// A requirement has classes if so many times their number of devices were looked at.
const DEVICES_A_CLASS_MIN: u64 = 5;

/// An observed device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    pub(super) option: f64,
    pub(super) signature: u32,
    pub(super) weight: u64,
}

#[derive(Debug)]
pub(super) struct Speeds {
    classes: usize,
    keep_ns: u64,
    /// When they were divided, and how many samples the window had; None: never.
    divided: Option<(u64, usize)>,
    /// By place of the requirement; empty for too few devices.
    bounds: Vec<Vec<f64>>,
}

/// While dividing: how much was seen of a requirement's devices, and of how much.
#[derive(Clone, Copy, Default)]
struct Progress {
    total: u64,
    devices: u64,
    seen: u64,
}

impl Speeds {
    pub(super) fn new(classes: usize, keep_ns: u64) -> Self {
        Self { classes, keep_ns, divided: None, bounds: Vec::new() }
    }

    pub(super) fn forget(&mut self) {
        self.divided = None;
        self.bounds.clear();
    }

    /// Whether [`Self::divide`] has to be called; `samples` are in the window now.
    pub(super) fn are_due(&self, now_ns: u64, samples: usize) -> bool {
        self.divided.is_none_or(|(at_ns, had)| {
            now_ns >= at_ns.saturating_add(self.keep_ns) || samples >= 2 * had.max(1)
        })
    }

    /// The lower bounds of the classes, slowest first.
    pub(super) fn classes_of(&self, bit: usize) -> &[f64] {
        self.bounds.get(bit).map_or(&[], Vec::as_slice)
    }

    /// Divides these devices, `count` of them, into classes.
    pub(super) fn divide(
        &mut self,
        now_ns: u64,
        samples: usize,
        count: usize,
        observed: impl Iterator<Item = Speed>,
        signatures: &Signatures,
    ) {
        self.divided = Some((now_ns, samples));
        let every = count.div_ceil(LOOKED_AT_MAX).max(1);
        let mut sorted: Vec<Speed> = observed.step_by(every).collect();
        sorted.sort_by(|a, b| a.option.total_cmp(&b.option));
        let mut progress = vec![Progress::default(); signatures.bits()];
        for speed in &sorted {
            for bit in signatures.met(speed.signature).iter() {
                progress[bit].total += speed.weight;
                progress[bit].devices += 1;
            }
        }
        self.bounds.clear();
        self.bounds.resize(signatures.bits(), Vec::new());
        for speed in &sorted {
            for bit in signatures.met(speed.signature).iter() {
                self.see(bit, *speed, &mut progress[bit]);
            }
        }
    }

    /// A class begins with the device before which its share of all was seen; the first with the
    /// device that a fifth of a class is slower than, as the slowest speed that counts: a single
    /// device that is very slow says nothing about a round.
    fn see(&mut self, bit: usize, speed: Speed, progress: &mut Progress) {
        let (bounds, classes) = (&mut self.bounds[bit], self.classes as u64);
        if progress.devices >= DEVICES_A_CLASS_MIN * classes {
            let is_reached = |next: u64, seen: u64| match next {
                0 => u128::from(seen) * 5 * u128::from(classes) >= u128::from(progress.total),
                _ => {
                    u128::from(seen) * u128::from(classes)
                        >= u128::from(progress.total) * u128::from(next)
                }
            };
            while (bounds.len() as u64) < classes && is_reached(bounds.len() as u64, progress.seen)
            {
                bounds.push(speed.option);
            }
        }
        progress.seen += speed.weight;
    }
}
