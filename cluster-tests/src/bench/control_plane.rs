//! Acknowledged submits a second, and how long each takes, beside etcd's puts of as many bytes.
//!
//! Closed loop: each client sends its next request when the last one is answered. Clients have a connection each and are spread
//! over the three members, for both systems. Both flush to disk on a majority before they answer.

use super::etcd::{self, Etcd};
use super::stats::{Times, median, ms, thousands};
use super::{Options, Report, Table};
use crate::{Cluster, Shape};
use identity::{Authorized, Bearer, Credentials};
use prost::Message as _;
use proto::convert::wire_job_spec;
use proto::v1::SubmitRequest;
use proto::v1::jobs_client::JobsClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Endpoint;

const CLIENTS: [usize; 3] = [1, 32, 256];
/// One turn of one system.
const TURN: Duration = Duration::from_secs(4);
const TURNS: usize = 3;
/// The longest that a client waits for one answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 0)).await?;
    let etcd = if options.alone { None } else { Etcd::start(&options.dir).await? };
    if etcd.is_none() {
        report.note("etcd was not measured: it is not installed (Debian: etcd-server), or --alone was given");
    }
    let owner = cluster.credentials()?;
    let bytes = submit(0).encoded_len();
    let turns = options.count.unwrap_or(TURNS);
    let title = format!("Acknowledged writes, {bytes} bytes each, 3 members, {turns} turns of {} s", TURN.as_secs());
    let mut table = Table::new(&title, &["clients", "system", "writes/s", "p50 ms", "p99 ms", "ratio"]);
    for clients in CLIENTS {
        let (mut ours, mut theirs) = (Measured::default(), Measured::default());
        for _ in 0..turns {
            ours.take(turn(clients, &cluster.addresses(), System::Muster, Some(&owner)).await?);
            if let Some(etcd) = &etcd {
                theirs.take(turn(clients, &etcd.addresses, System::Etcd { bytes }, None).await?);
            }
        }
        let ratio = if etcd.is_some() { format!("{:.2}", ours.rate() / theirs.rate()) } else { String::new() };
        table.row(ours.row(clients, "muster", ratio));
        if etcd.is_some() {
            table.row(theirs.row(clients, "etcd", String::new()));
        }
    }
    report.table(table);
    report.note("writes/s: median of the turns; p50 and p99 over all turns; ratio: muster / etcd");
    report.note("both through the same Rust gRPC client, a connection a client, clients spread over the members; muster over TLS 1.3 with a token on each call, etcd in plain text");
    Ok(())
}

#[derive(Clone, Copy)]
pub(super) enum System {
    Muster,
    Etcd { bytes: usize },
}

#[derive(Default)]
struct Measured {
    rates: Vec<f64>,
    times: Vec<Duration>,
}

impl Measured {
    fn take(&mut self, turn: (f64, Vec<Duration>)) {
        self.rates.push(turn.0);
        self.times.extend(turn.1);
    }

    fn rate(&self) -> f64 {
        median(self.rates.clone())
    }

    fn row(self, clients: usize, name: &str, ratio: String) -> [String; 6] {
        let (rate, times) = (self.rate(), Times::of(self.times));
        [clients.to_string(), name.into(), thousands(rate), ms(times.median()), ms(times.per_mille(990)), ratio]
    }
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One turn: all clients connect, begin together, and go on until the time is over.
pub(super) async fn turn(
    clients: usize,
    addresses: &[String],
    system: System,
    owner: Option<&Credentials>,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let mut channels = Vec::new();
    for client in 0..clients {
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses[client % addresses.len()]))?;
        channels.push(match owner {
            // Inside TLS and by a token, as every client of ours must.
            Some(owner) => {
                let channel = owner.dialer()?.connect(&endpoint).await?;
                Authorized::new(channel, Bearer::new(&owner.token)?)
            }
            None => Authorized::new(endpoint.tcp_nodelay(true).connect().await?, Bearer::none()),
        });
    }
    let begun = Instant::now();
    let end = begun + TURN;
    let mut tasks = JoinSet::new();
    for channel in channels {
        tasks.spawn(client(channel, system, end));
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    Ok((times.len() as f64 / begun.elapsed().as_secs_f64(), times))
}

async fn client(channel: Authorized, system: System, end: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        match tokio::time::timeout(DEADLINE, write(channel.clone(), system, number)).await? {
            Ok(()) => times.push(begun.elapsed()),
            // A moment without a leader is not what is measured here; it shows as a lower rate.
            Err(status) if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::ResourceExhausted) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(times)
}

async fn write(channel: Authorized, system: System, number: u64) -> Result<(), Status> {
    match system {
        System::Muster => JobsClient::new(channel).submit(submit(number)).await.map(drop),
        System::Etcd { bytes } => {
            let key = format!("job/{number:020}").into_bytes();
            let value = vec![b'x'; bytes.saturating_sub(key.len())];
            etcd::put(channel, key, value).await
        }
    }
}

fn submit(number: u64) -> SubmitRequest {
    static SPEC: std::sync::OnceLock<Arc<proto::v1::JobSpec>> = std::sync::OnceLock::new();
    let spec = SPEC.get_or_init(|| {
        let mut spec = crate::spec("python3 train.py --config config.yml --learning-rate 0.001 --epochs 100");
        spec.display_name = "a job of the benchmark".into();
        spec.experiment_name = "control-plane".into();
        spec.tags = [("team", "vision"), ("owner", "somebody@example.org")].map(|(k, v)| (k.into(), v.into())).into();
        spec.environment_variables = [("OMP_NUM_THREADS".to_owned(), "4".to_owned())].into();
        Arc::new(wire_job_spec(&spec))
    });
    let request_id = ((u128::from(std::process::id()) << 64) | u128::from(number)).to_be_bytes();
    SubmitRequest { request_id: request_id.to_vec().into(), spec: Some(spec.as_ref().clone()), wait_for_workers: false }
}
