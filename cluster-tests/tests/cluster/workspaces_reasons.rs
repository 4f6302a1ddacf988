//! What reasons and lists tell of the jobs of other workspaces: that they are there, and not which.

use crate::support::{add_worker, alone, held_by, open, shape};
use crate::workspaces::{Person, within};
use cluster_tests::{PATIENCE, Shape, spec, until};
use types::{JobId, JobPhase};

#[tokio::test]
async fn of_other_workspaces_jobs_workers_and_reasons_tell_no_number() {
    alone(Shape::new(1, 1), async |cluster| {
        for name in ["vision", "text"] {
            cluster.muster(&["workspaces", "create", name]).await?.good()?;
        }
        let ana = Person::new(cluster, "ana", &["data-scientist@vision"]).await?;
        let op = Person::new(cluster, "op", &["compute-operator"]).await?;
        let client = cluster.client();
        let mut theirs = Vec::new();
        for _ in 0..2 {
            let job = client.submit(&within("text", held_by(cluster, "gate"))).await?;
            cluster.until_phase(job, JobPhase::Running).await?;
            theirs.push(job.0);
        }
        for (person, seen, hidden) in [(&ana, vec![], 2), (&op, theirs.clone(), 0)] {
            let listed = person.json(cluster, &["workers", "list"]).await?;
            let worker = &listed["workers"][0];
            assert_eq!((&worker["jobs"], &worker["jobs_hidden"]), (&seen.into(), &hidden.into()), "{listed}");
        }
        let table = ana.run(cluster, &["workers", "list"]).await?.good()?.stdout;
        assert!(table.contains("2 of others"), "{table}");
        // All of the machine, so that it waits for those.
        let mut own = within("vision", spec("true"));
        own.gang.per_rank.cpus = client.workers().await?[0].cpus_total;
        let own = client.submit(&own).await?.0.to_string();
        let admins = until("a reason that names who runs", PATIENCE, async || {
            let told = cluster.muster(&["jobs", "explain", &own]).await.ok()?.good().ok()?.stdout;
            told.contains("running: ").then_some(told)
        })
        .await?;
        assert!(theirs.iter().all(|job| admins.contains(&format!("job {job}"))), "{admins}");
        let told = ana.run(cluster, &["jobs", "explain", &own]).await?.good()?.stdout;
        assert!(told.contains("running: another job, another job"), "{told}");
        open(cluster, "gate")?;
        cluster.until_phase(JobId(own.parse()?), JobPhase::Completed).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_was_stopped_for_a_job_of_another_workspace_is_told_no_number() {
    alone(shape(1, &["--preempt-after", "0s"]), async |cluster| {
        add_worker(cluster, "a", 2, &[])?;
        cluster.until_ready(1).await?;
        for arguments in [["guest", "cpu=0"], ["owner", "cpu=2"]] {
            cluster.muster(&["queues", "create", arguments[0], "--guaranteed", arguments[1]]).await?.good()?;
        }
        for name in ["vision", "text"] {
            cluster.muster(&["workspaces", "create", name]).await?.good()?;
        }
        let ana = Person::new(cluster, "ana", &["data-scientist@vision"]).await?;
        // What it says itself of a job is its own affair.
        let said = "echo job 4711 is wrong >&2; exit 9";
        let mut guest = within("vision", spec(&format!("test $MUSTER_ATTEMPT -gt 1 && {{ {said}; }}; exec sleep 600")));
        (guest.queue, guest.gang.per_rank.cpus) = ("guest".into(), 2);
        let client = cluster.client();
        let guest = client.submit(&guest).await?;
        cluster.until_phase(guest, JobPhase::Running).await?;
        let mut owner = within("text", held_by(cluster, "owner"));
        owner.queue = "owner".into();
        let owner = client.submit(&owner).await?;
        cluster.until_phase(owner, JobPhase::Running).await?;
        let (id, number) = (guest.to_string(), format!("job {owner}"));
        let ways: [&[&str]; 4] = [
            &["jobs", "list", "-o", "json"],
            &["jobs", "show", &id, "-o", "json"],
            &["jobs", "show", &id],
            &["jobs", "explain", &id],
        ];
        for way in ways {
            let all = cluster.muster(way).await?.good()?.stdout;
            assert!(all.contains(&format!("stopped so that {number} could start")), "{way:?}: {all}");
            let anas = ana.run(cluster, way).await?.good()?.stdout;
            assert!(anas.contains("stopped so that another job could start"), "{way:?}: {anas}");
            assert!(!anas.contains(&number), "{way:?}: {anas}");
        }
        open(cluster, "owner")?;
        cluster.until_phase(guest, JobPhase::Failed).await?;
        let told = ana.run(cluster, &["jobs", "explain", &id]).await?.good()?.stdout;
        assert!(told.contains("job 4711 is wrong") && told.contains("another job could start"), "{told}");
        Ok(())
    })
    .await;
}
