//! A coordinator's certificate while it runs: made anew before it ends, and as soon as the cluster's authorities change.

use super::Error;
use super::identify::Identified;
use crate::raft::Node;
use cluster_state::State;
use daemon::Shutdown;
use identity::{Certificate, Credentials, Fingerprint, Joined, Material, NodeRequest, fingerprint};
use std::time::Duration;
use types::Timestamp;

/// Between two looks at the certificate, unless its life is short.
const LOOK: Duration = Duration::from_mins(1);
/// After a certificate could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Whom nodes believe.
struct Authorities {
    /// The one that signs last.
    trusted: Vec<Certificate>,
    vouched: Option<Certificate>,
    /// When the one that signs came.
    since: Timestamp,
}

impl Authorities {
    /// None before the cluster is founded.
    fn of(state: &State) -> Option<Self> {
        let all = state.authorities();
        let signing = all.last()?;
        Some(Self {
            trusted: all.iter().map(|one| one.certificate.clone().into()).collect(),
            vouched: (!signing.vouched.is_empty()).then(|| signing.vouched.clone().into()),
            since: signing.created,
        })
    }

    fn are_those_of(&self, material: &Material) -> bool {
        self.trusted == material.trusted() && self.vouched.as_ref() == material.vouched()
    }
}

/// Keeps it until `ending`.
pub(super) async fn keep(identified: Identified, raft: Node, life: Duration, ending: Shutdown) {
    let own = identified.node.clone();
    let mut applied = raft.applied();
    loop {
        let seen = raft.look(State::access_version);
        let refreshed = match refresh(&identified, &raft, life).await {
            Ok(()) => super::sealing::follow(&identified, &raft).await,
            failed => failed,
        };
        let pause = match refreshed {
            Ok(()) => LOOK.min(life / 6),
            Err(error) => {
                tracing::warn!(%error, "what the cluster goes by was not renewed yet");
                PAUSE
            }
        };
        own.believe_from(raft.look(State::certificates_from));
        let changed = async {
            while raft.look(State::access_version) == seen {
                if applied.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = changed => {}
            () = ending.requested() => return,
        }
    }
}

/// Makes the next certificate if one is due.
async fn refresh(identified: &Identified, raft: &Node, life: Duration) -> Result<(), Error> {
    let before = identified.node.material();
    let is_ending = daemon::clock::now() >= before.renew_at();
    let is_known = |state: &State| Authorities::of(state).is_none_or(|now| now.are_those_of(&before));
    if !is_ending && raft.look(is_known) {
        return Ok(());
    }
    // A copy that is behind knows authorities of former times only: what it says may not be acted on.
    let recent = raft.linearizable().await.map_err(|error| Error::Failed(error.to_string()))?;
    let Some(authorities) = Authorities::of(&recent) else { return Ok(()) };
    if !is_ending && authorities.are_those_of(&before) {
        return Ok(());
    }
    have_key(identified, raft, &authorities).await?;
    let identified = identified.clone();
    let made = tokio::task::spawn_blocking(move || issue(&identified, &authorities, life));
    made.await.map_err(|error| Error::Failed(error.to_string()))?
}

/// Sees to it that the key that signs now lies in the folder; the other coordinators have it.
async fn have_key(identified: &Identified, raft: &Node, authorities: &Authorities) -> Result<(), Error> {
    let Some(signing) = authorities.trusted.last().map(fingerprint) else { return Ok(()) };
    if identified.folder.authority(signing)?.is_some() {
        return Ok(());
    }
    let Joined { authority, .. } = identity::renew(&raft.grpc_addresses(), &identified.node).await?;
    let authority = authority.filter(|authority| fingerprint(authority.certificate()) == signing);
    let authority = authority.ok_or_else(|| Error::Failed("another authority's key came".into()))?;
    identified.folder.store_authority(&authority)?;
    Ok(())
}

fn issue(identified: &Identified, authorities: &Authorities, life: Duration) -> Result<(), Error> {
    let signing = authorities.trusted.last().map(fingerprint);
    let authority = signing.map(|signing| identified.folder.authority(signing)).transpose()?.flatten();
    let authority = authority.ok_or_else(|| Error::Failed("the authority's key is not here".into()))?;
    let request = NodeRequest {
        subject: &identified.node.material().subject,
        hosts: &identified.hosts,
        trusted: &authorities.trusted,
        vouched: authorities.vouched.as_ref(),
        // What was issued before the authority came is an older one's.
        now: daemon::clock::now().max(authorities.since),
        life,
    };
    let next = Material::issue(&authority, &request)?;
    identified.folder.store(&next)?;
    tracing::info!(ends_ms = next.ends.0, authorities = authorities.trusted.len(), "the certificate was renewed");
    identified.node.replace(next);
    let kept: Vec<_> = authorities.trusted.iter().map(fingerprint).collect();
    identified.folder.forget_authorities_but(&kept)?;
    relearn(identified, kept.last().copied());
    Ok(())
}

/// The founder's owner knows the cluster by the authority that signs now.
fn relearn(identified: &Identified, signing: Option<Fingerprint>) {
    let (Ok(credentials), Some(signing)) = (Credentials::load(&identified.admin), signing) else { return };
    if credentials.authority() == signing {
        return;
    }
    let token = credentials.token.under(signing);
    if let Err(error) = (Credentials { token, ..credentials }).store(&identified.admin) {
        tracing::warn!(%error, "the owner's file names the old authority");
    }
}
