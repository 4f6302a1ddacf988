//! How the session reaches the reconciler, and what it gets from it.

use tokio::sync::{mpsc, oneshot};
use types::{CheckpointRef, MemberKey, MemberStatus, Token, Wish};

/// What the session asks.
pub(super) enum Message {
    /// A session begins: everything that is there, and a channel for what comes.
    Subscribe { reply: oneshot::Sender<Subscription> },
    /// All wishes of the leader, whole.
    Wishes(Vec<Wish>),
    /// The leader has recorded this checkpoint, or needs it no more.
    CheckpointTaken { key: MemberKey, step: u64 },
    /// Kill every member; answered when all have ended and were told.
    KillAll { reply: oneshot::Sender<()> },
}

/// What a session begins with.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Every member that is here.
    pub(crate) statuses: Vec<MemberStatus>,
    /// What changes from now on; its end means that the session fell behind.
    pub(crate) news: mpsc::Receiver<News>,
}

/// What a session passes on to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Members that changed.
    Statuses(Vec<MemberStatus>),
    /// A checkpoint is in the blob store.
    Checkpoint(MemberKey, Token, CheckpointRef),
}

/// Reaches the reconciler. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(super) mailbox: mpsc::Sender<Message>,
}

impl Handle {
    /// Begins a session; an older one gets nothing more. None when the reconciler is gone, which ends the daemon.
    pub(crate) async fn subscribe(&self) -> Option<Subscription> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Subscribe { reply }).await.ok()?;
        answer.await.ok()
    }

    /// Hands on all wishes of the leader.
    pub(crate) async fn wishes(&self, wishes: Vec<Wish>) {
        let _ = self.mailbox.send(Message::Wishes(wishes)).await;
    }

    /// The leader has this checkpoint.
    pub(crate) async fn checkpoint_taken(&self, key: MemberKey, step: u64) {
        let _ = self.mailbox.send(Message::CheckpointTaken { key, step }).await;
    }

    /// Kills every member and returns when all have ended and the session was told.
    pub(crate) async fn kill_all(&self) {
        let (reply, done) = oneshot::channel();
        let _ = self.mailbox.send(Message::KillAll { reply }).await;
        let _ = done.await;
    }
}
