//! How far one job has come on its way to its first step, and the spans of what it has passed. Pure: times come in.
//!
//! ```text
//!  job ──────────────────────────────────────────────────────────────────────────────┐   (from submission to the first step)
//!   submit   queue ────── placement   prepare (a member) ── start (a member)         │
//!                                     rendezvous (the gang)   first_step ────────────┘   (the ranks' own spans stand below it)
//! ```

use super::{NO_ATTEMPT, News, Said};
use cluster_state::{Attempt, Job};
use std::collections::BTreeMap;
use types::{AttemptNumber, AttemptPhase, EndCause, JobId, SpanId, Timestamp, Token, TraceId};

/// One span.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: &'static str,
    pub(super) begun: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Why it ended badly.
    pub(super) fault: Option<String>,
}

/// Of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

/// The call that submitted it.
pub(super) fn submit(trace: TraceId, job: JobId, begun: Timestamp, ended: Timestamp) -> Span {
    let attributes = vec![
        ("muster.job", number(job.0)),
        ("rpc.system", Value::Text("grpc".into())),
        ("rpc.service", Value::Text("muster.v1.Jobs".into())),
        ("rpc.method", Value::Text("Submit".into())),
    ];
    let (id, parent) = (trace.span("submit", NO_ATTEMPT, 0), Some(root(trace)));
    Span { trace, id, parent, name: "submit", begun, ended, attributes, fault: None }
}

fn root(trace: TraceId) -> SpanId {
    trace.span("job", NO_ATTEMPT, 0)
}

fn number(number: u64) -> Value {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

/// What has been told of a job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Progress {
    attempt: Option<Told>,
    /// The job's own span was told: there is one, whatever its later attempts do.
    is_through: bool,
    /// The event that it began was told.
    pub(super) has_begun: bool,
}

#[derive(Debug, PartialEq)]
struct Told {
    number: AttemptNumber,
    stage: Stage,
    /// Members that are prepared, and when they said so.
    prepared: BTreeMap<u32, Timestamp>,
    /// Members whose ranks were started.
    started: BTreeMap<u32, Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Placed,
    Running,
    /// Its first step was made, or it has ended.
    Over,
}

impl Progress {
    /// Of a job that had come so far before this coordinator led: what it has passed is its predecessor's to tell.
    pub(super) fn begin(job: &Job) -> Self {
        let attempt = job.attempts.last().map(|attempt| Told {
            number: attempt.number,
            stage: match attempt.phase {
                AttemptPhase::Preparing => Stage::Placed,
                AttemptPhase::Running | AttemptPhase::Stopping(_) | AttemptPhase::Ended(_) => Stage::Over,
            },
            prepared: BTreeMap::new(),
            started: BTreeMap::new(),
        });
        let has_run = job.attempts.iter().any(|attempt| attempt.running.is_some());
        Self { attempt, is_through: has_run, has_begun: !job.attempts.is_empty() }
    }

    /// The attempt whose first step is waited for.
    pub(super) fn awaits(&self) -> Option<AttemptNumber> {
        self.attempt.as_ref().filter(|told| told.stage == Stage::Running).map(|told| told.number)
    }

    /// What the tables say that was not told; `now` is when they were seen to say so.
    pub(super) fn look(&mut self, trace: TraceId, job: &Job, now: Timestamp) -> Vec<Span> {
        let mut spans = Vec::new();
        let Some(attempt) = job.attempts.last() else { return spans };
        if self.attempt.as_ref().is_none_or(|told| told.number < attempt.number) {
            spans.push(span(trace, job, attempt, "queue", waits_since(job, attempt), attempt.placed));
            spans.push(span(trace, job, attempt, "placement", attempt.placed, now));
            let (prepared, started) = Default::default();
            self.attempt = Some(Told { number: attempt.number, stage: Stage::Placed, prepared, started });
        }
        let Some(told) = &mut self.attempt else { return spans };
        if told.stage == Stage::Placed
            && let Some(running) = attempt.running
        {
            told.stage = Stage::Running;
            if let Some(first) = told.prepared.values().min() {
                spans.push(span(trace, job, attempt, "rendezvous", *first, running));
            }
        }
        spans
    }

    /// What a worker has said of a member.
    pub(super) fn hear(&mut self, trace: TraceId, job: &Job, news: &News) -> Option<Span> {
        let attempt = job.attempts.last().filter(|attempt| attempt.number == news.key.attempt)?;
        let told = self.attempt.as_mut().filter(|told| told.number == attempt.number && told.stage != Stage::Over)?;
        let member = news.key.node_rank;
        let (name, begun, known) = match news.what {
            Said::Prepared => ("prepare", attempt.placed, &mut told.prepared),
            // A gang of one member is not asked to wait between the two.
            Said::Running => {
                let begun = attempt.running.filter(|_| told.prepared.contains_key(&member)).unwrap_or(attempt.placed);
                ("start", begun, &mut told.started)
            }
        };
        // It says so again with each session.
        if known.contains_key(&member) {
            return None;
        }
        known.insert(member, news.at);
        let mut span = span(trace, job, attempt, name, begun, news.at);
        span.id = trace.span(name, attempt.number, member);
        span.attributes.push(("muster.member", Value::Number(member.into())));
        span.attributes.push(("muster.worker", Value::Text(news.worker.to_string())));
        Some(span)
    }

    /// The first metric of the attempt that is waited for came, or will not come any more.
    pub(super) fn first_step(&mut self, trace: TraceId, job: &Job, at: Option<Timestamp>) -> Vec<Span> {
        let Some(told) = self.attempt.as_mut().filter(|told| told.stage == Stage::Running) else { return Vec::new() };
        told.stage = Stage::Over;
        let Some(attempt) = job.attempts.iter().find(|attempt| attempt.number == told.number) else {
            return Vec::new();
        };
        let begun = attempt.running.unwrap_or(attempt.placed);
        let ended = at.or(attempt.ended).unwrap_or(begun);
        let mut step = span(trace, job, attempt, "first_step", begun, ended);
        step.id = trace.span_of_ranks(attempt.number);
        step.fault = at.is_none().then(|| bad_end(attempt)).flatten();
        let whole = if at.is_some() || job.phase.is_final() { self.through(trace, job, ended) } else { None };
        [Some(step), whole].into_iter().flatten().collect()
    }

    /// The job's own span, once; `ended` is when it made its first step, or its end without one.
    pub(super) fn through(&mut self, trace: TraceId, job: &Job, ended: Timestamp) -> Option<Span> {
        if std::mem::replace(&mut self.is_through, true) {
            return None;
        }
        let attributes = vec![
            ("muster.job", number(job.id.0)),
            ("muster.queue", Value::Text(job.spec.queue.clone())),
            ("muster.workspace", Value::Text(job.spec.workspace().to_string())),
            ("muster.attempts", number(job.attempts.len() as u64)),
            ("muster.phase", Value::Text(job.phase.to_string())),
        ];
        let fault = job.attempts.last().filter(|_| job.phase.is_final()).and_then(|last| bad_end(last));
        let begun = job.submitted;
        Some(Span { trace, id: root(trace), parent: None, name: "job", begun, ended, attributes, fault })
    }
}

fn bad_end(attempt: &Attempt) -> Option<String> {
    match &attempt.phase {
        AttemptPhase::Stopping(cause) | AttemptPhase::Ended(cause) if *cause != EndCause::Success => {
            Some(cause.kind().to_owned())
        }
        _ => None,
    }
}

/// Its submission, or the end of the attempt before.
fn waits_since(job: &Job, attempt: &Attempt) -> Timestamp {
    let before = job.attempts.iter().rev().find(|other| other.number < attempt.number);
    before.and_then(|before| before.ended).unwrap_or(job.submitted)
}

fn span(trace: TraceId, job: &Job, attempt: &Attempt, name: &'static str, begun: Timestamp, ended: Timestamp) -> Span {
    let Token(token) = attempt.token;
    let attributes = vec![
        ("muster.job", number(job.id.0)),
        ("muster.attempt", Value::Number(attempt.number.0.into())),
        ("muster.token", number(token)),
    ];
    let id = trace.span(name, attempt.number, 0);
    Span { trace, id, parent: Some(root(trace)), name, begun, ended, attributes, fault: None }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use types::{ClusterId, MemberEnd, MemberKey, WorkerId};

    fn trace(job: JobId) -> TraceId {
        TraceId::of(ClusterId([7; 16]), job)
    }

    fn shown(spans: &[Span]) -> Vec<(&'static str, u64, u64)> {
        spans.iter().map(|span| (span.name, span.begun.0, span.ended.0)).collect()
    }

    fn news(job: JobId, attempt: u32, node_rank: u32, what: Said, at: u64) -> News {
        let key = MemberKey { job, attempt: AttemptNumber(attempt), node_rank };
        News { key, worker: WorkerId::new("a").unwrap(), what, at: Timestamp(at) }
    }

    #[test]
    fn the_way_of_a_gang_is_one_connected_trace() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[]);
        tables.now = Timestamp(1_000);
        let id = tables.submit(|spec| spec.gang.ranks_per_instance = 2);
        let mut progress = Progress::begin(tables.state.job(id).unwrap());
        let trace = trace(id);
        tables.now = Timestamp(2_000);
        // A plan of a gang of one member starts it at once.
        tables.plan();
        let mut all = progress.look(trace, tables.state.job(id).unwrap(), Timestamp(2_010));
        assert_eq!(shown(&all), [("queue", 1_000, 2_000), ("placement", 2_000, 2_010)]);
        let job = tables.state.job(id).unwrap().clone();
        assert!(progress.look(trace, &job, Timestamp(2_020)).is_empty(), "each is told once");
        assert_eq!(progress.awaits(), Some(AttemptNumber(1)));
        let started = progress.hear(trace, &job, &news(id, 1, 0, Said::Running, 2_500)).unwrap();
        assert_eq!(shown(std::slice::from_ref(&started)), [("start", 2_000, 2_500)]);
        assert_eq!(progress.hear(trace, &job, &news(id, 1, 0, Said::Running, 2_600)), None);
        assert_eq!(progress.hear(trace, &job, &news(id, 2, 0, Said::Running, 2_600)), None);
        all.push(started);
        all.extend(progress.first_step(trace, &job, Some(Timestamp(4_000))));
        assert_eq!(shown(&all[3..]), [("first_step", 2_000, 4_000), ("job", 1_000, 4_000)]);
        assert!(progress.first_step(trace, &job, Some(Timestamp(5_000))).is_empty());
        let roots: Vec<_> = all.iter().filter(|span| span.parent.is_none()).collect();
        assert_eq!(roots.len(), 1);
        assert!(
            all.iter().all(|span| span.trace == trace && (span.parent.is_none() || span.parent == Some(roots[0].id)))
        );
        assert_eq!(all[3].id, trace.span_of_ranks(AttemptNumber(1)));
    }

    #[test]
    fn members_that_prepare_have_a_span_each_and_wait_for_the_last() {
        let mut tables = Tables::default();
        for worker in ["a", "b"] {
            tables.worker(worker, 1, &[]);
        }
        let id = tables.submit(|spec| spec.gang.instances = 2);
        let (mut progress, trace) = (Progress::default(), trace(id));
        tables.now = Timestamp(100);
        tables.plan();
        let job = tables.state.job(id).unwrap().clone();
        assert_eq!(progress.look(trace, &job, Timestamp(101)).len(), 2);
        assert_eq!(progress.awaits(), None);
        let first = progress.hear(trace, &job, &news(id, 1, 0, Said::Prepared, 300)).unwrap();
        let second = progress.hear(trace, &job, &news(id, 1, 1, Said::Prepared, 700)).unwrap();
        assert_eq!(shown(&[first.clone(), second.clone()]), [("prepare", 100, 300), ("prepare", 100, 700)]);
        assert_ne!(first.id, second.id);
        tables.now = Timestamp(750);
        tables.start(id);
        let job = tables.state.job(id).unwrap();
        assert_eq!(shown(&progress.look(trace, job, Timestamp(760))), [("rendezvous", 300, 750)]);
        let started = progress.hear(trace, job, &news(id, 1, 1, Said::Running, 800)).unwrap();
        assert_eq!(shown(&[started]), [("start", 750, 800)]);
    }

    #[test]
    fn an_attempt_without_a_step_ends_its_span_with_the_cause_and_the_next_begins_anew() {
        let mut tables = Tables::default();
        tables.worker("a", 1, &[]);
        let id = tables.submit(|spec| spec.restart.max_restarts = 1);
        let (mut progress, trace) = (Progress::default(), trace(id));
        tables.plan();
        progress.look(trace, tables.state.job(id).unwrap(), tables.now);
        tables.now = Timestamp(50);
        tables.end(id, &MemberEnd::NotPrepared { reason: "none".into(), machine_fault: false });
        let ended = progress.first_step(trace, tables.state.job(id).unwrap(), None);
        assert_eq!((shown(&ended), ended[0].fault.as_deref()), (vec![("first_step", 0, 50)], Some("not_prepared")));
        tables.now = Timestamp(60_000);
        tables.plan();
        let job = tables.state.job(id).unwrap();
        let next = progress.look(trace, job, Timestamp(60_001));
        assert_eq!(shown(&next), [("queue", 50, 60_000), ("placement", 60_000, 60_001)]);
        let step = progress.first_step(trace, job, Some(Timestamp(61_000)));
        assert_eq!(shown(&step), [("first_step", 60_000, 61_000), ("job", 0, 61_000)]);
    }

    #[test]
    fn what_a_former_leader_told_is_not_told_again() {
        let mut tables = Tables::default();
        tables.worker("a", 1, &[]);
        let id = tables.submit(|_| {});
        tables.plan();
        let job = tables.state.job(id).unwrap();
        let mut progress = Progress::begin(job);
        assert!(progress.look(trace(id), job, Timestamp(9)).is_empty() && progress.awaits().is_none());
        assert_eq!(progress.through(trace(id), job, Timestamp(9)), None);
        assert!(progress.has_begun);
    }
}
