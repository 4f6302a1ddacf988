//! One batch on its way: into the log here, or to the leader.
//!
//! A leader that stands still or is cut off, and that another one has succeeded, is not waited for to the end: what was sent
//! to it may be in the log or not, and everything that would follow goes to its successor.

use super::error::ProposeError;
use super::network::{CallError, Peers};
use super::node::Raft;
use super::propose::{Committed, Share};
use super::status::{Route, await_other_than};
use super::types::Batch;
use super::wire::{Ask, Reply};
use cluster_state::Command;
use openraft::errors::{ClientWriteError, RaftError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use types::{CoordinatorId, LogIndex};

/// Least time for an entry to be committed once it is sent.
const COMMIT_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// For the answer of a leader that has handed over: it comes at once, or not any more.
const SUCCEEDED_WAIT: Duration = Duration::from_millis(100);

/// A batch that came back.
pub(super) struct Sent {
    pub(super) commands: Arc<Vec<Command>>,
    pub(super) shares: Vec<Share>,
    pub(super) begun: Instant,
    pub(super) result: Result<Committed, Failure>,
}

/// How a batch failed.
pub(super) enum Failure {
    /// Certainly not appended.
    NotAppended { unreachable: Option<CoordinatorId> },
    /// Nothing more to try.
    Final(ProposeError),
}

/// Brings one batch to the leader.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) raft: Raft,
    pub(super) peers: Peers,
    pub(super) route: watch::Receiver<Route>,
}

impl Sender {
    pub(super) async fn send(self, route: Route, commands: Vec<Command>, shares: Vec<Share>) -> Sent {
        let (commands, begun) = (Arc::new(commands), Instant::now());
        let last = shares.iter().map(|share| share.deadline).max().unwrap_or_else(Instant::now);
        let wait = last.saturating_duration_since(Instant::now()).max(COMMIT_TIMEOUT_MIN);
        let result = match route {
            Route::Here => self.append(commands.clone(), wait).await,
            Route::To(id, at) => {
                let (ask, left) = (Ask::Propose(commands.clone()), await_other_than(self.route.clone(), id));
                tokio::select! {
                    asked = self.peers.ask(id, &at, &ask, wait) => read_reply(CoordinatorId(id), asked),
                    () = async { left.await; tokio::time::sleep(SUCCEEDED_WAIT).await } => {
                        let what = format!("coordinator {id} did not answer, and leads no more");
                        Err(Failure::Final(ProposeError::Unknown(what)))
                    }
                }
            }
            Route::Nowhere | Route::Stopped(_) => Err(Failure::NotAppended { unreachable: None }),
        };
        Sent { commands, shares, begun, result }
    }

    async fn append(&self, commands: Arc<Vec<Command>>, wait: Duration) -> Result<Committed, Failure> {
        let batch = Batch { time: daemon::clock::now(), commands };
        let unknown = |what: String| Err(Failure::Final(ProposeError::Unknown(what)));
        match tokio::time::timeout(wait, self.raft.client_write(batch)).await {
            Ok(Ok(written)) => Ok(Committed { index: LogIndex(written.log_id.index), outcomes: written.data }),
            // Not the leader, no lease at the moment, or a hand-over: refused before the entry was appended.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(Failure::NotAppended { unreachable: None })
            }
            Ok(Err(error)) => unknown(error.to_string()),
            Err(_) => unknown(format!("no majority took the entry within {wait:?}")),
        }
    }
}

fn read_reply(leader: CoordinatorId, asked: Result<Reply, CallError>) -> Result<Committed, Failure> {
    match asked {
        Ok(Reply::Applied(index, outcomes)) => Ok(Committed { index, outcomes }),
        Ok(Reply::NotLeader | Reply::Busy) => Err(Failure::NotAppended { unreachable: None }),
        Ok(Reply::Changed | Reply::Transferred(_)) => {
            Err(Failure::Final(ProposeError::Unknown("the leader's answer is not one to a proposal".to_owned())))
        }
        Err(CallError::NotSent(what)) => {
            tracing::debug!(%leader, what, "a proposal was not sent");
            Err(Failure::NotAppended { unreachable: Some(leader) })
        }
        Ok(Reply::Unknown(what) | Reply::Refused(what)) | Err(CallError::NoAnswer(what)) => {
            Err(Failure::Final(ProposeError::Unknown(what)))
        }
    }
}
