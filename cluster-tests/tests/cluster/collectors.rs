//! What coordinators send to collectors outside: the trace of a job by OTLP, and OpenLineage's run events; received by a collector of
//! the test's own.

use crate::support::{add_worker, alone, shape};
use cluster_tests::{Cluster, PATIENCE, gang, spec, until};
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use types::JobId;

/// What came, by path.
type Received = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes whatever is posted, over connections that stay; with a token only what shows it.
async fn collector(token: Option<&'static str>) -> anyhow::Result<(String, Received)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let received = Received::default();
    let all = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, token, all.clone()));
        }
    });
    Ok((url, received))
}

async fn serve(stream: TcpStream, token: Option<&str>, received: Received) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length, mut shown) = (String::new(), 0, None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("post ") {
                path = rest.split(' ').next().map(str::to_owned).unwrap_or_default();
            } else if let Some(rest) = line.strip_prefix("content-length:") {
                length = rest.trim().parse()?;
            } else if let Some(rest) = line.strip_prefix("authorization: bearer ") {
                shown = Some(rest.to_owned());
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let status = if token.is_none() || shown.as_deref() == token { "200 OK" } else { "401 Unauthorized" };
        let path = if status == "200 OK" { path } else { format!("refused {path}") };
        received.lock().unwrap().push((path, body));
        stream.get_mut().write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await?;
    }
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    begun: u64,
    #[prost(fixed64, tag = "8")]
    ended: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Number>,
}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(int64, tag = "3")]
    number: i64,
}

/// All spans that came of this job.
fn spans(received: &Received, job: JobId) -> Vec<Span> {
    let is_of = |span: &Span| {
        let mut attributes = span.attributes.iter().filter(|attribute| attribute.key == "muster.job");
        attributes.any(|attribute| attribute.value.as_ref().is_some_and(|value| value.number == job.0 as i64))
    };
    let received = received.lock().unwrap();
    let requests = received.iter().filter(|(path, _)| path == "/v1/traces");
    let requests = requests.map(|(_, body)| Request::decode(body.as_slice()).unwrap());
    let scopes = requests.flat_map(|request| request.resources).flat_map(|resource| resource.scopes);
    scopes.flat_map(|scope| scope.spans).filter(is_of).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn events(received: &Received) -> Vec<Value> {
    let received = received.lock().unwrap();
    let posted = received.iter().filter(|(path, _)| path == "/api/v1/lineage");
    posted.map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
}

async fn cluster_with_collector(
    test: impl AsyncFnOnce(&mut Cluster, &Received) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (url, received) = collector(None).await?;
    alone(shape(3, &["--otlp-url", &url, "--openlineage-url", &url]), async |cluster| {
        for worker in ["worker-1", "worker-2"] {
            add_worker(cluster, worker, 4, &[])?;
        }
        cluster.until_ready(2).await?;
        test(cluster, &received).await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn one_job_is_one_trace_from_its_submission_to_its_first_step() -> anyhow::Result<()> {
    const NAMES: [&str; 10] =
        ["first_step", "job", "placement", "prepare", "prepare", "queue", "rendezvous", "start", "start", "submit"];
    cluster_with_collector(async |cluster, received| {
        let step = r#"echo "{\"name\": \"loss\", \"value\": 1}" >&"$MUSTER_METRICS_FD"; echo $TRACEPARENT"#;
        let job = cluster.client().submit(&gang(2, step)).await?;
        cluster.ended(job).await?;
        let mut told = until("every span of the job", PATIENCE, async || {
            Some(spans(received, job)).filter(|spans| spans.len() >= NAMES.len())
        })
        .await?;
        told.sort_by(|one, other| one.name.cmp(&other.name));
        assert_eq!(told.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), NAMES);
        let by_name: BTreeMap<&str, &Span> = told.iter().map(|span| (span.name.as_str(), span)).collect();
        let root = by_name["job"];
        assert!(root.parent.is_empty() && root.trace.len() == 16 && root.id.len() == 8);
        assert_eq!(told.iter().map(|span| &span.id).collect::<BTreeSet<_>>().len(), NAMES.len());
        for span in told.iter().filter(|span| span.name != "job") {
            assert_eq!((&span.trace, &span.parent), (&root.trace, &root.id), "{}", span.name);
            assert!(span.begun <= span.ended, "{span:?}");
        }
        let order = ["queue", "placement", "rendezvous", "first_step"].map(|name| by_name[name].begun);
        assert!(order.is_sorted(), "{order:?}");
        assert_eq!((root.begun, root.ended), (by_name["queue"].begun, by_name["first_step"].ended));
        // A rank's own spans stand below that of its first step.
        let parent = format!("00-{}-{}-01", hex(&root.trace), hex(&by_name["first_step"].id));
        let logs = cluster.muster(&["logs", &job.to_string(), "--rank", "1"]).await?.good()?.stdout;
        assert_eq!(logs.trim(), parent);
        // A job of one rank that says no metric has its trace too, from another coordinator's leadership on.
        let leader = cluster.leader().await?;
        cluster.transfer(leader % 3 + 1).await?;
        let quiet = cluster.client().submit(&spec("true")).await?;
        cluster.ended(quiet).await?;
        let told = until("the job's own span", PATIENCE, async || {
            Some(spans(received, quiet)).filter(|spans| spans.iter().any(|span| span.name == "job"))
        })
        .await?;
        assert!(told.iter().any(|span| span.name == "submit") && told.iter().all(|span| span.trace == told[0].trace));
        assert_ne!(told[0].trace, root.trace);
        assert_eq!(spans(received, job).len(), NAMES.len(), "nothing is told twice");
        let mut sent = 0.0;
        for id in 1..=3 {
            let text = cluster.get(id, "/metrics").await?;
            let series = "muster_export_items_total{to=\"otlp\",outcome=\"sent\"} ";
            let counted = text.lines().find_map(|line| line.strip_prefix(series)?.parse::<f64>().ok());
            sent += counted.unwrap_or(0.0);
        }
        assert!(sent >= NAMES.len() as f64, "{sent}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn openlineage_is_told_how_each_job_began_and_ended() -> anyhow::Result<()> {
    cluster_with_collector(async |cluster, received| {
        let good = cluster
            .submit(
                "good/job.yml",
                "command: echo 1 > $MUSTER_OUTPUT_MODEL/it\ndisplay_name: good\noutputs: {model: }\n",
            )
            .await?;
        let bad = cluster.submit("bad/job.yml", "command: exit 3\ndisplay_name: bad\n").await?;
        let mut never = spec("true");
        (never.display_name, never.gang.per_rank.cpus) = ("never".into(), 4);
        never.gang.instances = 3;
        let never = cluster.client().submit_for_later(&never).await?;
        cluster.muster(&["jobs", "cancel", &never.to_string()]).await?.good()?;
        for job in [good, bad, never] {
            cluster.ended(job).await?;
        }
        let all = until("six events", PATIENCE, async || Some(events(received)).filter(|all| all.len() >= 6)).await?;
        let words = |name: &str| -> Vec<&str> {
            let of_job = all.iter().filter(|event| event["job"]["name"] == name);
            of_job.filter_map(|event| event["eventType"].as_str()).collect()
        };
        assert_eq!((words("good"), words("bad")), (vec!["START", "COMPLETE"], vec!["START", "FAIL"]));
        assert_eq!(words("never"), ["START", "ABORT"]);
        for event in &all {
            assert_sound(event);
        }
        let of = |name: &str, word: &str| {
            all.iter().find(|event| event["job"]["name"] == name && event["eventType"] == word).unwrap()
        };
        assert_eq!(of("good", "START")["run"]["runId"], of("good", "COMPLETE")["run"]["runId"]);
        assert_ne!(of("good", "START")["run"]["runId"], of("bad", "START")["run"]["runId"]);
        let lineage = cluster.muster(&["jobs", "show", &good.to_string(), "-o", "json"]).await?.good()?.stdout;
        let output = of("good", "COMPLETE")["outputs"][0]["name"].as_str().unwrap_or("none").to_owned();
        assert!(lineage.contains(&output), "{output} in {lineage}");
        assert_eq!(of("bad", "FAIL")["run"]["facets"]["errorMessage"]["message"], "user_code");
        Ok(())
    })
    .await
}

/// What `OpenLineage.json` 2-0-2 requires of a `RunEvent`, and of what is in it.
fn assert_sound(event: &Value) {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let schema = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
    assert_eq!(event["schemaURL"], schema, "{event}");
    assert!(text(&event["producer"]).is_some_and(|uri| uri.contains(':')), "{event}");
    let time = text(&event["eventTime"]).unwrap_or_default();
    assert!(time.len() == 24 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{time}");
    let run = text(&event["run"]["runId"]).unwrap_or_default();
    let parts: Vec<usize> = run.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12], "{run}");
    let types = ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"];
    assert!(text(&event["eventType"]).is_some_and(|word| types.contains(&word.as_str())), "{event}");
    let datasets = ["inputs", "outputs"].into_iter().filter_map(|key| event[key].as_array()).flatten();
    for named in datasets.chain([&event["job"]]) {
        assert!(text(&named["namespace"]).is_some() && text(&named["name"]).is_some(), "{event}");
    }
    for facet in event["run"]["facets"].as_object().into_iter().flat_map(|facets| facets.values()) {
        assert!(text(&facet["_producer"]).is_some() && text(&facet["_schemaURL"]).is_some(), "{event}");
    }
}

#[tokio::test]
async fn a_collector_that_asks_for_a_token_is_shown_the_one_in_the_file_and_the_next_one_too() -> anyhow::Result<()> {
    const TOKEN: &str = "of-the-new-day";
    let (url, received) = collector(Some(TOKEN)).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("headers");
    daemon::files::write_secret(&file, b"Authorization: Bearer of-yesterday\n")?;
    let path = file.display().to_string();
    alone(shape(1, &["--otlp-url", &url, "--otlp-headers-file", &path]), async |cluster| {
        add_worker(cluster, "worker-1", 1, &[])?;
        cluster.until_ready(1).await?;
        let early = cluster.client().submit(&spec("true")).await?;
        cluster.ended(early).await?;
        let refused = async || {
            let received = received.lock().unwrap();
            received.iter().any(|(path, _)| path == "refused /v1/traces").then_some(())
        };
        until("a refusal", PATIENCE, refused).await?;
        daemon::files::write_secret(&file, format!("# renewed\nAuthorization: Bearer {TOKEN}\n").as_bytes())?;
        // What was refused is not sent again; what comes is.
        let job = cluster.client().submit(&spec("true")).await?;
        until("spans by the new token", PATIENCE, async || {
            spans(&received, job).iter().any(|span| span.name == "job").then_some(())
        })
        .await?;
        let log = std::fs::read_to_string(cluster.folder().join("coordinator-1.log"))?;
        assert!(log.contains("401") && !log.contains("of-yesterday") && !log.contains(TOKEN), "{log}");
        // One that others may read is not used, nor one that says nothing of use.
        let data = cluster.folder().join("coordinator-9").display().to_string();
        let words = ["coordinator", "--id", "9", "--data", &data, "--otlp-url", &url, "--otlp-headers-file", &path];
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        let open = cluster.muster(&words).await?;
        assert!(open.code != 0 && open.stderr.contains("chmod 600"), "{} {}", open.code, open.stderr);
        daemon::files::write_secret(&file, b"of-yesterday\n")?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let bad = cluster.muster(&words).await?;
        assert!(bad.code != 0 && bad.stderr.contains("line 1: no header field"), "{} {}", bad.code, bad.stderr);
        assert!(!bad.stderr.contains("yesterday"), "{}", bad.stderr);
        Ok(())
    })
    .await;
    Ok(())
}

#[derive(Clone, PartialEq, Message)]
struct LogsRequest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<LogsResource>,
}

#[derive(Clone, PartialEq, Message)]
struct LogsResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<LogsScope>,
}

#[derive(Clone, PartialEq, Message)]
struct LogsScope {
    #[prost(message, repeated, tag = "2")]
    records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(message, optional, tag = "5")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(string, tag = "1")]
    text: String,
}

/// The bodies of all log records that came.
fn bodies(received: &Received) -> Vec<String> {
    let received = received.lock().unwrap();
    let requests = received.iter().filter(|(path, _)| path == "/v1/logs");
    let requests = requests.map(|(_, body)| LogsRequest::decode(body.as_slice()).unwrap());
    let scopes = requests.flat_map(|request| request.resources).flat_map(|resource| resource.scopes);
    scopes.flat_map(|scope| scope.records).filter_map(|record| Some(record.body?.text)).collect()
}

#[tokio::test]
async fn signed_heads_of_the_audit_trail_reach_a_collector_whoever_leads() {
    let (url, received) = collector(None).await.unwrap();
    alone(shape(3, &["--otlp-url", &url, "--sign-audit-every", "5"]), async |cluster| {
        for round in 1..=2 {
            for n in 0..6 {
                cluster.muster(&["workspaces", "create", &format!("w-{round}-{n}")]).await?.good()?;
            }
            until("a signed head", PATIENCE, async || (bodies(&received).len() >= round).then_some(())).await?;
            if round == 1 {
                let leader = cluster.leader().await?;
                cluster.coordinator(leader)?.kill()?;
                cluster.restart_coordinator(leader).await?;
            }
        }
        let heads = bodies(&received);
        let kept = cluster.write("heads.jsonl", &(heads.join("\n") + "\n"))?.display().to_string();
        cluster.muster(&["audit", "verify", "--head", &kept]).await?.good()?;
        let mut last: Value = serde_json::from_str(heads.last().map_or("", String::as_str))?;
        last["number"] = (last["number"].as_u64().unwrap_or_default() - 1).into();
        let altered = cluster.write("altered.jsonl", &format!("{last}\n"))?.display().to_string();
        let answer = cluster.muster(&["audit", "verify", "--head", &altered]).await?;
        assert!(answer.code == 1 && answer.stderr.contains("not what the authority signed"), "{}", answer.stderr);
        Ok(())
    })
    .await;
}
