//! Metrics and logs that a rank's programs send by OpenTelemetry's protocol: taken from who has the rank's secret and from nobody else,
//! kept whatever the daemon does, and as the real SDK sends them.

use crate::isolation_users::{RANGE, as_stranger, can_be_others, let_pass};
use crate::support::{add_worker, alone, cannot_run, open, shared};
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use types::JobId;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn fixed64(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3 | 1], value.to_le_bytes().to_vec()].concat()
}

/// A request with a gauge of one point, of this step.
fn gauge(name: &str, value: f64, step: u64) -> Vec<u8> {
    let step = field(7, &[field(1, b"step"), field(2, &[vec![3 << 3], varint(step)].concat())].concat());
    let point = [fixed64(3, 1_764_000_000_000_000_000), fixed64(4, value.to_bits()), step].concat();
    let metric = [field(1, name.as_bytes()), field(5, &field(1, &point))].concat();
    field(1, &field(2, &field(2, &metric)))
}

/// A request with one record of severity ERROR.
fn record(text: &str) -> Vec<u8> {
    let record =
        [fixed64(1, 1_764_000_000_000_000_000), vec![2 << 3, 17], field(5, &field(1, text.as_bytes()))].concat();
    field(1, &field(2, &[field(1, &field(1, b"app")), field(2, &record)].concat()))
}

/// What a rank says of itself in a file: where to send, and the header.
struct Endpoint {
    address: String,
    header: (String, String),
}

impl Endpoint {
    async fn of(cluster: &Cluster, file: &str) -> anyhow::Result<Self> {
        let path = cluster.folder().join(file);
        let read = async || {
            let text = std::fs::read_to_string(&path).ok()?;
            let mut lines = text.lines();
            let address = lines.next()?.strip_prefix("http://")?.to_owned();
            let (name, value) = lines.next()?.split_once('=')?;
            (lines.next()? == "end").then(|| Self { address, header: (name.to_owned(), value.to_owned()) })
        };
        until("the rank's endpoint", PATIENCE, read).await
    }

    /// The answer's status.
    async fn post(&self, path: &str, secret: &str, body: &[u8]) -> anyhow::Result<u16> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let name = &self.header.0;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-protobuf\r\n{name}: {secret}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        let text = String::from_utf8_lossy(&answer);
        text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| anyhow::anyhow!("no answer: {text}"))
    }

    async fn own(&self, path: &str, body: &[u8]) -> anyhow::Result<u16> {
        self.post(path, &self.header.1, body).await
    }
}

/// A rank that tells where it may be reached, and waits for the gate.
fn telling(cluster: &Cluster, file: &str, gate: &str) -> String {
    let folder = cluster.folder().display();
    format!(
        "umask 0; printf '%s\\n' $OTEL_EXPORTER_OTLP_ENDPOINT $OTEL_EXPORTER_OTLP_HEADERS end > {folder}/{file}; \
         while [ ! -e {folder}/{gate} ]; do sleep 0.02; done"
    )
}

/// Name, step and value of all points that the coordinators have.
async fn points(cluster: &Cluster, job: JobId) -> Option<Vec<(String, u64, f64)>> {
    let answer = cluster.muster(&["metrics", &job.to_string(), "-o", "json"]).await.ok()?.json().ok()?;
    let point = |point: &serde_json::Value| {
        Some((point["name"].as_str()?.to_owned(), point["step"].as_u64()?, point["value"].as_f64()?))
    };
    answer["points"].as_array()?.iter().map(point).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_kept_though_the_daemon_is_killed() {
    alone(Shape::new(1, 1), async |cluster| {
        let command = telling(cluster, "endpoint", "gate");
        let job = cluster.submit("otlp/job.yml", &format!("command: \"{command}\"\n")).await?;
        let rank = Endpoint::of(cluster, "endpoint").await?;
        assert_eq!(rank.own("/v1/metrics", &gauge("loss", 0.5, 1)).await?, 200);
        cluster.worker("worker-1")?.kill()?;
        assert_eq!(rank.own("/v1/metrics", &gauge("loss", 0.25, 2)).await?, 200, "the supervisor lives on");
        assert_eq!(rank.own("/v1/logs", &record("one of \"it\"")).await?, 200);
        cluster.restart_worker("worker-1")?;
        let wanted = [("loss".to_owned(), 1, 0.5), ("loss".to_owned(), 2, 0.25)];
        until("both points", PATIENCE, async || points(cluster, job).await.filter(|points| points[..] == wanted))
            .await?;
        assert_eq!(rank.own("/v1/metrics", &gauge("loss", 0.125, 3)).await?, 200);
        open(cluster, "gate")?;
        let ended = cluster.ended(job).await?;
        let ended_rank = &ended.attempts[0].ranks[0];
        assert_eq!((ended.attempts.len(), ended_rank.exit_code), (1, Some(0)));
        assert_eq!(ended_rank.final_metrics.get("loss").map(String::as_str), Some("0.125"));
        assert_eq!(points(cluster, job).await.unwrap_or_default().len(), 3);
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
        assert_eq!(said.stderr, "2025-11-24 16:00:00.000Z ERROR app: one of \"it\"\n");
        assert!(rank.own("/v1/metrics", &gauge("loss", 9.0, 9)).await.is_err(), "nobody listens after the rank's end");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rank_reports_for_itself_only_and_a_secret_is_kept_out_of_it() {
    shared(async |cluster| {
        let first = telling(cluster, "otlp-first", "otlp-gate");
        let second = telling(cluster, "otlp-second", "otlp-gate");
        let first_job = cluster.submit("otlp-a/job.yml", &format!("command: \"{first}\"\n")).await?;
        let second_job = cluster.submit("otlp-b/job.yml", &format!("command: \"{second}\"\n")).await?;
        let one = Endpoint::of(cluster, "otlp-first").await?;
        let other = Endpoint::of(cluster, "otlp-second").await?;
        let body = gauge("loss", 0.5, 1);
        for wrong in ["", "guess", other.header.1.as_str()] {
            assert_eq!(one.post("/v1/metrics", wrong, &body).await?, 401, "{wrong:?}");
        }
        assert_eq!(one.own("/v1/metrics", &body).await?, 200);
        assert_eq!(one.own("/v1/metrics", b"\xff\xff\xff").await?, 400);
        assert_eq!(one.own("/v1/traces", &record("a span")).await?, 200, "and is told that they are dropped");
        open(cluster, "otlp-gate")?;
        cluster.ended(first_job).await?;
        cluster.ended(second_job).await?;
        assert_eq!(points(cluster, first_job).await.unwrap_or_default().len(), 1);
        assert_eq!(points(cluster, second_job).await.unwrap_or_default(), []);
        let said = cluster.muster(&["logs", &first_job.to_string()]).await?.good()?.stderr;
        assert!(
            said.starts_with("muster: rank 0: 1 of what it sent by OTLP are dropped: spans are not kept"),
            "{said}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_has_a_collector_of_its_own_or_a_worker_that_offers_none_leaves_the_environment_alone() {
    alone(Shape::new(1, 0), async |cluster| {
        add_worker(cluster, "worker-1", 8, &[])?;
        cluster.until_ready(1).await?;
        let command = "command: env\n";
        let own = "environment_variables: {OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: 'http://collector:4318/v1/metrics'}\n";
        let job = cluster.submit("own/job.yml", &format!("{command}{own}")).await?;
        cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        let set: Vec<&str> = said.lines().filter(|line| line.starts_with("OTEL_")).collect();
        assert_eq!(set, ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://collector:4318/v1/metrics"]);
        let grpc = "environment_variables: {OTEL_EXPORTER_OTLP_PROTOCOL: grpc}\n";
        let job = cluster.submit("grpc/job.yml", &format!("{command}{grpc}")).await?;
        cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc\n") && !said.contains("http/protobuf"), "{said}");
        assert!(said.contains("OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:"), "{said}");
        let spans = "environment_variables: {OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://collector:4318/v1/traces'}\n";
        let job = cluster.submit("spans/job.yml", &format!("{command}{spans}")).await?;
        cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert!(
            said.contains("OTEL_EXPORTER_OTLP_LOGS_HEADERS=") && !said.contains("OTEL_EXPORTER_OTLP_HEADERS="),
            "{said}"
        );
        cluster.worker("worker-1")?.kill()?;
        add_worker(cluster, "worker-2", 8, &["--no-rank-otlp"])?;
        cluster.until_ready(1).await?;
        let job = cluster.submit("none/job.yml", command).await?;
        cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert!(!said.contains("OTEL_"), "{said}");
        Ok(())
    })
    .await;
}

/// As its documentation has it: the environment says where to.
const SDK: &str = r"
import logging, sys
if sys.argv[1] == 'grpc':
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

metrics = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
meter = metrics.get_meter('train')
meter.create_gauge('loss').set(0.25, {'step': 40})
meter.create_counter('samples').add(128, {'split': 'train'})
times = meter.create_histogram('step_seconds')
times.record(0.5)
times.record(1.5)

logs = LoggerProvider()
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
logger = logging.getLogger('loader')
logger.propagate = False
logger.addHandler(LoggingHandler(logger_provider=logs))
logger.warning('%d samples are empty', 3)
try:
    1 / 0
except ZeroDivisionError:
    logger.exception('failed')
assert metrics.force_flush() and logs.force_flush()
metrics.shutdown()
logs.shutdown()
";

#[tokio::test]
async fn what_the_real_sdk_sends_by_http_and_by_grpc_is_kept() {
    let Some(python) = sdk("what the OpenTelemetry SDK sends") else { return };
    shared(async |cluster| sends(cluster, &python, "shared").await).await;
}

#[tokio::test]
async fn what_ranks_of_a_user_of_their_own_send_is_kept() {
    let Some(python) = sdk("what ranks of users of their own send by the OpenTelemetry SDK") else { return };
    alone(Shape::new(1, 0), async |cluster| {
        let what = "OTLP of ranks of users of their own";
        if !can_be_others(cluster.program(), what) {
            return Ok(());
        }
        // As a rank does: by a shell.
        let import = format!("{python} -c 'import opentelemetry.sdk'");
        let mut tried = std::process::Command::new("setpriv");
        tried.args(as_stranger()).args(["/bin/sh", "-c", &import]).stderr(std::process::Stdio::null());
        if !tried.status().is_ok_and(|status| status.success()) {
            cannot_run(&format!("{what}: other users cannot run {python}"));
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE])?;
        cluster.until_ready(1).await?;
        let command = telling(cluster, "outside", "gate");
        std::fs::write(cluster.folder().join("outside"), "")?;
        crate::isolation_users::set_mode(&cluster.folder().join("outside"), 0o666)?;
        let job = cluster.submit("outside/job.yml", &format!("command: \"{command}\"\n")).await?;
        let rank = Endpoint::of(cluster, "outside").await?;
        assert_eq!(rank.post("/v1/metrics", "guess", &gauge("loss", 1.0, 1)).await?, 401);
        assert_eq!(rank.own("/v1/metrics", &gauge("loss", 1.0, 1)).await?, 200);
        open(cluster, "gate")?;
        cluster.ended(job).await?;
        sends(cluster, &python, "alone").await
    })
    .await;
}

/// A Python that has it.
fn sdk(what: &str) -> Option<String> {
    let python = daemon::environment::text("MUSTER_TEST_PYTHON").unwrap_or_else(|| "python3".to_owned());
    let imports =
        "import opentelemetry.exporter.otlp.proto.grpc, opentelemetry.exporter.otlp.proto.http, opentelemetry.sdk";
    let has = std::process::Command::new(&python).args(["-c", imports]).stderr(std::process::Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    cannot_run(&format!("{what}: Python (MUSTER_TEST_PYTHON) has no opentelemetry-sdk with its OTLP exporters"));
    None
}

async fn sends(cluster: &Cluster, python: &str, name: &str) -> anyhow::Result<()> {
    for protocol in ["http", "grpc"] {
        let folder = format!("sdk-{name}-{protocol}");
        cluster.write(&format!("{folder}/code/send.py"), SDK)?;
        let file = format!("command: {python} send.py {protocol}\ncode: code\n");
        let job = cluster.submit(&format!("{folder}/job.yml"), &file).await?;
        let ended = cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stderr;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{said}");
        let all = points(cluster, job).await.unwrap_or_default();
        let of = |name: &str| all.iter().filter(|point| point.0 == name).map(|point| (point.1, point.2)).next_back();
        assert_eq!(of("loss"), Some((40, 0.25)), "{all:?}");
        assert_eq!(of("samples{split=train}"), Some((0, 128.0)), "{all:?}");
        assert_eq!((of("step_seconds.count"), of("step_seconds.max")), (Some((0, 2.0)), Some((0, 1.5))), "{all:?}");
        assert!(
            said.contains("Z WARN loader: 3 samples are empty") && said.contains("Z ERROR loader: failed"),
            "{said}"
        );
        assert!(said.contains("\nTraceback (most recent call last):\n"), "{said}");
    }
    Ok(())
}
