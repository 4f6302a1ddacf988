//! The supervisor of one rank: a small process without threads that outlives the daemon, so that a daemon can crash or be
//! upgraded without ending the training.
//!
//! ```text
//!  daemon ----record, listening socket---> nursery --fork--> supervisor --fork, exec--> rank and its descendants
//!    SIGTERM = stop (grace), SIGUSR1 = kill            |  pipes: stdout, stderr, metrics -> spool files
//!    lease file, read by itself -----------------------+  its end into the record when no descendant is left
//! ```
//!
//! Promises: `LEASE-1` at the lease's end everything below it is killed, whatever the daemon does; no descendant outlives
//! the rank (it is their subreaper, and has a control group where the machine permits); output bytes are kept in order
//! and never dropped while there is room; the rank's end is recorded, whole, before it ends.

pub(crate) mod calls;
mod child;
mod confine;
mod events;
pub(crate) mod limits;
mod metrics;
pub(crate) mod namespace;
mod notices;
pub mod nursery;
mod otlp;
pub(crate) mod places;
mod protobuf;
pub(crate) mod record;
mod redact;
mod rendezvous;
mod run;
mod secret_files;
mod signals;
pub(crate) mod silence;
pub(crate) mod spec;
mod spool;
mod threads;
mod words;

/// What fuzzers feed.
pub(crate) mod fuzzed {
    pub use super::events::{event_file, event_files};
    pub use super::metrics::{metric_texts, metrics};
}

pub(crate) use confine::hide_memory;
pub(crate) use signals::{KILL, STOP};

use crate::process::Identity;
use crate::secrets::Secrets;
use record::Record;
use spec::ShimRecord;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;

/// Whose supervisor this process is: `JOB-ATTEMPT-NODERANK/rank-RANK`.
static OF: OnceLock<String> = OnceLock::new();

/// A line into the supervisors' log. `eprintln!` would panic where that log's disk is full, and the rank's end with it.
fn say(line: std::fmt::Arguments<'_>) {
    let of = OF.get().map_or("nursery", String::as_str);
    let _ = io::stderr().write_all(format!("{of}: {line}\n").as_bytes());
}

fn supervise(path: &Path, secrets: &Secrets) -> io::Result<()> {
    close_inherited();
    let rank = path.with_extension("");
    let of = rank.parent().and_then(Path::parent).and_then(|members| rank.strip_prefix(members).ok());
    let _ = OF.set(of.unwrap_or(path).display().to_string());
    let Some((mut record, spec)) = Record::take(path)? else {
        say(format_args!("called off before it began"));
        return Ok(());
    };
    // Fails only for a group leader, which then has a session already.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    record.begin(&ShimRecord { process: Identity::own()? })?;
    let end = run::run(&spec, secrets)?;
    record.end(&end)
}

/// Nothing of the daemon's reaches a rank but what is meant for it.
fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above the standard ones yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}
