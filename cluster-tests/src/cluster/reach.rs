//! Ways into a cluster: as its owner, as a worker, over gRPC and HTTPS.

use super::Cluster;
use crate::command::Answer;
use crate::daemon_process::{credentials, environment};
use crate::https;
use client::Client;
use identity::{Authorized, Credentials};
use std::ffi::OsStr;
use std::path::PathBuf;
use tokio::process::Command;
use tonic::transport::Endpoint;

impl Cluster {
    /// What the owner of the cluster proves themselves with.
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        Ok(Credentials::load(&credentials(&self.folder))?)
    }

    /// A client of the whole cluster, for the runtime that calls.
    pub fn client(&self) -> Client {
        self.client_to(self.addresses())
    }

    /// A client that asks these coordinators, the first of them first.
    pub fn client_to(&self, addresses: Vec<String>) -> Client {
        match self.credentials() {
            Ok(credentials) => Client::connect(addresses, &credentials.token),
            // Before the first coordinator has begun there is none.
            Err(_) => Client::without_token(addresses),
        }
    }

    /// A connection to one coordinator, in the name of the owner.
    pub fn channel(&self, id: u64) -> anyhow::Result<Authorized> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addresses_of(id)?.0))?;
        Ok(self.credentials()?.lazy(&endpoint)?)
    }

    /// The certificate of a worker of this name, admitted by the owner.
    pub async fn worker_node(&self, name: &str) -> anyhow::Result<identity::Node> {
        let joiner = identity::Joiner::Worker(types::WorkerId::new(name)?);
        let admission = identity::Admission::User(self.credentials()?);
        let joined = identity::join(&self.addresses(), &admission, &joiner).await?;
        Ok(identity::Node::new(joined.material))
    }

    /// The certificates of the authorities that signed for the cluster's nodes.
    pub fn authorities(&self) -> PathBuf {
        self.folder.join("coordinator-1/identity/authorities.pem")
    }

    /// What a coordinator answers to `GET path`, in the name of the owner.
    pub async fn get(&self, id: u64, path: &str) -> anyhow::Result<String> {
        let credentials = self.credentials()?;
        https::get(&self.addresses_of(id)?.1, &self.authorities(), path, Some(credentials.token.bearer())).await
    }

    /// A client of one coordinator alone.
    pub fn client_of(&self, id: u64) -> anyhow::Result<Client> {
        Ok(self.client_to(vec![self.addresses_of(id)?.0.clone()]))
    }

    /// Runs a line of a shell to its end, as who types it: `muster` is found, and files are in the cluster's folder.
    pub async fn shell(&self, line: &str) -> anyhow::Result<Answer> {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).env_clear().envs(environment(&self.folder, &self.program));
        command.env("MUSTER_COORDINATORS", self.addresses().join(",")).current_dir(&self.folder);
        Answer::of(command).await
    }

    /// Runs `muster` to its end with these variables besides.
    pub async fn muster_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Answer::of(command).await
    }
}
