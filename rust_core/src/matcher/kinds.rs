//! Kinds of clients: specs that a caller names by number, because its clients have the same few.
//!
//! A kind's spec is checked once, and its profiles (one for each speed class) are looked up once as
//! long as profiles mean what they do. Kinds are never forgotten, so they are for callers who know
//! their clients, as the simulator does, not for specs that strangers choose.

/// A spec that was given to [`super::Matcher::add_kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u32);

const UNKNOWN: u32 = u32::MAX;

#[derive(Debug)]
struct Known {
    spec: Box<[f64]>,
    /// By speed class.
    profiles: Vec<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Kinds {
    known: Vec<Known>,
    /// How often the profiles had been reset when these were looked up.
    resets: u64,
}

impl Kinds {
    pub(super) fn add(&mut self, spec: &[f64]) -> Kind {
        self.known.push(Known { spec: spec.into(), profiles: Vec::new() });
        Kind(u32::try_from(self.known.len() - 1).expect("a caller has fewer than 2^32 kinds"))
    }

    pub(super) fn spec(&self, kind: Kind) -> &[f64] {
        &self.known[kind.0 as usize].spec
    }

    /// Takes the spec out, for [`Self::put_back`].
    pub(super) fn take_spec(&mut self, kind: Kind) -> Box<[f64]> {
        std::mem::take(&mut self.known[kind.0 as usize].spec)
    }

    pub(super) fn put_back(&mut self, kind: Kind, spec: Box<[f64]>) {
        self.known[kind.0 as usize].spec = spec;
    }

    /// The profile of such clients in a plan without parts, if it is known.
    pub(super) fn profile(&self, kind: Kind, class: u32, resets: u64) -> Option<u32> {
        let profile = *self.known[kind.0 as usize].profiles.get(class as usize)?;
        (resets == self.resets && profile != UNKNOWN).then_some(profile)
    }

    pub(super) fn learn(&mut self, kind: Kind, class: u32, resets: u64, profile: u32) {
        if resets != self.resets {
            self.known.iter_mut().for_each(|known| known.profiles.clear());
            self.resets = resets;
        }
        let profiles = &mut self.known[kind.0 as usize].profiles;
        if profiles.len() <= class as usize {
            profiles.resize(class as usize + 1, UNKNOWN);
        }
        profiles[class as usize] = profile;
    }
}
