//! A supervisor's part in what its rank sends by OTLP: it goes where lines of the rank's own go, and is acknowledged then.

use super::Shim;
use crate::shim::otlp::{Lines, Otlp};
use crate::shim::redact;
use crate::shim::spec::OtlpOffer;
use daemon::clock::boot_time;
use types::StreamKind;

impl Shim<'_> {
    /// Where the job wants it and the machine lets it listen.
    pub(super) fn listen_for_otlp(&mut self) -> Vec<(String, String)> {
        if self.spec.otlp == OtlpOffer::Nothing {
            return Vec::new();
        }
        match Otlp::new(self.spec.rank, self.spec.network.as_ref()) {
            Ok(otlp) => {
                let variables = otlp.variables(self.spec.otlp);
                self.otlp = Some(otlp);
                variables
            }
            Err(error) => {
                crate::shim::say(format_args!("its rank has no OTLP endpoint: {error}"));
                Vec::new()
            }
        }
    }

    /// Takes what there is room for. What a rank is within a line of waits for that line's end.
    pub(super) fn mind_otlp(&mut self) {
        while let Some(delivery) = self.otlp.as_mut().and_then(Otlp::next) {
            let lines = &delivery.lines;
            let has_room = |kind| self.streams.iter().all(|stream| stream.kind != kind || !stream.is_blocked());
            let fits_metrics =
                lines.metrics.is_empty() || (has_room(StreamKind::Metrics) && self.metrics.is_between_lines());
            let fits_log = (lines.log.is_empty() && lines.notices.is_empty()) || has_room(StreamKind::Stderr);
            if !fits_metrics || !fits_log {
                if let Some(otlp) = &mut self.otlp {
                    otlp.put_back(delivery);
                }
                return;
            }
            self.take_lines(&delivery.lines);
            delivery.taken();
        }
    }

    fn take_lines(&mut self, lines: &Lines) {
        let clean = |bytes: &[u8]| redact::clean(self.patterns.as_ref(), bytes.to_vec());
        let (metrics, log) = (clean(&lines.metrics), clean(&[&lines.log[..], &lines.notices].concat()));
        if !metrics.is_empty() {
            self.metrics.push(&metrics);
            self.offer(StreamKind::Metrics, &metrics);
        }
        if !log.is_empty() {
            let begin: &[u8] = if self.tail.is_between_lines() { b"" } else { b"\n" };
            let log = [begin, &log].concat();
            self.tail.push(&log);
            self.offer(StreamKind::Stderr, &log);
        }
        if !lines.log.is_empty() {
            // Metrics are no sign of life: their SDK sends them by itself every minute, also while the program hangs.
            self.silence.heard(boot_time());
        }
    }

    /// As if the rank had written them: what finds no room waits, and the rank with it.
    pub(super) fn offer(&mut self, kind: StreamKind, bytes: &[u8]) {
        let Self { spool, streams, .. } = self;
        streams.iter_mut().filter(|stream| stream.kind == kind).for_each(|stream| stream.offer(spool, bytes));
    }
}
