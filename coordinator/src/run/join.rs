//! Asks coordinators of a cluster to add this one, until one of them did.

use crate::raft::{Addresses, Node};
use identity::{Dialer, chain_of};
use proto::v1::AddMemberRequest;
use proto::v1::cluster_client::ClusterClient;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A coordinator answers once this one has the log and votes; it gives up by itself within this time.
const ADD_TIMEOUT: Duration = Duration::from_secs(90);
/// Between two rounds over all addresses; doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Returns once this coordinator votes. One that was a voter before asks nothing: if it was removed, that stands.
pub(super) async fn join(node: &Node, here: &Addresses, dialer: &Dialer, coordinators: &[String]) {
    if !wanted(node) {
        return;
    }
    let mut pause = PAUSE;
    loop {
        for address in coordinators {
            match ask(node, here, dialer, address).await {
                Ok(()) => {
                    tracing::info!(through = %address, "joined the cluster");
                    return;
                }
                Err(status) => {
                    let (code, why) = (status.code(), status.message());
                    tracing::info!(through = %address, ?code, why, "not added yet");
                }
            }
            // Somebody else may have had it added meanwhile.
            if !wanted(node) {
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// In no group, or in one without a vote.
fn wanted(node: &Node) -> bool {
    let status = node.status().borrow().clone();
    let learns = status.members.iter().any(|member| member.id == status.id && !member.voter);
    learns || node.is_pristine()
}

async fn ask(node: &Node, here: &Addresses, dialer: &Dialer, address: &str) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("address {address:?}: {error}")))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(ADD_TIMEOUT);
    let channel = dialer.connect(&endpoint).await.map_err(|error| Status::unavailable(chain_of(&error)))?;
    let request = AddMemberRequest { id: node.id().0, address: here.grpc.clone(), http_address: here.http.clone() };
    ClusterClient::new(channel).add_member(request).await.map(drop)
}
