//! What ranks write: byte for byte, live, and whole whatever its shape.

use crate::support::{hex, shared};
use client::LogQuery;
use cluster_tests::{Cluster, PATIENCE, gang, spec, until};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn logs_are_the_very_bytes() {
    shared(async |cluster| {
        let job = cluster
            .client()
            .submit(&spec("head -c 500000 /dev/urandom | tee $TMPDIR/copy; sha256sum $TMPDIR/copy >&2"))
            .await?;
        let logs = cluster.muster(&["logs", &job.to_string(), "-f"]).await?.good()?;
        assert_eq!(logs.bytes.len(), 500_000);
        assert!(logs.stderr.contains(&hex(&logs.bytes)), "{}", logs.stderr);
        // Again, after the end, from each coordinator alone, and only the end of it.
        for id in 1..=3 {
            let address = &cluster.addresses_of(id)?.0;
            let read = async || {
                cluster.muster(&["logs", &job.to_string(), "--stream", "stdout", "--coordinators", address]).await
            };
            until("all bytes at each coordinator", PATIENCE, async || {
                read().await.ok().filter(|answer| answer.bytes == logs.bytes).map(drop)
            })
            .await?;
        }
        let tail = cluster.muster(&["logs", &job.to_string(), "--stream", "stdout", "--tail", "1K"]).await?.good()?;
        assert!(!tail.bytes.is_empty() && tail.bytes.len() <= 1_024 && logs.bytes.ends_with(&tail.bytes));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_follower_sees_lines_live_and_a_flood_whole() {
    shared(async |cluster| {
        let turns = cluster.folder().join("turns");
        std::fs::create_dir_all(&turns)?;
        // The rank writes a line each time that a file appears: what is measured is file to follower.
        let script = format!(
            "echo ready; for i in 1 2 3 4 5 6 7 8 9; do while [ ! -e {0}/$i ]; do sleep 0.005; done; echo line $i; done; echo last",
            turns.display()
        );
        let job = cluster.client().submit(&spec(&script)).await?;
        let mut logs = cluster.client().logs(job, LogQuery { follow: true, ..LogQuery::default() });
        let mut text = String::new();
        let mut waits = Vec::new();
        for turn in 1..=9 {
            let wanted = if turn == 1 { "ready\n".to_owned() } else { format!("line {}\n", turn - 1) };
            while !text.ends_with(&wanted) {
                let chunk = tokio::time::timeout(PATIENCE, logs.next()).await??;
                text.push_str(&String::from_utf8_lossy(&chunk.map(|chunk| chunk.data).unwrap_or_default()));
            }
            let begun = Instant::now();
            std::fs::write(turns.join(turn.to_string()), "")?;
            let chunk = tokio::time::timeout(PATIENCE, logs.next()).await??;
            text.push_str(&String::from_utf8_lossy(&chunk.map(|chunk| chunk.data).unwrap_or_default()));
            waits.push(begun.elapsed());
        }
        while let Some(chunk) = tokio::time::timeout(PATIENCE, logs.next()).await?? {
            text.push_str(&String::from_utf8_lossy(&chunk.data));
        }
        assert!(text.starts_with("ready\nline 1\n") && text.ends_with("line 9\nlast\n"), "{text}");
        waits.sort();
        println!("a line reached its follower after {:?} (median of 9)", waits[4]);
        // Other tests share these cores: a third of the lines is enough to show that the way takes no longer.
        assert!(waits[2] < Duration::from_millis(100), "{waits:?}");
        flood(cluster).await
    })
    .await;
}

/// 100 MB without a newline come through, whole. Not beside the test above: it measures.
async fn flood(cluster: &Cluster) -> anyhow::Result<()> {
    let job = cluster.client().submit(&spec("head -c 100000000 /dev/zero | tr '\\0' x")).await?;
    let mut logs = cluster.client().logs(job, LogQuery { follow: true, ..LogQuery::default() });
    let mut bytes = 0_u64;
    while let Some(chunk) = tokio::time::timeout(PATIENCE, logs.next()).await?? {
        assert_eq!(chunk.offset, bytes);
        assert!(chunk.data.iter().all(|byte| *byte == b'x'));
        bytes += chunk.data.len() as u64;
    }
    let ended = cluster.ended(job).await?;
    assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{:?}", ended.attempts);
    assert_eq!(bytes, 100_000_000);
    Ok(())
}

#[tokio::test]
async fn a_search_finds_the_lines_of_all_ranks_from_any_coordinator_and_lines_count_from_the_end() {
    shared(async |cluster| {
        let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo step $i of rank $MUSTER_RANK; done; printf Odd";
        let job = cluster.client().submit(&gang(2, script)).await?.to_string();
        let live = cluster.muster(&["logs", &job, "-f", "--grep", "step 2[0-9]{2}5 "]).await?.good()?;
        let wanted = |rank: u32| (200..300).map(move |tens| format!("rank {rank} | step {tens}5 of rank {rank}"));
        for id in 1..=3 {
            let address = &cluster.addresses_of(id)?.0;
            let search = ["logs", &job, "-g", "step 2[0-9]{2}5 ", "--coordinators", address];
            let found = cluster.muster(&search).await?.good()?;
            for rank in 0..2 {
                let prefix = format!("rank {rank} |");
                for answer in [&found, &live] {
                    let lines = answer.stdout.lines().filter(|line| line.starts_with(&prefix));
                    assert!(lines.eq(wanted(rank)), "{}", answer.stdout);
                }
            }
        }
        let odd = cluster.muster(&["logs", &job, "--rank", "1", "-i", "-g", "^odd$"]).await?.good()?;
        assert_eq!(odd.stdout, "Odd", "the last line, which does not end");
        let last = cluster.muster(&["logs", &job, "--rank", "1", "-n", "3"]).await?.good()?;
        assert_eq!(last.stdout, "step 2999 of rank 1\nstep 3000 of rank 1\nOdd");
        let both = cluster.muster(&["logs", &job, "--rank", "1", "-n", "3", "-g", "9|[^3]000"]).await?.good()?;
        assert_eq!(both.stdout, "step 2999 of rank 1\n", "of the last lines only");
        for (bad, why) in [(&["-g", "("][..], "unclosed group"), (&["-n", "1", "--tail", "1"], "cannot be used with")] {
            let answer = cluster.muster(&[&["logs", &job], bad].concat()).await?;
            assert!(answer.code != 0 && answer.stderr.contains(why), "{answer:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn several_ranks_are_told_apart() {
    shared(async |cluster| {
        let job = cluster.client().submit(&gang(3, "echo out $MUSTER_RANK; echo err $MUSTER_RANK >&2")).await?;
        let all = cluster.muster(&["logs", &job.to_string(), "-f"]).await?.good()?;
        for rank in 0..3 {
            assert!(all.stdout.contains(&format!("rank {rank} | out {rank}\n")), "{}", all.stdout);
            assert!(all.stderr.contains(&format!("rank {rank} | err {rank}\n")), "{}", all.stderr);
        }
        let one = cluster.muster(&["logs", &job.to_string(), "--rank", "1"]).await?.good()?;
        assert_eq!((one.stdout.as_str(), one.stderr.as_str()), ("out 1\n", "err 1\n"));
        let lines =
            cluster.muster(&["logs", &job.to_string(), "--rank", "2", "--stream", "stdout", "-o", "json"]).await?;
        let line: serde_json::Value = serde_json::from_str(lines.stdout.trim())?;
        assert_eq!((line["rank"].as_u64(), line["line"].as_str()), (Some(2), Some("out 2")));
        Ok(())
    })
    .await;
}
