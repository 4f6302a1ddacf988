//! How nodes come in and are shown the door: join tokens, certificate authorities, revocations.

use super::access::DAY_MS;
use super::*;
use crate::JoinToken;
use types::{Admits, Caller, CoordinatorId, Principal, Timestamp};

const MINUTE_MS: u64 = 60_000;

fn join(log: &Log, id: &str, admits: Admits) -> JoinToken {
    let mut digest = [1; 32];
    digest[..id.len()].copy_from_slice(id.as_bytes());
    let (created, expires) = (Timestamp(log.now), Timestamp(log.now + 60 * MINUTE_MS));
    let created_by = "user/ana".to_owned();
    JoinToken { id: id.to_owned(), digest, admits, created_by, created, expires, used: None, used_by: None }
}

fn worker(n: u8) -> Principal {
    Principal::Worker(worker_id(n))
}

impl Log {
    fn admit(&mut self, id: &str, admits: Admits) -> JoinToken {
        let token = join(self, id, admits);
        assert_eq!(self.apply(Command::CreateJoinToken { token: token.clone() }), Outcome::Done);
        token
    }

    fn come_in(&mut self, token: &JoinToken, as_whom: Principal) -> Result<(), String> {
        match self.apply(Command::UseJoinToken { digest: token.digest, as_whom }) {
            Outcome::Done => Ok(()),
            Outcome::Refused(Refusal::JoinToken(why)) => Err(why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_join_token_lets_one_node_in_once() {
    let mut log = Log::default();
    let token = log.admit("j1", Admits::Worker(None));
    assert_eq!(log.come_in(&token, worker(1)), Ok(()));
    let used = Timestamp(log.now);
    assert_eq!(log.come_in(&token, worker(2)), Err("j1 was used by worker/w1".into()));
    assert_eq!(log.come_in(&token, worker(1)), Ok(()), "its answer was lost");
    let now = log.state.join_token("j1").unwrap();
    assert_eq!((now.used, now.used_by.as_deref()), (Some(used), Some("worker/w1")), "the first use counts");
    log.now = used.0 + 10 * MINUTE_MS;
    assert!(log.come_in(&token, worker(1)).unwrap_err().contains("was used"), "it does not come again for ever");
    assert_eq!(log.apply(Command::CreateJoinToken { token: token.clone() }), Outcome::Done, "a late retry");
    assert!(log.come_in(&token, worker(2)).is_err(), "it stays used");
}

#[test]
fn a_join_token_is_for_its_role_its_name_and_its_time() {
    let mut log = Log::default();
    let coordinator = Principal::Coordinator(CoordinatorId(7));
    let user = Principal::User { name: "ana".into(), token: "t1".into() };
    let any = log.admit("any", Admits::Worker(None));
    let one = log.admit("one", Admits::Worker(Some(worker_id(1))));
    let third = log.admit("third", Admits::Coordinator);
    for (token, node) in [
        (&any, &coordinator),
        (&any, &user),
        (&any, &Principal::Stranger),
        (&one, &worker(2)),
        (&one, &coordinator),
        (&third, &worker(1)),
    ] {
        assert!(log.come_in(token, node.clone()).unwrap_err().contains("lets"), "{} {node}", token.id);
    }
    let mut altered = one.clone();
    altered.digest[31] ^= 1;
    assert_eq!(log.come_in(&altered, worker(1)), Err("is unknown".into()));
    assert_eq!((log.come_in(&one, worker(1)), log.come_in(&third, coordinator)), (Ok(()), Ok(())));
    log.now = any.expires.0 - 10;
    assert_eq!(log.come_in(&any, worker(1)), Err("any has expired".into()));
}

#[test]
fn a_node_whose_answer_was_lost_comes_again_although_the_token_expired_meanwhile() {
    let mut log = Log::default();
    let token = log.admit("j1", Admits::Worker(None));
    log.now = token.expires.0 - 20;
    assert_eq!(log.come_in(&token, worker(1)), Ok(()));
    log.now += 5 * MINUTE_MS;
    assert_eq!(log.come_in(&token, worker(1)), Ok(()));
    assert!(log.come_in(&token, worker(2)).is_err());
}

#[test]
fn join_tokens_that_make_no_sense_are_refused() {
    let mut log = Log::default();
    let first = log.admit("j1", Admits::Coordinator);
    let good = join(&log, "j2", Admits::Coordinator);
    let with = |change: &dyn Fn(&mut JoinToken)| {
        let mut token = good.clone();
        change(&mut token);
        token
    };
    let faults = [
        with(&|token| token.id = "J".into()),
        with(&|token| token.id = "j1".into()),
        with(&|token| token.digest = first.digest),
        with(&|token| token.created_by = "n".repeat(201)),
        with(&|token| token.expires = token.created),
        with(&|token| token.expires.0 = token.created.0 + DAY_MS + 1),
        with(&|token| (token.created, token.expires) = (Timestamp(0), Timestamp(1))),
        with(&|token| token.used = Some(Timestamp(1))),
        with(&|token| token.used_by = Some("worker/w1".into())),
    ];
    let mut before = log.state.clone();
    for token in faults {
        let outcome = log.apply(Command::CreateJoinToken { token: token.clone() });
        assert!(matches!(outcome, Outcome::Refused(Refusal::Invalid(_))), "{token:?}");
    }
    before.applied = log.state.applied;
    assert_eq!(before, log.state);
    let longest = with(&|token| token.expires.0 = token.created.0 + DAY_MS);
    assert_eq!(log.apply(Command::CreateJoinToken { token: longest }), Outcome::Done);
}

#[test]
fn there_is_an_end_to_open_join_tokens_and_old_ones_are_forgotten() {
    let mut log = Log::default();
    let tokens: Vec<JoinToken> = (0..10_000).map(|n| log.admit(&format!("j{n}"), Admits::Worker(None))).collect();
    let more = join(&log, "more", Admits::Worker(None));
    let refused = log.apply(Command::CreateJoinToken { token: more.clone() });
    assert!(matches!(refused, Outcome::Refused(Refusal::Invalid(_))));
    assert_eq!(log.come_in(&tokens[3], worker(1)), Ok(()));
    assert_eq!(log.apply(Command::CreateJoinToken { token: more }), Outcome::Done, "a used one is not open");
    log.now = tokens[9_999].expires.0;
    log.admit("later", Admits::Worker(None));
    assert_eq!(log.state.join_tokens().count(), 10_002, "what expired just now can still be seen");
    log.now = tokens[9_999].expires.0 + DAY_MS;
    log.admit("latest", Admits::Worker(None));
    let left: Vec<&str> = log.state.join_tokens().map(|token| token.id.as_str()).collect();
    assert_eq!(left, ["later", "latest", "more"]);
    assert_eq!(log.come_in(&tokens[5], worker(1)), Err("is unknown".into()));
}

#[test]
fn a_new_authority_signs_beside_the_old_one_until_that_is_retired() {
    let mut log = Log::default();
    let add = |byte: u8| Command::AddAuthority { certificate: vec![byte; 300], vouched: vec![byte; 200] };
    let prints = |log: &Log| log.state.authorities().iter().map(|known| known.fingerprint).collect::<Vec<_>>();
    let is_refused = |outcome| matches!(outcome, Outcome::Refused(Refusal::Invalid(_)));
    assert_eq!(log.apply(add(1)), Outcome::Done);
    assert_eq!(log.apply(add(1)), Outcome::Done, "a retry");
    assert_eq!((log.state.authorities().len(), log.state.access_version()), (1, 1));
    let first = prints(&log)[0];
    assert!(is_refused(log.apply(Command::RetireAuthority { fingerprint: first })), "the only one");
    assert_eq!(log.apply(add(2)), Outcome::Done);
    assert!(is_refused(log.apply(add(3))), "a third");
    assert!(is_refused(log.apply(add(1))), "the old one does not sign again");
    assert_eq!(log.state.authorities().last().unwrap().certificate, vec![2; 300]);
    let unknown = Command::RetireAuthority { fingerprint: [0; 32] };
    assert_eq!(log.apply(unknown), Outcome::Refused(Refusal::UnknownAuthority));
    assert_eq!(log.state.certificates_from(), Timestamp(0));
    let added = log.state.authorities()[1].created;
    assert_eq!(log.apply(Command::RetireAuthority { fingerprint: first }), Outcome::Done);
    assert_eq!(log.state.certificates_from(), added, "what the old one signed came before");
    assert!(log.state.authorities()[0].vouched.is_empty());
    assert_eq!((log.state.authorities().len(), log.state.access_version()), (1, 3));
    assert!(!prints(&log).contains(&first));
    // The newer one may go too: the old one signs again, and what it signed counts.
    assert_eq!(log.apply(add(4)), Outcome::Done);
    let newest = prints(&log)[1];
    assert_eq!(log.apply(Command::RetireAuthority { fingerprint: newest }), Outcome::Done);
    assert_eq!(log.state.certificates_from(), added);
    let long = Command::AddAuthority { certificate: vec![5], vouched: vec![5; 8 * 1024 + 1] };
    assert!(is_refused(log.apply(long)));
    for bytes in [0, 8 * 1024 + 1] {
        assert!(
            is_refused(log.apply(Command::AddAuthority { certificate: vec![5; bytes], vouched: Vec::new() })),
            "{bytes}"
        );
    }
    assert_eq!(log.apply(Command::AddAuthority { certificate: vec![5; 8 * 1024], vouched: Vec::new() }), Outcome::Done);
}

#[test]
fn certificates_of_a_revoked_node_count_no_more_and_never_again_by_a_clock_that_is_behind() {
    let mut log = Log { now: 1_000, ..Log::default() };
    let principal = Principal::User { name: "ana".into(), token: "t1".into() };
    let caller = Arc::new(Caller { principal: principal.clone(), from: "127.0.0.1".into() });
    let revoke = |node: &Principal| Command::RevokeNode { node: node.clone() };
    let command = Box::new(revoke(&worker(1)));
    assert_eq!(log.apply(Command::As { caller, command }), Outcome::Done);
    let known = log.state.revocation(&worker(1)).unwrap().clone();
    assert_eq!((known.at, known.by.as_str()), (Timestamp(log.now), "user/ana"));
    assert!(log.state.revocation(&worker(2)).is_none());
    log.now = 0;
    assert_eq!(log.apply(revoke(&worker(1))), Outcome::Done);
    assert_eq!(log.state.revocation(&worker(1)).unwrap().at, known.at);
    log.now = 5_000;
    assert_eq!(log.apply(revoke(&worker(1))), Outcome::Done);
    assert_eq!(log.state.revocation(&worker(1)).unwrap().at, Timestamp(5_010), "it had joined again");
    assert_eq!(log.state.access_version(), 3);
    for node in [principal, Principal::Stranger] {
        assert!(matches!(log.apply(revoke(&node)), Outcome::Refused(Refusal::Invalid(_))));
    }
    assert_eq!(log.state.access_version(), 3);
}
