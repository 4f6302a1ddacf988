//! The commands of `docs/security.md`, run as they stand there: a worker on another host joins and is revoked, a coordinator goes, and the
//! authority is replaced. Only what is of a reader's own site is put in its place: addresses, and the folder of a daemon's data.

use crate::hosts::on_hosts;
use crate::support::shape;
use anyhow::Context as _;
use cluster_tests::{Cluster, PATIENCE, spec, until};
use tokio::time::Instant;

/// Lines of the shell blocks below this heading, without their comments.
fn lines(heading: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md"))?;
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).with_context(|| format!("no {heading:?}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let bare = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    Ok(blocks.map(|block| block.lines().map(bare).filter(|line| !line.is_empty()).collect()).collect())
}

async fn run(cluster: &Cluster, line: &str) -> anyhow::Result<()> {
    println!("$ {line}");
    cluster.shell(line).await?.good().with_context(|| line.to_owned()).map(|answer| println!("{}", answer.stdout))
}

#[tokio::test]
async fn nodes_join_are_revoked_and_the_authority_is_replaced_by_the_documented_commands() {
    on_hosts(shape(3, &["--certificate-life", "15s"]), async |cluster| {
        let [join, leave]: [Vec<String>; 2] =
            lines("Nodes")?.try_into().map_err(|blocks| anyhow::anyhow!("two blocks: {blocks:?}"))?;
        let (worker, admits) = join.split_last().context("no line starts a worker")?;
        for line in admits {
            run(cluster, line).await?;
        }
        // The documented address is the first coordinator's.
        let here = worker.replace("10.0.0.1:7070", &cluster.addresses()[0]).replace("/var/lib/muster", "gpu-7-data");
        let words: Vec<&str> = here.split_whitespace().collect();
        assert_eq!(words[..2], ["muster", "worker"], "{worker}");
        cluster.add_worker_by("gpu-7", &words[1..])?;
        cluster.until_ready(1).await?;
        let held = cluster.client().submit(&spec("sleep 1000")).await?;
        cluster.until_phase(held, types::JobPhase::Running).await?;

        let [authority]: [Vec<String>; 1] =
            lines("The authority replaced")?.try_into().map_err(|blocks| anyhow::anyhow!("one block: {blocks:?}"))?;
        assert!(authority.iter().any(|line| line.ends_with(" rotate")) && authority.len() == 4, "{authority:?}");
        for line in &authority[..3] {
            run(cluster, line).await?;
        }
        // Once nothing is left that the old one signed, as the page says.
        until("the old authority to be retired", 2 * PATIENCE, async || run(cluster, &authority[3]).await.ok()).await?;
        let job = cluster.client().get(held).await?.summary.unwrap_or_default();
        assert_eq!((job.phase.as_str(), job.attempts), ("Running", 1), "it ran on: {}", job.reason);

        let begun = Instant::now();
        run(cluster, &leave[0]).await?;
        until("the revoked worker to be out", PATIENCE, async || {
            let workers = cluster.client().workers().await.ok()?;
            workers.iter().all(|worker| worker.state != "ready").then_some(())
        })
        .await?;
        println!("out {} ms after the command began", begun.elapsed().as_millis());
        for line in &leave[1..] {
            run(cluster, line).await?;
        }
        cluster.until_voters(2).await
    })
    .await;
}
