//! Folders that ranks of another user write in: given to it, shut to everybody else, and read with its eyes.
//!
//! ```text
//! DIR/            711  enterable, not listable         DIR/bin 711    DIR/members 711    everything else: the daemon's alone
//! DIR/members/M/  710  the daemon's, with the rank's group: record, wish
//!     manifest.json code/ inputs/ outputs/ checkpoints/ tmp/ resume/ saving/    the rank's user's, 700
//!     rank-N/     710  the daemon's: spool, announcements; the named pipe for metrics in it is the rank's user's
//! ```
//!
//! Root could be led anywhere by a link that a rank puts where a file was a moment before. So the daemon looks into these folders
//! as the rank's user only: what a link leads to is then nothing that the rank could not read by itself.

use crate::layout::{Layout, MemberLayout};
use crate::shim::spec::Credentials;
use crate::users::RankUser;
use std::fs::Permissions;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ENTERABLE_BY_ALL: u32 = 0o711;
const ENTERABLE_BY_GROUP: u32 = 0o710;

/// Shuts the data folder but for the way to the members' folders.
pub(crate) fn open_the_way(layout: &Layout) -> io::Result<()> {
    let passed = [layout.programs(), layout.members()];
    for entry in std::fs::read_dir(layout.root())? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() || passed.contains(&entry.path()) {
            continue;
        }
        let mode = entry.metadata()?.mode() & 0o700;
        std::fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
    }
    passed.iter().map(PathBuf::as_path).chain([layout.root()]).try_for_each(|folder| set_mode(folder, ENTERABLE_BY_ALL))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Tries, as such a user, to start the program in the members' folder: what stands in the way (a folder above that it may not
/// enter, a program that it may not execute) is better found here than by the first job.
pub(crate) fn try_out(user: &RankUser, program: &Path, layout: &Layout) -> Result<(), String> {
    let Credentials { uid, gid, .. } = user.first().credentials;
    let mut command = Command::new(program);
    command.arg("--version").env_clear().current_dir(layout.members()).uid(uid).gid(gid);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let what = || format!("user {uid} cannot run {} in {}", program.display(), layout.members().display());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", what())),
        Err(error) => Err(format!("{}: {error}; every folder above must be enterable by it", what())),
    }
}

/// Gives a member's folders to the user of its ranks. None of them runs yet.
pub(crate) fn give(layout: &MemberLayout, user: &Credentials) -> io::Result<()> {
    for folder in layout.given_to_ranks() {
        if folder.exists() {
            give_tree(&folder, user)?;
        }
    }
    let_group_enter(layout.root(), user)
}

/// Everything below, and the folder itself last: until then nobody else can change what is in it.
fn give_tree(folder: &Path, user: &Credentials) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_tree(&entry.path(), user)?;
        } else {
            give_one(&entry.path(), user)?;
        }
    }
    give_one(folder, user)
}

/// One file or folder; of a link the link itself.
pub(crate) fn give_one(path: &Path, user: &Credentials) -> io::Result<()> {
    lchown(path, Some(user.uid), Some(user.gid))
}

/// A folder of the daemon's that the rank has to pass.
pub(crate) fn let_group_enter(folder: &Path, user: &Credentials) -> io::Result<()> {
    lchown(folder, None, Some(user.gid))?;
    set_mode(folder, ENTERABLE_BY_GROUP)
}

/// Whose folders a member's are, where they are not the daemon's own user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    gid: u32,
}

impl Owner {
    /// Told by a folder that stands in one of the daemon's, so that nobody else can have put it there.
    pub(crate) fn of(layout: &MemberLayout) -> Option<Self> {
        let own = rustix::process::geteuid();
        let metadata = std::fs::symlink_metadata(layout.tmp()).ok()?;
        (own.is_root() && metadata.uid() != own.as_raw()).then(|| Self { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Of ranks that run as this user.
    pub(crate) fn new(user: &Credentials) -> Self {
        Self { uid: user.uid, gid: user.gid }
    }

    /// Does this thread's work with files as this user; none = as the daemon's own.
    pub(crate) fn act<T>(who: Option<Self>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _assumed = who.map(Assumed::take).transpose()?;
        work()
    }

    /// A folder of the daemon's making in the member's own, for this user to write in; fine when it is there.
    pub(crate) fn make_folder(who: Option<Self>, folder: &Path) -> io::Result<()> {
        daemon::files::create_private_folder(folder)?;
        who.map_or(Ok(()), |owner| lchown(folder, Some(owner.uid), Some(owner.gid)))
    }
}

/// Until it is dropped, this thread's access to files is another user's. The kernel keeps this by thread, and the C library's
/// wrappers set it for all of them: hence the plain system calls.
struct Assumed {
    own: (u32, u32),
    groups: Vec<u32>,
    /// Not to be sent to another thread.
    _here: PhantomData<*const ()>,
}

impl Assumed {
    fn take(owner: Owner) -> io::Result<Self> {
        let assumed = Self { own: (set_uid(u32::MAX), set_gid(u32::MAX)), groups: groups()?, _here: PhantomData };
        set_groups(&[])?;
        set_gid(owner.gid);
        // The kernel takes the right to pass over modes away with user 0, and gives it back with it.
        set_uid(owner.uid);
        // These calls say the value before and nothing of success: an impossible value only asks.
        if (set_uid(u32::MAX), set_gid(u32::MAX)) != (owner.uid, owner.gid) {
            return Err(io::Error::other(format!("cannot read as user {}", owner.uid)));
        }
        Ok(assumed)
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        set_uid(self.own.0);
        set_gid(self.own.1);
        if let Err(error) = set_groups(&self.groups) {
            tracing::error!(%error, "a thread's groups cannot be taken back");
        }
    }
}

fn set_uid(uid: u32) -> u32 {
    // SAFETY: a plain system call on a number; the answer is the id before.
    unsafe { libc::syscall(libc::SYS_setfsuid, uid) as u32 }
}

fn set_gid(gid: u32) -> u32 {
    // SAFETY: a plain system call on a number; the answer is the id before.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) as u32 }
}

fn groups() -> io::Result<Vec<u32>> {
    // SAFETY: without room the kernel only says how many there are; then as many fit.
    unsafe {
        let count = libc::getgroups(0, std::ptr::null_mut());
        let mut groups = vec![0; usize::try_from(count).map_err(|_| io::Error::last_os_error())?];
        let filled = libc::getgroups(count, groups.as_mut_ptr());
        groups.truncate(usize::try_from(filled).map_err(|_| io::Error::last_os_error())?);
        Ok(groups)
    }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the array is as long as it is said to be.
    match unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId, MemberKey};

    const USER: Credentials = Credentials { uid: 41_000, gid: 41_000, groups: Vec::new() };

    /// A data folder with one member's, given to the user; none where only root could do that.
    fn given(root: &Path) -> Option<(Layout, MemberLayout)> {
        if !rustix::process::geteuid().is_root() {
            println!("not tested here: only root can give files away");
            return None;
        }
        let layout = Layout::new(root);
        let member = layout.member(MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 });
        for folder in [layout.cache(), layout.programs(), member.code(), member.tmp(), member.output("model")] {
            daemon::files::create_private_folder(&folder).unwrap();
        }
        std::fs::write(layout.lease(), "x").unwrap();
        std::fs::write(member.code().join("main"), "x").unwrap();
        open_the_way(&layout).unwrap();
        give(&member, &USER).unwrap();
        Some((layout, member))
    }

    #[test]
    fn what_is_not_given_is_shut() {
        let folder = tempfile::tempdir().unwrap();
        let Some((layout, member)) = given(folder.path()) else { return };
        let about = |path: &Path| {
            let metadata = std::fs::symlink_metadata(path).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(about(layout.root()), (0, 0, 0o711));
        assert_eq!((about(&layout.cache()), about(&layout.lease())), ((0, 0, 0o700), (0, 0, 0o600)));
        assert_eq!(about(member.root()), (0, 41_000, 0o710));
        for path in [member.code(), member.tmp(), member.outputs(), member.output("model")] {
            assert_eq!(about(&path), (41_000, 41_000, 0o700), "{}", path.display());
        }
        assert_eq!(about(&member.code().join("main")).0, 41_000);
        assert_eq!(Owner::of(&member), Some(Owner { uid: 41_000, gid: 41_000 }));
    }

    #[test]
    fn a_link_to_what_the_rank_may_not_read_is_not_read_by_root_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let Some((layout, member)) = given(folder.path()) else { return };
        set_mode(folder.path(), ENTERABLE_BY_ALL).unwrap();
        let link = member.output("model").join("weights");
        std::os::unix::fs::symlink(layout.lease(), &link).unwrap();
        let own = || std::fs::read_to_string(member.code().join("main"));
        let read = Owner::act(Owner::of(&member), || Ok((std::fs::read_to_string(&link), own())));
        let (through, own) = read.unwrap();
        assert_eq!(through.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(own.unwrap(), "x");
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "x", "this thread is root again");
        assert_eq!(Owner::act(None, || std::fs::read_to_string(&link)).unwrap(), "x");
    }
}
