//! Where everything lies in a worker's data directory; the one place that joins these names.
//!
//! ```text
//! DIR/lock instance cluster lease boot     identity, lease, and the boot of the last start
//! DIR/bin/muster                           link to the program, first on each rank's PATH
//! DIR/supervisors.log                      what supervisors have to say for themselves, should they ever
//! DIR/cache/                               blobs by content hash
//! DIR/spares/                              empty member folders, to be used again
//! DIR/members/JOB-ATTEMPT-NODERANK/        one member
//!     member                               its wish, so that a restarted daemon knows it
//!     ended                                its end, where its ranks' records do not tell it
//!     code/ checkpoints/ tmp/ manifest.json, and where the job has them inputs/ outputs/ resume/
//!     events/                              which rank reads which event file, where several have outputs
//!     rank-RANK.record                     what to run, who supervises it, how it ended: see `shim::record`
//!     rank-RANK/                           watched: checkpoint.json and the spool: stdout stderr metrics marks
//! ```

use std::path::{Path, PathBuf};
use types::{AttemptNumber, JobId, MemberKey, RankIndex};

/// Names inside a rank's folder, shared with its supervisor.
pub(crate) mod rank {
    /// The record of the rank with this folder: beside it, so that who watches the folder is not woken by it.
    pub(crate) fn record(folder: &std::path::Path) -> std::path::PathBuf {
        folder.with_extension("record")
    }

    /// The last checkpoint that the rank announced.
    pub(crate) const CHECKPOINT: &str = "checkpoint.json";

    /// The metrics pipe by name; there while the rank lives.
    pub(crate) const METRICS: &str = "metrics.pipe";
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

    pub(crate) fn supervisors_log(&self) -> PathBuf {
        self.root.join("supervisors.log")
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

    pub(crate) fn spares(&self) -> PathBuf {
        self.root.join("spares")
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

const RANK_PREFIX: &str = "rank-";

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

    pub(crate) fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    pub(crate) fn input(&self, name: &str) -> PathBuf {
        self.inputs().join(name)
    }

    pub(crate) fn outputs(&self) -> PathBuf {
        self.root.join("outputs")
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.outputs().join(name)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Where the checkpoint that is being uploaded is kept, as it was when that began.
    pub(crate) fn saving(&self) -> PathBuf {
        self.root.join("saving")
    }

    pub(crate) fn resume(&self) -> PathBuf {
        self.root.join("resume")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Lies over the devices of other jobs.
    pub(crate) fn blank(&self) -> PathBuf {
        self.root.join("blank")
    }

    /// Which rank reads which event file, where there are several.
    pub(crate) fn event_claims(&self) -> PathBuf {
        self.root.join("events")
    }

    /// The folders that are the ranks' own, as far as the job has them.
    pub(crate) fn given_to_ranks(&self) -> [PathBuf; 6] {
        [self.code(), self.inputs(), self.outputs(), self.checkpoints(), self.resume(), self.tmp()]
    }

    pub(crate) fn rank(&self, rank: RankIndex) -> PathBuf {
        self.root.join(format!("{RANK_PREFIX}{rank}"))
    }

    /// The folders of those ranks that have one.
    pub(crate) fn ranks(root: &Path) -> Vec<PathBuf> {
        let is_rank = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            path.extension().is_none() && name.is_some_and(|name| name.starts_with(RANK_PREFIX))
        };
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(is_rank).collect()
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
