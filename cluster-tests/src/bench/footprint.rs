//! Memory of idle daemons, and the size of the program.

use super::machine;
use super::{Options, Report, Table};
use crate::{Cluster, PATIENCE, Shape, gang, until};
use std::time::Duration;

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(3, 4)).await?;
    let mut table = Table::new("Memory of an idle daemon, MiB", &["daemon", "state", "resident", "proportional"]);
    for state in ["just started", "after 50 gangs of 4"] {
        let (coordinators, workers) = cluster.pids();
        for (name, pid) in [("coordinator", coordinators[0]), ("worker", workers[0])] {
            let (resident, proportional) = settled(pid).await?;
            table.row([name.into(), state.into(), format!("{resident:.1}"), format!("{proportional:.1}")]);
        }
        for _ in 0..50 {
            let client = cluster.client();
            client.wait(client.submit(&gang(4, "exec /bin/true")).await?).await?;
        }
    }
    report.table(table);
    let bytes = std::fs::metadata(&options.muster)?.len();
    let mut size = Table::new("Size of the program", &["file", "MB"]);
    size.row(["muster".to_owned(), format!("{:.1}", bytes as f64 / 1e6)]);
    report.table(size);
    report.note("proportional: what is shared with other processes of the same program is counted in part");
    Ok(())
}

/// Memory once it no longer changes.
async fn settled(pid: i32) -> anyhow::Result<(f64, f64)> {
    let mut last = (0.0, 0.0);
    until("memory to settle", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = machine::memory(pid);
        let same = (now.0 - last.0).abs() < 0.5;
        last = now;
        same.then_some(now)
    })
    .await
}
