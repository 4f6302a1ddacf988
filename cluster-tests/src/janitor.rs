//! Ends everything that a cluster left, in every case: a process of its own that waits for its stdin to end.
//!
//! The kernel closes that pipe when this process ends, by whatever death. Every process of a cluster has the cluster's folder in
//! its environment (daemons by our doing, ranks by the worker's, whatever they fork by inheritance), and is found by it: also
//! one that left its session and its parent. Supervisors of ranks have no environment and are found by their command line:
//! one that was overlooked would start its rank after all. The folder goes last.

use anyhow::Context as _;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `$1` is the folder. Killing goes on until a look finds nobody, because a process may fork while it is looked for.
const SCRIPT: &str = r#"
cat >/dev/null
left() {
    grep -lsF "$1/" /proc/[0-9]*/environ
    grep -lsF rank-nursery /proc/[0-9]*/cmdline | xargs -r grep -lsF "$1/"
}
while files=$(left "$1"); [ -n "$files" ]; do
    for file in $files; do
        pid=${file#/proc/}
        kill -9 "${pid%/*}" 2>/dev/null
    done
done
rm -rf "$1"
"#;

/// The variable that carries the folder.
pub(crate) const MARKER: &str = "MUSTER_TEST_FOLDER";

/// Cleans up when it is dropped, or when this process dies.
#[derive(Debug)]
pub(crate) struct Janitor {
    child: Child,
}

impl Janitor {
    /// Begins to wait.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("janitor").arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: an interrupt from the keyboard ends the tests, and the janitor still has to work.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(Self { child: command.spawn().context("cannot start the janitor")? })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The variable's value for a cluster in this folder; ends in a slash, so that no folder's name is the beginning of another's.
pub(crate) fn mark(folder: &Path) -> OsString {
    folder.join("").into_os_string()
}
