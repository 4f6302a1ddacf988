//! Secrets that a rank finds in files: in memory, its user's alone to read, nobody's to change, gone with its last process.
//!
//! A variable has the path, `/proc/PID/fd/NUMBER`, for the rank and whatever it starts; who may not look into the rank's process may not
//! open it either. The number of the process is known after the fork only: the child writes it where room was left.

use super::child::PARKED_FD_MIN;
use super::spec::{METRICS_FD, ShimSpec};
use crate::secrets::Secrets;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use types::Limits;

/// The first file; the others follow.
const FIRST: RawFd = METRICS_FD + 1;
const _: () = assert!(FIRST + Limits::SECRETS_OF_JOB_MAX as RawFd <= PARKED_FD_MIN);
/// Bytes of `PID/fd/NUMBER` and a NUL, whatever the numbers.
const PATH_BYTES_MAX: usize = 25;

/// The files, each with `VARIABLE=/proc/`.
pub(super) struct SecretFiles(Vec<(Vec<u8>, OwnedFd)>);

impl SecretFiles {
    pub(super) fn new(spec: &ShimSpec, secrets: &Secrets) -> io::Result<Self> {
        let owner = spec.user.as_ref().map(|user| (user.uid, user.gid));
        let one = |variable: &String| {
            // Out of the way of the numbers that the files get.
            let file = rustix::io::fcntl_dupfd_cloexec(secrets.file_of(variable, owner)?, PARKED_FD_MIN)?;
            Ok((format!("{variable}=/proc/").into_bytes(), file))
        };
        spec.secret_files.iter().map(one).collect::<io::Result<_>>().map(Self)
    }

    /// Each, and the number that the rank knows it by.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (RawFd, RawFd)> {
        self.0.iter().zip(FIRST..).map(|((_, file), number)| (file.as_raw_fd(), number))
    }

    /// The first number that is no more of them.
    pub(super) fn end(&self) -> RawFd {
        FIRST + self.0.len() as RawFd
    }
}

/// The variables in the form that exec takes, with room for what the child writes.
pub(super) struct Paths(Vec<Path>);

struct Path {
    text: Vec<u8>,
    /// In `text`, where the room begins; from `variables` on.
    room: *mut u8,
    number: RawFd,
}

impl Paths {
    pub(super) fn new(files: &SecretFiles) -> Self {
        let one = |((variable, _), number): (&(Vec<u8>, OwnedFd), RawFd)| {
            let mut text = variable.clone();
            text.resize(variable.len() + PATH_BYTES_MAX, 0);
            Path { text, room: std::ptr::null_mut(), number }
        };
        Self(files.0.iter().zip(FIRST..).map(one).collect())
    }

    /// For the environment; they point into this.
    pub(super) fn variables(&mut self) -> impl Iterator<Item = *const libc::c_char> {
        self.0.iter_mut().map(|path| {
            let begin = path.text.as_mut_ptr();
            path.room = begin.wrapping_add(path.text.len() - PATH_BYTES_MAX);
            begin.cast_const().cast()
        })
    }

    /// Writes the number of the process into each.
    ///
    /// # Safety
    /// After `variables`; nobody else reads or writes what that gave meanwhile.
    pub(super) unsafe fn complete(&self, pid: i32) {
        for path in &self.0 {
            // SAFETY: the room is there, and by the caller's promise ours.
            unsafe { write_path(path.room, pid, path.number) };
        }
    }
}

unsafe fn write_path(room: *mut u8, pid: i32, number: RawFd) {
    // SAFETY: there is room for two numbers of ten digits and what stands between and after them.
    unsafe {
        let end = write_number(room, pid.unsigned_abs());
        std::ptr::copy_nonoverlapping(b"/fd/".as_ptr(), end, 4);
        *write_number(end.add(4), number.unsigned_abs()) = 0;
    }
}

/// Writes digits; where they end.
unsafe fn write_number(room: *mut u8, number: u32) -> *mut u8 {
    let (mut digits, mut first, mut left) = ([0; 10], 10, number);
    while left > 0 || first == 10 {
        first -= 1;
        digits[first] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    // SAFETY: the caller has room for ten.
    unsafe {
        std::ptr::copy_nonoverlapping(digits.as_ptr().add(first), room, 10 - first);
        room.add(10 - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_process_and_number_fits() {
        for (pid, number, expected) in [(1, 5, "1/fd/5"), (i32::MAX, i32::MAX, "2147483647/fd/2147483647")] {
            let mut text = [b'x'; PATH_BYTES_MAX];
            // SAFETY: it has the room that is asked for.
            unsafe { write_path(text.as_mut_ptr(), pid, number) };
            let end = text.iter().position(|byte| *byte == 0).unwrap_or_default();
            assert_eq!(text[..end], *expected.as_bytes());
        }
    }
}
