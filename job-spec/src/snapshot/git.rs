//! The git state of a code folder, asked of the `git` command within a bounded time; no git or no work tree is fine.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use types::GitState;

/// A work tree that git needs longer for is reported as dirty.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of an answer: any more of a status only says "dirty" again.
const ANSWER_BYTES_MAX: u64 = 4_096;
/// Longest branch name that is kept, in bytes.
const BRANCH_BYTES_MAX: usize = 256;

/// Commit and branch of the work tree that `folder` is in, and whether files under `folder` differ from the commit.
pub(super) fn state(folder: &Path, warn: &mut dyn FnMut(String)) -> Option<GitState> {
    let head = ask(folder, &["rev-parse", "HEAD", "--abbrev-ref", "HEAD"], PATIENCE)?;
    let mut lines = head.lines();
    let commit = lines.next()?.to_owned();
    if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let branch = lines.next().filter(|branch| *branch != "HEAD" && !branch.chars().any(char::is_control));
    let branch = branch.filter(|branch| branch.len() <= BRANCH_BYTES_MAX).unwrap_or_default().to_owned();
    let status = ask(folder, &["status", "--porcelain", "--untracked-files=normal", "--", "."], PATIENCE);
    if status.is_none() {
        warn(
            "git could not tell in time whether files differ from the commit: the snapshot is marked as dirty"
                .to_owned(),
        );
    }
    let dirty = status.is_none_or(|status| !status.is_empty());
    Some(GitState { commit, branch, dirty })
}

/// The beginning of what git prints; nothing when it cannot be run, says nothing good or takes too long.
fn ask(folder: &Path, question: &[&str], patience: Duration) -> Option<String> {
    let mut command = Command::new("git");
    command
        // A status must not write to the index, nor start programs that a repository names in its configuration.
        .args(["--no-optional-locks", "-c", "core.fsmonitor=false"])
        .arg("-C")
        .arg(folder)
        .args(question)
        // These would point git at another repository, for example when called from one of its hooks.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    answer(command.spawn().ok()?, patience)
}

fn answer(mut child: Child, patience: Duration) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    // A thread of its own, because a read of a pipe has no deadline; it ends when the child does.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let ended = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(ended);
    });
    let bytes = receiver.recv_timeout(patience);
    let whole =
        bytes.as_ref().is_ok_and(|read| read.as_ref().is_ok_and(|bytes| (bytes.len() as u64) < ANSWER_BYTES_MAX));
    if !whole {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let text = String::from_utf8_lossy(&bytes.ok()?.ok()?).into_owned();
    (status.success() || !whole).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=trunk"];
        let done = Command::new("git").arg("-C").arg(folder).args(identity).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn state_of(folder: &Path) -> Option<GitState> {
        let mut warnings = Vec::new();
        let state = state(folder, &mut |warning| warnings.push(warning));
        assert!(warnings.is_empty(), "{warnings:?}");
        state
    }

    #[test]
    fn commit_branch_and_dirt_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        std::fs::create_dir(&code).unwrap();
        git(folder.path(), &["init", "-q"]);
        assert_eq!(state_of(&code), None, "no commit yet");
        std::fs::write(code.join("a"), "1").unwrap();
        git(folder.path(), &["add", "."]);
        git(folder.path(), &["commit", "-q", "-m", "first"]);
        let clean = state_of(&code).unwrap();
        assert_eq!((clean.commit.len(), clean.branch.as_str(), clean.dirty), (40, "trunk", false));
        std::fs::write(folder.path().join("beside"), "1").unwrap();
        assert!(!state_of(&code).unwrap().dirty, "what is not in the folder does not count");
        std::fs::write(code.join("b"), "1").unwrap();
        assert!(state_of(&code).unwrap().dirty);
        git(folder.path(), &["checkout", "-q", "--detach"]);
        assert_eq!(state_of(&code).unwrap().branch, "");
    }

    #[test]
    fn a_command_that_hangs_is_ended_in_time() {
        let child = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(answer(child, Duration::from_millis(20)), None);
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let child = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(answer(child, PATIENCE).unwrap().len() as u64, ANSWER_BYTES_MAX);
    }
}
