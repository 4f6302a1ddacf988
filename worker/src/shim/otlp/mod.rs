//! Metrics and logs that a rank's programs send by OpenTelemetry's protocol: metrics become lines of its metrics stream, log records
//! lines of its stderr, as if it had written them itself.
//!
//! ```text
//!  rank ──HTTP or gRPC, 127.0.0.1──> server ──lines──> supervisor's loop ──> spool ──> answered
//!         with the attempt's secret  (a thread, from the first caller on)
//! ```
//!
//! Promises: what is acknowledged is in the spool, which outlives the daemon. What finds no room is not taken, and its sender
//! is told to try again. Only who has the secret that this rank's environment holds is heard: the supervisor makes it, and it
//! stands on no disk. Requests, their points and what becomes of them are bounded; a rank that sends nothing costs one socket.

mod answer;
mod logs;
mod metrics;
mod server;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod values;

use super::notices::Notices;
use super::spec::OtlpOffer;
use rustix::event::EventfdFlags;
use server::Server;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use types::RankIndex;

/// The header of the secret. Of letters and digits only, for not all SDKs decode what `OTEL_EXPORTER_OTLP_HEADERS` has in other forms.
const SECRET_HEADER: &str = "x-muster-rank";
/// Requests that wait for the supervisor's loop.
const WAITING_MAX: usize = 1;

/// Lines of one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// For the metrics stream.
    pub(super) metrics: Vec<u8>,
    /// For stderr.
    pub(super) log: Vec<u8>,
    /// For stderr too, of the supervisor's own.
    pub(super) notices: Vec<u8>,
}

/// A request that waits to be taken.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) lines: Lines,
    taken: oneshot::Sender<()>,
}

impl Delivery {
    /// Its lines are in the spool, or will be before this process ends.
    pub(super) fn taken(self) {
        let _ = self.taken.send(());
    }
}

/// The supervisor's side. No `Debug`: it has the secret.
pub(super) struct Otlp {
    rank: RankIndex,
    address: SocketAddr,
    secret: String,
    state: State,
}

enum State {
    /// Nobody has called yet.
    Quiet(TcpListener),
    Serving {
        deliveries: mpsc::Receiver<Delivery>,
        wake: Arc<OwnedFd>,
        next: Option<Delivery>,
    },
    /// It could not be served, which was said.
    Broken,
}

impl Otlp {
    /// Listens on a port of the loopback address that the kernel chooses, in the network of the rank.
    pub(super) fn new(rank: RankIndex, network: Option<&crate::network::Place>) -> io::Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = network.map_or_else(bind, |network| network.within(bind))?;
        listener.set_nonblocking(true)?;
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let secret = random.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Self { rank, address: listener.local_addr()?, secret, state: State::Quiet(listener) })
    }

    /// By which SDKs find it, in the rank's environment.
    pub(super) fn variables(&self, offer: OtlpOffer) -> Vec<(String, String)> {
        // Where an endpoint is for one signal only, its path is not added to it.
        let of = |signal: &str, path: &str| {
            [
                (format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT"), format!("http://{}{path}", self.address)),
                (format!("OTEL_EXPORTER_OTLP_{signal}PROTOCOL"), "http/protobuf".to_owned()),
                (format!("OTEL_EXPORTER_OTLP_{signal}HEADERS"), format!("{SECRET_HEADER}={}", self.secret)),
            ]
        };
        match offer {
            OtlpOffer::Nothing => Vec::new(),
            OtlpOffer::All => of("", "").to_vec(),
            OtlpOffer::BySignal => [of("METRICS_", "/v1/metrics"), of("LOGS_", "/v1/logs")].concat(),
        }
    }

    /// What becomes readable when there is something to do.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Quiet(listener) => Some(listener.as_fd()),
            State::Serving { wake, .. } => Some(wake.as_fd()),
            State::Broken => None,
        }
    }

    /// The next request; the server begins with the first caller.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        if let State::Quiet(listener) = &self.state {
            let begun = match listener.accept() {
                Ok((first, _)) => self.begin(first),
                // Nobody, or somebody who has gone again.
                Err(error) if is_harmless(&error) => return None,
                Err(error) => Err(error),
            };
            self.state = begun.unwrap_or_else(|error| {
                super::say(format_args!("what its rank sends by OTLP is not taken: {error}"));
                State::Broken
            });
        }
        let State::Serving { deliveries, wake, next } = &mut self.state else { return None };
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&**wake, &mut count);
        loop {
            let delivery = next.take().or_else(|| deliveries.try_recv().ok())?;
            // Nobody waits for it any more: it was told to be sent again.
            if !delivery.taken.is_closed() {
                return Some(delivery);
            }
        }
    }

    /// There is no room for it now.
    pub(super) fn put_back(&mut self, delivery: Delivery) {
        if let State::Serving { next, .. } = &mut self.state {
            *next = Some(delivery);
        }
    }

    fn begin(&self, first: TcpStream) -> io::Result<State> {
        let State::Quiet(listener) = &self.state else { return Ok(State::Broken) };
        let wake = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, deliveries) = mpsc::channel(WAITING_MAX);
        let server = Server {
            secret: Sha256::digest(self.secret.as_bytes()).into(),
            notices: Notices::new(self.rank, "what it sends by OTLP"),
            deliveries: sender,
            wake: wake.clone(),
        };
        server.start(listener.try_clone()?, first)?;
        Ok(State::Serving { deliveries, wake, next: None })
    }
}

fn is_harmless(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}
