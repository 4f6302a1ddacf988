//! Signs where the audit trail stands, by itself: so that who keeps the signatures elsewhere has a history that nobody can make again
//! from further back than the last of them. The leader does it; every coordinator tells its own log of each that is kept.

use super::Context;
use super::access::audit;
use crate::export::hex;
use cluster_state::{Command, State};
use proto::v1;
use std::time::Duration;
use tokio::time::Instant;

/// A record is signed for so long after it was made at the latest, while the cluster is led.
const WAIT_MAX: Duration = Duration::from_hours(1);
/// Between two looks at the trail, so that a busy cluster is not looked at with each entry.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After a try that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Owner of the clock that says when the next signature is due.
pub(crate) struct Notary {
    context: Context,
    every: u64,
}

impl Notary {
    pub(crate) fn new(context: Context, every: u64) -> Self {
        Self { context, every }
    }

    /// Runs until this coordinator stops.
    pub(crate) async fn run(self) {
        let shutdown = self.context.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&self) {
        let mut applied = self.context.node.applied();
        // Since when there is a record that no signature has, as far as this coordinator knows.
        let mut since: Option<Instant> = None;
        let mut told = None;
        loop {
            let (unsigned, newest) = self.context.node.look(|state| (unsigned(state), newest(state)));
            if newest > *told.get_or_insert(newest) {
                told = Some(newest);
                self.tell();
            }
            since = if unsigned == 0 { None } else { since.or_else(|| Some(Instant::now())) };
            let due = since.map(|since| since + WAIT_MAX);
            let is_due = unsigned >= self.every || due.is_some_and(|due| due <= Instant::now());
            if is_due && self.leads() {
                if let Err(why) = self.sign().await {
                    tracing::debug!(why, "the audit trail is not signed");
                    tokio::time::sleep(AGAIN).await;
                }
                continue;
            }
            let pause = due.map_or(WAIT_MAX, |due| due.saturating_duration_since(Instant::now()).max(AGAIN));
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn leads(&self) -> bool {
        let status = self.context.node.status().borrow().clone();
        status.leader == Some(status.id)
    }

    async fn sign(&self) -> Result<(), String> {
        let state = self.context.read(false).await.map_err(|status| status.message().to_owned())?;
        if unsigned(&state) == 0 {
            return Ok(());
        }
        let (_, head) = audit::sign(&self.context, &state).await.map_err(|status| status.message().to_owned())?;
        let command = Command::KeepAuditHead(Box::new(head));
        self.context.write_all(vec![command]).await.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    /// For whoever gathers the daemon's log, and for a collector: it has all that `muster audit verify --head` needs.
    fn tell(&self) {
        let state = self.context.node.state();
        let (Some(cluster), Some(head)) = (state.cluster(), state.audit_heads().next_back()) else { return };
        let head = audit::signed(cluster, head);
        let [hash, authority, signature] = [&head.hash, &head.authority, &head.signature].map(|bytes| hex(bytes));
        let v1::SignedAuditHead { cluster, number, time_ms, .. } = &head;
        tracing::info!(cluster, number, hash, time_ms, authority, signature, "the audit trail is signed");
        // To the collector once.
        if self.leads() {
            self.context.observed.export().head(head);
        }
    }
}

fn newest(state: &State) -> u64 {
    state.audit_heads().next_back().map_or(0, |head| head.number)
}

/// Records that no kept signature has.
fn unsigned(state: &State) -> u64 {
    state.audit_head().0.saturating_sub(newest(state))
}
