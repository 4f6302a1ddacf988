//! How one coordinator runs: every value with its unit and default, checked once, all faults at once.

use crate::api::keep::Retention;
use crate::raft::Timers;
use identity::Admission;
use scheduler::policy::{Passing, Policy};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use types::{CoordinatorId, Millis};

/// What a coordinator does when its store is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Begins a new cluster of which it is the only member.
    Bootstrap,
    /// Asks one of these coordinators to be added to their cluster.
    Join(Vec<String>),
    /// Waits until it is added (`muster cluster add`).
    Wait,
}

/// Shorter ones are no time to submit a job after its files.
const KEEP_UNNAMED_MIN: Duration = Duration::from_secs(1);
/// Shorter ones would end while they are renewed.
const CERTIFICATE_LIFE_MIN: Duration = Duration::from_secs(10);

/// How one coordinator runs. No `Debug`: it may hold a token.
#[derive(Clone)]
pub struct Config {
    /// Its number, at least 1, unique in the cluster for good.
    pub id: CoordinatorId,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// gRPC listens here. Port 0 lets the system choose one (then `advertise` cannot be fixed before).
    pub listen: SocketAddr,
    /// HTTP (health, metrics) listens here.
    pub http_listen: SocketAddr,
    /// `host:port` at which others reach gRPC; the listening address when none.
    pub advertise: Option<String>,
    /// What to do with an empty store.
    pub start: Start,
    /// Of elections.
    pub timers: Timers,
    /// A worker kills its ranks when its lease was not renewed for this long. Default 4 s.
    pub lease: Duration,
    /// Name of the scheduler's policy, of [`POLICIES`](crate::POLICIES); the leader's counts.
    pub policy: String,
    /// A gang runs so long before it may be stopped for others. Default 5 minutes.
    pub preempt_after: Duration,
    /// Under `fair-share` a gang may also be stopped for a much shorter one of its own queue. Default no: it surprises who did
    /// not ask for it, and jobs that save no checkpoints lose by it.
    pub preempt_in_queue: bool,
    /// Under `fair-share` a gang of several workers or devices waits so long before its start is promised. Default 10 minutes.
    pub reserve_after: Duration,
    /// Under `fair-share` an elastic gang grows at most so often: it is stopped and started again each time. Default 10 minutes.
    pub resize_after: Duration,
    /// By what it is admitted to a cluster that it joins for the first time.
    pub admission: Option<Admission>,
    /// How long the certificates count that it signs. Default 24 hours.
    pub certificate_life: Duration,
    /// A file of the operator's with the key for secrets of jobs; none = one of the cluster's own, in the data folder.
    pub secrets_key: Option<std::path::PathBuf>,
    /// Calls that one user may make here in a second; 0 = as many as they like. Default 10,000.
    pub user_calls_per_second: u32,
    /// What ranks wrote is forgotten so long after their job's end; the leader's counts. Default never.
    pub keep_telemetry_for: Option<Duration>,
    /// More than so many bytes of it are not kept on the leader's disk: jobs that ended longest ago are forgotten. Default no bound.
    pub keep_telemetry_bytes: Option<u64>,
    /// Files in the blob store that no job names are removed so long after that was first seen, and not before who was told of
    /// them has had that long to name them. Default 24 hours: longer than any upload.
    pub keep_unnamed_files_for: Duration,
    /// An object store where files of jobs lie besides (`s3://`, `az://`, `gs://`, `file:///`). Default none.
    pub object_store: Option<String>,
    /// A file of options of that store, its user's alone. Default none.
    pub object_store_options: Option<PathBuf>,
    /// The leader signs where the audit trail stands after so many records, or an hour after the first of them. Default 1,024.
    pub sign_audit_every: u64,
    /// Where spans of jobs are sent by OTLP over HTTP. Default nowhere.
    pub otlp_url: Option<String>,
    /// A file of header fields that prove to that collector who sends; its user's alone. Default none.
    pub otlp_headers: Option<std::path::PathBuf>,
    /// Where OpenLineage's run events of jobs are sent. Default nowhere.
    pub openlineage_url: Option<String>,
    /// As `otlp_headers`.
    pub openlineage_headers: Option<std::path::PathBuf>,
}

impl Config {
    /// The defaults: loopback, ports 7070 and 7071, waits to be added.
    pub fn new(id: CoordinatorId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            id,
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7071)),
            advertise: None,
            start: Start::Wait,
            timers: Timers::default(),
            lease: Duration::from_secs(4),
            policy: crate::POLICIES[0].to_owned(),
            preempt_after: Duration::from_mins(5),
            preempt_in_queue: false,
            reserve_after: Duration::from_mins(10),
            resize_after: Duration::from_mins(10),
            admission: None,
            certificate_life: identity::CERTIFICATE_LIFE,
            secrets_key: None,
            user_calls_per_second: 10_000,
            keep_telemetry_for: None,
            keep_telemetry_bytes: None,
            keep_unnamed_files_for: Duration::from_hours(24),
            object_store: None,
            object_store_options: None,
            sign_audit_every: 1_024,
            otlp_url: None,
            otlp_headers: None,
            openlineage_url: None,
            openlineage_headers: None,
        }
    }

    /// The scheduler's policy as it is configured; the default one for a name that `validate` refuses.
    pub(crate) fn scheduling(&self) -> Policy {
        let millis = |span: Duration| Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let mut policy = Policy::named(&self.policy).unwrap_or_default();
        if let Some(rules) = &mut policy.preempt {
            rules.run_min = millis(self.preempt_after);
            if !self.preempt_in_queue {
                rules.order_permille = 0;
            }
        }
        policy.resize_every = millis(self.resize_after);
        if let Passing::Reserved(rules) = &mut policy.passing
            && policy.is_fair
        {
            rules.wait_min = millis(self.reserve_after);
        }
        policy
    }

    /// What is forgotten of what ranks wrote.
    pub(crate) fn retention(&self) -> Retention {
        let millis = |span: Duration| Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        Retention { span: self.keep_telemetry_for.map(millis), bytes_max: self.keep_telemetry_bytes }
    }

    /// Lists everything that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut faults = Vec::new();
        if self.id.0 == 0 {
            faults.push("the id must be at least 1".to_owned());
        }
        if self.advertise.is_none() && self.listen.ip().is_unspecified() {
            faults.push(format!(
                "nobody can dial {}: say with --advertise how others reach this coordinator",
                self.listen
            ));
        }
        if let Some(advertise) = &self.advertise
            && advertise.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            faults.push(format!("--advertise {advertise:?} is not host:port"));
        }
        let Timers { heartbeat_ms, election_ms_min, election_ms_max } = self.timers;
        if heartbeat_ms == 0 || heartbeat_ms * 2 > election_ms_min || election_ms_min >= election_ms_max {
            faults.push(format!(
                "election {election_ms_min}-{election_ms_max} ms with a heartbeat of {heartbeat_ms} ms: the shorter \
                 must be at least two heartbeats, and less than the longer"
            ));
        }
        if self.lease < Duration::from_millis(500) {
            faults
                .push(format!("a lease of {:?} is shorter than 500 ms: workers would lose it by accident", self.lease));
        }
        if self.certificate_life < CERTIFICATE_LIFE_MIN || self.certificate_life > identity::CERTIFICATE_LIFE {
            faults.push(format!(
                "certificates of {:?}: they count for {CERTIFICATE_LIFE_MIN:?} to {:?}",
                self.certificate_life,
                identity::CERTIFICATE_LIFE
            ));
        }
        if self.keep_unnamed_files_for < KEEP_UNNAMED_MIN {
            faults.push(format!("files without a name are kept for at least {KEEP_UNNAMED_MIN:?}"));
        }
        let kept = cluster_state::AUDIT_KEPT as u64;
        if !(1..=kept).contains(&self.sign_audit_every) {
            faults.push(format!("the audit trail is signed after 1 to {kept} records, not {}", self.sign_audit_every));
        }
        if self.object_store.is_none() && self.object_store_options.is_some() {
            faults.push("--object-store-options is for an object store: say which".to_owned());
        }
        for (flag, url) in [("--otlp-url", &self.otlp_url), ("--openlineage-url", &self.openlineage_url)] {
            let fault = url.as_deref().and_then(identity::https::address_fault);
            faults.extend(fault.map(|fault| format!("{flag}: {fault}")));
        }
        for (flag, url, headers) in [
            ("--otlp-headers-file", &self.otlp_url, &self.otlp_headers),
            ("--openlineage-headers-file", &self.openlineage_url, &self.openlineage_headers),
        ] {
            if url.is_none() && headers.is_some() {
                faults.push(format!("{flag} is for a collector: say which"));
            }
        }
        if !crate::POLICIES.contains(&self.policy.as_str()) {
            faults.push(format!("there is no policy {:?}: use {}", self.policy, crate::POLICIES.join(", ")));
        }
        if matches!(&self.start, Start::Join(addresses) if addresses.is_empty()) {
            faults.push("--join needs the address of at least one coordinator".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
    }
}

/// Everything that is wrong with a configuration, a fault a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_listed() {
        let mut config = Config::new(CoordinatorId(0), "/nowhere");
        config.listen = SocketAddr::from(([0, 0, 0, 0], 7070));
        config.lease = Duration::ZERO;
        config.certificate_life = Duration::from_hours(48);
        config.timers.heartbeat_ms = 100;
        config.policy = "srtf".into();
        (config.otlp_url, config.openlineage_url) = (Some("http://a:4318".into()), Some("nowhere".into()));
        assert_eq!(config.validate().unwrap_err().0.len(), 8);
        (config.otlp_url, config.otlp_headers) = (None, Some("/h".into()));
        assert_eq!(config.validate().unwrap_err().0.len(), 8);
        config = Config::new(CoordinatorId(1), "/nowhere");
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn what_is_configured_becomes_the_policy() {
        let mut config = Config::new(CoordinatorId(1), "/nowhere");
        assert!(!config.scheduling().stops_for_order(), "not unless it is asked for");
        (config.preempt_after, config.reserve_after) = (Duration::from_secs(7), Duration::from_secs(9));
        config.preempt_in_queue = true;
        config.resize_after = Duration::from_secs(11);
        let policy = config.scheduling();
        assert!(policy.stops_for_order());
        assert_eq!(policy.preempt.map(|rules| rules.run_min), Some(Millis(7_000)));
        assert_eq!(policy.resize_every, Millis(11_000));
        assert!(matches!(policy.passing, Passing::Reserved(rules) if rules.wait_min == Millis(9_000)));
        config.policy = "easy".into();
        let easy = config.scheduling();
        assert!(matches!(easy.passing, Passing::Reserved(rules) if rules.wait_min == Millis(0)), "as it is published");
    }
}
