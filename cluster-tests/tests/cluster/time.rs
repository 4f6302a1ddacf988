//! A clock that jumps on one machine: only stamps show it, nothing ends and nobody is lost.

use crate::support::{alone, cannot_run, is_alive, line_in};
use cluster_tests::{Cluster, Shape, spec};
use std::path::{Path, PathBuf};
use std::process::Command;
use types::{JobPhase, Millis};

/// Moves the wall clock of one process by the seconds that a file holds; boot and monotonic time stay as they are.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift(void) {
    char text[32] = {0};
    const char *path = getenv("SHIFT_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    long count = read(file, text, sizeof text - 1);
    close(file);
    return count > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += shift();
    return result;
}
"#;

fn build(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let (source, library) = (folder.join("clock.c"), folder.join("libclock.so"));
    std::fs::write(&source, SHIFTED_CLOCK)?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    Ok(built.is_ok_and(|output| output.status.success()).then_some(library))
}

/// Sets how far the clock of the shifted processes is off, in seconds.
fn jump(cluster: &Cluster, seconds: i64) -> anyhow::Result<()> {
    let (file, beside) = (cluster.folder().join("shift"), cluster.folder().join("shift.new"));
    std::fs::write(&beside, seconds.to_string())?;
    Ok(std::fs::rename(beside, file)?)
}

const DAY: i64 = 86_400;

#[tokio::test]
async fn a_clock_that_jumps_on_one_node_ends_nothing() {
    alone(Shape::new(3, 0), async |cluster| {
        let Some(library) = build(cluster.folder())? else {
            cannot_run("a clock that jumps: no C compiler");
            return Ok(());
        };
        jump(cluster, 0)?;
        let (library, shift) = (library.into_os_string(), cluster.folder().join("shift").into_os_string());
        let leader = cluster.leader().await?;
        let daemon = cluster.coordinator(leader)?;
        daemon.set("LD_PRELOAD", library.clone());
        daemon.set("SHIFT_FILE", shift.clone());
        daemon.kill()?;
        cluster.restart_coordinator(leader).await?;
        cluster.transfer(leader).await?;
        cluster.add_worker("worker-1", &Default::default())?;
        cluster.worker("worker-1")?.kill()?;
        let worker = cluster.worker("worker-1")?;
        worker.set("LD_PRELOAD", library);
        worker.set("SHIFT_FILE", shift);
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;

        let folder = cluster.folder().display().to_string();
        let mut job = spec(&format!("echo $$ > {folder}/pid; while [ ! -e {folder}/stop ]; do sleep 0.02; done"));
        job.timeout = Some(Millis(600_000));
        let job = cluster.client().submit(&job).await?;
        cluster.until_phase(job, JobPhase::Running).await?;
        let pid: i32 = line_in(&cluster.folder().join("pid")).await?.parse()?;
        let before = cluster.client().status(false).await?;
        assert_eq!(before.leader, leader);
        for seconds in [DAY, -DAY, 365 * DAY, 0] {
            jump(cluster, seconds)?;
            // Work gets done under the new time: whatever looks at a clock has looked at it.
            for _ in 0..5 {
                let other = cluster.ended(cluster.client().submit(&spec("true")).await?).await?;
                assert_eq!(other.summary.unwrap_or_default().phase, "Completed");
            }
        }
        let after = cluster.client().status(false).await?;
        assert_eq!((after.leader, after.term, after.workers_lost), (before.leader, before.term, 0));
        assert!(is_alive(pid), "the job was ended by the clock");
        std::fs::write(format!("{folder}/stop"), "")?;
        let ended = cluster.ended(job).await?;
        assert_eq!((ended.summary.unwrap_or_default().phase.as_str(), ended.attempts.len()), ("Completed", 1));
        Ok(())
    })
    .await;
}
