//! What comes out of a rank's pipes: to its spool, and past whoever looks for something in it.

use super::Shim;
use crate::shim::metrics::Metrics;
use crate::shim::spool::Tail;
use daemon::clock::boot_time;
use types::StreamKind;

impl Shim<'_> {
    /// Moves what is there and has room.
    pub(super) fn pump(&mut self) {
        let Self { spool, streams, buffer, tail, metrics, .. } = self;
        let mut heard = false;
        for stream in streams {
            let kind = stream.kind;
            stream.pump(spool, buffer, &mut |bytes| {
                heard = true;
                observe(kind, bytes, tail, metrics);
            });
            // What it has to say finds no room.
            heard |= stream.is_blocked();
        }
        if heard {
            self.silence.heard(boot_time());
        }
        self.tell_of_cuts();
    }

    /// After the rank: all that is left. False when there is no room at all.
    pub(super) fn drain(&mut self) -> bool {
        let Self { spool, streams, buffer, tail, metrics, .. } = self;
        let mut done = true;
        for stream in streams {
            let kind = stream.kind;
            done &= stream.drain(spool, buffer, &mut |bytes| observe(kind, bytes, tail, metrics));
        }
        done
    }
}

fn observe(kind: StreamKind, bytes: &[u8], tail: &mut Tail, metrics: &mut Metrics) {
    match kind {
        // Times come by no pipe of the rank's.
        StreamKind::Stdout | StreamKind::Times => {}
        StreamKind::Stderr => tail.push(bytes),
        StreamKind::Metrics => metrics.push(bytes),
    }
}
