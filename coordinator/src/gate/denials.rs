//! Denials on their way into the audit trail: gathered, so that a flood of them is a few entries with counts.

use crate::observe::{Denied, Observed};
use crate::raft::Node;
use cluster_state::{Command, Denial};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use types::Caller;

/// Denials that wait to be gathered; past this they are counted by the log line alone.
const WAITING_MAX: usize = 1_024;
/// Kinds of denials in one entry; more wait for the next.
const KINDS_MAX: usize = 256;
/// Between two entries.
const GATHER: Duration = Duration::from_secs(1);
/// Longest text of a part.
const TEXT_BYTES_MAX: usize = 200;

type Kind = (Caller, String, String, String);

/// Takes denials. Cheap to clone.
#[derive(Clone)]
pub(super) struct Denials {
    mailbox: mpsc::Sender<Kind>,
    observed: Arc<Observed>,
}

impl Denials {
    /// Starts the task that brings them to the log; it ends when the last handle is gone.
    pub(super) fn start(node: Node, observed: Arc<Observed>) -> Self {
        let (mailbox, denied) = mpsc::channel(WAITING_MAX);
        tokio::spawn(gather(node, denied));
        Self { mailbox, observed }
    }

    /// One call was refused. Never waits.
    pub(super) fn note(&self, kind: Denied, caller: Caller, action: &str, object: &str, why: &str) {
        self.observed.denied(kind);
        tracing::warn!(who = %caller.principal, from = caller.from, action, object, why, "denied");
        let cut = |text: &str| text.chars().take(TEXT_BYTES_MAX).collect::<String>();
        // A full mailbox: the warning above is all that is left of this one.
        let _ = self.mailbox.try_send((caller, cut(action), cut(object), cut(why)));
    }
}

async fn gather(node: Node, mut denied: mpsc::Receiver<Kind>) {
    let mut waiting: BTreeMap<Kind, u32> = BTreeMap::new();
    loop {
        if waiting.is_empty() {
            let Some(kind) = denied.recv().await else { return };
            waiting.insert(kind, 1);
        }
        tokio::time::sleep(GATHER).await;
        while let Ok(kind) = denied.try_recv() {
            *waiting.entry(kind).or_default() += 1;
        }
        let kinds: Vec<Kind> = waiting.keys().take(KINDS_MAX).cloned().collect();
        let denials = kinds.iter().map(|kind| {
            let (caller, action, object, why) = kind.clone();
            Denial { caller, action, object, why, times: waiting.get(kind).copied().unwrap_or(1) }
        });
        let command = Command::NoteDenials { denials: denials.collect() };
        match node.propose(vec![command]).await {
            Ok(_) => waiting.retain(|kind, _| !kinds.contains(kind)),
            // They wait for a leader; what may have been written already would only be counted twice.
            Err(error) => tracing::debug!(%error, "denials wait to be recorded"),
        }
    }
}
