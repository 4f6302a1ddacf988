//! Ranks of any program that say nothing any more: where they are is told, and they are ended if their job wants that.

use crate::support::{cannot_run, line_in, shared};
use cluster_tests::{Cluster, PATIENCE, gang, spec, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Two threads of Python that wait for a lock which nobody lets go.
const HANGS: &str = "\
import os, threading
lock = threading.Lock()
def waits_for_the_lock():
    lock.acquire()
lock.acquire()
threading.Thread(target=waits_for_the_lock).start()
with open(os.environ['MUSTER_METRICS'], 'w') as metrics:
    metrics.write('{\"name\": \"loss\", \"value\": 1}\\n')
with open(os.environ['HANGS'], 'w') as hangs:
    hangs.write('now\\n')
waits_for_the_lock()
";

/// A folder with the program above; none where the machine has no Python.
fn program(cluster: &Cluster, name: &str) -> anyhow::Result<Option<PathBuf>> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        cannot_run("ranks of Python that hang: there is no python3");
        return Ok(None);
    }
    let folder = cluster.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("hangs.py"), HANGS)?;
    Ok(Some(folder))
}

/// Starts it.
fn command(folder: &Path) -> String {
    format!("HANGS={0}/hangs exec python3 {0}/hangs.py", folder.display())
}

#[tokio::test]
async fn a_python_rank_that_hangs_is_shown_with_its_traceback() {
    shared(async |cluster| {
        let Some(folder) = program(cluster, "hung-python")? else { return Ok(()) };
        // Rank 0 is what a framework is that tells whom it waits for, and gives up when it is told to.
        let script = format!(
            "[ $MUSTER_RANK = 1 ] && {{ {}; }}; until [ -e {1}/hangs ]; do sleep 0.02; done; \
             echo \"{{\\\"kind\\\": \\\"stall\\\", \\\"collective\\\": \\\"all_reduce\\\", \\\"sequence\\\": 5, \
             \\\"behind\\\": [{{\\\"rank\\\": 1, \\\"sequence\\\": 4}}], \\\"since\\\": $(date +%s)}}\" >&4; \
             until [ -e {1}/go ]; do sleep 0.02; done; echo '{{\"kind\": \"blame\", \"rank\": 1}}' >&4; exit 1",
            command(&folder),
            folder.display()
        );
        let mut spec = gang(2, &script);
        spec.environment_variables.insert("MUSTER_STALL_AFTER_S".into(), "1".into());
        let job = cluster.client().submit(&spec).await?;
        line_in(&folder.join("hangs")).await?;
        let summary = until("its threads", PATIENCE, async || {
            let summary = cluster.client().explain(job).await.ok()?.summary;
            summary.contains("its threads when").then_some(summary)
        })
        .await?;
        assert!(
            summary.contains("rank 1 on worker ") && summary.contains("hangs.py:\n  2 x python3: sleeps"),
            "{summary}"
        );
        std::fs::write(folder.join("go"), "")?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert!(ended.reason.starts_with("rank 1 is at fault"), "{}", ended.reason);
        let details = cluster.client().explain(job).await?.details.join("\n");
        for part in ["rank 1 on worker ", "it said on stderr:\nFatal Python error: Aborted", " in waits_for_the_lock\n"]
        {
            assert!(details.contains(part), "{part:?} in {details}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rank_that_is_silent_for_longer_than_its_job_allows_is_ended_with_its_traceback() {
    shared(async |cluster| {
        let Some(folder) = program(cluster, "silent")? else { return Ok(()) };
        let mut hangs = spec(&command(&folder));
        hangs.environment_variables.insert("MUSTER_HANG_AFTER_S".into(), "2".into());
        let job = cluster.client().submit(&hangs).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Failed");
        for part in
            ["rank 0 on ", " in waits_for_the_lock\n", "muster: rank 0 said nothing for 2.", "MUSTER_HANG_AFTER_S is 2"]
        {
            assert!(ended.reason.contains(part), "{part:?} in {}", ended.reason);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rank_that_says_something_now_and_then_is_not_ended() {
    shared(async |cluster| {
        let mut talks = spec("for i in 1 2 3 4 5 6 7 8; do sleep 1; echo $i; done");
        talks.environment_variables.insert("MUSTER_HANG_AFTER_S".into(), "6".into());
        let job = cluster.client().submit(&talks).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Completed", "{}", ended.reason);
        Ok(())
    })
    .await;
}
