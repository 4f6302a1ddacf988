//! Many who connect to a coordinator and hold on, from several addresses of this machine: strangers who say nothing.

use crate::https::{Dialer, Stream};
use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::IpAddr;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Handshakes under way at once.
const AT_ONCE: usize = 32;
/// Descriptors for everything else.
const SPARE: u64 = 500;
/// How HTTP/2 begins: the preface and empty settings (RFC 9113, section 3.4).
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Connections after their handshakes, in the order in which they were asked for.
pub struct Crowd(Vec<Stream>);

impl Crowd {
    /// So many from each of these addresses to the gRPC port at `address`. Half of them begin HTTP/2, half say nothing.
    pub async fn gather(address: &str, authorities: &Path, from: &[IpAddr], each: usize) -> anyhow::Result<Self> {
        may_open((from.len() * each) as u64)?;
        let dialer = Dialer::new(authorities, b"h2")?;
        let all = from.iter().flat_map(|from| (0..each).map(move |n| (*from, n)));
        let dialing = all.map(|(from, n)| {
            let dialer = dialer.clone();
            async move {
                let mut stream = dialer.connect(address, Some(from)).await.with_context(|| format!("from {from}"))?;
                if n % 2 == 0 {
                    // It may be gone already.
                    let _ = stream.write_all(BEGIN).await;
                }
                anyhow::Ok(stream)
            }
        });
        Ok(Self(futures::stream::iter(dialing).buffered(AT_ONCE).try_collect().await?))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there nobody?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns when the other end has closed this one.
    pub async fn closed(&mut self, index: usize) -> anyhow::Result<()> {
        let stream = self.0.get_mut(index).context("nobody is there")?;
        let mut some = [0; 256];
        while let Ok(1..) = stream.read(&mut some).await {}
        Ok(())
    }
}

/// Lets this process have so many connections.
pub fn may_open(connections: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    anyhow::ensure!(connections + SPARE <= most, "{most} open files are permitted: too few for {connections}");
    let wanted = limit.current.map(|current| current.max(connections + SPARE));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum })?)
}
