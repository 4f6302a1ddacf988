//! The coordinators a client knows: connected when first needed, the one that answered last is asked first.

use crate::hedge::Hedges;
use identity::{Authorized, Bearer, Dialer, Secret};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Endpoint;

/// A connection on which every call brings the client's token.
pub(crate) type Channel = Authorized;

/// A handle on one cluster; cheap to clone, all clones share their connections.
///
/// Calls must run inside a tokio runtime. Nothing is connected before the first call.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    pub(crate) patience: crate::Patience,
}

#[derive(Debug)]
struct Pool {
    /// Nothing without a token: then every call fails, and says so.
    access: Option<Result<Access, String>>,
    coordinators: Vec<Coordinator>,
    preferred: watch::Sender<usize>,
    hedges: Hedges,
}

/// How the cluster is known, and what proves the user.
#[derive(Debug)]
struct Access {
    dialer: Dialer,
    bearer: Bearer,
}

impl Access {
    fn new(token: &Secret) -> Result<Self, String> {
        let dialer = Dialer::pinned(&[token.authority()]).map_err(|error| error.to_string())?;
        let bearer = Bearer::new(token).map_err(|status| status.message().to_owned())?;
        Ok(Self { dialer, bearer })
    }
}

#[derive(Debug)]
struct Coordinator {
    address: String,
    channel: OnceLock<Result<Channel, String>>,
}

impl Client {
    /// A client of the cluster behind these `host:port` addresses, in the name of the user whose token this is. The token is
    /// sent only to coordinators of its own cluster. A wrong address shows in the first call's error.
    pub fn connect(addresses: Vec<String>, token: &Secret) -> Client {
        Self::to(addresses, Some(Access::new(token)))
    }

    /// A client that can make no call, for what is checked before one is made: each call is [`Error::NoToken`](crate::Error).
    pub fn without_token(addresses: Vec<String>) -> Client {
        Self::to(addresses, None)
    }

    fn to(addresses: Vec<String>, access: Option<Result<Access, String>>) -> Client {
        let coordinators = addresses
            .into_iter()
            .map(|address| Coordinator { address: plain(&address), channel: OnceLock::new() })
            .collect();
        let pool = Pool { access, coordinators, preferred: watch::Sender::new(0), hedges: Hedges::default() };
        Client { pool: Arc::new(pool), patience: crate::Patience::default() }
    }

    /// The same client with other deadlines.
    #[must_use]
    pub fn with_patience(mut self, patience: crate::Patience) -> Client {
        self.patience = patience;
        self
    }

    /// Addresses in the order in which they were given.
    pub fn addresses(&self) -> Vec<String> {
        self.pool.coordinators.iter().map(|coordinator| coordinator.address.clone()).collect()
    }

    /// The address that will be asked next: the one that answered last.
    pub fn preferred_address(&self) -> Option<String> {
        self.pool.coordinators.get(self.preferred()).map(|coordinator| coordinator.address.clone())
    }

    pub(crate) fn has_token(&self) -> bool {
        self.pool.access.is_some()
    }

    pub(crate) fn count(&self) -> usize {
        self.pool.coordinators.len()
    }

    pub(crate) fn preferred(&self) -> usize {
        *self.pool.preferred.borrow()
    }

    /// Leaves the coordinator at `index`, unless another task did so already.
    pub(crate) fn move_on(&self, index: usize) {
        let next = (index + 1) % self.count().max(1);
        self.prefer(index, next);
    }

    /// Turns from the coordinator at `index` to another one, unless another task turned away already.
    pub(crate) fn prefer(&self, index: usize, next: usize) {
        self.pool.preferred.send_if_modified(|preferred| {
            let turns = *preferred == index && index != next;
            if turns {
                *preferred = next;
            }
            turns
        });
    }

    /// Waits until another coordinator than that at `index` is preferred.
    pub(crate) async fn await_turned_from(&self, index: usize) {
        let mut preferred = self.pool.preferred.subscribe();
        // It cannot end while this client lives.
        let _ = preferred.wait_for(|preferred| *preferred != index).await;
    }

    pub(crate) fn hedges(&self) -> &Hedges {
        &self.pool.hedges
    }

    pub(crate) fn address(&self, index: usize) -> &str {
        self.pool.coordinators.get(index).map_or("", |coordinator| &coordinator.address)
    }

    pub(crate) fn channel(&self, index: usize) -> Result<Channel, String> {
        let Some(coordinator) = self.pool.coordinators.get(index) else {
            return Err("no address is known".into());
        };
        let access = self.pool.access.as_ref().ok_or("there is no token for it")?;
        let access = access.as_ref().map_err(Clone::clone)?;
        coordinator.channel.get_or_init(|| open(&coordinator.address, access)).clone()
    }
}

fn plain(address: &str) -> String {
    let address = address.trim();
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/').to_owned()
}

/// Connects in the background when the first call needs it, and again after a loss. Pings find a silent peer, so a stream
/// that follows a quiet job cannot hang on a dead coordinator.
fn open(address: &str, access: &Access) -> Result<Channel, String> {
    let bad = || format!("{address:?} is not an address: write host:port");
    if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    Ok(Authorized::new(access.dialer.lazy(&endpoint), access.bearer.clone()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wrong_addresses_are_named() {
        let client = Client::connect(
            vec!["nowhere".into(), "http://127.0.0.1:1/".into(), ":7".into()],
            &crate::testing::token(),
        );
        assert!(client.channel(0).unwrap_err().contains("\"nowhere\""));
        assert!(client.channel(1).is_ok());
        assert!(client.channel(2).is_err());
        assert_eq!(client.addresses()[1], "127.0.0.1:1");
    }

    #[test]
    fn leaving_a_coordinator_twice_moves_once() {
        let client = Client::connect(vec!["a:1".into(), "b:1".into(), "c:1".into()], &crate::testing::token());
        client.move_on(0);
        client.move_on(0);
        assert_eq!(client.preferred(), 1);
    }
}
