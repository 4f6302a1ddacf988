//! A supervisor's life after its start: one loop over signals, deadlines and pipes until no descendant is left.

mod events;
mod hang;
mod network;
mod otlp;
mod pipes;
mod times;

use super::child::{self, Descriptors, Program};
use super::events::Events;
use super::limits;
use super::metrics::Metrics;
use super::otlp::Otlp;
use super::redact::Patterns;
use super::rendezvous;
use super::signals::{Received, Signals, Timer};
use super::silence::Silence;
use super::spec::{ExitRecord, LaunchFault, ShimSpec, StoppedBy};
use super::spool::{BUFFER_BYTES, Stream, Tail};
use super::words::LastWords;
use crate::layout::rank;
use crate::lease::Lease;
use crate::network::Place;
use crate::owner::Owner;
use crate::secrets::Secrets;
use daemon::clock::boot_time;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use stores::spool::{SpoolBudget, SpoolWriter};
use times::Times;
use types::{RankEnd, RankExit, StreamKind, StreamLength, Timestamp};

/// How soon a full spool or a dying tree is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the last bytes of a dead rank wait for room on a full disk.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Runs one rank from start to end.
pub(super) fn run(spec: &ShimSpec, secrets: &Secrets) -> io::Result<ExitRecord> {
    let patterns = Patterns::of(secrets)?;
    let lease = Lease::watch(&spec.lease)?;
    let signals = Signals::new()?;
    let budget = SpoolBudget::of_disk(&spec.rank_folder).map_err(io::Error::other)?;
    let budget = SpoolBudget { bytes_per_stream_max: spec.spool_bytes_max, ..budget };
    let spool = SpoolWriter::open(&spec.rank_folder, budget).map_err(io::Error::other)?;
    let mut streams = Vec::new();
    let mut ends = Vec::new();
    for kind in StreamKind::OF_RANK {
        let (mut stream, end) = match kind {
            // Where the file system has no such pipes, or no room for a name, the descriptor is enough.
            StreamKind::Metrics => {
                Stream::named(kind, &spec.rank_folder.join(rank::METRICS)).or_else(|_| Stream::new(kind))?
            }
            _ => Stream::new(kind)?,
        };
        if let Some(user) = &spec.user {
            // Programs open `/dev/stderr` and the pipe for metrics by their names.
            std::os::unix::fs::fchown(&end, Some(user.uid), Some(user.gid))?;
        }
        if let Some(patterns) = &patterns {
            stream.redact(patterns.clone());
        }
        stream.bytes_max = spec.limits.log_bytes;
        streams.push(stream);
        ends.push(end);
    }
    let owner = spec.user.as_ref().map(Owner::new);
    let events = spec.events.as_ref().map(|files| Events::new(files, spec.rank, owner, patterns.clone()));
    let mut shim = Shim {
        spec,
        secrets,
        lease,
        timer: Timer::new()?,
        signals,
        spool,
        streams,
        buffer: vec![0; BUFFER_BYTES],
        tail: Tail::default(),
        metrics: Metrics::new(spec.rank_folder.join(rank::CHECKPOINT)),
        child: 0,
        exit: None,
        all_gone: false,
        kill_at: None,
        stopped_by: None,
        silence: Silence::new(spec.silence, boot_time()),
        last_words: None,
        hung: None,
        limit_met: None,
        network: spec.network.as_ref().and_then(Place::keeper),
        events,
        otlp: None,
        times: Times::new(boot_time()),
        patterns,
    };
    let launched = shim.launch(ends);
    if shim.child != 0 {
        if launched.is_err() {
            shim.kill_at = Some(Duration::ZERO);
        }
        shim.supervise()?;
    }
    let record = shim.finish(launched.err());
    spec.groups.remove();
    Ok(record)
}

struct Shim<'a> {
    spec: &'a ShimSpec,
    secrets: &'a Secrets,
    lease: Lease,
    timer: Timer,
    signals: Signals,
    spool: SpoolWriter,
    streams: Vec<Stream>,
    buffer: Vec<u8>,
    tail: Tail,
    metrics: Metrics,
    child: i32,
    /// How it ended, and when its end was seen.
    exit: Option<(RankExit, Timestamp)>,
    /// No descendant is left.
    all_gone: bool,
    /// When the grace ends; zero = now.
    kill_at: Option<Duration>,
    stopped_by: Option<StoppedBy>,
    silence: Silence,
    /// What it was found at before it was killed.
    last_words: Option<LastWords>,
    /// Ended because it had said nothing for so long.
    hung: Option<Duration>,
    /// Why it may have failed, in words.
    limit_met: Option<String>,
    /// The process that keeps its network.
    network: Option<OwnedFd>,
    events: Option<Events<'a>>,
    otlp: Option<Otlp>,
    times: Times,
    /// Secrets to be kept out of what it says.
    patterns: Option<Arc<Patterns>>,
}

impl Shim<'_> {
    fn launch(&mut self, ends: Vec<OwnedFd>) -> io::Result<()> {
        if self.lease_is_over() {
            self.stopped_by = Some(StoppedBy::Lease);
            return Err(io::Error::other("the worker's lease is over"));
        }
        let groups = &self.spec.groups;
        for folder in groups.folders() {
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named("make", folder, error)),
                _ => {}
            }
        }
        for (file, value) in &groups.settings {
            std::fs::write(file, value).map_err(|error| named("set", file, error))?;
        }
        let group = groups.unified.as_ref().map(File::open).transpose()?;
        let more = self.listen_for_otlp();
        let program = Program::new(self.spec, &more, self.secrets)?;
        let null = File::open("/dev/null")?;
        let listener = if self.spec.listens { Some(child::copy_stdin()?) } else { None };
        if let (Some(listener), Some(user)) = (&listener, &self.spec.user) {
            // To the kernel a socket is whose it was made: rules for the rank's user would not hold for what it sends from this one.
            std::os::unix::fs::fchown(listener, Some(user.uid), Some(user.gid))?;
        }
        let Ok([stdout, stderr, metrics]) = <[OwnedFd; 3]>::try_from(ends) else {
            return Err(io::Error::other("a stream is missing"));
        };
        let descriptors = Descriptors { stdin: null.into(), stdout, stderr, metrics, listener };
        self.child = child::spawn(&program, descriptors, group.as_ref())?;
        // The rank's alone from here on: when it ends, the port is free.
        child::replace_stdin()
    }

    fn supervise(&mut self) -> io::Result<()> {
        while !self.all_gone {
            self.arm_timer()?;
            self.wait()?;
            let received = self.signals.take();
            self.obey(received);
            self.check_deadlines();
            if received.child || self.exit.is_some() {
                self.reap();
            }
            if !self.all_gone && self.must_kill() {
                self.kill_tree();
            }
            self.take_what_came();
        }
        Ok(())
    }

    /// What a rank leaves running when it ends is killed at once; while it is being stopped, its descendants have the grace
    /// too: a shell may die of the signal while the program below it still saves its work.
    fn must_kill(&self) -> bool {
        let grace_runs = self.kill_at.is_some_and(|kill_at| kill_at > Duration::ZERO);
        self.kill_at == Some(Duration::ZERO) || (self.exit.is_some() && !grace_runs)
    }

    fn arm_timer(&mut self) -> io::Result<()> {
        let lease = self.lease.deadline().unwrap_or(Duration::ZERO);
        let silence = self.silence.deadline().filter(|_| self.kill_at.is_none() && self.exit.is_none());
        let first = self
            .kill_at
            .into_iter()
            .chain(silence)
            .chain(self.events_due())
            .chain(self.times.deadline())
            .fold(lease, Duration::min);
        self.timer.arm(first)
    }

    fn wait(&mut self) -> io::Result<()> {
        let look_again =
            self.exit.is_some() || self.kill_at == Some(Duration::ZERO) || self.streams.iter().any(Stream::is_blocked);
        let timeout = look_again.then(|| Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_AGAIN.subsec_nanos()) });
        // A killed tree is waited for by SIGCHLD and the timeout: its past deadline would only spin.
        let timer = (self.kill_at != Some(Duration::ZERO)).then(|| self.timer.as_fd());
        let pipes = self.streams.iter().filter_map(Stream::waits_for);
        let otlp = self.otlp.as_ref().and_then(Otlp::waits_for);
        let mut fds: Vec<PollFd<'_>> = std::iter::once(self.signals.as_fd())
            .chain(timer)
            .chain(otlp)
            .chain(self.network.as_ref().map(OwnedFd::as_fd))
            .chain(pipes)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn obey(&mut self, received: Received) {
        if received.kill {
            // What one that has ended by itself lacked is known by now.
            match limits::told(&self.spec.rank_folder).filter(|_| self.exit.is_none()) {
                Some(why) => self.limit_met = Some(why),
                None => self.stopped(StoppedBy::Daemon),
            }
            self.kill();
        } else if received.stop && self.kill_at.is_none() {
            self.stop(StoppedBy::Daemon, boot_time() + Duration::from_millis(self.spec.grace_ms));
        }
    }

    fn check_deadlines(&mut self) {
        self.timer.clear();
        if self.kill_at != Some(Duration::ZERO) && self.lease_is_over() {
            super::say(format_args!("the worker's lease is over: the rank is killed"));
            self.stop(StoppedBy::Lease, Duration::ZERO);
        }
        if self.kill_at.is_some_and(|kill_at| kill_at > Duration::ZERO && kill_at <= boot_time()) {
            self.kill();
        }
        if self.kill_at.is_none() && self.exit.is_none() {
            self.mind_network();
            self.mind_silence();
        }
    }

    fn lease_is_over(&self) -> bool {
        self.lease.deadline().is_none_or(|deadline| deadline <= boot_time())
    }

    fn stop(&mut self, by: StoppedBy, kill_at: Duration) {
        self.stopped(by);
        self.kill_at = Some(kill_at);
        if kill_at > Duration::ZERO && self.exit.is_none() {
            // SAFETY: the child is not reaped, so its process group is still its own.
            unsafe { libc::kill(-self.child, libc::SIGTERM) };
        }
    }

    /// A rank that has ended by itself was not stopped.
    fn stopped(&mut self, by: StoppedBy) {
        if self.exit.is_none() && self.stopped_by.is_none() {
            self.stopped_by = Some(by);
        }
    }

    /// Takes the status of every descendant that has ended.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: a plain system call on a local.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                0 => return,
                -1 => {
                    self.all_gone = io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD);
                    return;
                }
                pid if pid == self.child => {
                    let exit = exit_of(status);
                    self.exit = Some((exit, daemon::clock::now()));
                    self.say_what_it_lacked(exit);
                }
                _ => {}
            }
        }
    }

    /// While its descendants are still there to be counted.
    fn say_what_it_lacked(&mut self, exit: RankExit) {
        if self.limit_met.is_some()
            || self.stopped_by.is_some()
            || !matches!(exit, RankExit::Signal(_) | RankExit::Code(1..))
        {
            return;
        }
        self.limit_met = self.spec.limits.reason(exit, self.spec.user.as_ref()).or_else(|| {
            let refused = self.spec.groups.pids_refused();
            (refused > 0)
                .then(|| format!("{refused} processes or threads were refused to it (--pids-max of the worker)"))
        });
    }

    /// One pass; processes that are born meanwhile are met by the next.
    fn kill_tree(&self) {
        self.spec.groups.kill();
        // Descendants may have moved out of the group, if they had the right to.
        crate::process::kill_all(&descendants());
    }

    /// What is left in the pipes, then the record.
    fn finish(&mut self, fault: Option<io::Error>) -> ExitRecord {
        let deadline = boot_time() + DRAIN_MAX;
        while !self.drain() && boot_time() < deadline {
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_AGAIN.subsec_nanos()) };
            let _ = poll(&mut [], Some(&timeout));
        }
        self.mind_otlp();
        self.last_events();
        // Beyond the budget too, if it must be: what is written of them has been read.
        self.drain();
        if let Some(met) = self.limit_met.take() {
            self.insert(StreamKind::Stderr, format!("muster: rank {}: {met}\n", self.spec.rank).as_bytes());
        }
        self.pass_on_last_words();
        self.tell_of_cuts();
        // A folder with anything but files in it is not used again.
        let _ = std::fs::remove_file(self.spec.rank_folder.join(rank::METRICS));
        let exit = match (self.stopped_by, self.exit) {
            (Some(StoppedBy::Lease), _) => RankExit::LeaseOver,
            (Some(StoppedBy::Daemon), _) => RankExit::Stopped,
            (None, Some((exit, _))) => exit,
            (None, None) => RankExit::NotStarted,
        };
        let ended_well = matches!(exit, RankExit::Code(0) | RankExit::Stopped | RankExit::LeaseOver);
        // One that was stopped may have had its rendezvous fail before.
        let failed = !matches!(exit, RankExit::Code(0) | RankExit::LeaseOver | RankExit::NotStarted);
        let lengths = StreamKind::ALL.map(|kind| StreamLength { kind, bytes: self.spool.length(kind) });
        let end = RankEnd {
            rank: self.spec.rank,
            exit,
            out_of_memory: !ended_well && self.spec.groups.oom_kills() > 0,
            ended: self.exit.map_or_else(daemon::clock::now, |(_, when)| when),
            rendezvous: if failed { rendezvous::recognise(&self.tail.all()) } else { None },
            stderr_tail: self.tail.text(),
            streams: lengths.to_vec(),
            final_metrics: self.metrics.last(),
            blames: self.metrics.blamed().filter(|blamed| *blamed != self.spec.rank),
        };
        let launch_fault = fault.map(|error| LaunchFault {
            reason: error.to_string(),
            machine_fault: error.kind() != io::ErrorKind::ArgumentListTooLong,
        });
        let bytes_lost = self.streams.iter().map(Stream::unwritten).sum();
        ExitRecord { end, launch_fault, stopped_by: self.stopped_by, bytes_lost }
    }
}

/// Of this supervisor: all that is left of its rank.
fn descendants() -> Vec<i32> {
    crate::process::descendants(std::process::id().cast_signed())
}

fn exit_of(status: i32) -> RankExit {
    if libc::WIFSIGNALED(status) {
        RankExit::Signal(libc::WTERMSIG(status))
    } else {
        RankExit::Code(libc::WEXITSTATUS(status))
    }
}

fn named(verb: &str, path: &std::path::Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}
