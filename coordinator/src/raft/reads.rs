//! Linearizable reads: the leader confirms with a majority that it still leads; reads of the same moment share one round.
//!
//! A round answers those that asked before it began. A follower asks the leader, then waits until it has applied as much.

use super::error::ReadError;
use super::network::{CallError, Peers};
use super::node::Raft;
use super::status::{Route, await_other_than};
use openraft::ReadPolicy;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Reads that may wait for the next round; a full mailbox holds callers back until their deadline.
const WAITING_MAX: usize = 4_096;
/// For one round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);
/// For a read in all, leader changes included.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a round that failed, unless the leader changes first.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

struct Asked {
    /// Came from another coordinator: never sent on.
    here_only: bool,
    deadline: Instant,
    reply: oneshot::Sender<Result<u64, ReadError>>,
}

/// Asks for read indexes. Clones share one actor.
#[derive(Clone, Debug)]
pub(crate) struct Reads {
    mailbox: mpsc::Sender<Asked>,
}

impl Reads {
    /// Starts the actor; it ends when every handle is gone.
    pub(crate) fn start(raft: Raft, peers: Peers, route: watch::Receiver<Route>) -> Self {
        let (mailbox, received) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Actor { raft, peers, route, mailbox: received, asked: Vec::new() }.run());
        Self { mailbox }
    }

    /// An index that covers everything acknowledged before this call.
    pub(crate) async fn confirm(&self) -> Result<u64, ReadError> {
        self.ask(false).await
    }

    /// As `confirm`, but only if this coordinator leads.
    pub(crate) async fn confirm_here(&self) -> Result<u64, ReadError> {
        self.ask(true).await
    }

    async fn ask(&self, here_only: bool) -> Result<u64, ReadError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let (reply, answer) = oneshot::channel();
        let stopped = || ReadError::Stopped("its reads have ended".to_owned());
        let late = |_| ReadError::NoLeader(format!("no answer within {READ_TIMEOUT:?}"));
        let sent = tokio::time::timeout_at(deadline, self.mailbox.send(Asked { here_only, deadline, reply })).await;
        sent.map_err(late)?.map_err(|_| stopped())?;
        let answered = tokio::time::timeout_at(deadline + ROUND_TIMEOUT, answer).await;
        answered.map_err(late)?.map_err(|_| stopped())?
    }
}

/// How a round ended.
enum Round {
    Confirmed(u64),
    Failed(String),
    Stopped(String),
}

struct Actor {
    raft: Raft,
    peers: Peers,
    route: watch::Receiver<Route>,
    mailbox: mpsc::Receiver<Asked>,
    asked: Vec<Asked>,
}

impl Actor {
    async fn run(mut self) {
        loop {
            if self.asked.is_empty() {
                let Some(asked) = self.mailbox.recv().await else { return };
                self.asked.push(asked);
            }
            while self.asked.len() < WAITING_MAX
                && let Ok(asked) = self.mailbox.try_recv()
            {
                self.asked.push(asked);
            }
            match self.round().await {
                Round::Confirmed(index) => self.answer(|_| true, &Ok(index)),
                Round::Stopped(why) => self.answer(|_| true, &Err(ReadError::Stopped(why))),
                Round::Failed(why) => {
                    let now = Instant::now();
                    self.answer(|asked| asked.here_only || asked.deadline <= now, &Err(ReadError::NoLeader(why)));
                    let _ = tokio::time::timeout(RETRY_PAUSE, self.route_changed()).await;
                }
            }
        }
    }

    async fn route_changed(&mut self) {
        if self.route.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn answer(&mut self, which: impl Fn(&Asked) -> bool, result: &Result<u64, ReadError>) {
        let (answered, kept) = self.asked.drain(..).partition::<Vec<_>, _>(which);
        self.asked = kept;
        for asked in answered {
            let _ = asked.reply.send(result.clone());
        }
    }

    async fn round(&mut self) -> Round {
        let route = self.route.borrow_and_update().clone();
        match route {
            Route::Nowhere => Round::Failed("no leader is known".to_owned()),
            Route::Stopped(why) => Round::Stopped(why),
            Route::Here => {
                let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
                match tokio::time::timeout(ROUND_TIMEOUT, confirmed).await {
                    Ok(Ok(confirmed)) => Round::Confirmed(confirmed.read_log_id().index()),
                    Ok(Err(error)) => Round::Failed(error.to_string()),
                    Err(_) => Round::Failed(format!("no majority answered within {ROUND_TIMEOUT:?}")),
                }
            }
            Route::To(id, at) => {
                // Reads that another coordinator sent here are not sent on: it looks for the leader itself.
                let error = ReadError::NoLeader(format!("coordinator {id} leads"));
                self.answer(|asked| asked.here_only, &Err(error));
                if self.asked.is_empty() {
                    return Round::Failed(String::new());
                }
                let no_more = || Round::Failed(format!("coordinator {id} does not lead any more"));
                tokio::select! {
                    answer = self.peers.read_index(id, &at, ROUND_TIMEOUT) => match answer {
                        Ok(Some(index)) => Round::Confirmed(index),
                        Ok(None) => no_more(),
                        Err(CallError::NotSent(what) | CallError::NoAnswer(what)) => Round::Failed(what),
                    },
                    // It may stand still: its successor is asked at once.
                    () = await_other_than(self.route.clone(), id) => no_more(),
                }
            }
        }
    }
}
