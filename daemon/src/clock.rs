//! The one door to the clocks: wall time for stamps that people read, boot time for leases that a clock jump must not move.

use std::sync::OnceLock;
use std::time::Duration;
use types::Timestamp;

/// The wall clock and the boot clock at the first look of this process.
static FIRST: OnceLock<(Timestamp, Duration)> = OnceLock::new();

/// What a simulation reads in place of both clocks.
static VIRTUAL: OnceLock<Virtual> = OnceLock::new();

struct Virtual {
    boot: fn() -> Duration,
    wall: fn() -> Timestamp,
}

/// For a process that is a simulation: from now on time is what these say. The first call counts, before anything looks at the
/// time.
pub fn simulate(boot: fn() -> Duration, wall: fn() -> Timestamp) {
    VIRTUAL.get_or_init(|| Virtual { boot, wall });
}

/// Wall-clock time now: the wall clock is read once in a process's life, and from then on boot time is added. So an operator
/// who sets the clock, or a time service that corrects it in one step, moves nothing that a daemon decides by (time
/// limits, back-off) under its feet; its stamps follow the new time after its next start.
pub fn now() -> Timestamp {
    if let Some(clocks) = VIRTUAL.get() {
        return (clocks.wall)();
    }
    let (wall, boot) = *FIRST.get_or_init(|| (wall_time(), boot_time()));
    let since = boot_time().saturating_sub(boot);
    Timestamp(wall.0.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

#[allow(clippy::disallowed_methods)]
fn wall_time() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since_epoch.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Time since boot, suspension included (`CLOCK_BOOTTIME`): comparable between processes of one machine, unmoved by clock
/// jumps, and gone on when a suspended machine wakes up, so that a lease cannot outlive a sleep.
pub fn boot_time() -> Duration {
    if let Some(clocks) = VIRTUAL.get() {
        return (clocks.boot)();
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// `2026-03-01 14:05:09Z`, in UTC.
pub fn text(at: Timestamp) -> String {
    let seconds = at.0 / 1_000;
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// Days since 1970 to a calendar date: year, month, day (H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
pub fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_the_wall_clock_and_does_not_go_back() {
        let first = now();
        assert!(now() >= first);
        assert!(wall_time().0.abs_diff(now().0) < 60_000);
    }

    #[test]
    fn boot_time_does_not_go_back() {
        let before = boot_time();
        assert!(boot_time() >= before);
        assert!(before > Duration::ZERO);
    }
}
