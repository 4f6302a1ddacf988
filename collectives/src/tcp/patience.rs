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
    /// For this many ranks on the machine, this one included, and the processors that they have between them.
    pub(super) fn of(local_ranks: usize, processors: usize) -> Self {
        if local_ranks <= processors { Patience::Spin(Duration::from_micros(50)) } else { Patience::Yield(3) }
    }

    /// False when it is time to sleep. Spinning does not give the processor away: under load it would be gone for a
    /// whole time slice, where a sleeper is put back at once.
    pub(super) fn hold_out(self, rounds: u32, since: Instant) -> bool {
        match self {
            Patience::Spin(time) => {
                std::hint::spin_loop();
                since.elapsed() < time
            }
            Patience::Yield(times) => {
                std::thread::yield_now();
                rounds < times
            }
        }
    }
}
