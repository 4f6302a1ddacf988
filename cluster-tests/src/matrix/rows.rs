//! The rows of the matrix: what is done, what its figure says, and for rows that this program does not run where they are run.

use super::strikes::Strike;

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Its number in `docs/reliability.md`.
    pub(super) number: u8,
    /// What happens.
    pub(super) fault: &'static str,
    /// Who runs it.
    pub(super) run: Run,
}

/// Who runs a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Run {
    /// This program.
    Here(Strike),
    /// Another one: which.
    Elsewhere(&'static str),
}

const fn here(number: u8, fault: &'static str, strike: Strike) -> Row {
    Row { number, fault, run: Run::Here(strike) }
}

const fn elsewhere(number: u8, fault: &'static str, by: &'static str) -> Row {
    Row { number, fault, run: Run::Elsewhere(by) }
}

/// All of them.
pub(super) const ROWS: [Row; 31] = [
    elsewhere(1, "control plane simulated from seeds", "sim"),
    elsewhere(2, "scheduler and tables under random commands", "cargo test -p scheduler -p cluster-state"),
    here(3, "kill -9 of a coordinator, half of them the leader", Strike::KillCoordinator),
    here(4, "kill -9 of a worker's daemon", Strike::KillDaemon),
    here(5, "a worker's machine lost: all its processes killed, or its network cut", Strike::LoseHost),
    here(6, "kill -9 of a rank", Strike::KillRank),
    here(7, "SIGSTOP of leader, follower, daemon or supervisor", Strike::Pause),
    here(8, "coordinators cut off from each other, a worker from all of them", Strike::Split),
    here(9, "links cut one way, or between two of three", Strike::HalfSplit),
    here(10, "links slow, narrow and lossy", Strike::SlowLink),
    here(11, "connections reset, half open", Strike::Reset),
    elsewhere(12, "wall clock jumps on one node", "cargo test -p cluster-tests --test cluster clock_that_jumps"),
    elsewhere(13, "power cut", "cargo test -p coordinator --test power_cut, -p stores --test power_cut"),
    here(14, "a stopped coordinator's files damaged", Strike::Damage),
    here(15, "fsync fails once with EIO", Strike::FlushFault),
    here(16, "a coordinator's disk is full", Strike::FullDisk),
    here(17, "flushes of a coordinator slow or standing still", Strike::SlowFlush),
    here(18, "too little processor time, descriptors, threads", Strike::Starve),
    elsewhere(
        19,
        "members added, removed and replaced",
        "cargo test -p cluster-tests --test cluster members (not under faults)",
    ),
    elsewhere(20, "rolling upgrade and downgrade", "cargo test -p cluster-tests --test cluster upgrade (one upgrade)"),
    elsewhere(21, "backup, restore, loss of quorum", "cargo test -p cluster-tests --test cluster backup"),
    here(22, "calls doubled, late, out of order; a storm of retries", Strike::Repeat),
    here(23, "killed at a durable step, or standing still in it", Strike::Moment),
    elsewhere(24, "malformed input, fuzzed", "cargo xtask fuzz"),
    here(25, "ten times as many clients as at the peak, and 1,000 watchers", Strike::Crush),
    here(26, "faults of rows 3 to 7 mixed, one after the other", Strike::Mixed),
    here(27, "cancel at every moment of a job's life", Strike::Cancel),
    here(28, "daemon and supervisors killed together, ranks that leave orphans", Strike::Orphan),
    elsewhere(29, "training goes on over lost ranks", "cargo xtask bench faults"),
    here(30, "a coordinator that only a snapshot brings back, under load", Strike::Behind),
    here(31, "all coordinators killed at once, or restarted one by one", Strike::RestartAll),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbered_as_they_stand() {
        assert!(ROWS.iter().zip(1..).all(|(row, number)| row.number == number));
    }
}
