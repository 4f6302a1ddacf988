//! The key for secrets on this coordinator while it is exchanged: fetched from one that has it, and told to the cluster; afterwards the
//! old one is thrown away.

use super::Error;
use super::identify::Identified;
use crate::raft::Node;
use cluster_state::{Command, KeyExchange};
use identity::SealingKeys;
use types::{CoordinatorId, Principal};

/// Does what is to be done now.
pub(super) async fn follow(identified: &Identified, raft: &Node) -> Result<(), Error> {
    let (exchange, key) = raft.look(|state| (state.key_exchange().cloned(), state.sealing_key()));
    let Principal::Coordinator(own) = identified.node.material().subject.principal() else { return Ok(()) };
    match (exchange, key) {
        (Some(exchange), _) => take_part(identified, raft, own, exchange).await,
        (None, Some(key)) if !identified.folder.sealing_key_is_held() => {
            let left = identified.folder.sealing_keys()?.and_then(|keys| keys.without_others(key));
            left.map_or(Ok(()), |left| Ok(identified.folder.store_sealing_keys(&left)?))
        }
        (None, _) => Ok(()),
    }
}

async fn take_part(
    identified: &Identified,
    raft: &Node,
    own: CoordinatorId,
    exchange: KeyExchange,
) -> Result<(), Error> {
    if exchange.held_by.contains(&own) {
        return Ok(());
    }
    let folder = &identified.folder;
    let here = folder.sealing_keys()?;
    if here.as_ref().is_none_or(|keys| keys.get(exchange.to).is_none()) {
        if folder.sealing_key_is_held() {
            let what = "the file of --secrets-key lacks the key to which secrets are going: put it on a line of its own, as the last";
            return Err(Error::Failed(what.into()));
        }
        let fetched = identity::renew(&raft.grpc_addresses(), &identified.node).await?.sealing_keys;
        let fetched = fetched.filter(|keys| keys.get(exchange.to).is_some());
        let fetched = fetched.ok_or_else(|| Error::Failed("no coordinator gave the new key for secrets".into()))?;
        folder.store_sealing_keys(&here.map_or_else(|| fetched.clone(), |keys: SealingKeys| keys.and(&fetched)))?;
    }
    let held = Command::NoteKeyHeld { to: exchange.to, by: own };
    raft.propose(vec![held]).await.map_err(|error| Error::Failed(error.to_string()))?;
    Ok(())
}
