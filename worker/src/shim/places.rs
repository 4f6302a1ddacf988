//! What a rank of a user of its own sees in the places that are everybody's: a `/tmp` and a `/dev/shm` of its member alone, of `/proc`
//! its own processes, and of the machine's GPUs its member's. By a mount namespace, entered between fork and exec; nobody has to undo it.
//!
//! ```text
//!  /tmp      <- the member's tmp/                            goes with the member's folder
//!  /dev/shm  <- /dev/shm/muster-UID-JOB-ATTEMPT-NODERANK-FOLDER  removed when the member is through
//!  /proc     <- a view of it with hidepid=2 (proc(5))
//!  /dev/nvidia1, ..  <- an empty file that nobody may open, where the device is another job's
//! ```

use super::spec::Credentials;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use types::MemberKey;

const TMP: &str = "/tmp";
const SHM: &str = "/dev/shm";

/// What is to lie there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    tmp: PathBuf,
    shm: PathBuf,
    /// Devices of others.
    #[serde(default)]
    shut: Vec<PathBuf>,
    /// What lies over them.
    #[serde(default)]
    blank: PathBuf,
}

/// The same for calls after a fork.
pub(super) struct Mounts(Vec<(CString, CString)>);

impl Places {
    /// Of this member, whose folder for temporary files is this one.
    pub(crate) fn of(member: MemberKey, user: &Credentials, tmp: &Path) -> Self {
        let MemberKey { job, attempt, node_rank } = member;
        // Workers of two clusters may have ranks of one user in jobs of one number.
        let folder = fnv_1a(tmp.as_os_str().as_bytes());
        let shm = Path::new(SHM).join(format!("muster-{}-{job}-{attempt}-{node_rank}-{folder:016x}", user.uid));
        Self { tmp: tmp.to_owned(), shm, shut: Vec::new(), blank: PathBuf::new() }
    }

    /// What its ranks find at `/dev/shm`: on the machine's.
    pub(crate) fn shm(&self) -> &Path {
        &self.shm
    }

    /// These devices cannot be opened either; `blank` is where the file that lies over them is made.
    pub(crate) fn shutting(self, shut: Vec<PathBuf>, blank: PathBuf) -> Self {
        Self { shut, blank, ..self }
    }

    /// Makes what is not there. What a former life left under the name is emptied.
    pub(crate) fn make(&self, user: &Credentials) -> io::Result<()> {
        self.remove()?;
        if !self.shut.is_empty() {
            let blank = std::fs::File::create(&self.blank)?;
            blank.set_permissions(std::fs::Permissions::from_mode(0o000))?;
        }
        daemon::files::create_private_folder(&self.shm)?;
        crate::owner::give_one(&self.shm, user)
    }

    /// Nothing of the member runs any more.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.shm) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn mounts(&self) -> io::Result<Mounts> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
        let pair = |from: &Path, to: &str| Ok::<_, io::Error>((text(from)?, text(Path::new(to))?));
        let mut pairs = vec![pair(&self.tmp, TMP)?, pair(&self.shm, SHM)?];
        for device in self.shut.iter().filter(|device| device.exists()) {
            pairs.push((text(&self.blank)?, text(device)?));
        }
        Ok(Mounts(pairs))
    }
}

/// The hash of Fowler, Noll and Vo, in 64 bits: the same in every version of this program.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What the machine mounts later is seen in a namespace, and nothing that is mounted in it is seen outside.
///
/// # Safety
/// After a fork: a plain system call.
pub(super) unsafe fn let_no_mount_out() -> bool {
    let none = std::ptr::null();
    // SAFETY: null-terminated texts.
    unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()) == 0 }
}

impl Mounts {
    /// Puts a member's own over the machine's.
    ///
    /// # Safety
    /// In a mount namespace of its own, after a fork: plain system calls on values made before.
    pub(super) unsafe fn bind(&self) -> bool {
        let none = std::ptr::null();
        // SAFETY: null-terminated texts that live as long as this call.
        self.0
            .iter()
            .all(|(from, to)| unsafe { libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()) == 0 })
    }

    /// Enters a namespace of its own in which the places are these.
    ///
    /// # Safety
    /// In a process of one thread, after a fork: plain system calls on values made before.
    pub(super) unsafe fn enter(&self) -> bool {
        // SAFETY: null-terminated texts that live as long as this call.
        unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && let_no_mount_out()
                && self.bind()
                && libc::mount(
                    c"proc".as_ptr(),
                    c"/proc".as_ptr(),
                    c"proc".as_ptr(),
                    libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
                    c"hidepid=2".as_ptr().cast(),
                ) == 0
        }
    }
}

/// Not where a folder that ranks need lies in one of them.
pub(crate) fn are_free(data: &Path, program: &Path) -> Result<(), String> {
    for needed in [data, program] {
        let needed = needed.canonicalize().unwrap_or_else(|_| needed.to_owned());
        if let Some(place) = [TMP, SHM].iter().find(|place| needed.starts_with(place)) {
            return Err(format!("{} lies in {place}", needed.display()));
        }
    }
    Ok(())
}

/// Can ranks have such places here? Not where they are needed otherwise, nor where the daemon may not mount.
pub(crate) fn try_out(data: &Path, program: &Path) -> Result<(), String> {
    are_free(data, program)?;
    let places = Places { tmp: data.to_owned(), shm: data.to_owned(), shut: Vec::new(), blank: PathBuf::new() };
    let mounts = places.mounts();
    let mounts = mounts.map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only system calls on values made before the fork.
    unsafe {
        command.pre_exec(move || if mounts.enter() { Ok(()) } else { Err(io::Error::last_os_error()) });
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status} there", program.display())),
        Err(error) => Err(format!("this process may not mount: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId};

    #[test]
    fn members_of_two_daemons_have_nothing_in_common_and_names_stay() {
        let key = MemberKey { job: JobId(1), attempt: AttemptNumber(2), node_rank: 0 };
        let user = Credentials { uid: 7, gid: 7, groups: Vec::new() };
        let shm = |folder: &str| Places::of(key, &user, Path::new(folder)).shm;
        assert_ne!(shm("/a/members/1-2-0/tmp"), shm("/b/members/1-2-0/tmp"));
        // A daemon of another version must find what it is to remove.
        assert_eq!(shm("foobar"), Path::new("/dev/shm/muster-7-1-2-0-85944171f73967e8"));
    }
}
