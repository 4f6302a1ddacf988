//! etcd with three members, and the little of its API that is measured: `KV.Put`, written by hand as messages.

use super::peer::{Peers, find, free_ports};
use crate::wait::{PATIENCE, until};
use identity::{Authorized, Bearer};
use std::path::Path;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`: that it came is all that counts.
#[derive(Clone, prost::Message)]
struct PutResponse {}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, prost::Message)]
struct StatusRequest {}

/// `etcdserverpb.StatusResponse`, as far as it is used.
#[derive(Clone, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// `etcdserverpb.ResponseHeader`, as far as it is used.
#[derive(Clone, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Three members on loopback, with every setting as it comes.
pub(crate) struct Etcd {
    peers: Peers,
    names: Vec<String>,
    pub(crate) addresses: Vec<String>,
    arguments: Vec<Vec<String>>,
}

impl Etcd {
    /// Starts it; nothing where it is not installed.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("etcd") else { return Ok(None) };
        let mut peers = Peers::new(folder, "etcd")?;
        let ports = free_ports(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster = (0..3).map(|index| format!("m{index}={}", url(ports[index + 3]))).collect::<Vec<_>>().join(",");
        let mut etcd = Vec::new();
        for index in 0..3 {
            let (client, peer) = (url(ports[index]), url(ports[index + 3]));
            let arguments: Vec<String> = [
                ("--name", format!("m{index}")),
                ("--data-dir", peers.folder.join(format!("m{index}")).display().to_string()),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", cluster.clone()),
            ]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect();
            peers.start(&format!("m{index}"), &program, &arguments)?;
            etcd.push(arguments);
        }
        let addresses = ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let names = (0..3).map(|index| format!("m{index}")).collect();
        let started = Self { peers, names, addresses, arguments: etcd };
        started.leader().await.map_err(|error| error.context(started.peers.said()))?;
        Ok(Some(started))
    }

    /// Which member leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        until("a leader of etcd", PATIENCE, async || {
            for (index, address) in self.addresses.iter().enumerate() {
                let Ok(status) = status(address).await else { continue };
                let own = status.header.map_or(0, |header| header.member_id);
                if status.leader != 0 && status.leader == own {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// SIGKILL for one member.
    pub(crate) fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        self.peers.kill(&self.names[index])
    }

    /// Starts a killed one again and waits until it follows.
    pub(crate) async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(program) = find("etcd") {
            self.peers.start(&self.names[index].clone(), &program, &self.arguments[index].clone())?;
        }
        until("etcd's member to be back", PATIENCE, async || {
            status(&self.addresses[index]).await.ok().filter(|status| status.leader != 0).map(drop)
        })
        .await
    }
}

async fn status(address: &str) -> anyhow::Result<StatusResponse> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
    Ok(call(Authorized::new(channel, Bearer::none()), path, StatusRequest {}).await?)
}

/// Puts one value; on disk at a majority when it is answered.
pub(crate) async fn put(channel: Authorized, key: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    call::<_, PutResponse>(channel, path, PutRequest { key, value }).await.map(drop)
}

async fn call<Q, A>(channel: Authorized, path: PathAndQuery, message: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    grpc.unary(tonic::Request::new(message), path, codec).await.map(tonic::Response::into_inner)
}
