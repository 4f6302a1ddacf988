//! Who this worker is to the cluster: a certificate from its folder, or a first one by a join token or in the name of who starts
//! it; renewed before it ends.

use crate::config::Checked;
use crate::error::Error;
use identity::{JoinError, Joined, Joiner, Material, Node, NodeFolder};
use std::time::Duration;
use tokio::sync::watch;
use types::{Principal, Timestamp};

/// Between two tries to join.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two tries to renew: the last third of a certificate's life has many of them.
const RENEW_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at the clock, which a machine that slept may have moved far.
const LOOK_MAX: Duration = Duration::from_mins(1);

/// The certificate of this worker; returns once it has one.
pub(crate) async fn identify(checked: &Checked) -> Result<(Node, NodeFolder), Error> {
    let folder = NodeFolder::open(&checked.config.data_dir)?;
    let own = Principal::Worker(checked.worker.clone());
    if let Some(material) = folder.load()? {
        if material.subject.principal() != own {
            let named = material.subject.to_string();
            return Err(Error::OtherName { named, own: own.to_string() });
        }
        if daemon::clock::now() < material.ends {
            return Ok((Node::new(material), folder));
        }
        tracing::info!("the certificate has ended: it joins again");
    }
    let material = join(checked).await?;
    folder.store(&material)?;
    Ok((Node::new(material), folder))
}

async fn join(checked: &Checked) -> Result<Material, Error> {
    let admission = checked.config.admission.as_ref().ok_or(Error::Nowhere)?;
    let joiner = Joiner::Worker(checked.worker.clone());
    let mut pause = PAUSE_FIRST;
    loop {
        match identity::join(&checked.config.coordinators, admission, &joiner).await {
            Ok(joined) => {
                tracing::info!(who = %joined.material.subject, "admitted to the cluster");
                return Ok(joined.material);
            }
            Err(JoinError::Again(why)) => tracing::info!(why, "not admitted yet"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Renews the certificate in time, for as long as the daemon runs.
pub(crate) async fn keep(node: Node, folder: NodeFolder, coordinators: watch::Receiver<Vec<String>>) {
    loop {
        let due = until(node.material().renew_at());
        if !due.is_zero() {
            tokio::time::sleep(due.min(LOOK_MAX)).await;
            continue;
        }
        let known = coordinators.borrow().clone();
        match identity::renew(&known, &node).await {
            Ok(Joined { material, .. }) => {
                let ends_ms = material.ends.0;
                let (folder, node) = (folder.clone(), node.clone());
                let stored = tokio::task::spawn_blocking(move || {
                    let stored = folder.store(&material);
                    node.replace(material);
                    stored
                });
                match stored.await {
                    Ok(Ok(())) => tracing::info!(ends_ms, "the certificate was renewed"),
                    Ok(Err(error)) => tracing::error!(%error, "the renewed certificate is in use and was not stored"),
                    Err(error) => tracing::error!(%error, "the renewed certificate was not stored"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate was not renewed yet");
                tokio::time::sleep(RENEW_PAUSE).await;
            }
        }
    }
}

fn until(time: Timestamp) -> Duration {
    Duration::from_millis(time.0.saturating_sub(daemon::clock::now().0))
}
