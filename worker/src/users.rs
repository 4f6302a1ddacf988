//! Who ranks run as: the daemon's own user, one that the operator names, or one of a range for each job.
//!
//! A job's members on one machine share their user: ranks of a gang map each other's memory. Two jobs have one in common only
//! where the operator named just one. Which of a range is whose is not written down: the folders of what runs tell it.

use crate::layout::MemberLayout;
use crate::owner::Owner;
use crate::shim::places::Places;
use crate::shim::spec::Credentials;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::{JobId, MemberKey};

/// A user for ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) credentials: Credentials,
    /// As `USER` says it; the number where it has no name.
    pub(crate) name: String,
    /// Where the account has a folder that exists.
    pub(crate) home: Option<PathBuf>,
}

/// What `--rank-user` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RankUser {
    /// All ranks are this one's.
    One(User),
    /// Each job has one of these; group ids are the same numbers.
    Each(RangeInclusive<u32>),
}

/// The machine's accounts, as `/etc/passwd` and `/etc/group` have them.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

impl Accounts {
    pub(crate) fn of_machine() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self { passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// The account that has `value` in its field of this number.
    fn account(&self, field: usize, value: &str) -> Option<Vec<&str>> {
        let accounts = self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        accounts.filter(|fields| fields.len() >= 7).find(|fields| fields[field] == value)
    }

    /// Groups that name this user as a member.
    fn groups_of(&self, name: &str) -> Vec<u32> {
        let groups = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let with = groups.filter(|fields| fields.len() >= 4 && fields[3].split(',').any(|member| member == name));
        with.filter_map(|fields| fields[2].parse().ok()).filter(|gid| *gid != 0).collect()
    }
}

impl RankUser {
    /// `NAME`, `UID`, either with `:GID`, or `FIRST-LAST`.
    pub(crate) fn parse(text: &str, accounts: &Accounts) -> Result<Self, String> {
        if let Some((first, last)) = text.split_once('-')
            && let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>())
        {
            return match (first, last) {
                (0, _) => Err(ROOT.into()),
                // The last number of all means "nobody is meant" to the kernel.
                _ if first > last || last == u32::MAX => Err(format!("{text} is no range of user ids")),
                _ => Ok(Self::Each(first..=last)),
            };
        }
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let number = user.parse::<u32>().ok();
        let account = accounts.account(if number.is_some() { 2 } else { 0 }, user);
        let id = |field: usize| account.as_ref().and_then(|fields| fields[field].parse::<u32>().ok());
        let uid = number.or(id(2)).ok_or_else(|| format!("user {user:?} is not in /etc/passwd: give UID:GID"))?;
        let gid = match group {
            Some(group) => group.parse().map_err(|_| format!("{group:?} is no group id"))?,
            None => id(3).unwrap_or(uid),
        };
        if uid == 0 || gid == 0 {
            return Err(ROOT.into());
        }
        let name = account.as_ref().map_or(user, |fields| fields[0]).to_owned();
        let home = account.as_ref().map(|fields| PathBuf::from(fields[5])).filter(|home| home.is_dir());
        Ok(Self::One(User { credentials: Credentials { uid, gid, groups: accounts.groups_of(&name) }, name, home }))
    }

    /// Any one of them, to try what they all must be able to do.
    pub(crate) fn first(&self) -> User {
        match self {
            Self::One(user) => user.clone(),
            Self::Each(range) => numbered(*range.start()),
        }
    }
}

const ROOT: &str = "ranks must not run as root, nor in its group";

fn numbered(uid: u32) -> User {
    User { credentials: Credentials { uid, gid: uid, groups: Vec::new() }, name: uid.to_string(), home: None }
}

/// The job may start elsewhere, or here later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("each user of --rank-user has a job: give it a wider range")]
pub(crate) struct AllTaken;

/// Which user each job has.
#[derive(Debug)]
pub(crate) struct Users {
    who: Option<RankUser>,
    /// Do ranks have places of their own?
    has_places: bool,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    jobs: BTreeMap<JobId, (u32, BTreeSet<MemberKey>)>,
    /// Where the search for a free one begins: the one that was freed last is given last, for what its job may have left in
    /// places that are everybody's.
    next: u32,
}

impl Users {
    pub(crate) fn new(who: Option<RankUser>, has_places: bool) -> Self {
        Self { who, has_places, given: Mutex::default() }
    }

    /// The places of a member whose ranks are this user's; none = the machine's.
    pub(crate) fn places(&self, member: MemberKey, user: &Credentials, tmp: &Path) -> Option<Places> {
        self.has_places.then(|| Places::of(member, user, tmp))
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The places of a member that was launched, by whose its folders are.
    pub(crate) fn places_of(&self, member: MemberKey, layout: &MemberLayout) -> Option<Places> {
        let owner = Owner::of(layout).filter(|_| self.has_places)?;
        let user = Credentials { uid: owner.uid, gid: owner.uid, groups: Vec::new() };
        self.places(member, &user, &layout.tmp())
    }

    /// The user of this member's ranks, its job's until all its members are freed; none is the daemon's own.
    pub(crate) fn of(&self, member: MemberKey) -> Result<Option<User>, AllTaken> {
        match &self.who {
            None => Ok(None),
            Some(RankUser::One(user)) => Ok(Some(user.clone())),
            Some(RankUser::Each(range)) => self.given().take(member, range).map(numbered).map(Some).ok_or(AllTaken),
        }
    }

    /// A restarted daemon found that this member's folders are that user's.
    pub(crate) fn keep(&self, member: MemberKey, uid: u32) {
        if let Some(RankUser::Each(range)) = &self.who
            && range.contains(&uid)
        {
            self.given().jobs.entry(member.job).or_insert_with(|| (uid, BTreeSet::new())).1.insert(member);
        }
    }

    /// Nothing of this member is left.
    pub(crate) fn free(&self, member: MemberKey) {
        let mut given = self.given();
        if let Some((_, members)) = given.jobs.get_mut(&member.job) {
            members.remove(&member);
            if members.is_empty() {
                given.jobs.remove(&member.job);
            }
        }
    }
}

impl Given {
    fn take(&mut self, member: MemberKey, range: &RangeInclusive<u32>) -> Option<u32> {
        if let Some((uid, members)) = self.jobs.get_mut(&member.job) {
            members.insert(member);
            return Some(*uid);
        }
        let taken: BTreeSet<u32> = self.jobs.values().map(|(uid, _)| *uid).collect();
        let from = self.next.clamp(*range.start(), *range.end());
        let free = (from..=*range.end()).chain(*range.start()..from).find(|uid| !taken.contains(uid))?;
        self.next = free + 1;
        self.jobs.insert(member.job, (free, BTreeSet::from([member])));
        Some(free)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::AttemptNumber;

    fn parse(text: &str) -> Result<RankUser, String> {
        let passwd = "root:x:0:0:root:/root:/bin/sh\njobs:x:990:980:,,,:/:/bin/sh\nold:x:991:0::/nowhere:/bin/sh\n";
        let group = "wheel:x:0:jobs\nrender:x:105:other,jobs\nkvm:x:106:other\n";
        RankUser::parse(text, &Accounts { passwd: passwd.into(), group: group.into() })
    }

    fn ids(text: &str) -> (u32, u32, Vec<u32>) {
        let Credentials { uid, gid, groups } = parse(text).unwrap().first().credentials;
        (uid, gid, groups)
    }

    #[test]
    fn a_user_is_named_or_numbered_and_never_root() {
        assert_eq!(ids("jobs"), (990, 980, vec![105]));
        assert_eq!(ids("990"), (990, 980, vec![105]), "a number with an account is that account");
        assert_eq!(ids("jobs:7"), (990, 7, vec![105]));
        assert_eq!(ids("4000"), (4000, 4000, vec![]));
        assert_eq!(ids("4000:4001"), (4000, 4001, vec![]));
        assert_eq!(parse("4000-4009"), Ok(RankUser::Each(4000..=4009)));
        for root in ["root", "0", "0:5", "jobs:0", "old", "0-9", "4000:0"] {
            assert!(parse(root).unwrap_err().contains("root"), "{root}");
        }
        for wrong in ["", "stranger", "-1", "5-4", "5-4294967295", "jobs:wheel", "a-b", "99999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("jobs").unwrap().first().home, Some("/".into()));
        assert_eq!(parse("4000").unwrap().first().home, None);
    }

    fn key(job: u64, node_rank: u32) -> MemberKey {
        MemberKey { job: JobId(job), attempt: AttemptNumber(1), node_rank }
    }

    fn uid(users: &Users, member: MemberKey) -> Option<u32> {
        users.of(member).ok().map(|user| user.unwrap().credentials.uid)
    }

    #[test]
    fn each_job_has_its_own_as_long_as_any_of_it_is_there() {
        let users = Users::new(Some(RankUser::Each(10..=12)), false);
        assert_eq!((uid(&users, key(1, 0)), uid(&users, key(1, 1))), (Some(10), Some(10)), "one gang, one user");
        assert_eq!((uid(&users, key(2, 0)), uid(&users, key(3, 0))), (Some(11), Some(12)));
        assert_eq!(uid(&users, key(4, 0)), None, "all are taken");
        users.free(key(1, 0));
        assert_eq!(uid(&users, key(4, 0)), None, "a member of job 1 is still there");
        users.free(key(1, 1));
        assert_eq!(uid(&users, key(4, 0)), Some(10));
        users.free(key(2, 0));
        users.free(key(4, 0));
        assert_eq!(uid(&users, key(5, 0)), Some(11), "not the one that was used last");
    }

    #[test]
    fn a_restarted_daemon_gives_nobody_a_user_that_is_in_use() {
        let users = Users::new(Some(RankUser::Each(10..=11)), false);
        users.keep(key(7, 0), 10);
        users.keep(key(8, 0), 0);
        assert_eq!((uid(&users, key(9, 0)), uid(&users, key(7, 1))), (Some(11), Some(10)));
        assert_eq!(uid(&users, key(8, 0)), None, "root's is none of the range");
    }

    #[test]
    fn without_the_option_ranks_are_the_daemons_own() {
        assert_eq!(Users::new(None, false).of(key(1, 0)), Ok(None));
    }
}
