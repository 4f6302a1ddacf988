//! What requests become, and the server over real sockets.

use super::testing::{attribute, double, fixed64, metric, number, record, request, text, whole};
use super::*;
use crate::shim::protobuf::{bytes_field, varint_field};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const AT: u64 = 1_764_000_000_250_000_000;

fn read_metrics(all: &[Vec<u8>]) -> (Vec<serde_json::Value>, u64, String) {
    let (mut lines, mut notices) = (Vec::new(), Notices::new(RankIndex(1), "it"));
    let rejected = metrics::read(&request("meter", all), &mut lines, &mut notices).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let points = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (points, rejected, String::from_utf8(notices.take()).unwrap())
}

fn read_log(records: &[Vec<u8>]) -> String {
    let mut lines = Vec::new();
    assert_eq!(logs::read(&request("data.loader", records), &mut lines).unwrap(), 0);
    String::from_utf8(lines).unwrap()
}

#[test]
fn gauges_and_sums_are_points_whose_attributes_are_part_of_their_names() {
    let route = attribute(7, "route", &text("/a b"));
    let code = attribute(7, "code", &whole(200));
    let sum = [fixed64(3, AT), fixed64(6, (-3_i64).cast_unsigned()), route, code].concat();
    let absent = [fixed64(3, AT), varint_field(8, 1)].concat();
    let (points, rejected, told) = read_metrics(&[
        metric("loss", 5, &[number(0.25, AT, &[attribute(7, "step", &whole(40))]), absent]),
        metric("requests", 7, &[sum]),
        metric("bad", 5, &[number(f64::NAN, AT, &[])]),
    ]);
    assert_eq!(
        points,
        [
            serde_json::json!({"name": "loss", "value": 0.25, "step": 40, "time": 1_764_000_000.25}),
            serde_json::json!({"name": "requests{code=200,route=\"/a b\"}", "value": -3, "time": 1_764_000_000.25}),
        ]
    );
    assert_eq!(rejected, 0);
    assert!(told.contains("no finite numbers") && told.contains("bad"), "{told}");
}

#[test]
fn histograms_and_summaries_are_their_parts() {
    let parts =
        |count, sum, min, max| [fixed64(3, AT), fixed64(4, count), double(5, sum), double(min, 0.5), double(max, 2.5)];
    let quantile = bytes_field(6, &[double(1, 0.99), double(2, 7.0)].concat());
    let summary = [fixed64(3, AT), fixed64(4, 2), double(5, 8.0), quantile].concat();
    let (points, ..) = read_metrics(&[
        metric("h", 9, &[parts(4, 6.0, 11, 12).concat()]),
        metric("e", 10, &[parts(5, 7.0, 12, 13).concat()]),
        metric("s", 11, &[summary]),
    ]);
    let named: Vec<(String, f64)> = points
        .iter()
        .map(|point| (point["name"].as_str().unwrap().to_owned(), point["value"].as_f64().unwrap()))
        .collect();
    let expected = [
        ("h.count", 4.0),
        ("h.sum", 6.0),
        ("h.min", 0.5),
        ("h.max", 2.5),
        ("e.count", 5.0),
        ("e.sum", 7.0),
        ("e.min", 0.5),
        ("e.max", 2.5),
        ("s.count", 2.0),
        ("s.sum", 8.0),
        ("s.p99", 7.0),
    ];
    assert_eq!(named, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn points_past_the_bound_are_counted_and_not_taken() {
    let many: Vec<Vec<u8>> = (0..10_003).map(|_| number(1.0, AT, &[])).collect();
    let (points, rejected, _) = read_metrics(&[metric("x", 5, &many)]);
    assert_eq!((points.len(), rejected), (10_000, 3));
    // Points of two bytes on the wire, which are hundreds once they are decoded into structures.
    let tiny = request("m", &[[bytes_field(1, b"x"), bytes_field(5, &[0x0a, 0].repeat(1 << 20))].concat()]);
    let (mut lines, mut notices) = (Vec::new(), Notices::new(RankIndex(0), "it"));
    assert_eq!(metrics::read(&tiny, &mut lines, &mut notices).unwrap(), (1 << 20) - 10_000);
    assert!(lines.is_empty(), "they have no value");
}

#[test]
fn records_are_lines_with_all_that_they_say() {
    let said = read_log(&[
        record(
            AT,
            13,
            &text("3 samples are empty"),
            &[attribute(6, "file", &text("train.csv")), attribute(6, "n", &whole(3))],
        ),
        [
            fixed64(11, AT),
            bytes_field(3, b"NOTICE"),
            bytes_field(5, &text("two\nlines\n")),
            bytes_field(9, &[0xab; 16]),
        ]
        .concat(),
        record(0, 17, &text("failed"), &[attribute(6, "exception.stacktrace", &text("Traceback:\n  here\n"))]),
        record(
            AT,
            9,
            &bytes_field(6, &attribute(1, "a", &bytes_field(5, &bytes_field(1, &whole(1))))),
            &[bytes_field(10, &[0; 8])],
        ),
    ]);
    let trace = "ab".repeat(16);
    let expected = format!(
        "2025-11-24 16:00:00.250Z WARN data.loader: 3 samples are empty file=train.csv n=3\n\
         2025-11-24 16:00:00.250Z NOTICE data.loader: two\nlines\n trace_id={trace}\n\
         1970-01-01 00:00:00.000Z ERROR data.loader: failed\nTraceback:\n  here\n\
         2025-11-24 16:00:00.250Z INFO data.loader: {{a=[1]}}\n"
    );
    assert_eq!(said, expected);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut notices = Notices::new(RankIndex(0), "it");
        for request in [bytes.clone(), request("x", std::slice::from_ref(&bytes)), request("x", &[metric("x", 9, &[bytes])])] {
            let _ = metrics::read(&request, &mut Vec::new(), &mut notices);
            let _ = logs::read(&request, &mut Vec::new());
        }
    }
}

/// A supervisor's loop that takes everything, until it is dropped.
struct Taker {
    otlp: Option<Otlp>,
    stop: Arc<AtomicBool>,
}

impl Taker {
    fn new() -> (Self, String, String) {
        let otlp = Otlp::new(RankIndex(1), None).unwrap();
        let variables: std::collections::BTreeMap<String, String> =
            otlp.variables(OtlpOffer::All).into_iter().collect();
        let (endpoint, headers) =
            (variables["OTEL_EXPORTER_OTLP_ENDPOINT"].clone(), &variables["OTEL_EXPORTER_OTLP_HEADERS"]);
        let secret = headers.strip_prefix("x-muster-rank=").unwrap().to_owned();
        (Self { otlp: Some(otlp), stop: Arc::default() }, endpoint, secret)
    }

    /// What comes until `count` requests have come.
    fn take(&mut self, count: usize) -> std::thread::JoinHandle<(Vec<Lines>, Otlp)> {
        let (mut otlp, stop) = (self.otlp.take().unwrap(), self.stop.clone());
        std::thread::spawn(move || {
            let mut all = Vec::new();
            while all.len() < count && !stop.load(Ordering::Relaxed) {
                let Some(delivery) = otlp.next() else {
                    let waits = [otlp.waits_for().unwrap()];
                    let mut waits =
                        waits.map(|fd| rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN));
                    let most = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                    let _ = rustix::event::poll(&mut waits, Some(&most));
                    continue;
                };
                all.push(Lines {
                    metrics: delivery.lines.metrics.clone(),
                    log: delivery.lines.log.clone(),
                    notices: delivery.lines.notices.clone(),
                });
                delivery.taken();
            }
            (all, otlp)
        })
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn post(endpoint: &str, path: &str, kind: &str, secret: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(Method::POST).uri(format!("{endpoint}{path}")).header("content-type", kind);
    request.header(SECRET_HEADER, secret).body(Full::new(Bytes::from(body))).unwrap()
}

async fn send(is_http2: bool, request: Request<Full<Bytes>>) -> Response<http_body_util::Collected<Bytes>> {
    let client = Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap())
}

const METRICS_CALL: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[tokio::test]
async fn http_and_grpc_are_taken_on_one_port() {
    let (mut taker, endpoint, secret) = Taker::new();
    let taking = taker.take(3);
    let metrics = request("m", &[metric("loss", 5, &[number(0.5, AT, &[])])]);
    let protobuf = "application/x-protobuf";
    let answer = send(false, post(&endpoint, "/v1/metrics", protobuf, &secret, metrics.clone())).await;
    assert_eq!((answer.status(), answer.into_body().to_bytes().len()), (StatusCode::OK, 0));
    let logs = request("app", &[record(AT, 9, &text("hello"), &[])]);
    let answer = send(false, post(&endpoint, "/v1/logs", protobuf, &secret, logs)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = send(true, post(&endpoint, METRICS_CALL, "application/grpc", &secret, frame(&metrics))).await;
    let (head, body) = answer.into_parts();
    assert_eq!((head.status, head.headers["content-type"].as_bytes()), (StatusCode::OK, &b"application/grpc"[..]));
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes()[..], [0; 5]);
    let (all, _otlp) = tokio::task::spawn_blocking(move || taking.join().unwrap()).await.unwrap();
    assert_eq!(all[0], all[2]);
    assert!(all[0].metrics.starts_with(b"{\"name\":\"loss\",\"value\":0.5"));
    assert!(all[1].log.ends_with(b" INFO app: hello\n"));
}

#[tokio::test]
async fn only_who_has_the_secret_is_heard() {
    let (mut taker, endpoint, secret) = Taker::new();
    let taking = taker.take(1);
    let metrics = || request("m", &[metric("loss", 5, &[number(0.5, AT, &[])])]);
    let (_other, _, others) = Taker::new();
    for wrong in ["", "x", others.as_str(), &secret[1..], &format!("{secret} ")[1..]] {
        let answer = send(false, post(&endpoint, "/v1/metrics", "application/x-protobuf", wrong, metrics())).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong:?}");
        let answer = send(true, post(&endpoint, METRICS_CALL, "application/grpc", wrong, frame(&metrics()))).await;
        assert_eq!(answer.headers()["grpc-status"], "16", "{wrong:?}");
    }
    let answer = send(false, post(&endpoint, "/v1/metrics", "application/x-protobuf", &secret, metrics())).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let (all, _otlp) = tokio::task::spawn_blocking(move || taking.join().unwrap()).await.unwrap();
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_words() {
    let (mut taker, endpoint, secret) = Taker::new();
    let _taking = taker.take(usize::MAX);
    let protobuf = "application/x-protobuf";
    for (path, kind, body, status) in [
        ("/v1/metrics", "application/json", b"{}".to_vec(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("/v1/metrics", protobuf, vec![0xff; 20], StatusCode::BAD_REQUEST),
        ("/v1/else", protobuf, vec![], StatusCode::NOT_FOUND),
        ("/v1/logs", protobuf, vec![0; (4 << 20) + 1], StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = send(false, post(&endpoint, path, kind, &secret, body)).await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(!answer.into_body().to_bytes().is_empty());
    }
    for (path, body, status) in [
        (METRICS_CALL, vec![0; 3], "3"),
        (METRICS_CALL, vec![1, 0, 0, 0, 0], "12"),
        (METRICS_CALL, frame(&[0xff; 20]), "3"),
        ("/some.Service/Call", frame(&[]), "12"),
    ] {
        let answer = send(true, post(&endpoint, path, "application/grpc", &secret, body)).await;
        assert_eq!(answer.headers()["grpc-status"], status, "{path}");
    }
}

#[tokio::test]
async fn spans_are_told_to_be_dropped_once() {
    let (mut taker, endpoint, secret) = Taker::new();
    let taking = taker.take(1);
    let spans = request("t", &[vec![], vec![]]);
    let answer = send(false, post(&endpoint, "/v1/traces", "application/x-protobuf", &secret, spans)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let told = String::from_utf8_lossy(&answer.into_body().to_bytes()).into_owned();
    assert!(told.contains("spans are not kept here"), "{told}");
    let (all, _otlp) = tokio::task::spawn_blocking(move || taking.join().unwrap()).await.unwrap();
    let notices = String::from_utf8_lossy(&all[0].notices).into_owned();
    assert!(notices.starts_with("muster: rank 1: 2 of what it sent by OTLP are dropped: spans"), "{notices}");
}

#[tokio::test]
async fn what_finds_no_room_is_to_be_sent_again_and_is_not_taken_later() {
    let (mut taker, endpoint, secret) = Taker::new();
    let mut otlp = taker.otlp.take().unwrap();
    let metrics = request("m", &[metric("loss", 5, &[number(0.5, AT, &[])])]);
    let asked = tokio::spawn(send(false, post(&endpoint, "/v1/metrics", "application/x-protobuf", &secret, metrics)));
    let (otlp, begun) = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        loop {
            if let Some(delivery) = otlp.next() {
                otlp.put_back(delivery);
                return (otlp, begun);
            }
            std::thread::yield_now();
        }
    })
    .await
    .unwrap();
    let answer = asked.await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(begun.elapsed() < Duration::from_secs(10), "an SDK still waits for the answer");
    let mut otlp = otlp;
    assert!(otlp.next().is_none(), "its sender was told that it was not taken");
}
