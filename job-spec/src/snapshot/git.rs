//! The git state of a code folder, and how it differs from its commit, asked of the `git` command within a bounded time; no git or no
//! work tree is fine.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use types::{GitState, Tree};

/// A work tree that git needs longer for is reported as dirty.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of an answer: any more of a status only says "dirty" again.
const ANSWER_BYTES_MAX: u64 = 4_096;
/// Longest difference from the commit that is recorded.
const DIFF_BYTES_MAX: u64 = 1 << 20;
/// Bytes of names of changed files that git is asked about at once: a command line has room for more.
const NAMES_BYTES_MAX: usize = 256 << 10;
/// Longest branch name that is kept, in bytes.
const BRANCH_BYTES_MAX: usize = 256;

/// Commit and branch of the work tree that `folder` is in, and whether files under `folder` differ from the commit.
pub(super) fn state(folder: &Path, warn: &mut dyn FnMut(String)) -> Option<GitState> {
    let head = text(folder, &["rev-parse", "HEAD", "--abbrev-ref", "HEAD"], PATIENCE)?;
    let mut lines = head.lines();
    let commit = lines.next()?.to_owned();
    if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let branch = lines.next().filter(|branch| *branch != "HEAD" && !branch.chars().any(char::is_control));
    let branch = branch.filter(|branch| branch.len() <= BRANCH_BYTES_MAX).unwrap_or_default().to_owned();
    let status = text(folder, &["status", "--porcelain", "--untracked-files=normal", "--", "."], PATIENCE);
    if status.is_none() {
        warn(
            "git could not tell in time whether files differ from the commit: the snapshot is marked as dirty"
                .to_owned(),
        );
    }
    let dirty = status.is_none_or(|status| !status.is_empty());
    Some(GitState { commit, branch, dirty, diff: None })
}

/// How the files of a snapshot differ from the commit, as a patch: of files that the snapshot has, and of those that are gone, the fact
/// alone. So it holds nothing of a file that was left out of the snapshot. Nothing where none of these differ, or it is too long.
pub(super) fn diff(folder: &Path, tree: &Tree, warn: &mut dyn FnMut(String)) -> Option<Vec<u8>> {
    let changed =
        ask(folder, &["diff", "--name-only", "-z", "--relative", "HEAD", "--", "."], PATIENCE, DIFF_BYTES_MAX)?;
    let changed = String::from_utf8(changed.whole()?).ok()?;
    let is_told = |name: &&str| {
        let has_it = tree.entries().binary_search_by(|entry| entry.path.as_str().cmp(name)).is_ok();
        !name.is_empty() && (has_it || folder.join(name).symlink_metadata().is_err())
    };
    let names: Vec<&str> = changed.split('\0').filter(is_told).collect();
    if names.is_empty() {
        return None;
    }
    let mut question = vec!["--literal-pathspecs", "diff", "--no-ext-diff", "--no-textconv", "--no-color"];
    question.extend(["--irreversible-delete", "--relative", "HEAD", "--"]);
    question.extend(&names);
    let is_short = names.iter().map(|name| name.len() + 1).sum::<usize>() <= NAMES_BYTES_MAX;
    let answer = if is_short { ask(folder, &question, PATIENCE, DIFF_BYTES_MAX) } else { None };
    let diff = answer.and_then(Answer::whole);
    if diff.is_none() {
        warn(format!(
            "how the code differs from its commit is not recorded: it is more than {} MiB, or git took too long; the snapshot has all of it",
            DIFF_BYTES_MAX >> 20
        ));
    }
    diff.filter(|diff| !diff.is_empty())
}

fn text(folder: &Path, question: &[&str], patience: Duration) -> Option<String> {
    let answer = ask(folder, question, patience, ANSWER_BYTES_MAX)?;
    Some(String::from_utf8_lossy(&answer.bytes).into_owned())
}

/// What git printed.
struct Answer {
    bytes: Vec<u8>,
    /// There was no more.
    is_whole: bool,
}

impl Answer {
    fn whole(self) -> Option<Vec<u8>> {
        self.is_whole.then_some(self.bytes)
    }
}

/// The beginning of what git prints; nothing when it cannot be run, says nothing good or takes too long.
fn ask(folder: &Path, question: &[&str], patience: Duration, bytes_max: u64) -> Option<Answer> {
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
    answer(command.spawn().ok()?, patience, bytes_max)
}

fn answer(mut child: Child, patience: Duration, bytes_max: u64) -> Option<Answer> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    // A thread of its own, because a read of a pipe has no deadline; it ends when the child does.
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let ended = stdout.take(bytes_max).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send(ended);
    });
    let bytes = receiver.recv_timeout(patience);
    let is_whole = bytes.as_ref().is_ok_and(|read| read.as_ref().is_ok_and(|bytes| (bytes.len() as u64) < bytes_max));
    if !is_whole {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    let bytes = bytes.ok()?.ok()?;
    (status.success() || !is_whole).then_some(Answer { bytes, is_whole })
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

    /// A work tree with one commit of these files, and its code folder.
    fn committed(files: &[(&str, &str)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        git(folder.path(), &["init", "-q"]);
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        git(folder.path(), &["add", "."]);
        git(folder.path(), &["commit", "-q", "-m", "first"]);
        let code = folder.path().join("code");
        (folder, code)
    }

    fn tree(names: &[&str]) -> Tree {
        let entry = |name: &&str| types::TreeEntry {
            path: (*name).to_owned(),
            hash: types::ContentHash([0; 32]),
            bytes: 1,
            kind: types::FileKind::File,
        };
        Tree::new(names.iter().map(entry).collect()).unwrap()
    }

    fn diff_of(folder: &Path, names: &[&str]) -> (String, Vec<String>) {
        let mut warnings = Vec::new();
        let diff = diff(folder, &tree(names), &mut |warning| warnings.push(warning));
        (String::from_utf8(diff.unwrap_or_default()).unwrap(), warnings)
    }

    #[test]
    fn the_difference_is_that_of_files_in_the_snapshot() {
        let files =
            [("code/a.py", "one\n"), ("code/secrets.env", "K=1\n"), ("code/gone.py", "old\n"), ("beside", "1\n")];
        let (folder, code) = committed(&files);
        assert_eq!(diff_of(&code, &["a.py"]), (String::new(), vec![]));
        std::fs::write(code.join("a.py"), "two\n").unwrap();
        std::fs::write(code.join("secrets.env"), "K=hunter2\n").unwrap();
        std::fs::write(folder.path().join("beside"), "2\n").unwrap();
        std::fs::remove_file(code.join("gone.py")).unwrap();
        let (diff, warnings) = diff_of(&code, &["a.py"]);
        assert!(diff.contains("--- a/a.py\n+++ b/a.py\n") && diff.contains("-one\n+two\n"), "{diff}");
        assert!(diff.contains("deleted file mode") && diff.contains("gone.py"), "{diff}");
        for left_out in ["hunter2", "K=1", "beside", "old"] {
            assert!(!diff.contains(left_out), "{left_out}: {diff}");
        }
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_difference_that_is_too_long_is_told_and_no_program_of_the_repository_runs() {
        let (folder, code) = committed(&[("code/a", "one\n"), (".gitattributes", "* diff=own\n")]);
        let ran = folder.path().join("ran");
        let program = format!("touch {}", ran.display());
        for name in ["diff.external", "diff.own.command", "diff.own.textconv"] {
            git(folder.path(), &["config", name, &program]);
        }
        std::fs::write(code.join("a"), "two\n").unwrap();
        assert!(diff_of(&code, &["a"]).0.contains("+two"));
        std::fs::write(code.join("a"), "x\n".repeat(1 << 20)).unwrap();
        let (diff, warnings) = diff_of(&code, &["a"]);
        assert_eq!((diff.as_str(), warnings.len()), ("", 1));
        assert!(!ran.exists());
    }

    #[test]
    fn a_command_that_hangs_is_ended_in_time() {
        let child = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().unwrap();
        assert!(answer(child, Duration::from_millis(20), ANSWER_BYTES_MAX).is_none());
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let child = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
        let cut = answer(child, PATIENCE, ANSWER_BYTES_MAX).unwrap();
        assert_eq!((cut.bytes.len() as u64, cut.is_whole), (ANSWER_BYTES_MAX, false));
    }
}
