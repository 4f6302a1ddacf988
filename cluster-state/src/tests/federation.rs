//! Users of identity providers: in by what their groups give, out when the terms change.

use super::access::{DAY_MS, grants, set_user, token};
use super::*;
use crate::{KeySource, LogIn, Provider, SetUser, TOKENS_OF_USER_MAX};
use std::collections::{BTreeMap, BTreeSet};
use types::Role;

/// Its group `team` may submit jobs.
pub(super) fn provider(name: &str) -> Provider {
    Provider {
        name: name.to_owned(),
        issuer: format!("https://{name}.example"),
        audiences: BTreeSet::from(["muster".to_owned()]),
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
        groups: BTreeMap::from([("team".to_owned(), grants(&[Role::DataScientist]))]),
        keys: KeySource::From(format!("https://{name}.example/keys")),
        since: LogIndex(0),
    }
}

/// By the present terms, with a token that lives for an hour.
pub(super) fn log_in(log: &Log, provider: &str, user: &str, groups: &[&str], secret: u8) -> LogIn {
    LogIn {
        provider: provider.to_owned(),
        since: log.state.provider(provider).map_or(LogIndex(1), |known| known.since),
        user: user.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        id: format!("f{secret}"),
        digest: [secret.wrapping_add(100); 32],
        expires: Timestamp(log.now + 3_600_000),
    }
}

fn set(provider: &Provider) -> Command {
    Command::SetProvider { provider: Box::new(provider.clone()) }
}

fn enter(log_in: LogIn) -> Command {
    Command::LogIn(Box::new(log_in))
}

fn with_provider() -> Log {
    let mut log = Log::default();
    assert_eq!(log.apply(set_user("ana", &[Role::Owner], SetUser::Create)), Outcome::Done);
    assert_eq!(log.apply(set(&provider("corp"))), Outcome::Done);
    log
}

fn refusal(log: &mut Log, command: Command) -> Refusal {
    let mut before = log.state.clone();
    let Outcome::Refused(refusal) = log.apply(command) else { panic!("it was not refused") };
    before.applied = log.state.applied;
    assert_eq!(before, log.state, "what is refused changes nothing");
    refusal
}

#[test]
fn a_user_has_what_the_groups_give_and_no_more() {
    let mut log = with_provider();
    let first = log_in(&log, "corp", "bo@x", &["team", "others"], 1);
    assert_eq!(log.apply(enter(first.clone())), Outcome::Done);
    assert_eq!(log.state.roles_of("corp:bo@x"), &grants(&[Role::DataScientist]));
    let kept = log.state.token_by_digest(&first.digest).unwrap().clone();
    assert_eq!((kept.user.as_str(), kept.expires), ("corp:bo@x", first.expires));
    let again = LogIn { id: "f9".into(), ..first };
    assert_eq!(log.apply(enter(again)), Outcome::Done, "two coordinators saw it first");
    assert_eq!(log.state.tokens_of("corp:bo@x").count(), 1);
    let none = log_in(&log, "corp", "cy", &["others"], 2);
    assert_eq!(refusal(&mut log, enter(none)), Refusal::NoRole("corp:cy".into()));
    let unknown = log_in(&log, "club", "cy", &["team"], 2);
    assert_eq!(refusal(&mut log, enter(unknown)), Refusal::UnknownProvider("club".into()));
    for user in ["", "a b", "*"] {
        let bad = log_in(&log, "corp", user, &["team"], 2);
        assert!(matches!(refusal(&mut log, enter(bad)), Refusal::Invalid(_)));
    }
    let ended = LogIn { expires: Timestamp(0), ..log_in(&log, "corp", "cy", &["team"], 2) };
    assert!(matches!(refusal(&mut log, enter(ended)), Refusal::Invalid(_)));
    let everybody = Provider { groups: BTreeMap::from([("*".into(), grants(&[Role::Reader]))]), ..provider("corp") };
    assert_eq!(log.apply(set(&everybody)), Outcome::Done);
    let anybody = log_in(&log, "corp", "cy", &[], 2);
    assert_eq!(log.apply(enter(anybody)), Outcome::Done);
    assert_eq!(log.state.roles_of("corp:cy"), &grants(&[Role::Reader]));
}

#[test]
fn new_terms_let_nobody_in_by_old_ones() {
    let mut log = with_provider();
    let first = log_in(&log, "corp", "bo", &["team"], 1);
    assert_eq!(log.apply(enter(first.clone())), Outcome::Done);
    let version = log.state.access_version();
    assert_eq!(log.apply(set(&provider("corp"))), Outcome::Done, "the same terms");
    assert_eq!((log.state.access_version(), log.state.tokens_of("corp:bo").count()), (version, 1));
    let other = Provider { groups: BTreeMap::from([("team".into(), grants(&[Role::Reader]))]), ..provider("corp") };
    assert_eq!(log.apply(set(&other)), Outcome::Done);
    assert_eq!(log.state.tokens_of("corp:bo").count(), 0);
    // It was checked before the change.
    assert_eq!(refusal(&mut log, enter(first)), Refusal::ProviderChanged("corp".into()));
    let second = log_in(&log, "corp", "bo", &["team"], 1);
    assert_eq!(log.apply(enter(second)), Outcome::Done);
    assert_eq!(log.state.roles_of("corp:bo"), &grants(&[Role::Reader]));
    assert_eq!(log.apply(Command::RemoveProvider { name: "corp".into() }), Outcome::Done);
    assert!(log.state.user("corp:bo").is_none() && log.state.tokens().next().is_none());
    let again = Command::RemoveProvider { name: "corp".into() };
    assert_eq!(refusal(&mut log, again), Refusal::UnknownProvider("corp".into()));
}

#[test]
fn owners_of_a_provider_do_not_keep_the_cluster_and_their_roles_are_its_own() {
    let mut log = with_provider();
    let owners = Provider { groups: BTreeMap::from([("team".into(), grants(&[Role::Owner]))]), ..provider("corp") };
    assert_eq!(log.apply(set(&owners)), Outcome::Done);
    let bo = log_in(&log, "corp", "bo", &["team"], 1);
    assert_eq!(log.apply(enter(bo)), Outcome::Done);
    assert_eq!(refusal(&mut log, Command::RemoveUser { name: "ana".into() }), Refusal::LastOwner("ana".into()));
    for command in [
        set_user("corp:bo", &[Role::Reader], SetUser::Update),
        set_user("corp:bo", &[Role::Owner], SetUser::Create),
        Command::CreateToken { token: token(&log, "corp:bo", "t1") },
    ] {
        assert!(matches!(refusal(&mut log, command), Refusal::Invalid(_)));
    }
    let made = set_user("corp:cy", &[Role::Owner], SetUser::Create);
    assert_eq!(refusal(&mut log, made), Refusal::UnknownUser("corp:cy".into()));
    let bound = Command::SetUser {
        name: "corp:bo".into(),
        roles: grants(&[Role::Owner]),
        how: SetUser::Update,
        waiting_max: Some(7),
    };
    assert_eq!(log.apply(bound), Outcome::Done);
    let again = log_in(&log, "corp", "bo", &["team"], 2);
    assert_eq!(log.apply(enter(again)), Outcome::Done);
    assert_eq!(log.state.user("corp:bo").unwrap().waiting_max, Some(7));
    assert_eq!(log.apply(Command::RemoveUser { name: "corp:bo".into() }), Outcome::Done);
}

#[test]
fn tokens_end_within_a_day_and_too_many_push_out_those_that_end_first() {
    let mut log = with_provider();
    let long = LogIn { expires: Timestamp(log.now + 30 * DAY_MS), ..log_in(&log, "corp", "bo", &["team"], 0) };
    assert_eq!(log.apply(enter(long.clone())), Outcome::Done);
    let kept = log.state.token_by_digest(&long.digest).unwrap();
    assert_eq!(kept.expires.0, kept.created.0 + DAY_MS);
    for n in 1..=TOKENS_OF_USER_MAX as u8 {
        let one = log_in(&log, "corp", "bo", &["team"], n);
        assert_eq!(log.apply(enter(one)), Outcome::Done);
    }
    assert_eq!(log.state.tokens_of("corp:bo").count(), TOKENS_OF_USER_MAX);
    assert!(log.state.token_by_digest(&long.digest).is_some() && log.state.token("f1").is_none());
}

#[test]
fn a_provider_that_cannot_be_is_refused_with_every_fault() {
    let mut log = with_provider();
    let bad = Provider {
        name: "Corp".into(),
        issuer: String::new(),
        audiences: BTreeSet::new(),
        groups: BTreeMap::from([("team".into(), BTreeSet::new())]),
        keys: KeySource::Given("x".repeat(65 << 10)),
        ..provider("corp")
    };
    let Refusal::Invalid(text) = refusal(&mut log, set(&bad)) else { panic!("it is not invalid") };
    for part in ["name", "issuer", "audiences", "groups", "keys"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let twin = Provider { issuer: "https://corp.example".into(), ..provider("twin") };
    assert!(matches!(refusal(&mut log, set(&twin)), Refusal::Invalid(text) if text.contains("corp")));
    for n in 1..crate::PROVIDERS_MAX {
        assert_eq!(log.apply(set(&provider(&format!("p{n}")))), Outcome::Done);
    }
    assert!(matches!(refusal(&mut log, set(&provider("more"))), Refusal::Invalid(_)));
}
