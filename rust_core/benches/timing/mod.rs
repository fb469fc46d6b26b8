//! How the benchmarks time a call.

use std::time::Instant;

/// The best and the median time of a call, over `calls` calls timed in up to 200 stretches. The
/// best is what the code costs when nothing else runs on the machine.
pub(crate) fn times_ns(calls: u32, mut call: impl FnMut(u32)) -> (u128, u128) {
    let stretch = (calls / 200).max(1);
    let mut times = Vec::new();
    for first in (0..calls).step_by(stretch as usize) {
        let start = Instant::now();
        (first..first + stretch).for_each(&mut call);
        times.push(start.elapsed().as_nanos() / u128::from(stretch));
    }
    times.sort_unstable();
    (times[0], times[times.len() / 2])
}
