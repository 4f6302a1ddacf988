//! What a rank of the daemon's own user does not see where the daemon is not root: in a user and a mount namespace of its own the data
//! folder is empty but for what is its member's, and nothing outside can be read or traced through `/proc`.
//!
//! ```text
//!  DIR                <- an empty file system, read only         keys, lease, cache, other jobs' folders are not there
//!  DIR/members/M, DIR/bin  <- as they are
//!  other hidden folders    <- empty: the tokens of who started the daemon
//!  /tmp, /dev/shm     <- the member's own, as for users of their own (`places`)
//! ```
//!
//! The user keeps its number in there, so files are whose they were, and after exec the rank has no right in its namespace: it can
//! neither take the mounts away nor make others (what a namespace below it would inherit is locked, `mount_namespaces(7)`). Between
//! user namespaces the kernel denies what `ptrace(2)` is asked for (`cap_ptrace_access_check`), also to ranks of one member: these sum over
//! TCP. Signals go by the user's number, and are not denied.

use super::places::{self, Mounts, Places};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders that are shown; so many descriptors are held while the rest is hidden.
const SHOWN_MAX: usize = 4;

/// What is to be hidden and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    data: PathBuf,
    /// Of the data folder, with all below.
    shown: Vec<PathBuf>,
    /// Besides.
    hidden: Vec<PathBuf>,
    /// Where `/tmp` is not needed for something else.
    places: Option<Places>,
}

/// The same for calls after a fork.
pub(super) struct Entry {
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    data: CString,
    hidden: Vec<CString>,
    shown: Vec<CString>,
    /// Made in the empty data folder, in this order, for what is shown to lie on.
    folders: Vec<CString>,
    places: Option<Mounts>,
}

impl Namespace {
    /// `shown` are folders below `data`.
    pub(crate) fn new(data: &Path, shown: Vec<PathBuf>, hidden: Vec<PathBuf>, places: Option<Places>) -> Self {
        Self { data: data.to_owned(), shown, hidden, places }
    }

    pub(super) fn entry(&self) -> io::Result<Entry> {
        if self.shown.len() > SHOWN_MAX {
            return Err(io::Error::other("too many folders are to be shown"));
        }
        let text = |path: &PathBuf| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
        let mut folders: Vec<PathBuf> = Vec::new();
        for shown in &self.shown {
            let below = shown.strip_prefix(&self.data).map_err(io::Error::other)?;
            let mut folder = self.data.clone();
            for name in below {
                folder.push(name);
                if !folders.contains(&folder) {
                    folders.push(folder.clone());
                }
            }
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Entry {
            uid_map: format!("{uid} {uid} 1\n").into_bytes(),
            gid_map: format!("{gid} {gid} 1\n").into_bytes(),
            data: text(&self.data)?,
            hidden: self.hidden.iter().filter(|path| path.is_dir()).map(text).collect::<io::Result<_>>()?,
            shown: self.shown.iter().map(text).collect::<io::Result<_>>()?,
            folders: folders.iter().map(text).collect::<io::Result<_>>()?,
            places: self.places.as_ref().map(Places::mounts).transpose()?,
        })
    }
}

impl Entry {
    /// Enters namespaces in which it is so.
    ///
    /// # Safety
    /// In a process of one thread, after a fork: plain system calls on values made before.
    pub(super) unsafe fn enter(&self) -> bool {
        // SAFETY: null-terminated texts that live as long as this call.
        unsafe {
            libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) == 0
                // Without a right outside only who cannot take groups away may map them.
                && write(c"/proc/self/setgroups", b"deny")
                && write(c"/proc/self/uid_map", &self.uid_map)
                && write(c"/proc/self/gid_map", &self.gid_map)
                && places::let_no_mount_out()
                && self.show_only()
                && self.hidden.iter().all(|folder| hide(folder) && seal(folder))
                && self.places.as_ref().is_none_or(|places| places.bind())
        }
    }

    unsafe fn show_only(&self) -> bool {
        let mut held = [-1; SHOWN_MAX];
        // SAFETY: as above; the descriptors are this function's own.
        unsafe {
            for (shown, held) in self.shown.iter().zip(&mut held) {
                *held = libc::open(shown.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
                if *held < 0 {
                    return false;
                }
            }
            let shows = hide(&self.data)
                && self.folders.iter().all(|folder| libc::mkdir(folder.as_ptr(), 0o711) == 0)
                && self.shown.iter().zip(held).all(|(shown, held)| bind_held(held, shown))
                && seal(&self.data);
            for held in held.into_iter().filter(|held| *held >= 0) {
                libc::close(held);
            }
            shows
        }
    }
}

unsafe fn hide(folder: &CStr) -> bool {
    let options = c"mode=711,size=64k,nr_inodes=64";
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: null-terminated texts.
    unsafe { libc::mount(c"tmpfs".as_ptr(), folder.as_ptr(), c"tmpfs".as_ptr(), flags, options.as_ptr().cast()) == 0 }
}

/// Nothing can be written where something was hidden.
unsafe fn seal(folder: &CStr) -> bool {
    let none = std::ptr::null();
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: a null-terminated text.
    unsafe { libc::mount(none, folder.as_ptr(), none, flags, none.cast()) == 0 }
}

/// What a descriptor leads to, although its path is hidden by now.
unsafe fn bind_held(held: i32, to: &CStr) -> bool {
    // `/proc/self/fd/` and a number, made without the allocator.
    let mut path = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
    let (mut digits, mut rest) = ([0; 10], held.unsigned_abs());
    let mut count = 0;
    while count == 0 || rest > 0 {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    for at in 0..count {
        path[14 + at] = digits[count - 1 - at];
    }
    let none: *const libc::c_char = std::ptr::null();
    // SAFETY: both texts end in a zero.
    unsafe { libc::mount(path.as_ptr().cast(), to.as_ptr(), none, libc::MS_BIND | libc::MS_REC, none.cast()) == 0 }
}

unsafe fn write(file: &CStr, bytes: &[u8]) -> bool {
    // SAFETY: the path ends in a zero, the bytes are in scope.
    unsafe {
        let fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let written = fd >= 0 && libc::write(fd, bytes.as_ptr().cast(), bytes.len()) == bytes.len().cast_signed();
        libc::close(fd);
        written
    }
}

/// Can ranks have such a namespace here? Tried with a program that must be found in it.
pub(crate) fn try_out(namespace: &Namespace, program: &Path) -> Result<(), String> {
    let entry = namespace.entry().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only system calls on values made before the fork.
    unsafe {
        command.pre_exec(move || {
            super::confine::hide_memory(false);
            if entry.enter() { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status} there", program.display())),
        Err(error) => Err(format!(
            "this machine lets users without rights make no namespaces in which they mount: {error} (user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns)"
        )),
    }
}
