//! The supervisor of one rank: a small process without threads that outlives the daemon, so that a daemon can crash or be
//! upgraded without ending the training.
//!
//! ```text
//!  daemon --spec.json, listening socket--> nursery --fork--> supervisor --fork, exec--> rank and its descendants
//!    SIGTERM = stop (grace), SIGUSR1 = kill            |  pipes: stdout, stderr, metrics -> spool files
//!    lease file, read by itself -----------------------+  exit.json when no descendant is left
//! ```
//!
//! Promises: `LEASE-1` at the lease's end everything below it is killed, whatever the daemon does; no descendant outlives
//! the rank (it is their subreaper, and has a control group where the machine permits); output bytes are kept in order
//! and never dropped while there is room; `exit.json` is there, whole, before it ends.

mod child;
mod metrics;
pub mod nursery;
mod record;
mod run;
mod signals;
pub(crate) mod spec;
mod spool;

pub(crate) use signals::{KILL, STOP};

use crate::layout::rank;
use crate::process::Identity;
use spec::{ShimRecord, ShimSpec};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// A line into the supervisor's own log. `eprintln!` would panic where that log's disk is full, and the rank's end with it.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn supervise(path: &Path) -> io::Result<()> {
    close_inherited();
    let Some((lock, spec)) = take_spec(path)? else {
        say(format_args!("rank supervisor: called off before it began"));
        return Ok(());
    };
    // Fails only for a group leader, which then has a session already.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    let record = ShimRecord { process: Identity::own()? };
    spec::write_record(&spec.rank_folder.join(rank::SHIM), &record)?;
    run::run(&spec)?;
    drop(lock);
    Ok(())
}

/// Nothing of the daemon's reaches a rank but what is meant for it.
fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above the standard ones yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Locks the specification as long as this process lives: the sign of life that a restarted daemon looks for. None when
/// such a daemon was here first and called the start off.
fn take_spec(path: &Path) -> io::Result<Option<(File, ShimSpec)>> {
    let file = File::open(path)?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    if rustix::fs::fstat(&file)?.st_nlink == 0 {
        return Ok(None);
    }
    let spec = serde_json::from_reader(io::BufReader::new(&file))?;
    Ok(Some((file, spec)))
}

/// The daemon's look at a rank's folder: true when a supervisor lives there. When none does, its specification is
/// removed under the same lock, so that one that was spawned but had not begun never will.
pub(crate) fn lives_or_call_off(rank_folder: &Path) -> bool {
    let path = rank_folder.join(rank::SPEC);
    let Ok(file) = File::open(&path) else { return false };
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return true;
    }
    // Its control groups are still to be looked after. A copy: a second link would keep the specification valid.
    let _ = std::fs::copy(&path, rank_folder.join(rank::SPEC_OFF));
    let _ = std::fs::remove_file(&path);
    false
}
