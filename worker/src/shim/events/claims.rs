//! Whose an event file is, where several ranks write in the same outputs: that of the rank whose process its name names, or else
//! of the instance's first rank. Who takes a file says so in a folder of the daemon's, so that no other rank takes it too.

use super::super::spec::EventFiles;
use crate::environment::MARKER;
use crate::process;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use types::RankIndex;

pub(super) struct Claims<'a> {
    files: &'a EventFiles,
    rank: RankIndex,
}

impl<'a> Claims<'a> {
    pub(super) fn new(files: &'a EventFiles, rank: RankIndex) -> Self {
        Self { files, rank }
    }

    /// Takes the file for this rank, if it is this rank's; `main` is the rank's own process. A rank that ends leaves none that
    /// nobody who lives will take.
    pub(super) fn take(&self, path: &Path, main: i32, is_ending: bool) -> bool {
        let Some(claims) = &self.files.claims else { return true };
        let named = processes_named(path);
        let own = std::process::id().cast_signed();
        let is_own = named.iter().any(|pid| *pid == main || process::is_below(*pid, own));
        let is_free = || !named.iter().any(|pid| self.is_of_another_rank(*pid));
        if !is_own && !((self.files.is_first || is_ending) && is_free()) {
            return false;
        }
        self.claim(&claims.join(name_of(path)))
    }

    /// A process that lives, and is of another rank of this member.
    fn is_of_another_rank(&self, pid: i32) -> bool {
        let Some(member) = self.files.claims.as_deref().and_then(Path::parent) else { return false };
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let prefix = format!("{MARKER}={}/", member.display());
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(prefix.as_bytes()))
    }

    fn claim(&self, claim: &Path) -> bool {
        let own = self.rank.to_string();
        match std::fs::OpenOptions::new().write(true).create_new(true).open(claim) {
            Ok(mut file) => file.write_all(own.as_bytes()).is_ok(),
            // A file that is written anew under its name stays whose it was.
            Err(_) => std::fs::read_to_string(claim).is_ok_and(|rank| rank == own),
        }
    }
}

/// The numbers in a file's name that may be a process's: `events.out.tfevents.SECONDS.HOST.PROCESS.COUNT`.
fn processes_named(path: &Path) -> Vec<i32> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').skip(4).filter_map(|part| part.parse().ok()).filter(|pid| *pid > 1).collect()
}

fn name_of(path: &Path) -> String {
    Sha256::digest(path.as_os_str().as_bytes()).iter().take(16).fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_file_is_of_the_rank_that_its_name_names_and_of_one_rank_only() {
        let folder = tempfile::tempdir().unwrap();
        let files = |is_first| EventFiles {
            outputs: folder.path().to_owned(),
            claims: Some(folder.path().to_owned()),
            is_first,
        };
        let (first, second) = (files(true), files(false));
        // No process has such numbers.
        const MAIN: [i32; 2] = [2_000_000_001, 2_000_000_002];
        let claims = [Claims::new(&first, RankIndex(0)), Claims::new(&second, RankIndex(1))];
        let takes = |rank: usize, rest: &str, is_ending| {
            let file = Path::new("logs").join(format!("events.out.tfevents.1764000000.a.host.{rest}"));
            claims[rank].take(&file, MAIN[rank], is_ending)
        };
        assert!(!takes(1, "2000000001.0", false) && takes(0, "2000000001.0", false));
        assert!(takes(1, "2000000002.0.v2", false) && !takes(0, "2000000002.0.v2", false));
        assert!(takes(1, "2000000002.0.v2", false), "it stays so");
        // Nobody's who lives: the first rank's, or of whoever ends.
        assert!(!takes(1, "2000000003.0", false) && takes(0, "2000000003.0", false));
        assert!(takes(1, "2000000004.0", true) && !takes(0, "2000000004.0", true));
    }

    #[test]
    fn a_process_below_this_one_owns_its_file_and_one_of_another_rank_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let claims = folder.path().join("claims");
        std::fs::create_dir(&claims).unwrap();
        let mut child = std::process::Command::new("/bin/cat")
            .env(MARKER, folder.path().join("rank-1"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Only a program that answers has its environment for certain: its birth is told before that is laid out.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id().cast_signed();
        let files = EventFiles { outputs: folder.path().to_owned(), claims: Some(claims), is_first: false };
        let claims = Claims::new(&files, RankIndex(0));
        let file = format!("events.out.tfevents.1764000000.host.{pid}.0");
        assert!(claims.is_of_another_rank(pid) && claims.take(Path::new(&file), 0, false));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!claims.is_of_another_rank(pid) && !claims.take(Path::new("logs").join(&file).as_path(), 0, false));
    }

    #[test]
    fn an_only_rank_has_all_files() {
        let files = EventFiles { outputs: "/o".into(), claims: None, is_first: true };
        let claims = Claims::new(&files, RankIndex(3));
        assert!(claims.take(Path::new("events.out.tfevents.1.h"), 0, false));
    }
}
