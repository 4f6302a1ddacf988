//! A supervisor's part in event files: when they are looked at, and where what they say goes.

use super::{LOOK_AGAIN, Shim};
use crate::shim::events::{Events, Look};
use daemon::clock::boot_time;
use rustix::event::poll;
use rustix::time::Timespec;
use std::time::Duration;
use types::StreamKind;

/// For what a rank wrote in its event files just before its end: far more than an event file has in most jobs.
const LAST_MAX: Duration = Duration::from_secs(30);

impl Shim<'_> {
    /// When they are to be looked at.
    pub(super) fn events_due(&self) -> Option<Duration> {
        self.events.as_ref().map(Events::due)
    }

    /// Looks, if it is time. Points wait while the rank is within a line of its own, or the stream has no room.
    pub(super) fn mind_events(&mut self) {
        let now = boot_time();
        let Some(events) = self.events.as_mut().filter(|events| events.due() <= now) else { return };
        let is_blocked = self.streams.iter().any(|stream| stream.kind == StreamKind::Metrics && stream.is_blocked());
        if is_blocked || !self.metrics.is_between_lines() {
            return events.put_off(now);
        }
        let look = events.look(now, self.child);
        self.pass_on(&look);
    }

    fn pass_on(&mut self, look: &Look) {
        if !look.lines.is_empty() {
            self.metrics.push(&look.lines);
            self.offer(StreamKind::Metrics, &look.lines);
            self.silence.heard(boot_time());
        }
        if !look.notices.is_empty() {
            let begin: &[u8] = if self.tail.is_between_lines() { b"" } else { b"\n" };
            self.insert(StreamKind::Stderr, &[begin, &look.notices].concat());
        }
    }

    /// After the rank and all that it said: what else its files have.
    pub(super) fn last_events(&mut self) {
        let Some(events) = &mut self.events else { return };
        events.begin_last();
        if !self.metrics.is_between_lines() {
            // The rank has died within a line.
            self.insert(StreamKind::Metrics, b"\n");
            self.metrics.push(b"\n");
        }
        let deadline = boot_time() + LAST_MAX;
        loop {
            self.drain_within_budget();
            let now = boot_time();
            let Some(events) = &mut self.events else { return };
            if now >= deadline {
                let late = events.late();
                return self.pass_on(&late);
            }
            if self.streams.iter().all(|stream| !stream.is_blocked()) {
                let look = events.look(now, self.child);
                self.pass_on(&look);
                if look.is_done {
                    return;
                }
            } else {
                let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_AGAIN.subsec_nanos()) };
                let _ = poll(&mut [], Some(&timeout));
            }
        }
    }

    /// As while the rank lived: the daemon ships, and makes room.
    fn drain_within_budget(&mut self) {
        let Self { spool, streams, buffer, .. } = self;
        for stream in streams {
            stream.pump(spool, buffer, &mut |_| {});
        }
    }
}
