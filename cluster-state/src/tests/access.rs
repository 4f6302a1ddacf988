//! Users, their roles and their tokens.

use super::*;
use crate::{ApiToken, SetUser, TOKENS_OF_USER_MAX, USERS_MAX};
use std::collections::BTreeSet;
use types::Role;

pub(super) const DAY_MS: u64 = 24 * 3_600_000;

pub(super) fn set_user(name: &str, roles: &[Role], how: SetUser) -> Command {
    Command::SetUser { name: name.to_owned(), roles: grants(roles), how, waiting_max: None }
}

/// A token that lives for an hour; its digest is made of its id.
pub(super) fn token(log: &Log, user: &str, id: &str) -> ApiToken {
    let mut digest = [0; 32];
    digest[..id.len()].copy_from_slice(id.as_bytes());
    let created = Timestamp(log.now);
    let expires = Timestamp(log.now + 3_600_000);
    ApiToken { id: id.to_owned(), user: user.to_owned(), digest, note: String::new(), created, expires, roles: None }
}

/// These roles, everywhere.
pub(super) fn grants(roles: &[Role]) -> BTreeSet<types::Grant> {
    roles.iter().copied().map(Into::into).collect()
}

fn create(token: &ApiToken) -> Command {
    Command::CreateToken { token: token.clone() }
}

fn with_users(users: &[(&str, &[Role])]) -> Log {
    let mut log = Log::default();
    for (name, roles) in users {
        assert_eq!(log.apply(set_user(name, roles, SetUser::Create)), Outcome::Done);
    }
    log
}

/// The refusal, after a look whether it changed anything.
fn refusal(log: &mut Log, command: Command) -> Refusal {
    let mut before = log.state.clone();
    let Outcome::Refused(refusal) = log.apply(command) else { panic!("it was not refused") };
    before.applied = log.state.applied;
    assert_eq!(before, log.state, "what is refused changes nothing");
    refusal
}

#[test]
fn users_are_made_changed_and_removed() {
    let mut log = with_users(&[("ana", &[Role::Owner])]);
    let made = log.state.user("ana").unwrap().clone();
    assert_eq!((made.name.as_str(), made.created), ("ana", Timestamp(log.now)));
    let version = log.state.access_version();
    assert_eq!(log.apply(set_user("ana", &[Role::Owner], SetUser::Create)), Outcome::Done, "a retry");
    assert_eq!(log.state.access_version(), version, "nothing changed");
    let other = set_user("ana", &[Role::Reader], SetUser::Create);
    assert_eq!(refusal(&mut log, other), Refusal::UserExists("ana".into()));
    let unknown = set_user("bo", &[Role::Reader], SetUser::Update);
    assert_eq!(refusal(&mut log, unknown), Refusal::UnknownUser("bo".into()));
    for command in [set_user("a b", &[Role::Reader], SetUser::Create), set_user("bo", &[], SetUser::Create)] {
        assert!(matches!(refusal(&mut log, command), Refusal::Invalid(_)));
    }
    assert_eq!(log.apply(set_user("bo", &[Role::Reader], SetUser::Create)), Outcome::Done);
    assert_eq!(log.apply(set_user("bo", &[Role::Reader, Role::Auditor], SetUser::Update)), Outcome::Done);
    assert_eq!(log.state.roles_of("bo"), &BTreeSet::from([Role::Reader, Role::Auditor].map(Into::into)));
    assert_eq!(log.state.access_version(), version + 2);
    assert_eq!(log.apply(Command::RemoveUser { name: "bo".into() }), Outcome::Done);
    assert!(log.state.roles_of("bo").is_empty() && log.state.access_version() == version + 3);
    let again = Command::RemoveUser { name: "bo".into() };
    assert_eq!(refusal(&mut log, again), Refusal::UnknownUser("bo".into()));
}

#[test]
fn the_last_owner_stays_one() {
    let mut log = with_users(&[("ana", &[Role::Owner]), ("bo", &[Role::Contributor])]);
    let gone = |name: &str| Command::RemoveUser { name: name.to_owned() };
    let lowered = |name: &str| set_user(name, &[Role::Reader], SetUser::Update);
    for command in [gone("ana"), lowered("ana")] {
        assert_eq!(refusal(&mut log, command), Refusal::LastOwner("ana".into()));
    }
    assert_eq!(log.apply(set_user("ana", &[Role::Owner, Role::Reader], SetUser::Update)), Outcome::Done);
    assert_eq!(log.apply(set_user("bo", &[Role::Owner], SetUser::Update)), Outcome::Done);
    assert_eq!(log.apply(lowered("ana")), Outcome::Done, "there is another now");
    for command in [gone("bo"), lowered("bo")] {
        assert_eq!(refusal(&mut log, command), Refusal::LastOwner("bo".into()));
    }
    assert_eq!(log.apply(gone("ana")), Outcome::Done);
}

#[test]
fn there_is_an_end_to_users() {
    let mut log = Log::default();
    for n in 0..USERS_MAX {
        assert_eq!(log.apply(set_user(&format!("u{n}"), &[Role::Reader], SetUser::Create)), Outcome::Done);
    }
    let more = set_user("more", &[Role::Reader], SetUser::Create);
    assert!(matches!(refusal(&mut log, more.clone()), Refusal::Invalid(_)));
    assert_eq!(log.apply(Command::RemoveUser { name: "u7".into() }), Outcome::Done);
    assert_eq!(log.apply(more), Outcome::Done);
}

#[test]
fn a_token_is_found_by_its_secret_until_it_is_revoked() {
    let mut log = with_users(&[("ana", &[Role::Owner])]);
    let mine = token(&log, "ana", "t1");
    assert_eq!(log.apply(create(&mine)), Outcome::Done);
    let version = log.state.access_version();
    assert_eq!(log.apply(create(&mine)), Outcome::Done, "a retry");
    assert_eq!(log.state.access_version(), version);
    assert_eq!(**log.state.token_by_digest(&mine.digest).unwrap(), mine);
    assert!(log.state.token_by_digest(&[9; 32]).is_none());
    let revoke = |id: &str| Command::RevokeToken { id: id.to_owned() };
    assert_eq!(refusal(&mut log, revoke("t2")), Refusal::UnknownToken("t2".into()));
    assert_eq!(log.apply(revoke("t1")), Outcome::Done);
    assert!(log.state.token_by_digest(&mine.digest).is_none() && log.state.tokens().next().is_none());
    assert_eq!(log.state.access_version(), version + 1);
    assert_eq!(refusal(&mut log, revoke("t1")), Refusal::UnknownToken("t1".into()));
}

#[test]
fn a_token_has_an_id_a_user_a_secret_of_its_own_and_an_end() {
    let mut log = with_users(&[("ana", &[Role::Owner])]);
    assert_eq!(log.apply(create(&token(&log, "ana", "t1"))), Outcome::Done);
    let good = token(&log, "ana", "t2");
    let with = |change: &dyn Fn(&mut ApiToken)| {
        let mut token = good.clone();
        change(&mut token);
        create(&token)
    };
    let mut same_secret = token(&log, "ana", "t1");
    same_secret.id = "t3".into();
    let faults = [
        with(&|token| token.id = String::new()),
        with(&|token| token.id = "T".into()),
        with(&|token| token.id = "a".repeat(33)),
        with(&|token| token.id = "t1".into()),
        create(&same_secret),
        with(&|token| token.note = "n".repeat(201)),
        with(&|token| token.expires = token.created),
        with(&|token| token.expires.0 = token.created.0 + 366 * DAY_MS + 1),
        with(&|token| (token.created, token.expires) = (Timestamp(0), Timestamp(1))),
    ];
    for command in faults {
        assert!(matches!(refusal(&mut log, command), Refusal::Invalid(_)));
    }
    let stranger = with(&|token| token.user = "bo".into());
    assert_eq!(refusal(&mut log, stranger), Refusal::UnknownUser("bo".into()));
    let longest = with(&|token| token.expires.0 = token.created.0 + 366 * DAY_MS);
    assert_eq!(log.apply(longest), Outcome::Done);
}

#[test]
fn a_user_has_so_many_tokens_and_expired_ones_make_room() {
    let mut log = with_users(&[("ana", &[Role::Owner]), ("bo", &[Role::Reader])]);
    for n in 0..TOKENS_OF_USER_MAX {
        assert_eq!(log.apply(create(&token(&log, "ana", &format!("t{n}")))), Outcome::Done);
    }
    let more = token(&log, "ana", "more");
    assert!(matches!(refusal(&mut log, create(&more)), Refusal::Invalid(_)));
    assert_eq!(log.apply(create(&token(&log, "bo", "other"))), Outcome::Done, "another user has her own");
    log.now += 3_600_000;
    assert_eq!(log.state.tokens_of("ana").count(), TOKENS_OF_USER_MAX, "they are over, but can still be seen");
    assert_eq!(log.apply(create(&token(&log, "ana", "late"))), Outcome::Done);
    let left: Vec<&str> = log.state.tokens().map(|token| token.id.as_str()).collect();
    assert_eq!(left, ["late", "other"]);
}

#[test]
fn with_a_user_go_the_tokens() {
    let mut log = with_users(&[("ana", &[Role::Owner]), ("bo", &[Role::Reader]), ("bob", &[Role::Reader])]);
    for (user, id) in [("bo", "t1"), ("bo", "t2"), ("bob", "t3")] {
        assert_eq!(log.apply(create(&token(&log, user, id))), Outcome::Done);
    }
    let digest = token(&log, "bo", "t1").digest;
    assert_eq!(log.apply(Command::RemoveUser { name: "bo".into() }), Outcome::Done);
    assert!(log.state.token_by_digest(&digest).is_none());
    assert_eq!(log.state.tokens().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["t3"]);
    assert_eq!(log.apply(set_user("bo", &[Role::Owner], SetUser::Create)), Outcome::Done);
    assert_eq!(log.state.tokens_of("bo").count(), 0, "whoever has the name later");
}

#[test]
fn nobody_gives_what_they_lack() {
    for granting in Role::ALL {
        for given in Role::ALL {
            let may = State::may_grant(&grants(&[*granting]), &grants(&[*given]));
            let lacks = types::Permission::ALL.iter().any(|p| given.gives(*p) && !granting.gives(*p));
            assert_eq!(may, !lacks, "{granting} gives {given}");
        }
    }
    let may = |own: &[Role], given: &[Role]| State::may_grant(&grants(own), &grants(given));
    assert!(may(&[Role::Owner], Role::ALL));
    assert!(!may(&[Role::Contributor], &[Role::Reader, Role::Auditor]));
    // What two roles give together.
    assert!(may(&[Role::Reader, Role::ComputeOperator], &[Role::Reader]));
    assert!(may(&[], &[]));
    assert!(!may(&[], &[Role::Reader]));
}

#[test]
fn the_use_of_a_token_is_noted_once_in_five_minutes_and_forgotten_with_it() {
    let mut log = with_users(&[("ana", &[Role::Owner])]);
    let token = token(&log, "ana", "t1");
    log.apply(create(&token));
    let version = log.state.access_version();
    let begin = log.now;
    log.now += 30 * 60_000;
    let note = |log: &mut Log, at: u64| {
        let used = ["t1", "unknown"].map(|id| (id.to_owned(), Timestamp(begin + at)));
        assert_eq!(log.apply(Command::NoteTokensUsed { used: used.into() }), Outcome::Done);
        log.state.token_used("t1").map(|used| used.0 - begin)
    };
    assert_eq!(log.state.token_used("t1"), None, "never");
    assert_eq!(note(&mut log, 1_000), Some(1_000));
    assert_eq!(note(&mut log, 300_999), Some(1_000), "so little later it is not worth a change");
    assert_eq!(note(&mut log, 301_000), Some(301_000));
    assert_eq!(note(&mut log, 0), Some(301_000), "an older one says nothing new");
    let ahead = note(&mut log, u64::from(u32::MAX));
    assert_eq!(ahead, Some(log.now - begin), "a clock that is ahead");
    assert_eq!(log.state.token_used("unknown"), None);
    assert_eq!(log.state.access_version(), version, "nobody's access changed");
    log.apply(Command::RevokeToken { id: "t1".into() });
    assert_eq!(log.state.token_used("t1"), None);
    let many = vec![("t1".to_owned(), Timestamp(1)); crate::TOKEN_USES_MAX + 1];
    assert!(matches!(refusal(&mut log, Command::NoteTokensUsed { used: many }), Refusal::Invalid(_)));
}

#[test]
fn a_token_with_roles_of_its_own_gives_those_that_its_user_has_and_no_more() {
    let mut log = with_users(&[("ana", &[Role::Contributor]), ("bo", &[Role::Owner])]);
    let narrow = ApiToken { roles: Some(grants(&[Role::Reader, Role::Auditor])), ..token(&log, "ana", "t1") };
    for token in [narrow, token(&log, "ana", "t2")] {
        assert_eq!(log.apply(create(&token)), Outcome::Done);
    }
    let given = |log: &Log, token: &str| {
        let caller = types::Principal::User { name: "ana".into(), token: token.into() };
        log.state.grants_of(&caller).map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(given(&log, "t1"), ["reader"], "an auditor its user is not");
    assert_eq!(given(&log, "t2"), ["contributor"]);
    assert_eq!(log.apply(set_user("ana", &[Role::ComputeOperator], SetUser::Update)), Outcome::Done);
    assert_eq!(given(&log, "t1"), [""; 0], "its user is no reader any more");
    assert_eq!(log.apply(set_user("ana", &[Role::Owner], SetUser::Update)), Outcome::Done);
    assert_eq!(given(&log, "t1"), ["reader", "auditor"]);
    let place = types::Workspace::new("nowhere").unwrap();
    let there = types::Grant { role: Role::Reader.into(), workspace: Some(place) };
    let lost = ApiToken { roles: Some([there].into()), ..token(&log, "ana", "t3") };
    assert!(matches!(refusal(&mut log, create(&lost)), Refusal::UnknownWorkspace(_)));
}
