//! Where everything lies in a worker's data directory; the one place that joins these names.
//!
//! ```text
//! DIR/lock instance cluster lease boot     identity, lease, and the boot of the last start
//! DIR/bin/muster                           link to the program, first on each rank's PATH
//! DIR/cache/                               blobs by content hash
//! DIR/members/JOB-ATTEMPT-NODERANK/        one member
//!     member                               its wish, so that a restarted daemon knows it
//!     ended                                its end, once known
//!     code/ inputs/ outputs/ checkpoints/ resume/ tmp/ manifest.json
//!     ranks/RANK/                          one rank: spec.json shim.json exit.json checkpoint.json and the
//!                                          spool: stdout stderr metrics marks
//! ```

use std::path::{Path, PathBuf};
use types::{AttemptNumber, JobId, MemberKey, RankIndex};

/// Names inside a rank's folder, shared with its supervisor.
pub(crate) mod rank {
    /// What the supervisor shall run; locked by it as long as it lives.
    pub(crate) const SPEC: &str = "spec.json";
    /// What a supervisor that was called off, or died, should have run.
    pub(crate) const SPEC_OFF: &str = "spec.off.json";
    /// Who the supervisor is, so that a restarted daemon finds it.
    pub(crate) const SHIM: &str = "shim.json";
    /// How it ended; appears whole, before the supervisor ends.
    pub(crate) const EXIT: &str = "exit.json";
    /// Room for the exit record, taken before the rank starts: a full disk must not hide an end.
    pub(crate) const EXIT_ROOM: &str = "exit.room";
    /// The last checkpoint that the rank announced.
    pub(crate) const CHECKPOINT: &str = "checkpoint.json";
    /// What the supervisor itself has to say.
    pub(crate) const LOG: &str = "shim.log";
}

/// The data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn instance(&self) -> PathBuf {
        self.root.join("instance")
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    pub(crate) fn lease(&self) -> PathBuf {
        self.root.join("lease")
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn members(&self) -> PathBuf {
        self.root.join("members")
    }

    pub(crate) fn member(&self, key: MemberKey) -> MemberLayout {
        MemberLayout { root: self.members().join(format!("{}-{}-{}", key.job, key.attempt, key.node_rank)) }
    }
}

/// The key that a member folder's name stands for.
pub(crate) fn member_key(folder_name: &str) -> Option<MemberKey> {
    let mut parts = folder_name.split('-');
    let job = parts.next()?.parse().ok().map(JobId)?;
    let attempt = parts.next()?.parse().ok().map(AttemptNumber)?;
    let node_rank = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(MemberKey { job, attempt, node_rank })
}

/// One member's folder.
#[derive(Clone, Debug)]
pub(crate) struct MemberLayout {
    root: PathBuf,
}

impl MemberLayout {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn wish(&self) -> PathBuf {
        self.root.join("member")
    }

    pub(crate) fn ended(&self) -> PathBuf {
        self.root.join("ended")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    pub(crate) fn code(&self) -> PathBuf {
        self.root.join("code")
    }

    pub(crate) fn input(&self, name: &str) -> PathBuf {
        self.root.join("inputs").join(name)
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.root.join("outputs").join(name)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub(crate) fn resume(&self) -> PathBuf {
        self.root.join("resume")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn rank(&self, rank: RankIndex) -> PathBuf {
        self.root.join("ranks").join(rank.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn member_folders_name_their_key() {
        let key = MemberKey { job: JobId(7), attempt: AttemptNumber(2), node_rank: 3 };
        let layout = Layout::new(Path::new("/d")).member(key);
        assert_eq!(member_key(layout.root().file_name().unwrap().to_str().unwrap()), Some(key));
        for other in ["", "7", "7-2", "7-2-3-4", "a-b-c", "7-2-3.tmp"] {
            assert_eq!(member_key(other), None, "{other}");
        }
    }
}
