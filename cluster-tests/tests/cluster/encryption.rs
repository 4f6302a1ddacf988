//! What ranks send each other between machines, encrypted where their workers ask for it.

use crate::isolation_users::{can_be_others, let_pass};
use crate::support::{add_worker, alone};
use crate::training;
use cluster_tests::Shape;

#[tokio::test]
async fn ranks_of_workers_that_ask_for_it_train_encrypted() {
    alone(Shape::new(1, 0), async |cluster| {
        // Users of their own cannot map each other's memory: so all goes over TCP, as between machines.
        let apart = can_be_others(cluster.program(), "encrypted sums over TCP");
        let_pass(cluster)?;
        for (name, users) in [("worker-1", "310064-310067"), ("worker-2", "310068-310071")] {
            let users: &[&str] = if apart { &["--rank-user", users] } else { &[] };
            // One of the two is enough.
            let encrypt: &[&str] = if name == "worker-1" { &["--encrypt-ranks"] } else { &[] };
            add_worker(cluster, name, 1, &[users, encrypt].concat())?;
        }
        cluster.until_ready(2).await?;
        training::trains_on_a_table(cluster).await?;
        let said = cluster.muster(&["logs", "1"]).await?.good()?.stdout;
        assert!(!apart || said.contains("2 ranks over tcp, encrypted"), "{said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gang_whose_framework_does_not_encrypt_is_refused_where_it_would_have_to() {
    alone(Shape::new(1, 0), async |cluster| {
        for name in ["worker-1", "worker-2"] {
            add_worker(cluster, name, 1, &["--encrypt-ranks"])?;
        }
        cluster.until_ready(2).await?;
        let job = "command: 'true'\nenvironment: none\nresources: {instance_count: 2}\ndistribution: {type: pytorch}\nlimits: {timeout: 60}\n";
        let job = cluster.submit("job.yml", job).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Failed", "{}", ended.reason);
        assert!(ended.reason.contains("PyTorch does not encrypt what it sends"), "{}", ended.reason);
        assert!(ended.reason.contains("--insecure-listen"), "{}", ended.reason);
        Ok(())
    })
    .await;
}
