//! Code of a job and the git state that it came from, between the wire and the job.

use crate::v1;
use types::{CodeSnapshot, ContentHash, GitState};

pub(super) fn code_snapshot(wire: v1::CodeSnapshot, faults: &mut Vec<String>) -> Option<CodeSnapshot> {
    let Some(tree) = ContentHash::from_slice(&wire.tree) else {
        faults.push(format!("code.tree has {} bytes; a content hash has 32", wire.tree.len()));
        return None;
    };
    let diff = ContentHash::from_slice(&wire.git_diff);
    if diff.is_none() && !wire.git_diff.is_empty() {
        faults.push(format!("code.git_diff has {} bytes; a content hash has 32", wire.git_diff.len()));
        return None;
    }
    let git = (!wire.git_commit.is_empty()).then_some(GitState {
        commit: wire.git_commit,
        branch: wire.git_branch,
        dirty: wire.git_dirty,
        diff,
    });
    Some(CodeSnapshot { tree, git })
}

pub(super) fn wire_code(code: &CodeSnapshot) -> v1::CodeSnapshot {
    let git = code.git.clone();
    v1::CodeSnapshot {
        tree: code.tree.0.to_vec().into(),
        git_commit: git.as_ref().map(|g| g.commit.clone()).unwrap_or_default(),
        git_branch: git.as_ref().map(|g| g.branch.clone()).unwrap_or_default(),
        git_dirty: git.as_ref().is_some_and(|g| g.dirty),
        git_diff: git.and_then(|g| g.diff).map(|diff| diff.0.to_vec().into()).unwrap_or_default(),
    }
}
