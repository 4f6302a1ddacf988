//! When to keep trying and when to sleep, by how many ranks share the machine.

use std::time::{Duration, Instant};

/// How a rank waits before it sleeps in the kernel. Waking up costs some 20 us, a spinning round trip 5 us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As many ranks on this machine as processors, or fewer: keep trying for a while.
    Spin(Duration),
    /// More ranks than processors: whoever spins keeps the processor from the rank it waits for.
    Yield(u32),
}

impl Patience {
    /// For this many ranks on the machine, this one included.
    pub(super) fn of(local_ranks: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if local_ranks <= processors { Patience::Spin(Duration::from_micros(50)) } else { Patience::Yield(3) }
    }

    /// Gives the processor to others once; false when it is time to sleep.
    pub(super) fn hold_out(self, rounds: u32, since: Instant) -> bool {
        let again = match self {
            Patience::Spin(time) => since.elapsed() < time,
            Patience::Yield(times) => rounds < times,
        };
        if again {
            std::thread::yield_now();
        }
        again
    }
}
