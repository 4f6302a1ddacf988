//! What a supervisor does with a rank that may hang: looks at its threads, ends it where its job wants that, and passes its last
//! words on.

use super::{Shim, descendants};
use crate::shim::silence::Due;
use crate::shim::spool::Stream;
use crate::shim::threads;
use crate::shim::words::{self, LastWords};
use daemon::clock::boot_time;
use std::time::Duration;
use types::{Millis, StreamKind};

impl Shim<'_> {
    /// Looks at a rank that says nothing, and ends one that has for longer than its job allows.
    pub(super) fn mind_silence(&mut self) {
        let now = boot_time();
        match self.silence.take(now) {
            // Nobody reads it of a rank that never wrote there, and it must not cut a line in two.
            Some(Due::Look) if self.metrics.is_used() && self.metrics.is_between_lines() => {
                let text = threads::text(&descendants());
                self.insert(StreamKind::Metrics, &words::line(&text, self.silence.lasts(now)));
            }
            Some(Due::End) => {
                self.hung = Some(self.silence.lasts(now));
                self.kill();
            }
            Some(Due::Look) | None => {}
        }
    }

    /// At once, but for a rank that may hang: that is looked at first, and asked where it is if it can answer.
    pub(super) fn kill(&mut self) {
        let now = boot_time();
        if self.last_words.is_some() {
            // While it answers, further orders change nothing.
            self.kill_at = self.kill_at.filter(|at| *at > now).or(Some(Duration::ZERO));
            return;
        }
        if self.kill_at.replace(Duration::ZERO) == Some(Duration::ZERO) {
            return;
        }
        if self.exit.is_none() && (self.hung.is_some() || self.silence.is_long(now)) {
            let all = descendants();
            let text = threads::text(&all);
            if let Some(silent) = self.hung {
                let line = format!("muster: nothing was said for {}\n{text}", millis(silent));
                self.insert(StreamKind::Stderr, line.as_bytes());
            }
            self.last_words = Some(LastWords::new(text, self.silence.lasts(now), self.tail.count()));
            if words::ask(&all) {
                self.kill_at = Some(now + words::ANSWER_TIME);
            }
        }
    }

    /// What it was at goes to its metrics stream, and why it was ended to stderr.
    pub(super) fn pass_on_last_words(&mut self) {
        if let Some(silent) = self.hung {
            let seconds = self.spec.silence.end_ms / 1_000;
            let line = format!(
                "muster: rank {} said nothing for {} and was ended (MUSTER_HANG_AFTER_S is {seconds})\n",
                self.spec.rank,
                millis(silent)
            );
            self.insert(StreamKind::Stderr, line.as_bytes());
        }
        if let Some(words) = self.last_words.take() {
            let line = words.line(&self.tail.since(words.stderr_before()));
            // The rank may have died within a line.
            let begin: &[u8] = if self.metrics.is_between_lines() { b"" } else { b"\n" };
            self.insert(StreamKind::Metrics, &[begin, &line].concat());
        }
    }

    /// Of streams that are kept no further, once.
    pub(super) fn tell_of_cuts(&mut self) {
        let cut: Vec<StreamKind> = self.streams.iter_mut().filter_map(Stream::newly_cut).collect();
        for kind in cut {
            let (rank, name, most) = (self.spec.rank, kind.name(), self.spec.limits.log_bytes);
            let what = format!(
                "of its {name} the first {most} bytes are kept, and no more (--rank-log-bytes-max of the worker)"
            );
            self.insert(StreamKind::Stderr, format!("muster: rank {rank}: {what}\n").as_bytes());
        }
    }

    /// Bytes of its own, into a stream of the rank's.
    pub(super) fn insert(&mut self, kind: StreamKind, bytes: &[u8]) {
        let Self { spool, streams, .. } = self;
        streams.iter_mut().filter(|stream| stream.kind == kind).for_each(|stream| stream.insert(spool, bytes));
        if kind == StreamKind::Stderr {
            self.tail.push(bytes);
        }
    }
}

fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
