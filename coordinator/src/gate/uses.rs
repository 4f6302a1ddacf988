//! When tokens were last used, on its way into the tables: at most once in some minutes for each, many in one entry.
//!
//! A call by a token that the tables have as used lately costs a comparison. What cannot be written is forgotten: the next call
//! brings it again.

use crate::raft::Node;
use cluster_state::{Command, TOKEN_USES_MAX, is_new_use};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use types::{Principal, Timestamp};

/// From the first use to the entry: those of others meanwhile are in it.
const GATHER: Duration = Duration::from_secs(5);

type Waiting = Arc<Mutex<BTreeMap<String, Timestamp>>>;

/// Takes uses of tokens. Cheap to clone.
#[derive(Clone)]
pub(super) struct Uses {
    /// As many as there are tokens at most.
    waiting: Waiting,
    begun: mpsc::Sender<()>,
}

impl Uses {
    /// Starts the task that brings them to the log; it ends when the last handle is gone.
    pub(super) fn start(node: Node) -> Self {
        let (begun, beginnings) = mpsc::channel(1);
        let waiting = Waiting::default();
        tokio::spawn(gather(node, waiting.clone(), beginnings));
        Self { waiting, begun }
    }

    /// This user was let in now; `last` is what the tables have of the token. Never waits.
    pub(super) fn note(&self, user: &Principal, last: Option<Timestamp>, now: Timestamp) {
        let Principal::User { token, .. } = user else { return };
        if !is_new_use(last, now) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.contains_key(token) {
            waiting.insert(token.clone(), now);
            // Full: the task has yet to take what waits, this one with it.
            let _ = self.begun.try_send(());
        }
    }
}

async fn gather(node: Node, waiting: Waiting, mut beginnings: mpsc::Receiver<()>) {
    while beginnings.recv().await.is_some() {
        tokio::time::sleep(GATHER).await;
        let used = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
        // Another coordinator may have brought some of them.
        let news = node.look(|state| {
            let is_news = |(id, when): &(String, Timestamp)| is_new_use(state.token_used(id), *when);
            used.into_iter().filter(is_news).collect::<Vec<_>>()
        });
        for part in news.chunks(TOKEN_USES_MAX) {
            let command = Command::NoteTokensUsed { used: part.to_vec() };
            if let Err(error) = node.propose(vec![command]).await {
                tracing::debug!(%error, "uses of tokens were not recorded");
            }
        }
    }
}
