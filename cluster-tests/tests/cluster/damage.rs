//! A coordinator whose disk gave back other bytes: refused at start, and brought back by doing what it says.

use crate::support::alone;
use cluster_tests::{PATIENCE, Shape, spec, until};
use std::path::Path;

/// Changes bytes all over a file, only where there are any: the store's file is preallocated.
fn damage(file: &Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(file)?;
    bytes.iter_mut().filter(|byte| **byte != 0).step_by(101).for_each(|byte| *byte ^= 0x10);
    Ok(std::fs::write(file, bytes)?)
}

#[tokio::test]
async fn a_damaged_coordinator_is_refused_and_comes_back_by_its_own_advice() {
    alone(Shape::new(3, 0), async |cluster| {
        let client = cluster.client();
        let mut jobs = Vec::new();
        for _ in 0..20 {
            jobs.push(client.submit(&spec("true")).await?);
        }
        cluster.coordinator(3)?.kill()?;
        let raft = cluster.coordinator(3)?.data().join("raft");
        // The newest entries lie in both: with one of them whole, nothing would be lost.
        damage(&raft.join("log-1/db"))?;
        damage(&raft.join("log-1/journal"))?;

        let program = cluster.program().to_owned();
        let daemon = cluster.coordinator(3)?;
        daemon.start(&program)?;
        let status = until("the damaged coordinator to end", PATIENCE, async || daemon.ended().ok().flatten()).await?;
        assert_eq!(status.code(), Some(1), "{}", daemon.log());
        let said = daemon.log();
        let folder = raft.display().to_string();
        for part in [
            "the Raft store is damaged",
            "muster cluster remove",
            &format!("move {folder} aside"),
            "--id that was never used",
            "--join",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }

        // Word by word: out of the group, the folder aside, a new number, --join (which it was started with before).
        cluster.muster(&["cluster", "remove", "3"]).await?.good()?;
        cluster.until_voters(2).await?;
        std::fs::rename(&raft, raft.with_extension("aside"))?;
        let arguments = cluster.coordinator(3)?.arguments_mut();
        assert!(arguments.iter().any(|argument| argument == "--join"), "{arguments:?}");
        let id = arguments.iter().position(|argument| argument == "--id").unwrap() + 1;
        arguments[id] = "4".into();
        cluster.restart_coordinator(3).await?;
        cluster.until_voters(3).await?;
        let members = cluster.client().members().await?;
        assert_eq!(members.iter().map(|member| member.id).collect::<Vec<u64>>(), [1, 2, 4]);
        for job in jobs {
            assert_eq!(cluster.client_of(3)?.get(job).await?.summary.unwrap_or_default().id, job.0);
        }
        Ok(())
    })
    .await;
}
