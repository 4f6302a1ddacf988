//! The one door to the clocks: wall time for stamps that people read, boot time for leases that a clock jump must not move.

use std::time::Duration;
use types::Timestamp;

/// Wall-clock time now. Never used to decide that something is over: the operator may set this clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since_epoch.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Time since boot, suspension included (`CLOCK_BOOTTIME`): comparable between processes of one machine, unmoved by clock
/// jumps, and gone on when a suspended machine wakes up, so that a lease cannot outlive a sleep.
pub fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_does_not_go_back() {
        let before = boot_time();
        assert!(boot_time() >= before);
        assert!(before > Duration::ZERO);
    }
}
