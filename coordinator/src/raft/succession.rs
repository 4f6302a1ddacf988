//! A leader that died is replaced at once, not when the timers of an election have run out.
//!
//! When a process ends, its system closes its connections and refuses new ones. So a follower whose stream of entries from the
//! leader ended, and to whom the leader's address then *refuses* a connection, knows that nobody is there: it gives up
//! the leader's lease, and one follower after another asks for votes, with a pre-vote each. A majority must have seen the
//! same before a vote is granted, so a broken link between two machines changes nothing. A machine that lost its power
//! or its network refuses nothing and answers nothing: for that the timers are there, as before.

use super::links::Links;
use super::node::Raft;
use super::types::{LogId, TypeConfig, Vote};
use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Ends of streams that may wait to be looked at; of more the rest is dropped, since one look answers them all.
const ENDS_MAX: usize = 8;
/// For the leader's address to answer, one way or the other.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// A dying process may close its connections before its listener.
const KNOCKS: u32 = 5;
const KNOCK_PAUSE: Duration = Duration::from_millis(10);
/// Between the requests for votes of two followers: longer than one takes on an idle machine, so that they rarely meet.
const TURN: Duration = Duration::from_millis(50);
/// The others notice a death at about the same time; a request before that would be refused.
const SETTLE: Duration = Duration::from_millis(5);
/// So often each follower asks, then the timers decide.
const ROUNDS: u32 = 3;

/// Told when a stream of entries ended. Clones share one actor.
#[derive(Clone, Debug)]
pub(crate) struct Succession {
    ends: mpsc::Sender<u64>,
}

impl Succession {
    /// Starts the actor; it ends when every handle is gone.
    pub(crate) fn start(id: u64, raft: Raft, links: Arc<dyn Links>) -> Self {
        let (ends, mut ended) = mpsc::channel(ENDS_MAX);
        tokio::spawn(async move {
            while let Some(from) = ended.recv().await {
                replace_if_dead(id, &raft, &*links, from).await;
            }
        });
        Self { ends }
    }

    /// What a stream of entries from this coordinator holds until its end.
    pub(crate) fn stream_from(&self, from: u64) -> StreamFrom {
        StreamFrom { from, ends: self.ends.clone() }
    }
}

/// Tells of the stream's end, whichever way it ends.
#[derive(Debug)]
pub(crate) struct StreamFrom {
    from: u64,
    ends: mpsc::Sender<u64>,
}

impl Drop for StreamFrom {
    fn drop(&mut self) {
        self.ends.try_send(self.from).ok();
    }
}

/// The leader that is followed, as Raft sees it.
struct Followed {
    vote: Vote,
    applied: Option<LogId>,
    address: String,
    /// The voters that may take its place, this one among them, in the order in which they ask.
    heirs: Vec<u64>,
}

/// None unless `leader` leads now, another one than this, and this one has a vote.
fn followed(metrics: &RaftMetrics<TypeConfig>, id: u64, leader: u64) -> Option<Followed> {
    if metrics.current_leader != Some(leader) || leader == id || !metrics.vote.is_committed() {
        return None;
    }
    let members = metrics.membership_config.membership();
    let heirs: Vec<u64> = members.voter_ids().filter(|voter| *voter != leader).collect();
    if !heirs.contains(&id) {
        return None;
    }
    let address = members.get_node(&leader)?.grpc.clone();
    Some(Followed { vote: metrics.vote, applied: metrics.last_applied, address, heirs })
}

async fn replace_if_dead(id: u64, raft: &Raft, links: &dyn Links, leader: u64) {
    let mut metrics = raft.metrics();
    let Some(followed) = followed(&metrics.borrow_and_update(), id, leader) else { return };
    if !is_refused(links, &followed.address).await {
        return;
    }
    tracing::info!(leader, address = followed.address, "the leader's process is gone");
    // What the leader itself would have sent before a hand-over ends its lease here. Named as the successor is the dead one, so
    // that nobody becomes a candidate by it.
    let release = TransferLeaderRequest::new(followed.vote, leader, followed.applied);
    if raft.handle_transfer_leader(release).await.is_err() {
        return;
    }
    let began = Instant::now() + SETTLE;
    for turn in turns(id, &followed.heirs) {
        let changed = async {
            while metrics.borrow_watched().vote == followed.vote {
                metrics.changed().await.ok()?;
            }
            Some(())
        };
        let turn_came = tokio::time::timeout_at(began + TURN * turn, changed).await.is_err();
        if !turn_came || raft.trigger().elect(true).await.is_err() {
            return; // somebody is elected, asks for votes, or Raft has stopped
        }
    }
}

/// At which multiples of `TURN` this one asks for votes.
fn turns(id: u64, heirs: &[u64]) -> impl Iterator<Item = u32> + use<> {
    let position = heirs.iter().filter(|heir| **heir < id).count();
    let (position, count) = (u32::try_from(position).unwrap_or(0), u32::try_from(heirs.len()).unwrap_or(u32::MAX));
    (0..ROUNDS).map(move |round| count.saturating_mul(round).saturating_add(position))
}

/// Is it certain that no process listens there?
async fn is_refused(links: &dyn Links, address: &str) -> bool {
    for knock in 0..KNOCKS {
        if knock > 0 {
            tokio::time::sleep(KNOCK_PAUSE).await;
        }
        match tokio::time::timeout(KNOCK_TIMEOUT, links.knock(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return true,
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn followers_ask_for_votes_one_after_another_and_again() {
        assert_eq!(turns(1, &[1, 3]).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(turns(3, &[1, 3]).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(turns(5, &[2, 3, 4, 5]).collect::<Vec<_>>(), [3, 7, 11]);
    }

    #[tokio::test]
    async fn an_address_is_given_up_only_when_it_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let links = crate::raft::tests::dialer(types::CoordinatorId(1));
        assert!(!is_refused(&links, &address).await, "somebody listens");
        drop(listener);
        assert!(is_refused(&links, &address).await, "nobody listens");
        assert!(!is_refused(&links, "not an address").await, "nothing is known of it");
    }
}
