//! Daemons on hosts of their own, which can be cut off.

use super::Cluster;
use crate::daemon_process::Daemon;
use crate::network::Network;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;

impl Cluster {
    /// The same on a network of its own, where each daemon that is added gets a host; fails where that is not permitted.
    pub fn empty_network(parent: &Path, program: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::empty(parent, program)?;
        cluster.network = Some((Network::start(&cluster.folder)?, BTreeMap::new()));
        Ok(cluster)
    }

    /// Puts the daemon on a host of its own if there is a network, and answers with its address.
    pub(super) fn place(&mut self, daemon: &mut Daemon) -> anyhow::Result<String> {
        let Some((network, hosts)) = &mut self.network else { return Ok("127.0.0.1".to_owned()) };
        let host = network.add_host(&self.folder)?;
        hosts.insert(daemon.name().to_owned(), host);
        daemon.wrapper_mut().extend(network.wrapper(host)?);
        Ok(network.address(host))
    }

    /// Starts a worker of this name by these words after `muster`, on the next host, in the cluster's folder, and with nobody's token.
    pub fn add_worker_by(&mut self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        let mut daemon = Daemon::new(&self.folder, &self.program, name);
        self.place(&mut daemon)?;
        daemon.wrapper_mut().extend(["env".into(), "-C".into(), self.folder.clone().into_os_string()]);
        daemon.arguments_mut().extend(words.iter().map(Into::into));
        daemon.set("MUSTER_CREDENTIALS", "");
        daemon.start(&self.program)?;
        self.workers.push(daemon);
        Ok(())
    }

    /// Puts somebody on the network at the addresses at which clouds tell a machine its credentials, with these ports.
    pub fn add_metadata(&self, ports: &[u16]) -> anyhow::Result<Vec<std::net::TcpListener>> {
        self.network.as_ref().context("the cluster has no network of its own")?.0.add_metadata(ports)
    }

    /// Rules by which the host of this daemon chooses ways, as `ip rule` lists them.
    pub fn routing_rules(&self, daemon: &str) -> anyhow::Result<String> {
        let (network, hosts) = self.network.as_ref().context("the cluster has no network of its own")?;
        network.rules(*hosts.get(daemon).with_context(|| format!("no host of {daemon}"))?)
    }

    /// Cuts the host of a daemon off from all others, or joins it again.
    pub fn cut(&self, daemon: &str, is_cut: bool) -> anyhow::Result<()> {
        let (network, hosts) = self.network.as_ref().context("the cluster has no network of its own")?;
        let host = *hosts.get(daemon).with_context(|| format!("no host of {daemon}"))?;
        if is_cut { network.cut(host) } else { network.mend(host) }
    }

    /// Lets the host of one daemon take nothing from that of another, or lets it again. The way back is not touched.
    pub fn cut_between(&mut self, at: &str, from: &str, is_cut: bool) -> anyhow::Result<()> {
        let (network, hosts) = self.network.as_mut().context("the cluster has no network of its own")?;
        let host = |daemon: &str| hosts.get(daemon).copied().with_context(|| format!("no host of {daemon}"));
        network.deafen(host(at)?, host(from)?, is_cut)
    }

    /// Ends every connection of a daemon's host; without `is_told` the other sides hear nothing of it. Answers how many there were.
    pub fn reset(&self, daemon: &str, is_told: bool) -> anyhow::Result<usize> {
        let (network, hosts) = self.network.as_ref().context("the cluster has no network of its own")?;
        network.reset(*hosts.get(daemon).with_context(|| format!("no host of {daemon}"))?, is_told)
    }

    /// Lets the link of a daemon's host carry so many kilobits a second and lose so many of a thousand packets, or is as it was.
    pub(crate) fn slow(&self, daemon: &str, to: Option<(u64, u64)>) -> anyhow::Result<()> {
        let (network, hosts) = self.network.as_ref().context("the cluster has no network of its own")?;
        network.slow(*hosts.get(daemon).with_context(|| format!("no host of {daemon}"))?, to)
    }
}
