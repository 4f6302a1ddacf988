//! What ranks wrote is compacted when it has ended, mended when it is damaged, and forgotten when it is too old or too much; whoever
//! dies meanwhile, nobody reads a byte that was not written, or misses one.

use crate::support::{add_worker, alone, held_by, open, shape};
use cluster_tests::bench::log_kills::kill_while_ranks_log;
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use std::path::{Path, PathBuf};
use types::JobId;

/// About 1 MB of lines.
const LINES: &str =
    "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo step $i loss 0.$((i * 7919 % 1000003)) of the training; done";

/// The files of a job's streams on one coordinator's disk.
fn files(cluster: &Cluster, id: u64, job: JobId) -> Vec<PathBuf> {
    let folder = cluster.folder().join(format!("coordinator-{id}/streams/{}/{job}", job.0 / 1_000));
    let listing = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = listing.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn is_compacted(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "compacted")
}

async fn compacted(cluster: &Cluster, job: JobId) -> anyhow::Result<PathBuf> {
    until("a compacted file at each coordinator, and no other", PATIENCE, async || {
        let all: Vec<PathBuf> = (1..=3).flat_map(|id| files(cluster, id, job)).collect();
        (all.len() == 3 && all.iter().all(|path| is_compacted(path))).then(|| all[0].clone())
    })
    .await
}

/// The whole log, as one coordinator serves it.
async fn log_of(cluster: &Cluster, id: u64, job: JobId) -> anyhow::Result<Vec<u8>> {
    let address = cluster.addresses_of(id)?.0.clone();
    Ok(cluster.muster(&["logs", &job.to_string(), "--coordinators", &address]).await?.good()?.bytes)
}

async fn same_everywhere(cluster: &Cluster, job: JobId, wanted: &[u8]) -> anyhow::Result<()> {
    for id in 1..=3 {
        assert!(log_of(cluster, id, job).await? == wanted, "coordinator {id}");
    }
    Ok(())
}

#[tokio::test]
async fn ended_streams_are_compacted_and_a_damaged_one_is_mended_from_the_others() {
    alone(Shape::new(3, 1), async |cluster| {
        let job = cluster.client().submit(&spec(LINES)).await?;
        let text = cluster.muster(&["logs", &job.to_string(), "-f"]).await?.good()?.bytes;
        assert_eq!(text.split(|byte| *byte == b'\n').count(), 20_001);
        let first = compacted(cluster, job).await?;
        let bytes = std::fs::metadata(&first)?.len();
        println!("{} bytes of a log are {bytes} compacted", text.len());
        assert!(bytes < text.len() as u64 / 3);
        same_everywhere(cluster, job, &text).await?;
        let last = cluster.muster(&["logs", &job.to_string(), "-n", "2"]).await?.good()?.stdout;
        assert!(last.starts_with("step 19999 ") && last.contains("\nstep 20000 "), "{last}");
        let found = cluster.muster(&["logs", &job.to_string(), "-g", "^step 777 "]).await?.good()?.stdout;
        assert!(found.starts_with("step 777 ") && found.lines().count() == 1, "{found}");
        let status = cluster.muster(&["cluster", "status", "-o", "json"]).await?.json()?;
        assert_eq!(status["telemetry"]["stream_bytes"], text.len());
        // The files of the first coordinator, damaged while it is dead: in a block, then at its end, where the length stands.
        for at in [bytes / 2, bytes - 20] {
            cluster.coordinator(1)?.kill()?;
            let mut damaged = std::fs::read(&first)?;
            damaged[usize::try_from(at)?] ^= 0xff;
            std::fs::write(&first, &damaged)?;
            cluster.restart_coordinator(1).await?;
            assert!(log_of(cluster, 1, job).await? == text, "never served as if it were right");
            until("a sound file", PATIENCE, async || {
                (files(cluster, 1, job) == [first.clone()] && std::fs::read(&first).ok()? != damaged).then_some(())
            })
            .await?;
            assert!(log_of(cluster, 1, job).await? == text);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn retention_forgets_what_is_old_everywhere_and_nothing_that_is_kept_or_runs() {
    alone(shape(3, &["--keep-telemetry-for", "2s"]), async |cluster| {
        add_worker(cluster, "w", 4, &[])?;
        cluster.until_ready(1).await?;
        let client = cluster.client();
        let mut runs = held_by(cluster, "go");
        runs.command = format!("{LINES}; {}", runs.command);
        let (kept, runs) = (client.submit(&spec("echo kept")).await?, client.submit(&runs).await?);
        cluster.muster(&["jobs", "keep", &kept.to_string()]).await?.good()?;
        let old = client.submit(&spec(LINES)).await?;
        cluster.ended(old).await?;
        for id in 1..=3 {
            let address = cluster.addresses_of(id)?.0.clone();
            let told = until("an old log that is forgotten", PATIENCE, async || {
                let logs = ["logs", &old.to_string(), "--coordinators", &address];
                cluster.muster(&logs).await.ok().filter(|answer| answer.code == 3)
            })
            .await?;
            assert!(told.stderr.contains("was forgotten by retention on 20"), "{}", told.stderr);
            until("no file of it", PATIENCE, async || files(cluster, id, old).is_empty().then_some(())).await?;
            assert_eq!(log_of(cluster, id, kept).await?, b"kept\n");
        }
        assert!(!files(cluster, 1, runs).is_empty());
        let metrics = cluster.muster(&["metrics", &old.to_string()]).await?;
        assert_eq!(metrics.code, 3, "{}", metrics.stderr);
        let shown = cluster.muster(&["jobs", "show", &old.to_string()]).await?.good()?.stdout;
        assert!(shown.contains("forgotten") && shown.contains("Completed"), "{shown}");
        let late = cluster.muster(&["jobs", "keep", &old.to_string()]).await?;
        assert!(late.code != 0 && late.stderr.contains("forgotten by retention already"), "{}", late.stderr);
        assert_eq!(cluster.muster(&["jobs", "keep", "999"]).await?.code, 3);
        // Nor is it missed by a backup.
        let file = |name: &str| cluster.folder().join(name).display().to_string();
        let backup = ["cluster", "backup", &file("all.backup"), "--key", &file("backup.key")];
        cluster.muster(&backup).await?.good()?;
        let trail = cluster.muster(&["audit", "list"]).await?.good()?.stdout;
        assert!(trail.contains("jobs/keep"), "{trail}");
        // It is a fact of the log: also after all have died.
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        assert_eq!(cluster.muster(&["logs", &old.to_string()]).await?.code, 3);
        open(cluster, "go")?;
        cluster.ended(runs).await?;
        cluster.muster(&["jobs", "keep", &kept.to_string(), "--release"]).await?.good()?;
        until("all forgotten", PATIENCE, async || {
            (1..=3).all(|id| [kept, runs].iter().all(|job| files(cluster, id, *job).is_empty())).then_some(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn more_than_fits_goes_from_the_oldest_on() {
    alone(shape(1, &["--keep-telemetry-bytes", "2M"]), async |cluster| {
        add_worker(cluster, "w", 4, &[])?;
        cluster.until_ready(1).await?;
        // Bytes that do not compress: 1 MB each, of which one fits beside the last.
        let script = spec("head -c 1000000 /dev/urandom");
        let mut jobs = Vec::new();
        for _ in 0..3 {
            let job = cluster.client().submit(&script).await?;
            cluster.ended(job).await?;
            jobs.push(job);
        }
        until("the first forgotten", PATIENCE, async || files(cluster, 1, jobs[0]).is_empty().then_some(())).await?;
        for job in &jobs[1..] {
            assert_eq!(log_of(cluster, 1, *job).await?.len(), 1_000_000);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn coordinators_die_while_ranks_log_and_every_line_is_read_once_in_order() {
    alone(Shape::new(3, 1).cpus(8), async |cluster| {
        // Where the kernel gives each session the same share (autogroup), more ranks that never rest would starve three coordinators on two
        // processors.
        let outcome = kill_while_ranks_log(cluster, 2, 4).await?;
        println!("{outcome:?}");
        assert!(outcome.leaders >= 2 && outcome.followed > 100, "{outcome:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_says_itself_how_long_what_its_ranks_write_is_kept() {
    alone(shape(3, &[]), async |cluster| {
        add_worker(cluster, "w", 4, &[])?;
        cluster.until_ready(1).await?;
        let kept = cluster.client().submit(&spec("echo kept")).await?;
        cluster.ended(kept).await?;
        for (seconds, dies) in [("0.5", false), ("2", true)] {
            let file = format!("command: echo brief\nx-muster: {{keep_telemetry_for: {seconds}}}\n");
            let brief = cluster.submit("brief/job.yml", &file).await?;
            cluster.ended(brief).await?;
            if dies {
                for id in 1..=3 {
                    cluster.coordinator(id)?.kill()?;
                }
                for id in 1..=3 {
                    cluster.restart_coordinator(id).await?;
                }
            }
            for id in 1..=3 {
                until("no file of it", PATIENCE, async || files(cluster, id, brief).is_empty().then_some(())).await?;
            }
            let told = cluster.muster(&["logs", &brief.to_string()]).await?;
            assert!(told.code == 3 && told.stderr.contains("was forgotten by retention on 20"), "{}", told.stderr);
            assert_eq!(log_of(cluster, 1, kept).await?, b"kept\n");
        }
        let file = cluster.write("wrong/job.yml", "command: echo\nx-muster: {keep_telemetry_for: soon}\n")?;
        let refused = cluster.muster(&["submit", &file.display().to_string()]).await?;
        assert!(refused.code == 2 && refused.stderr.contains("keep_telemetry_for"), "{}", refused.stderr);
        Ok(())
    })
    .await;
}
