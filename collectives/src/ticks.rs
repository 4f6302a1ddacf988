//! Times for the flight recorder, read twice in each operation: the processor's own counter where the kernel trusts it too,
//! at a third of the price of asking the kernel's clock.

use rustix::time::{ClockId, clock_gettime};

/// What turns counts into nanoseconds of the monotonic clock.
#[derive(Debug)]
pub(crate) struct Ticks {
    /// Count and time at the start; none where counts are nanoseconds.
    origin: Option<(u64, u64)>,
}

impl Ticks {
    pub(crate) fn new() -> Self {
        // The kernel takes it for its own clock only where it runs at one pace, in step on all processors.
        let source = std::fs::read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        let trusted = cfg!(target_arch = "x86_64") && source.is_ok_and(|name| name.trim_ascii() == b"tsc");
        Ticks { origin: trusted.then(|| (counter(), monotonic_ns())) }
    }

    /// The count now. Never 0.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        if self.origin.is_some() { counter() } else { monotonic_ns() }
    }

    /// The times of these counts, by the pace from the start until now: nanoseconds of the kernel's monotonic clock.
    pub(crate) fn to_ns(&self) -> impl Fn(u64) -> u64 + use<> {
        let pace = self.origin.map(|(count, ns)| {
            let (counts, spent) = (counter().saturating_sub(count), monotonic_ns().saturating_sub(ns));
            (count, ns, u128::from(counts.max(1)), u128::from(spent))
        });
        move |count| match pace {
            None => count,
            Some((start, ns, counts, spent)) => {
                let since = u128::from(count.saturating_sub(start)) * spent / counts;
                ns.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn counter() -> u64 {
    // SAFETY: reads a counter that every processor of this kind has.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    monotonic_ns()
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Since the machine was started: neither is negative, and both fit for centuries.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_become_times_between_those_of_the_clock() {
        for ticks in [Ticks::new(), Ticks { origin: None }] {
            let before = monotonic_ns();
            let count = ticks.now();
            let after = monotonic_ns();
            // Time goes on until the pace is known to the millionth.
            while monotonic_ns() - before < 20_000_000 {
                std::hint::spin_loop();
            }
            let time = ticks.to_ns()(count);
            assert!(time + 50_000 >= before && time <= after + 50_000, "{before} {time} {after}");
        }
    }
}
