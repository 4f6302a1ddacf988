//! Names of a job's trace, worked out from what everybody knows of the job: whoever adds a span to it asks nobody.
//!
//! A cluster's identity is random, so that traces of different clusters differ; nothing here is a secret.

use crate::{AttemptNumber, ClusterId, JobId};
use std::fmt;

/// Of a whole trace, as W3C Trace Context has it: never all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Of one span, never all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// The trace of a job.
    pub fn of(cluster: ClusterId, job: JobId) -> Self {
        let half = |salt: u64| mixed(salt, &[&cluster.0[..], &job.0.to_le_bytes()].concat()).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&half(1));
        bytes[8..].copy_from_slice(&half(2));
        Self(bytes)
    }

    /// A span of it, by what it is, of which attempt (0: of the job itself) and of which member.
    pub fn span(self, what: &str, attempt: AttemptNumber, member: u32) -> SpanId {
        let bytes = [&self.0[..], &attempt.0.to_le_bytes(), &member.to_le_bytes(), what.as_bytes()].concat();
        SpanId(mixed(3, &bytes).to_be_bytes())
    }

    /// The span below which the spans of an attempt's own ranks stand: from their start to the first step.
    pub fn span_of_ranks(self, attempt: AttemptNumber) -> SpanId {
        self.span("first_step", attempt, 0)
    }

    /// What W3C Trace Context calls a `traceparent`, sampled, for spans below this one.
    pub fn parent(self, span: SpanId) -> String {
        format!("00-{self}-{span}-01")
    }
}

/// FNV-1a, then the finalizer of `SplitMix64` (Steele, Lea and Flood 2014), which moves every bit; never 0.
fn mixed(salt: u64, bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)).max(1)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_trace_is_the_same_for_everybody_and_no_other_jobs() {
        let (one, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
        assert_eq!(TraceId::of(one, JobId(7)), TraceId::of(one, JobId(7)));
        let traces: BTreeSet<_> =
            (0..1_000).flat_map(|job| [one, other].map(|cluster| TraceId::of(cluster, JobId(job)))).collect();
        assert_eq!(traces.len(), 2_000);
        let trace = TraceId::of(one, JobId(7));
        let spans: BTreeSet<_> = (0..10)
            .flat_map(|attempt| (0..10).map(move |member| (attempt, member)))
            .flat_map(|(attempt, member)| ["a", "b"].map(|what| trace.span(what, AttemptNumber(attempt), member)))
            .collect();
        assert_eq!(spans.len(), 200);
    }

    #[test]
    fn a_parent_has_the_form_of_the_standard() {
        let trace = TraceId([0xab; 16]);
        assert_eq!(trace.parent(SpanId([1; 8])), format!("00-{}-0101010101010101-01", "ab".repeat(16)));
    }
}
