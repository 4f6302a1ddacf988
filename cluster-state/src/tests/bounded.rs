//! What claims more than there is ends in an error, wherever it stands; what is honest is read as it was written.

use super::access::{set_user, token};
use super::audit::caller;
use super::federation::provider;
use super::*;
use super::{random, secrets};
use crate::{SetUser, bounded};
use imbl::{OrdMap, OrdSet, Vector};
use postcard::de_flavors::Flavor;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::Role;

/// Bytes that do not tell how many are left, so that postcard hands on each length as it is claimed. A reader that believes one of
/// `CLAIM` asks for more than there can be, and panics.
struct Untold<'de>(&'de [u8]);

impl<'de> Flavor<'de> for Untold<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    fn pop(&mut self) -> postcard::Result<u8> {
        self.try_take_n(1).map(|byte| byte[0])
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.0 = rest;
        Ok(taken)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.0)
    }
}

/// 2^63 - 1, as postcard writes a length.
const CLAIM: [u8; 9] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    T::deserialize(&mut postcard::Deserializer::from_flavor(Untold(bytes)))
}

/// Puts the claim in the place of each byte, one at a time. Where that is a length the bytes end too early; where it is a number or a
/// text they are read as something else. How many were refused.
fn claims<T: Serialize + DeserializeOwned>(value: &T) -> usize {
    let sound = postcard::to_allocvec(value).unwrap();
    let is_refused = |at: &usize| {
        let claim = [&sound[..*at], &CLAIM, &sound[at + 1..]].concat();
        let refused = std::panic::catch_unwind(|| read::<T>(&claim).is_err());
        refused.expect("a length is believed: which field lacks a reader of `crate::bounded`?")
    };
    (0..sound.len()).filter(is_refused).count()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tables {
    #[serde(deserialize_with = "bounded::map")]
    map: OrdMap<u64, Arc<String>>,
    #[serde(deserialize_with = "bounded::list")]
    set: OrdSet<(u64, String)>,
    #[serde(deserialize_with = "bounded::list")]
    list: Vector<u64>,
}

/// The same, read as `imbl` does.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Trusting {
    map: OrdMap<u64, Arc<String>>,
    set: OrdSet<(u64, String)>,
    list: Vector<u64>,
}

proptest! {
    /// With rows that come twice and in any order, as bytes may have them.
    #[test]
    fn honest_tables_are_read_as_before(
        map in proptest::collection::vec((0..50_u64, ".{0,3}"), 0..40),
        set in proptest::collection::vec((0..5_u64, "[ab]{0,2}"), 0..40),
        list in proptest::collection::vec(any::<u64>(), 0..200),
    ) {
        let rows = postcard::to_allocvec(&(map, set, list)).unwrap();
        let read: Tables = postcard::from_bytes(&rows).unwrap();
        let before: Trusting = postcard::from_bytes(&rows).unwrap();
        prop_assert_eq!((&read.map, &read.set, &read.list), (&before.map, &before.set, &before.list));
        let written = postcard::to_allocvec(&read).unwrap();
        prop_assert_eq!(&written, &postcard::to_allocvec(&before).unwrap());
        prop_assert_eq!(postcard::from_bytes::<Tables>(&written).unwrap(), read);
    }
}

#[test]
fn a_table_that_claims_more_rows_than_there_are_is_refused() {
    for rows in [2, 1_000, 1 << 40, u64::MAX] {
        // One row is there.
        let of = |row: &[u8]| [postcard::to_allocvec(&rows).unwrap().as_slice(), row].concat();
        let (map, set, list) = (of(&[7, 1, b'a']), of(&[7, 1, b'a']), of(&[7]));
        let none = [0_u8];
        for bytes in [map, [&none, &set[..]].concat(), [&none, &none, &list[..]].concat()] {
            let end = postcard::Error::DeserializeUnexpectedEnd;
            assert_eq!(read::<Tables>(&bytes), Err(end.clone()), "{rows}");
            assert_eq!(postcard::from_bytes::<Tables>(&bytes), Err(end), "{rows}");
        }
    }
}

/// Those of the tables' that are empty have a length of one byte, so that each is claimed to be longer, new ones too: one that
/// names no reader of `bounded` panics here.
#[test]
fn every_table_is_bounded() {
    assert!(claims(&State::default()) >= 20);
}

/// A job that waits again after an attempt, with a checkpoint; another one, a secret, users, tokens and more.
fn some_state() -> State {
    let mut log = Log::with_workers(2);
    let job = log.submit(&spec(2, 1, 1, 0));
    log.place(job, &[0, 1], 0);
    log.start(job);
    let attempt = log.state.job(job).unwrap().live_attempt().unwrap().clone();
    let checkpoint = CheckpointRef { step: 7, tree: ContentHash([1; 32]) };
    log.apply(Command::RecordCheckpoint { key: attempt.key(job, 0), token: attempt.token, checkpoint });
    log.lose(1);
    log.end(job, 0, ended(RankExit::Stopped));
    log.submit(&spec(1, 1, 0, 0));
    log.apply(set_user("ana", &[Role::Owner], SetUser::Create));
    log.apply(secrets::by("ana", secrets::set("hf", 1, 7)));
    random::some(&mut log, 60);
    log.apply(Command::CreateToken { token: token(&log, "ana", "t9") });
    log.apply(Command::SetProvider { provider: Box::new(provider("p9")) });
    log.state
}

/// Whatever is within the rows.
#[test]
fn every_row_is_bounded() {
    let state = some_state();
    let job = state.job(JobId(1)).unwrap();
    assert!(!job.checkpoints.is_empty() && job.attempts.iter().any(|attempt| attempt.ends.iter().any(Option::is_some)));
    let access = &state.access;
    assert!(!state.workers.is_empty() && !state.secrets.is_empty());
    let access = [access.users.len(), access.tokens.len(), access.providers.len(), access.joins.len()];
    assert!(!access.contains(&0), "{access:?}");
    assert!(claims(&state) >= 100);
    let bytes = postcard::to_allocvec(&state).unwrap();
    let copy: State = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(postcard::to_allocvec(&copy).unwrap(), bytes);
}

#[test]
fn every_command_is_bounded() {
    let mut kinds = BTreeMap::new();
    kinds.extend(random::some(&mut Log::with_workers(3), 400).into_iter().map(|command| (command.action(), command)));
    assert!(kinds.len() > 20, "{:?}", kinds.keys());
    for command in kinds.into_values() {
        claims(&command);
        claims(&Command::As { caller: Arc::new(caller("ada")), command: Box::new(command) });
    }
}

#[test]
fn a_command_within_commands_is_refused_before_it_takes_the_stack() {
    let named = |command| Command::As { caller: Arc::new(caller("ada")), command: Box::new(command) };
    let once = named(Command::CancelJob { job: JobId(7) });
    let bytes = postcard::to_allocvec(&once).unwrap();
    assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), once);
    let twice = postcard::to_allocvec(&named(once)).unwrap();
    assert_eq!(postcard::from_bytes::<Command>(&twice), Err(postcard::Error::SerdeDeCustom));
    let often = twice[..twice.len() - bytes.len()].repeat(500_000);
    assert_eq!(postcard::from_bytes::<Command>(&often), Err(postcard::Error::SerdeDeCustom));
}
