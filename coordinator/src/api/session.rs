//! A worker's session: hello, registration, then messages to and from the leader's loop; on the leader only.

use super::{Context, caller};
use crate::leader::{Message, Process, SessionId, surely_leads};
use crate::raft::Node;
use cluster_state::{Command, Outcome};
use daemon::clock;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::internal::worker_session_server::WorkerSession;
use proto::internal::{FromWorker, HeldOff, Hello, Redirect, Refused, ToWorker, Welcome, from_worker, to_worker};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::{
    Caller, ClusterId, MemberEnd, MemberState, MemberStatus, Principal, Timestamp, Token, WorkerId, WorkerRegistration,
};

/// Messages on their way to a worker; one that lets them pile up loses its session.
const OUTBOX_MAX: usize = 64;

/// From the stream's start to the worker's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeats per lease: two may be lost.
const HEARTBEATS_PER_LEASE: u32 = 6;

/// Sessions of workers.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl WorkerSession for Service {
    type OpenStream = BoxStream<'static, Result<ToWorker, Status>>;

    async fn open(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<Self::OpenStream>, Status> {
        let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
        let context = self.0.clone();
        let caller = caller(&request)?;
        let incoming = request.into_inner();
        tokio::spawn(async move {
            if let Some((outbox, answer)) = serve(context, &caller, incoming, outbox).await {
                let _ = outbox.send(ToWorker { message: Some(answer) }).await;
            }
        });
        self.0.observe("muster.internal.v1.WorkerSession", "Open", Ok(ReceiverStream::new(inbox).map(Ok).boxed()))
    }
}

type Outbox = mpsc::Sender<ToWorker>;

/// Runs one session; what it returns is the last word on the stream, with what takes it.
async fn serve(
    context: Context,
    caller: &Caller,
    mut incoming: Streaming<FromWorker>,
    outbox: Outbox,
) -> Option<(Outbox, to_worker::Message)> {
    let (registration, process, statuses) = match admit(&context, caller, &mut incoming).await {
        Ok(admitted) => admitted,
        Err(answer) => return answer.map(|answer| (outbox, answer)),
    };
    let welcome = to_worker::Message::Welcome(Welcome {
        cluster_id: context.node.cluster().map(|id| id.0.to_vec()).unwrap_or_default().into(),
        lease_ms: context.lease.as_millis() as u64,
        heartbeat_ms: (context.lease / HEARTBEATS_PER_LEASE).as_millis() as u64,
        coordinators: context.node.grpc_addresses(),
        adopted: true,
    });
    outbox.send(ToWorker { message: Some(welcome) }).await.ok()?;
    let (reply, number) = oneshot::channel();
    let opened =
        Message::Opened { worker: registration.worker.clone(), process, statuses, outbox: outbox.clone(), reply };
    context.leader.send(opened).await;
    let Ok(session) = number.await else { return Some((outbox, redirect(&context))) };
    // From here on the stream is the leader's loop's alone, and ends when that lets go of it.
    drop(outbox);
    tracing::info!(worker_id = %registration.worker, "session opened");
    relay(&context, &registration.worker, session, &mut incoming).await;
    context.leader.send(Message::Closed { session }).await;
    tracing::info!(worker_id = %registration.worker, "session closed");
    None
}

/// Hears the worker's hello and makes it known, or says what to answer, if anything.
async fn admit(
    context: &Context,
    caller: &Caller,
    incoming: &mut Streaming<FromWorker>,
) -> Result<(WorkerRegistration, Process, Vec<MemberStatus>), Option<to_worker::Message>> {
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await {
        Ok(Ok(Some(FromWorker { message: Some(from_worker::Message::Hello(hello)) }))) => hello,
        Ok(Ok(_)) => return Err(Some(refuse("the first message must be a hello".into()))),
        Ok(Err(_)) | Err(_) => return Err(None),
    };
    // One that waits to be added to a cluster cannot tell whose worker this is.
    let Some(cluster) = context.node.cluster() else { return Err(Some(redirect(context))) };
    let (registration, statuses) = check(cluster, &hello).map_err(|reason| Some(refuse(reason)))?;
    if caller.principal != Principal::Worker(registration.worker.clone()) {
        let (named, proven) = (&registration.worker, &caller.principal);
        return Err(Some(refuse(format!(
            "{proven} calls itself {named}: a worker keeps the --name that it joined under"
        ))));
    }
    if !context.node.leadership().borrow().leading || !surely_leads(&context.node) {
        return Err(Some(redirect(context)));
    }
    // Before it is registered: a copy on another machine would give the worker that machine's size.
    let process = Process { instance: registration.instance, start: hello.start };
    if let Some(reason) = context.leader.held_off(&registration.worker, process).await {
        tracing::warn!(worker_id = %registration.worker, reason, "session held off");
        return Err(Some(to_worker::Message::HeldOff(HeldOff { reason })));
    }
    match register(&context.node, &registration).await {
        Ok(()) => Ok((registration, process, statuses)),
        Err(Some(reason)) => Err(Some(refuse(reason))),
        Err(None) => Err(Some(redirect(context))),
    }
}

fn refuse(reason: String) -> to_worker::Message {
    tracing::warn!(%reason, "session refused");
    to_worker::Message::Refused(Refused { reason })
}

fn redirect(context: &Context) -> to_worker::Message {
    let leader = context.node.leader_address().filter(|_| !context.node.leadership().borrow().leading);
    to_worker::Message::Redirect(Redirect { leader: leader.unwrap_or_default() })
}

fn check(cluster: ClusterId, hello: &Hello) -> Result<(WorkerRegistration, Vec<MemberStatus>), String> {
    if hello.protocol != proto::PROTOCOL {
        return Err(format!(
            "the worker speaks protocol {}, this cluster {}: run the same version of muster on both",
            hello.protocol,
            proto::PROTOCOL
        ));
    }
    if !hello.cluster_id.is_empty() && cluster.0.as_slice() != hello.cluster_id.as_ref() {
        return Err("the worker's data directory belongs to another cluster: give it a new --data directory".into());
    }
    let registration = decode(&hello.registration).ok_or("the registration cannot be read")?;
    let statuses = decode_statuses(&hello.statuses, hello.now_ms).ok_or("the statuses cannot be read")?;
    Ok((registration, statuses))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

/// Statuses that a worker sent at `sent_ms` by its own clock. When ranks ended is moved to this coordinator's clock, so that
/// ends on different machines can be compared: to within the way of the message, not within what their clocks differ.
fn decode_statuses(bytes: &[u8], sent_ms: u64) -> Option<Vec<MemberStatus>> {
    let mut statuses: Vec<MemberStatus> = decode(bytes)?;
    let now = clock::now().0;
    for status in &mut statuses {
        if let MemberState::Failing(MemberEnd::Exited { ranks, .. })
        | MemberState::Ended(MemberEnd::Exited { ranks, .. }) = &mut status.state
        {
            for rank in ranks {
                rank.ended = Timestamp(now.saturating_sub(sent_ms.saturating_sub(rank.ended.0)));
            }
        }
    }
    Some(statuses)
}

/// Makes the worker known, unless it is already. `Err(None)`: not now.
///
/// The tables must hold all that any leader acknowledged before this hello: wishes from older ones would begin anew what this
/// worker has ended and reported elsewhere. So a majority confirms that no other leads.
pub(crate) async fn register(node: &Node, registration: &WorkerRegistration) -> Result<(), Option<String>> {
    let state = node.linearizable().await.map_err(|_| None)?;
    let known = state.worker(&registration.worker);
    if known.is_some_and(|known| !known.lost && known.registration == *registration) {
        return Ok(());
    }
    let command = Command::RegisterWorker { registration: Box::new(registration.clone()) };
    match node.propose(vec![command]).await {
        Ok(committed) => match committed.outcomes.into_iter().next() {
            Some(Outcome::Refused(refusal)) => Err(Some(refusal.to_string())),
            _ => node.at_least(committed.index).await.map(drop).map_err(|_| None),
        },
        Err(_) => Err(None),
    }
}

/// Until either side ends the stream, or the leader's loop is gone. Messages that cannot be read end it too: both sides run
/// the same version, so that is a fault and not news.
async fn relay(context: &Context, worker: &WorkerId, session: SessionId, incoming: &mut Streaming<FromWorker>) {
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = context.shutdown.requested() => return,
        };
        let Ok(Some(FromWorker { message: Some(message) })) = message else { return };
        let message = match message {
            // Nothing is decided by them: past the leader's loop.
            from_worker::Message::Figures(figures) => {
                context.observed.figures(worker, figures);
                continue;
            }
            message => message,
        };
        if matches!(message, from_worker::Message::Heartbeat(_)) {
            context.observed.heard(worker);
        }
        let Some(message) = read(session, message) else {
            tracing::warn!(session, "session ended: a message of its worker cannot be read");
            return;
        };
        if !context.leader.send(message).await {
            return;
        }
    }
}

fn read(session: SessionId, message: from_worker::Message) -> Option<Message> {
    match message {
        from_worker::Message::Hello(_) | from_worker::Message::Figures(_) => None,
        from_worker::Message::Heartbeat(heartbeat) => {
            Some(Message::Heartbeat { session, sequence: heartbeat.sequence })
        }
        from_worker::Message::Statuses(statuses) => {
            decode_statuses(&statuses.statuses, statuses.now_ms).map(|statuses| Message::Statuses { session, statuses })
        }
        from_worker::Message::Checkpoint(saved) => Some(Message::Checkpoint {
            session,
            key: decode(&saved.key)?,
            token: Token(saved.token),
            checkpoint: decode(&saved.checkpoint)?,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId, MemberKey, RankEnd, RankExit, RankIndex};

    #[test]
    fn ends_on_machines_whose_clocks_differ_are_in_their_true_order() {
        let ended = |at: u64| {
            let rank = RankEnd {
                rank: RankIndex(0),
                exit: RankExit::Code(1),
                out_of_memory: false,
                ended: Timestamp(at),
                stderr_tail: String::new(),
                streams: vec![],
                final_metrics: vec![],
                blames: None,
                rendezvous: None,
            };
            let end = MemberEnd::Exited { ranks: vec![rank], outputs: vec![] };
            let key = MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 };
            postcard::to_allocvec(&vec![MemberStatus { key, token: Token(1), state: MemberState::Ended(end) }]).unwrap()
        };
        let as_here = |bytes: &[u8], sent: u64| match decode_statuses(bytes, sent).unwrap().remove(0).state {
            MemberState::Ended(MemberEnd::Exited { ranks, .. }) => ranks[0].ended.0,
            other => panic!("{other:?}"),
        };
        let now = clock::now().0;
        let (fast, slow) = (now + 3_600_000, now - 3_600_000);
        // Five seconds ago by a clock that is an hour ahead, and one second ago by one that is an hour behind.
        let (first, second) = (as_here(&ended(fast - 5_000), fast), as_here(&ended(slow - 1_000), slow));
        assert!(first < second, "{first} {second}");
        assert!(first.abs_diff(now - 5_000) < 2_000 && second.abs_diff(now - 1_000) < 2_000);
        // An end after it was sent, by a clock that was set back in between, is an end now.
        assert!(as_here(&ended(now + 9_000), now).abs_diff(now) < 2_000);
        assert!(decode_statuses(b"\xff", now).is_none());
    }
}
