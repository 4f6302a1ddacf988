//! A disk that is full under a coordinator: it stops and says why, the others go on, and with room again it catches up.

use crate::support::{alone, cannot_run};
use cluster_tests::{PATIENCE, Shape, SmallDisk, spec, until};

#[tokio::test]
async fn a_full_disk_stops_a_coordinator_with_its_reason_and_loses_nothing() {
    alone(Shape::new(3, 0), async |cluster| {
        let mut jobs = vec![cluster.client().submit(&spec("true")).await?];
        cluster.coordinator(3)?.kill()?;
        let Some(disk) = SmallDisk::over(cluster.coordinator(3)?.data())? else {
            cannot_run("a full disk under a coordinator: this user may not mount a file system of its own");
            return Ok(());
        };
        let program = cluster.program().to_owned();
        cluster.coordinator(3)?.wrapper_mut().extend(disk.wrapper());
        cluster.coordinator(3)?.start(&program)?;
        until("it to serve from the small disk", PATIENCE, async || cluster.client_of(3).ok()?.get(jobs[0]).await.ok())
            .await?;

        disk.fill()?;
        let large = spec(&format!("true {}", "x".repeat(15_000)));
        let mut ended = None;
        while ended.is_none() {
            jobs.push(cluster.client_of(1)?.submit(&large).await?);
            anyhow::ensure!(jobs.len() < 4_000, "it goes on: {}", cluster.coordinator(3)?.log());
            ended = cluster.coordinator(3)?.ended()?;
        }
        let said = cluster.coordinator(3)?.log();
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
        jobs.push(cluster.client_of(1)?.submit(&large).await?);

        disk.make_room()?;
        cluster.coordinator(3)?.start(&program)?;
        let last = *jobs.last().unwrap();
        until("it to catch up", PATIENCE, async || cluster.client_of(3).ok()?.get(last).await.ok()).await?;
        for job in jobs {
            assert_eq!(cluster.client_of(3)?.get(job).await?.summary.unwrap_or_default().id, job.0);
        }
        Ok(())
    })
    .await;
}
