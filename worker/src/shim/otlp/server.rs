//! Serves OTLP over HTTP/1.1, HTTP/2 and gRPC on one port, on a thread of its own.
//!
//! Callers, what they send and how long they take are bounded, and nothing of a request is read before its secret was. All users of
//! the machine reach the port: who has shown no secret within some seconds is let go of.

use super::answer::{Answer, refused, taken};
use super::{Delivery, Lines, SECRET_HEADER, logs, metrics};
use crate::shim::notices::Notices;
use crate::shim::protobuf::{Field, Fields, Malformed};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections at a time: a rank may have many processes that send.
const CALLERS_MAX: usize = 64;
/// Requests whose bytes are held at a time; others wait.
const REQUESTS_MAX: usize = 2;
/// Bytes of one request: what gRPC servers take if nobody says otherwise.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// For a caller to send its first head with the secret.
const SECRET_MAX: Duration = Duration::from_secs(10);
/// From a head to its answer. SDKs wait for 10 s: an answer that comes later would be for nobody.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// After a connection could not be accepted: descriptors are short.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const STACK_BYTES: usize = 512 << 10;
/// Of HTTP/2, for each connection and each request in it.
const WINDOW_BYTES: u32 = 64 << 10;
const HEAD_BYTES_MAX: u32 = 16 << 10;

const NOT_KEPT: &str = "10,000 points or records of a request are taken, and 4 MiB of lines";
const NO_SPANS: &str = "spans are not kept here: set OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to where they are to go";

/// How a request came, and so how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Grpc,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Metrics,
    Logs,
    Traces,
}

/// Why nothing of a request was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Faulty {
    NoSecret,
    NoSuchPath,
    NoSuchForm,
    TooLarge,
    Malformed,
    Busy,
}

impl Faulty {
    /// For HTTP, for gRPC, and for people.
    pub(super) fn told(self) -> (StatusCode, u64, &'static str) {
        match self {
            Self::NoSecret => (
                StatusCode::UNAUTHORIZED,
                16,
                "the header of this rank is missing or wrong: send what OTEL_EXPORTER_OTLP_HEADERS says",
            ),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, 12, "POST to /v1/metrics or /v1/logs, or call Export by gRPC"),
            Self::NoSuchForm => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, 12, "only protobuf that is not compressed is read")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 8, "a request has 4 MiB at most: export smaller batches"),
            Self::Malformed => (StatusCode::BAD_REQUEST, 3, "the bytes are no such request"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, 14, "there is no room for it now: try again"),
        }
    }
}

impl From<Malformed> for Faulty {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What the server needs.
pub(super) struct Server {
    /// SHA-256 of the secret: hashes are compared, whose equal beginnings tell nobody anything.
    pub(super) secret: [u8; 32],
    pub(super) notices: Notices,
    pub(super) deliveries: mpsc::Sender<Delivery>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Server {
    /// Serves for as long as this process lives; `first` has called already.
    pub(super) fn start(self, listener: TcpListener, first: TcpStream) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            secret: self.secret,
            notices: Mutex::new(self.notices),
            deliveries: self.deliveries,
            wake: self.wake,
            requests: Semaphore::new(REQUESTS_MAX),
        });
        let serve = move || {
            if let Err(error) = runtime.block_on(serve(listener, first, shared)) {
                crate::shim::say(format_args!("OTLP is not taken any more: {error}"));
            }
        };
        std::thread::Builder::new().name("otlp".into()).stack_size(STACK_BYTES).spawn(serve).map(drop)
    }
}

struct Shared {
    secret: [u8; 32],
    notices: Mutex<Notices>,
    deliveries: mpsc::Sender<Delivery>,
    wake: Arc<OwnedFd>,
    requests: Semaphore,
}

async fn serve(listener: TcpListener, first: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    first.set_nonblocking(true)?;
    let mut next = Some(tokio::net::TcpStream::from_std(first)?);
    let callers = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(place) = callers.clone().acquire_owned().await else { return Ok(()) };
        let accepted = match next.take() {
            Some(first) => Ok(first),
            None => listener.accept().await.map(|(stream, _)| stream),
        };
        let Ok(stream) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            connection(stream, shared).await;
            drop(place);
        });
    }
}

async fn connection(stream: tokio::net::TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let known = Arc::new(AtomicBool::new(false));
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(SECRET_MAX).max_buf_size(4 * HEAD_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLERS_MAX as u32)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX);
    let service = {
        let known = known.clone();
        tower::service_fn(move |request| {
            let (shared, known) = (shared.clone(), known.clone());
            async move { Ok::<_, Infallible>(answer(&shared, &known, request).await) }
        })
    };
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    // Errors are the caller's: it has gone, or speaks no HTTP.
    if let Ok(_ended) = timeout(SECRET_MAX, &mut connection).await {
        return;
    }
    if known.load(Ordering::Relaxed) {
        let _ = connection.await;
    }
}

async fn answer<B>(shared: &Shared, known: &AtomicBool, request: Request<B>) -> Response<Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kind = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let protocol = if kind.starts_with(b"application/grpc") { Protocol::Grpc } else { Protocol::Http };
    if !shared.knows(request.headers()) {
        return refused(protocol, Faulty::NoSecret);
    }
    known.store(true, Ordering::Relaxed);
    let answered = match timeout(ANSWER_MAX, take(shared, protocol, request)).await {
        Ok(answered) => answered,
        Err(_) => Err(Faulty::Busy),
    };
    match answered {
        Ok((rejected, why)) => taken(protocol, rejected, why),
        Err(faulty) => refused(protocol, faulty),
    }
}

/// How many points, records or spans were not taken, and why.
async fn take<B>(shared: &Shared, protocol: Protocol, request: Request<B>) -> Result<(u64, &'static str), Faulty>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let signal = signal(&request).ok_or(Faulty::NoSuchPath)?;
    let headers = request.headers();
    let is_protobuf = |kind: &http::HeaderValue| kind.as_bytes().starts_with(b"application/x-protobuf");
    let is_plain = |encoding: &http::HeaderValue| encoding == "identity";
    let is_readable = headers.get(CONTENT_ENCODING).is_none_or(is_plain)
        && (protocol == Protocol::Grpc || headers.get(CONTENT_TYPE).is_some_and(is_protobuf));
    if !is_readable {
        return Err(Faulty::NoSuchForm);
    }
    let Ok(_place) = shared.requests.acquire().await else { return Err(Faulty::Busy) };
    let body = match Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Faulty::TooLarge),
        Err(_) => return Err(Faulty::Malformed),
    };
    let message = match protocol {
        Protocol::Http => &body[..],
        Protocol::Grpc => of_frame(&body)?,
    };
    shared.deliver(signal, message).await
}

fn signal<B>(request: &Request<B>) -> Option<Signal> {
    let signal = match request.uri().path() {
        "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Signal::Metrics,
        "/v1/logs" | "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
        "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Signal::Traces,
        _ => return None,
    };
    (request.method() == Method::POST).then_some(signal)
}

/// The one message of a call.
fn of_frame(body: &[u8]) -> Result<&[u8], Faulty> {
    let (head, message) = body.split_first_chunk::<5>().ok_or(Faulty::Malformed)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    match head[0] {
        0 if length as usize == message.len() => Ok(message),
        0 => Err(Faulty::Malformed),
        _ => Err(Faulty::NoSuchForm),
    }
}

impl Shared {
    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(SECRET_HEADER).map(|value| Sha256::digest(value.as_bytes()));
        given.is_some_and(|given| given[..] == self.secret)
    }

    async fn deliver(&self, signal: Signal, message: &[u8]) -> Result<(u64, &'static str), Faulty> {
        let (lines, rejected, why) = self.read(signal, message)?;
        if lines != Lines::default() {
            let (taken, when_taken) = oneshot::channel();
            self.deliveries.send(Delivery { lines, taken }).await.map_err(|_| Faulty::Busy)?;
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
            when_taken.await.map_err(|_| Faulty::Busy)?;
        }
        Ok((rejected, why))
    }

    fn read(&self, signal: Signal, message: &[u8]) -> Result<(Lines, u64, &'static str), Faulty> {
        let mut lines = Lines::default();
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let (rejected, why) = match signal {
            Signal::Metrics => (metrics::read(message, &mut lines.metrics, &mut notices)?, NOT_KEPT),
            Signal::Logs => (logs::read(message, &mut lines.log)?, NOT_KEPT),
            Signal::Traces => (spans(message)?, NO_SPANS),
        };
        if rejected > 0 {
            notices.say_once(why, format_args!("{rejected} of what it sent by OTLP are dropped: {why}"));
        }
        lines.notices = notices.take();
        Ok((lines, rejected, why))
    }
}

/// How many there are in an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Result<u64, Malformed> {
    let mut count = 0;
    for resource in Fields(request) {
        let (1, Field::Bytes(resource)) = resource? else { continue };
        for scope in Fields(resource) {
            let (2, Field::Bytes(scope)) = scope? else { continue };
            for span in Fields(scope) {
                count += u64::from(matches!(span?, (2, _)));
            }
        }
    }
    Ok(count)
}
