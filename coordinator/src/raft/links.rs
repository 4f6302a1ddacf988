//! How a coordinator reaches the others: over TLS, or through what a simulation puts in its place.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::fmt::Debug;
use std::io;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// Opens connections to other coordinators.
pub trait Links: Debug + Send + Sync {
    /// A channel that connects when it is first used, and again after a loss.
    fn channel(&self, endpoint: &Endpoint) -> Channel;

    /// Does a process listen at this address? A refused connection says that none does; nothing else says so.
    fn knock<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<()>>;
}

impl Links for identity::Dialer {
    fn channel(&self, endpoint: &Endpoint) -> Channel {
        self.lazy(endpoint)
    }

    fn knock<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<()>> {
        TcpStream::connect(address).map(|connected| connected.map(drop)).boxed()
    }
}
