//! Follows the tables while this coordinator leads, and tells the collectors what has become of jobs since.

use super::openlineage::{self, Kind};
use super::progress::Progress;
use super::{Export, News};
use crate::observe::Observed;
use crate::raft::Node;
use cluster_state::{Job, State};
use daemon::Shutdown;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use stores::streams::{StreamName, StreamStore};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use types::{AttemptNumber, ClusterId, JobId, LogIndex, RankIndex, StreamKind, Timestamp, TraceId};

/// How often the streams of attempts that run are looked at for their first metric.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Streams looked at in one go: the rest has its turn at the next.
const LOOKS_MAX: usize = 256;
/// Where the first metric stands, if there is one: what comes before it are lines of other kinds.
const FIRST_BYTES: usize = 64 * 1024;
/// For a rank's last bytes to come after the end of its attempt.
const LATE: Duration = Duration::from_secs(3);

/// See the head of this file.
pub(crate) struct Follower {
    node: Node,
    streams: StreamStore,
    observed: Arc<Observed>,
    news: mpsc::Receiver<News>,
    /// Of jobs that have not ended, while this coordinator leads; and of those whose first metric is still waited for.
    jobs: BTreeMap<JobId, Followed>,
    /// The term that it leads in, and the entry up to which the tables were looked at.
    leads: Option<(u64, LogIndex)>,
    /// The newest job that was ever followed, or was there before.
    newest: JobId,
    turn: JobId,
}

#[derive(Default)]
struct Followed {
    progress: Progress,
    /// The attempt has ended: until when its first metric may still come.
    until: Option<Instant>,
    /// The event of its end was told.
    has_ended: bool,
}

impl Follower {
    pub(crate) fn new(node: Node, streams: StreamStore, observed: Arc<Observed>, news: mpsc::Receiver<News>) -> Self {
        Self { node, streams, observed, news, jobs: BTreeMap::new(), leads: None, newest: JobId(0), turn: JobId(0) }
    }

    /// Runs until the process ends.
    pub(crate) async fn run(mut self, ending: Shutdown) {
        let mut applied = self.node.applied();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut heard, mut ticked) = (None, false);
            tokio::select! {
                () = ending.requested() => return,
                changed = applied.changed() => if changed.is_err() { return },
                news = self.news.recv() => heard = news,
                _ = looks.tick() => ticked = true,
            }
            applied.mark_unchanged();
            let Some((cluster, state)) = self.lead() else { continue };
            self.look(cluster, &state);
            if let Some(news) = heard {
                self.hear(cluster, &state, &news);
            }
            if ticked {
                self.find_first_steps(cluster, &state).await;
            }
        }
    }

    fn export(&self) -> &Export {
        self.observed.export()
    }

    /// The tables, where this coordinator leads. What happened before it did is its predecessor's to tell.
    fn lead(&mut self) -> Option<(ClusterId, State)> {
        let now = *self.node.leadership().borrow();
        if !now.leading {
            self.leads = None;
            self.jobs.clear();
            return None;
        }
        let state = self.node.state();
        let cluster = self.node.cluster()?;
        if self.leads.is_none_or(|(term, _)| term != now.term) {
            self.leads = Some((now.term, state.applied()));
            self.newest = state.jobs_before(None).next().map_or(JobId(0), |job| job.id);
            let live = state.live().chain(state.waiting());
            self.jobs =
                live.map(|job| (job.id, Followed { progress: Progress::begin(job), ..Followed::default() })).collect();
        }
        Some((cluster, state))
    }

    fn look(&mut self, cluster: ClusterId, state: &State) {
        let Some((_, looked)) = &mut self.leads else { return };
        let after = std::mem::replace(looked, state.applied());
        let now = daemon::clock::now();
        // In the order in which they were made: see `newest`.
        let mut changed: Vec<_> = state.changed_after(after).map(|(_, job)| job).collect();
        changed.sort_unstable_by_key(|job| job.id);
        for job in changed {
            self.look_at(cluster, job, now);
        }
    }

    fn look_at(&mut self, cluster: ClusterId, job: &Job, now: Timestamp) {
        let (trace, export) = (TraceId::of(cluster, job.id), self.observed.export());
        // One that is changed after its end (kept, forgotten) has been told. Numbers of jobs rise.
        if !self.jobs.contains_key(&job.id) && job.id <= self.newest {
            return;
        }
        self.newest = self.newest.max(job.id);
        let followed = self.jobs.entry(job.id).or_default();
        let Followed { progress, until, has_ended } = followed;
        export.spans(progress.look(trace, job, now));
        // Each run has a begin, that of a job too which was cancelled while it waited.
        if (!job.attempts.is_empty() || job.phase.is_final()) && !std::mem::replace(&mut progress.has_begun, true) {
            export.event(|| openlineage::event(cluster, job, Kind::Start));
        }
        let is_live = job.live_attempt().is_some();
        *until = if is_live { None } else { until.or(Some(Instant::now() + LATE)) };
        if job.phase.is_final() && !is_live {
            if !std::mem::replace(has_ended, true) {
                export.event(|| openlineage::event(cluster, job, Kind::End));
            }
            if progress.awaits().is_none() {
                export.spans(progress.through(trace, job, job.ended.unwrap_or(now)));
                self.jobs.remove(&job.id);
            }
        }
    }

    fn hear(&mut self, cluster: ClusterId, state: &State, news: &News) {
        let (Some(job), Some(followed)) = (state.job(news.key.job), self.jobs.get_mut(&news.key.job)) else { return };
        let span = followed.progress.hear(TraceId::of(cluster, job.id), job, news);
        self.export().spans(span);
    }

    /// Looks for the first metric of some attempts that run, or ended a moment ago.
    async fn find_first_steps(&mut self, cluster: ClusterId, state: &State) {
        let waiting = self.jobs.iter().filter_map(|(job, followed)| Some((*job, followed.progress.awaits()?)));
        let (before, after): (Vec<_>, Vec<_>) = waiting.partition(|(job, _)| *job <= self.turn);
        let some: Vec<(JobId, AttemptNumber)> = after.into_iter().chain(before).take(LOOKS_MAX).collect();
        let Some((last, _)) = some.last() else { return };
        self.turn = *last;
        let streams = self.streams.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let look = |(job, attempt)| (job, attempt, first_metric(&streams, job, attempt));
            some.into_iter().map(look).collect::<Vec<_>>()
        });
        for (id, attempt, found) in looked.await.unwrap_or_default() {
            let (Some(job), Some(followed)) = (state.job(id), self.jobs.get_mut(&id)) else { continue };
            let is_late = followed.until.is_some_and(|until| until <= Instant::now());
            if (found.is_none() && !is_late) || followed.progress.awaits() != Some(attempt) {
                continue;
            }
            let spans = followed.progress.first_step(TraceId::of(cluster, id), job, found);
            if job.phase.is_final() && job.live_attempt().is_none() {
                self.jobs.remove(&id);
            }
            self.export().spans(spans);
        }
    }
}

/// When rank 0 made its first metric, by its own word, or else now.
fn first_metric(streams: &StreamStore, job: JobId, attempt: AttemptNumber) -> Option<Timestamp> {
    let name = StreamName { job, attempt, rank: RankIndex(0), kind: StreamKind::Metrics };
    let bytes = streams.read(&name, 0, FIRST_BYTES).ok()?;
    time_of_first(bytes.as_ref())
}

#[derive(Deserialize)]
struct Point {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "value")]
    _value: f64,
    time: Option<f64>,
}

fn time_of_first(bytes: &[u8]) -> Option<Timestamp> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let point = lines.find_map(|line| serde_json::from_slice::<Point>(line).ok())?;
    let said = point.time.filter(|time| *time > 0.0).map(|time| Timestamp((time * 1_000.0).round() as u64));
    Some(said.unwrap_or_else(daemon::clock::now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_metric_is_the_first_whole_line_that_is_one() {
        let other = "{\"kind\":\"stall\"}\nwords\n";
        let point = "{\"name\":\"loss\",\"value\":1,\"time\":12.5}\n";
        assert_eq!(time_of_first(other.as_bytes()), None);
        assert_eq!(time_of_first(format!("{other}{point}").as_bytes()), Some(Timestamp(12_500)));
        assert_eq!(time_of_first(point.trim_end().as_bytes()), None);
        let before = daemon::clock::now();
        assert!(time_of_first(b"{\"name\":\"a\",\"value\":2}\n").is_some_and(|at| at >= before));
    }
}
