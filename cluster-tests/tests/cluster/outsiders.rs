//! What somebody from outside tries on a coordinator's ports who knows their protocols too well: each is refused or cut off,
//! memory stays where it was, and those who behave are served meanwhile.

use crate::support::{add_worker, alone, held_by, open, shape};
use anyhow::Context as _;
use client::v1;
use cluster_tests::crowd::Crowd;
use cluster_tests::https::{self, Stream};
use cluster_tests::{Cluster, PATIENCE, spec, until};
use proto::v1::access_client::AccessClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::telemetry_client::TelemetryClient;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Request};
use types::JobPhase;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// What a coordinator may grow by under any of these.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// And with as many connections as strangers may have.
const IDLE_GROWTH_BYTES_MAX: u64 = 200 << 20;
/// More than any connection takes before it is ended.
const FRAMES_MAX: usize = 200_000;

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// A call of `Status`, in the static table's words where there are some (RFC 7541, appendix A).
fn head() -> Vec<u8> {
    let path = b"/muster.v1.Cluster/Status";
    [&[0x83, 0x87, 0x04, path.len() as u8], path.as_slice(), &[0x41, 1, b'x']].concat()
}

/// A connection that has said hello.
async fn begun(cluster: &Cluster) -> anyhow::Result<Stream> {
    let (grpc, _) = cluster.addresses_of(1)?;
    let mut stream = https::connect(grpc, &cluster.authorities(), b"h2").await?;
    stream.write_all(PREFACE).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    Ok(stream)
}

/// Sends frames until the other end has had enough; answers with how many it took. Reads along, so that nothing but its
/// decision stops it.
async fn until_cut_off(cluster: &Cluster, mut next: impl FnMut(u32) -> Vec<u8>) -> anyhow::Result<usize> {
    let stream = begun(cluster).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let (mut all, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
        while let Ok(count @ 1..) = from.read(&mut chunk).await {
            // The last frames say why it ends.
            all.extend_from_slice(&chunk[..count]);
        }
        all
    });
    let sending = async {
        for sent in 0..FRAMES_MAX {
            if reader.is_finished() || to.write_all(&next(sent as u32)).await.is_err() {
                return Ok(sent);
            }
        }
        anyhow::bail!("it took {FRAMES_MAX} frames")
    };
    let sent = tokio::time::timeout(PATIENCE, sending).await.context("it is not cut off")??;
    let answered = tokio::time::timeout(PATIENCE, reader).await.context("it does not end")??;
    anyhow::ensure!(kinds(&answered).contains(&GO_AWAY), "it does not say goodbye: {:?}", kinds(&answered));
    Ok(sent)
}

fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        kinds.push(*kind);
        bytes = rest.get(5 + length..).unwrap_or_default();
    }
    kinds
}

fn resident(pid: i32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[tokio::test]
async fn floods_of_frames_are_cut_off_and_cost_nobody_else_anything() {
    alone(shape(1, &[]), async |cluster| {
        let pid = cluster.pids().0[0];
        cluster.client().status(false).await?;
        let before = resident(pid)?;
        // Rapid reset (CVE-2023-44487): calls that are taken back as soon as they are made.
        let resets = until_cut_off(cluster, |n| {
            let call = frame(HEADERS, END_HEADERS, 2 * n + 1, &head());
            [call, frame(RESET, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        })
        .await?;
        // A head that never ends (CVE-2024-27316).
        let endless = until_cut_off(cluster, |n| match n {
            0 => frame(HEADERS, 0, 1, &head()),
            _ => {
                frame(CONTINUATION, 0, 1, &[&[0x40, 1, b'a', 0x7f, 0x80, 0x7f], vec![b'b'; 16_255].as_slice()].concat())
            }
        })
        .await?;
        // A frame larger than any that was allowed.
        let large = until_cut_off(cluster, |_| frame(HEADERS, END_HEADERS, 1, &vec![0; 1 << 20])).await?;
        println!("cut off after {resets} resets, {endless} continuations, {large} large frames");
        let grown = resident(pid)?.saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        cluster.client().status(false).await?;
        Ok(())
    })
    .await;
}

/// Sends such frames, a thousand at a time, until it is cut off, held up or done; somebody else is served meanwhile.
async fn flood(cluster: &Cluster, begin: &[u8], one: &[u8], reads: bool) -> anyhow::Result<&'static str> {
    let (mut from, mut to) = tokio::io::split(begun(cluster).await?);
    let reader = tokio::spawn(async move {
        while reads && from.read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0) {}
        from
    });
    to.write_all(begin).await?;
    let thousand = one.repeat(1_000);
    let mut ended = "taken";
    for _ in 0..50 {
        match tokio::time::timeout(Duration::from_secs(1), to.write_all(&thousand)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => ended = "cut off",
            Err(_) => ended = "held up",
        }
        if ended != "taken" {
            break;
        }
        cluster.client().status(false).await?;
    }
    reader.abort();
    Ok(ended)
}

#[tokio::test]
async fn floods_of_small_frames_cost_no_memory_and_hold_up_nobody_else() {
    alone(shape(1, &[]), async |cluster| {
        let pid = cluster.pids().0[0];
        cluster.client().status(false).await?;
        let before = resident(pid)?;
        let call = frame(HEADERS, END_HEADERS, 1, &head());
        for (what, begin, one) in [
            ("pings", &[][..], frame(PING, 0, 0, &[7; 8])),
            ("settings", &[][..], frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
            ("empty pieces of a request", &call, frame(DATA, 0, 1, &[])),
        ] {
            for reads in [true, false] {
                let ended = flood(cluster, begin, &one, reads).await?;
                println!("{what}, answers read: {reads}: {ended}; {} KiB", resident(pid)? >> 10);
            }
        }
        let grown = resident(pid)?.saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn strangers_who_hold_connections_go_for_newer_ones_and_keep_nobody_out() {
    alone(shape(1, &[]), async |cluster| {
        let (pid, grpc) = (cluster.pids().0[0], cluster.addresses_of(1)?.0.clone());
        cluster.client().status(false).await?;
        let before = resident(pid)?;
        // It raises what it may open to what its starter lets it, as this process could.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let bounds = identity::Bounds::of_descriptors(limit.map_or(usize::MAX, |limit| limit as usize));
        let (one, other) = ("127.0.0.2".parse()?, "127.0.0.3".parse()?);
        let over = 60;
        let mut crowd = Crowd::gather(&grpc, &cluster.authorities(), &[one], bounds.unproven_of_address + over).await?;
        let more = Crowd::gather(&grpc, &cluster.authorities(), &[other], 100).await?;
        let figures = cluster.get(1, "/metrics").await?;
        let figure = |name: &str| {
            let line = figures.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            line.map(|value| value as usize).with_context(|| format!("no {name} in {figures}"))
        };
        let unproven = figure("muster_connections{proven=\"no\"}")?;
        assert!((bounds.unproven_of_address..=bounds.unproven_of_address + more.len() + 2).contains(&unproven));
        assert!(figure("muster_connections_closed_total{reason=\"unproven\"}")? >= over, "{figures}");
        // The oldest are gone, of that address alone; who comes from there is served all the same.
        for oldest in [0, 1, over / 2] {
            tokio::time::timeout(PATIENCE, crowd.closed(oldest)).await.context("the oldest stays")??;
        }
        let mut stream =
            https::Dialer::new(&cluster.authorities(), b"")?.connect(&cluster.addresses_of(1)?.1, Some(one)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let grown = resident(pid)?.saturating_sub(before);
        println!("{} connections, {unproven} kept, grown by {} KiB", crowd.len() + more.len(), grown >> 10);
        assert!(grown < IDLE_GROWTH_BYTES_MAX, "grown by {grown} bytes");
        cluster.client().submit(&spec("true")).await?;
        assert!(cluster.logs().contains("it had proven nothing, and there were too many of those"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_read() {
    alone(shape(1, &[]), async |cluster| {
        let pid = cluster.pids().0[0];
        let before = resident(pid)?;
        let mut jobs = JobsClient::new(cluster.channel(1)?);
        let job = v1::SubmitRequest { request_id: vec![0; 64 << 20].into(), ..Default::default() };
        let refused = jobs.submit(Request::new(job)).await.unwrap_err();
        assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused}");
        let grown = resident(pid)?.saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        let job = cluster.client().submit(&spec("true")).await?;
        assert_eq!(cluster.client().get(job).await?.summary.unwrap_or_default().phase, "Queued");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_sends_half_a_request_is_sent_away() {
    alone(shape(1, &[]), async |cluster| {
        let (_, http) = cluster.addresses_of(1)?.clone();
        let mut slow = Vec::new();
        for _ in 0..50 {
            let mut stream = https::connect(&http, &cluster.authorities(), b"").await?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
            slow.push(stream);
        }
        assert!(cluster.get(1, "/healthz").await?.starts_with("HTTP/1.1 200"));
        for mut stream in slow {
            let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "it waits for ever");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_thousand_wrong_tokens_are_answered_without_a_look_and_hold_up_nobody_else() {
    alone(shape(1, &[]), async |cluster| {
        const GUESSES: usize = 1_000;
        let begun = std::time::Instant::now();
        let authority = cluster.credentials()?.authority();
        let (mut unknown, mut held_off) = (0, 0);
        for _ in 0..GUESSES / 50 {
            let guess = client::Secret::generate(identity::SecretKind::Access, authority)?;
            // Not by the client, which waits as it is told.
            let credentials = identity::Credentials { coordinators: cluster.addresses(), token: guess };
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.addresses_of(1)?.0))?;
            let mut guesser = AccessClient::new(credentials.lazy(&endpoint)?);
            for _ in 0..50 {
                match guesser.who_am_i(v1::WhoAmIRequest {}).await.map_err(|status| status.code()) {
                    Err(Code::Unauthenticated) => unknown += 1,
                    Err(Code::ResourceExhausted) => held_off += 1,
                    other => anyhow::bail!("{other:?}"),
                }
            }
            // Of the same address, with a token that counts.
            cluster.client().who_am_i().await?;
        }
        // As many are looked at as the address may have within each 10 s.
        let windows = begun.elapsed().as_secs() as usize / 10 + 1;
        println!("{unknown} looked at, {held_off} not, in {:?}", begun.elapsed());
        assert!((20..=20 * windows).contains(&unknown) && unknown + held_off == GUESSES, "{unknown}, {held_off}");
        // HTTPS counts along; another address is looked at.
        let guess = client::Secret::generate(identity::SecretKind::Access, authority)?;
        for (from, status) in [("127.0.0.1", "429"), ("127.0.0.9", "401")] {
            if status == "429" && begun.elapsed().as_secs() >= 10 {
                // This machine was too slow to ask within the time.
                continue;
            }
            let dialer = https::Dialer::new(&cluster.authorities(), b"")?;
            let mut stream = dialer.connect(&cluster.addresses_of(1)?.1, Some(from.parse()?)).await?;
            let head = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", guess.bearer());
            stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{from}: {answer}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_brings_nothing_for_a_rank_that_is_not_its_own() {
    alone(shape(1, &[]), async |cluster| {
        add_worker(cluster, "worker-1", 1, &[])?;
        cluster.until_ready(1).await?;
        let held = held_by(cluster, "gate");
        let job = cluster.client().submit(&held).await?;
        cluster.until_phase(job, JobPhase::Running).await?;
        // A worker that was admitted, with the certificate of its own name.
        let node = cluster.worker_node("mallory").await?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.addresses_of(1)?.0))?;
        let mut telemetry = TelemetryClient::new(identity::Dialer::node(node).lazy(&endpoint));
        let token = cluster.client().get(job).await?.attempts.first().map_or(0, |attempt| attempt.token);
        for (attempt, stream) in [(1, "stdout"), (1, "metrics"), (2, "stdout")] {
            let name = v1::StreamName { job: job.0, attempt, rank: 0, stream: stream.into() };
            let append = v1::StreamAppend { name: Some(name), token, offset: 0, data: b"forged\n".to_vec().into() };
            let pushed = telemetry.push(tokio_stream::iter([append])).await?;
            let ack = tokio::time::timeout(PATIENCE, pushed.into_inner().message()).await??.context("no answer")?;
            assert!(ack.refused && !ack.reason.is_empty(), "{ack:?}");
        }
        open(cluster, "gate")?;
        cluster.ended(job).await?;
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout;
        assert!(!said.contains("forged"), "{said}");
        until("the trail to have it", Duration::from_secs(20), async || {
            let trail = cluster.muster(&["audit", "list", "--grep", "mallory"]).await.ok()?.stdout;
            (trail.contains("telemetry/push") && trail.contains("denied")).then_some(())
        })
        .await
    })
    .await;
}
