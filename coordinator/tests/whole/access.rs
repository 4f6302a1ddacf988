//! Attempts from outside: who comes without a token, with the wrong role, with a revoked one, or as the wrong node, is refused,
//! and the audit trail has it.

use crate::support::{Member, cluster, greet, submit, within};
use futures::StreamExt;
use identity::{Authorized, Bearer, Credentials, Dialer, Secret, SecretKind};
use proto::internal::raft_client::RaftClient;
use proto::internal::{Payload, to_worker};
use proto::v1;
use proto::v1::access_client::AccessClient;
use proto::v1::cluster_client::ClusterClient;
use proto::v1::jobs_client::JobsClient;
use std::time::{Duration, Instant};
use tonic::Code;

fn access(member: &Member) -> AccessClient<Authorized> {
    AccessClient::new(member.channel())
}

/// A user with one role, and a token of theirs.
async fn user(member: &Member, name: &str, role: &str) -> (Credentials, String) {
    let mut access = access(member);
    let wanted = v1::SetUserRequest { name: name.into(), roles: vec![role.into()], create: true, waiting_max: None };
    access.set_user(wanted).await.unwrap();
    let made = access.create_token(v1::CreateTokenRequest { user: name.into(), ..Default::default() }).await.unwrap();
    let made = made.into_inner();
    let token = Secret::parse(&made.secret).unwrap();
    (Credentials { coordinators: vec![member.grpc.clone()], token }, made.token.unwrap().id)
}

fn as_user(member: &Member, credentials: &Credentials) -> Authorized {
    credentials.lazy(&member.endpoint()).unwrap()
}

fn list() -> v1::ListJobsRequest {
    v1::ListJobsRequest::default()
}

/// The records of the audit trail whose text has all these words.
async fn audited(member: &Member, words: &[&str]) -> Vec<v1::AuditRecord> {
    within(async {
        loop {
            let records = access(member).audit(v1::AuditRequest::default()).await.unwrap().into_inner();
            let records: Vec<_> = records.map(Result::unwrap).collect().await;
            let text = |r: &v1::AuditRecord| format!("{} {} {} {} {}", r.who, r.from, r.action, r.object, r.result);
            let found: Vec<_> =
                records.into_iter().filter(|r| words.iter().all(|word| text(r).contains(word))).collect();
            if !found.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_and_with_a_wrong_one_nobody_is_served() {
    let members = cluster(1).await;
    let credentials = &members[0].access().credentials;
    let bare = Dialer::pinned(&[credentials.authority()]).unwrap().lazy(&members[0].endpoint());
    let refused = within(JobsClient::new(bare.clone()).list(list())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("muster login"), "{refused}");
    let wrong = Secret::generate(SecretKind::Access, credentials.authority()).unwrap();
    let mut guessing = JobsClient::new(Authorized::new(bare, Bearer::new(&wrong).unwrap()));
    let mut codes = Vec::new();
    for _ in 0..60 {
        codes.push(within(guessing.list(list())).await.unwrap_err().code());
    }
    assert_eq!(codes[0], Code::Unauthenticated);
    assert_eq!(codes[59], Code::ResourceExhausted, "guessing is not slowed down");
    // Who has a token that counts is not held up by who guesses at the same address.
    JobsClient::new(members[0].channel()).list(list()).await.unwrap();
    let unknown = audited(&members[0], &["stranger", "127.0.0.1", "denied: the token is unknown"]).await;
    assert!(unknown.iter().map(|record| record.times).sum::<u32>() >= 1);
    audited(&members[0], &["stranger", "call", "denied: nobody is served without a token"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_gets_no_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let members = cluster(1).await;
    let mut stream = tokio::net::TcpStream::connect(&members[0].grpc).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    // A TLS alert at most, never HTTP.
    assert!(answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_gives_what_it_gives_and_takes_effect_at_once_on_every_coordinator() {
    let members = cluster(3).await;
    let (reader, id) = user(&members[0], "rita", "reader").await;
    let spec = v1::JobSpec { command: "true".into(), ..Default::default() };
    let wanted = v1::SubmitRequest { request_id: vec![1; 16].into(), spec: Some(spec), wait_for_workers: true };
    for member in &members {
        let mut jobs = JobsClient::new(as_user(member, &reader));
        within(jobs.list(list())).await.unwrap();
        let refused = within(jobs.submit(wanted.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("user/rita") && refused.message().contains("jobs/submit"), "{refused}");
    }
    audited(&members[1], &["user/rita", "Jobs/Submit", "denied"]).await;
    // A stream that is open when the token is revoked ends at once, wherever it is.
    let mut watch = JobsClient::new(as_user(&members[2], &reader));
    let mut watch = within(watch.watch(v1::WatchJobsRequest::default())).await.unwrap().into_inner();
    let revoked = Instant::now();
    access(&members[0]).revoke_token(v1::RevokeTokenRequest { id }).await.unwrap();
    let ended = loop {
        match within(watch.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
    for member in &members {
        let refused = within(JobsClient::new(as_user(member, &reader)).list(list())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_they_lack_and_the_last_owner_stays() {
    let members = cluster(1).await;
    let (operator, _) = user(&members[0], "otto", "compute-operator").await;
    let (_, victim) = user(&members[0], "ana", "data-scientist").await;
    let mut otto = AccessClient::new(as_user(&members[0], &operator));
    let promoted =
        v1::SetUserRequest { name: "otto".into(), roles: vec!["owner".into()], create: false, waiting_max: None };
    assert_eq!(otto.set_user(promoted).await.unwrap_err().code(), Code::PermissionDenied);
    let for_ana = v1::CreateTokenRequest { user: "ana".into(), ..Default::default() };
    assert_eq!(otto.create_token(for_ana).await.unwrap_err().code(), Code::PermissionDenied);
    // What one may not see looks as if it were not there.
    let foreign = otto.revoke_token(v1::RevokeTokenRequest { id: victim }).await.unwrap_err();
    let missing = otto.revoke_token(v1::RevokeTokenRequest { id: "nothing".into() }).await.unwrap_err();
    assert_eq!((foreign.code(), missing.code()), (Code::NotFound, Code::NotFound));
    let own = otto.list_tokens(v1::ListTokensRequest::default()).await.unwrap().into_inner().tokens;
    assert!(own.iter().all(|token| token.user == "otto") && own.len() == 1, "{own:?}");
    let mut admin = access(&members[0]);
    let demoted =
        v1::SetUserRequest { name: "admin".into(), roles: vec!["reader".into()], create: false, waiting_max: None };
    assert_eq!(admin.set_user(demoted).await.unwrap_err().code(), Code::FailedPrecondition);
    let removed = admin.remove_user(v1::RemoveUserRequest { name: "admin".into() }).await.unwrap_err();
    assert_eq!(removed.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_a_worker_of_its_own_name_and_nothing_else() {
    let members = cluster(1).await;
    let channel = members[0].as_worker("w");
    let vote = RaftClient::new(channel.clone()).vote(Payload::default()).await.unwrap_err();
    assert_eq!(vote.code(), Code::PermissionDenied);
    assert_eq!(JobsClient::new(channel.clone()).list(list()).await.unwrap_err().code(), Code::PermissionDenied);
    let drained = v1::DrainRequest { worker: "known".into(), deadline_ms: 0 };
    assert_eq!(ClusterClient::new(channel).drain(drained).await.unwrap_err().code(), Code::PermissionDenied);
    audited(&members[0], &["worker/w", "Raft/Vote", "denied"]).await;
    // By another's name it gets no session.
    let greeted = crate::support::greet_as(&members[0], "w", "known").await.unwrap();
    assert!(matches!(&greeted.answer, to_worker::Message::Refused(why) if why.reason.contains("worker/w")));
    // Revoked, it is nobody: its session ends, and it gets no other.
    let mut session = greet(&members[0], "w", &[]).await.unwrap();
    assert!(matches!(session.answer, to_worker::Message::Welcome(_)), "{:?}", session.answer);
    let node = Some(v1::revoke_node_request::Node::Worker("w".into()));
    access(&members[0]).revoke_node(v1::RevokeNodeRequest { node }).await.unwrap();
    let ended = loop {
        match within(session.incoming.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied, "{ended}");
    let again = members[0].as_worker("w");
    let refused = AccessClient::new(again).who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_admits_one_node_once() {
    use identity::{Admission, JoinError, Joiner};
    let members = cluster(1).await;
    let mut admin = access(&members[0]);
    let wanted = v1::CreateJoinTokenRequest { worker: "gpu-1".into(), ..Default::default() };
    let made = admin.create_join_token(wanted).await.unwrap().into_inner();
    let token = Admission::Token(Secret::parse(&made.token).unwrap());
    let at = [members[0].grpc.clone()];
    let worker = |name: &str| Joiner::Worker(types::WorkerId::new(name).unwrap());
    let refused = |joined: Result<_, JoinError>| matches!(joined.map(drop), Err(JoinError::Refused(_)));
    assert!(refused(identity::join(&at, &token, &worker("gpu-2")).await), "another name");
    assert!(
        refused(identity::join(&at, &token, &Joiner::Coordinator(types::CoordinatorId(9), vec![])).await),
        "a role"
    );
    let joined = identity::join(&at, &token, &worker("gpu-1")).await.unwrap();
    assert!(joined.authority.is_none(), "a worker must not be able to sign");
    assert!(refused(identity::join(&at, &token, &worker("gpu-2")).await), "used before");
    // A token for another cluster is not even sent.
    let elsewhere = Secret::generate(SecretKind::Join, identity::Fingerprint([1; 32])).unwrap();
    let unsent = identity::join(&at, &Admission::Token(elsewhere), &worker("gpu-3")).await;
    assert!(matches!(unsent.map(drop), Err(JoinError::Again(why)) if why.contains("is another cluster")));
    audited(&members[0], &["stranger", "worker/gpu-2", "refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_in_the_trail_with_who_did_it_and_no_secret() {
    let members = cluster(1).await;
    let job = submit(&members[0], 1, 0).await;
    let submitted = audited(&members[0], &["user/admin", "jobs/submit", &job.to_string(), "ok"]).await;
    assert_eq!(submitted.len(), 1);
    let all = audited(&members[0], &[""]).await;
    let mut previous = all[0].previous.clone();
    for (record, number) in all.iter().zip(all[0].number..) {
        assert_eq!((record.number, &record.previous), (number, &previous));
        use sha2::Digest as _;
        let hash = sha2::Sha256::new().chain_update(&record.previous).chain_update(&record.body).finalize();
        assert_eq!(record.hash.as_ref(), hash.as_slice(), "{record:?}");
        previous = record.hash.clone();
    }
    let text = format!("{all:?}");
    assert!(!text.contains("muster_pat_") && !text.contains("muster_join_"), "{text}");
}
