//! What happens to jobs, sent to collectors outside while it happens: spans by OTLP, and run events of OpenLineage; and signed heads of the
//! audit trail, by OTLP.
//!
//! ```text
//!  API       submitted ───────────────────────┐
//!  leader    what workers say of members ──┐  ├──> outbox ──batches──> HTTP
//!  tables    attempts, ends ──> follower ──┴──┘    (bounded; each tried some times, then dropped and counted)
//!  streams   the first metric ──┘
//! ```
//!
//! Nobody waits for it, nothing of it is kept: what is queued when a coordinator stops or loses leadership is not sent again. The
//! names of traces and spans are worked out from the job, so that every coordinator adds to the same trace.

mod collector;
mod follow;
mod heads;
mod openlineage;
mod otlp;
mod outbox;
mod progress;

pub(crate) use follow::Follower;
pub(crate) use heads::hex;

use crate::config::{Config, ConfigError};
use crate::observe::Observed;
use bytes::Bytes;
use collector::Collector;
use outbox::Outbox;
use progress::Span;
use proto::v1::SignedAuditHead;
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;
use types::{AttemptNumber, ClusterId, JobId, MemberKey, MemberState, MemberStatus, Timestamp, TraceId, WorkerId};

/// What workers said and the follower has not looked at; past it, a member lacks its spans.
const NEWS_MAX: usize = 4_096;

/// Reaches the collectors; does nothing where there are none.
#[derive(Default)]
pub(crate) struct Export(OnceLock<Outlets>);

struct Outlets {
    spans: Option<Outbox<Span>>,
    /// None also where the address is that of another signal alone.
    heads: Option<Outbox<SignedAuditHead>>,
    events: Option<Outbox<Bytes>>,
    news: mpsc::Sender<News>,
}

/// A worker's word of one of its members.
#[derive(Debug)]
pub(crate) struct News {
    key: MemberKey,
    worker: WorkerId,
    what: Said,
    at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Prepared,
    Running,
}

/// Can what proves us to the collectors be read? All that is wrong with it.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    let files =
        [("--otlp-headers-file", &config.otlp_headers), ("--openlineage-headers-file", &config.openlineage_headers)];
    let faults = files.into_iter().filter_map(|(flag, file)| Some((flag, collector::headers(file.as_deref()?).err()?)));
    let faults: Vec<String> = faults.map(|(flag, why)| format!("{flag}: {why}")).collect();
    if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
}

impl Export {
    /// Begins to send where the configuration says so. None where it says nothing.
    pub(crate) fn open(config: &Config, observed: &Arc<Observed>) -> Option<mpsc::Receiver<News>> {
        if config.otlp_url.is_none() && config.openlineage_url.is_none() {
            return None;
        }
        let id = config.id;
        let spans = config.otlp_url.as_deref().map(|url| {
            let encode = move |spans: &[Span]| vec![otlp::request(spans, id)];
            let to = Collector::new("otlp", with_path(url, "/v1/traces"), config.otlp_headers.clone());
            outbox::start(to, "application/x-protobuf", encode, observed)
        });
        let heads = config.otlp_url.as_deref().and_then(logs_address).map(|url| {
            let encode = move |heads: &[SignedAuditHead]| vec![heads::request(heads, id)];
            let to = Collector::new("otlp_logs", url, config.otlp_headers.clone());
            outbox::start(to, "application/x-protobuf", encode, observed)
        });
        let events = config.openlineage_url.as_deref().map(|url| {
            let to = with_path(url, "/api/v1/lineage");
            let to = Collector::new("openlineage", to, config.openlineage_headers.clone());
            outbox::start(to, "application/json", |events: &[Bytes]| events.to_vec(), observed)
        });
        let (news, receiver) = mpsc::channel(NEWS_MAX);
        let opened = observed.export().0.set(Outlets { spans, heads, events, news });
        opened.is_ok().then_some(receiver)
    }

    /// A job was submitted here: the call came at `begun`, and is in the log now.
    pub(crate) fn submitted(&self, cluster: Option<ClusterId>, job: JobId, begun: Timestamp) {
        if let (Some(outbox), Some(cluster)) = (self.0.get().and_then(|outlets| outlets.spans.as_ref()), cluster) {
            let trace = TraceId::of(cluster, job);
            outbox.send(progress::submit(trace, job, begun, daemon::clock::now()));
        }
    }

    /// A worker said this of one of its members.
    pub(crate) fn heard(&self, worker: &WorkerId, status: &MemberStatus) {
        let Some(outlets) = self.0.get() else { return };
        let what = match status.state {
            MemberState::Prepared(_) => Said::Prepared,
            MemberState::Running => Said::Running,
            MemberState::Preparing | MemberState::Failing(_) | MemberState::Ended(_) => return,
        };
        let news = News { key: status.key, worker: worker.clone(), what, at: daemon::clock::now() };
        // A span less is better than a leader that waits.
        let _ = outlets.news.try_send(news);
    }

    /// The leader has kept this one.
    pub(crate) fn head(&self, head: SignedAuditHead) {
        if let Some(outbox) = self.0.get().and_then(|outlets| outlets.heads.as_ref()) {
            outbox.send(head);
        }
    }

    fn spans(&self, spans: impl IntoIterator<Item = Span>) {
        if let Some(outbox) = self.0.get().and_then(|outlets| outlets.spans.as_ref()) {
            spans.into_iter().for_each(|span| outbox.send(span));
        }
    }

    fn event(&self, event: impl FnOnce() -> Bytes) {
        if let Some(outbox) = self.0.get().and_then(|outlets| outlets.events.as_ref()) {
            outbox.send(event());
        }
    }
}

/// An address without a path gets the one that the protocol names.
fn with_path(url: &str, path: &str) -> String {
    let host_begins = url.find("://").map_or(0, |at| at + 3);
    match url[host_begins..].trim_end_matches('/') {
        host if host.contains('/') => url.to_owned(),
        host => format!("{}{host}{path}", &url[..host_begins]),
    }
}

/// Where logs go beside traces.
fn logs_address(url: &str) -> Option<String> {
    Some(with_path(url, "/v1/traces").strip_suffix("/v1/traces")?.to_owned() + "/v1/logs")
}

/// The attempt that stands for the job itself.
const NO_ATTEMPT: AttemptNumber = AttemptNumber(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_the_usual_one() {
        assert_eq!(with_path("http://[::1]:4318", "/v1/traces"), "http://[::1]:4318/v1/traces");
        assert_eq!(with_path("https://c.example/", "/v1/traces"), "https://c.example/v1/traces");
        assert_eq!(with_path("https://c.example/otlp/v1/traces", "/v1/traces"), "https://c.example/otlp/v1/traces");
        for (url, logs) in [
            ("http://[::1]:4318", Some("http://[::1]:4318/v1/logs")),
            ("https://c.example/otlp/v1/traces", Some("https://c.example/otlp/v1/logs")),
            ("https://c.example/spans", None),
        ] {
            assert_eq!(logs_address(url).as_deref(), logs);
        }
    }
}
