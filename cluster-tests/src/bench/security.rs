//! What TLS costs: the same daemons in TLS and in plain text, turn about, in one run.
//!
//! Needs a build with the feature `plain-text`, which can speak both and is never released: `cargo xtask bench security` makes
//! one in a folder of its own. Tokens, the gate and the audit trail are the same on both sides.

use super::control_plane::{self, System};
use super::stats::{Times, median, ms, thousands};
use super::{Options, Report, Table};
use crate::{Cluster, Shape, gang};
use anyhow::Context as _;
use client::LogQuery;
use identity::plain_text;
use std::time::Duration;
use tokio::time::Instant;

const CLIENTS: [usize; 3] = [1, 32, 256];
const TURNS: usize = 5;
const RANKS: u32 = 4;
/// What each rank writes, in lines of 100 bytes.
const RANK_BYTES: u64 = 48_000_000;
/// For all ranks' lines to come.
const LOGS_MAX: Duration = Duration::from_mins(2);

/// One cluster that speaks one way.
struct Side {
    name: &'static str,
    is_plain: bool,
    cluster: Cluster,
}

impl Side {
    async fn start(options: &Options, is_plain: bool, shape: Shape) -> anyhow::Result<Self> {
        plain_text::speak(is_plain);
        let name = if is_plain { "plain text" } else { "TLS 1.3" };
        Ok(Self { name, is_plain, cluster: Cluster::start_in(&options.dir, &options.muster, shape).await? })
    }
}

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let turns = options.count.unwrap_or(TURNS);
    submits(options, turns, report).await?;
    logs(options, turns, report).await?;
    report.note("ratio: TLS / plain text; medians of the turns, taken turn about with both clusters up; p50 and p99 over all turns");
    report.note(
        "the same program on both sides; what the client and the ranks need for themselves is in it, on the same cores",
    );
    Ok(())
}

async fn both(options: &Options, shape: impl Fn() -> Shape) -> anyhow::Result<[Side; 2]> {
    Ok([Side::start(options, false, shape()).await?, Side::start(options, true, shape()).await?])
}

async fn submits(options: &Options, turns: usize, report: &mut Report) -> anyhow::Result<()> {
    let sides = both(options, || Shape::new(3, 0)).await?;
    let mut table =
        Table::new("Acknowledged submits a second", &["clients", "over", "submits/s", "p50 ms", "p99 ms", "ratio"]);
    for clients in CLIENTS {
        let mut measured = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for _ in 0..turns {
            for (side, (rates, times)) in sides.iter().zip(&mut measured) {
                plain_text::speak(side.is_plain);
                let (addresses, owner) = (side.cluster.addresses(), side.cluster.credentials()?);
                let turn = control_plane::turn(clients, &addresses, System::Muster, Some(&owner)).await?;
                rates.push(turn.0);
                times.extend(turn.1);
            }
        }
        let [tls, plain] = measured.map(|(rates, times)| (median(rates), Times::of(times)));
        let ratio = format!("{:.2}", tls.0 / plain.0);
        for (side, (rate, times), ratio) in [(&sides[0], tls, ratio), (&sides[1], plain, String::new())] {
            let [p50, p99] = [times.median(), times.per_mille(990)].map(ms);
            table.row([clients.to_string(), side.name.to_owned(), thousands(rate), p50, p99, ratio]);
        }
    }
    report.table(table);
    Ok(())
}

async fn logs(options: &Options, turns: usize, report: &mut Report) -> anyhow::Result<()> {
    let sides = both(options, || Shape::new(3, RANKS as usize)).await?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..turns {
        for (side, rates) in sides.iter().zip(&mut rates) {
            plain_text::speak(side.is_plain);
            rates.push(log_rate(&side.cluster).await?);
        }
    }
    let [tls, plain] = rates.map(median);
    let title = format!("Log MB a second from {RANKS} ranks to their reader, kept by a majority on the way");
    let mut table = Table::new(&title, &["over", "MB/s", "ratio"]);
    table.row([sides[0].name.to_owned(), format!("{tls:.0}"), format!("{:.2}", tls / plain)]);
    table.row([sides[1].name.to_owned(), format!("{plain:.0}"), String::new()]);
    report.table(table);
    Ok(())
}

/// From the first byte that comes to the last, of a job that only writes.
async fn log_rate(cluster: &Cluster) -> anyhow::Result<f64> {
    let line = "x".repeat(99);
    let job = cluster.client().submit(&gang(RANKS, &format!("yes {line} | head -c {RANK_BYTES}"))).await?;
    let mut chunks = cluster.client().logs(job, LogQuery { follow: true, ..LogQuery::default() });
    let (mut bytes, mut begun) = (0, None);
    let all = async {
        while let Some(chunk) = chunks.next().await? {
            begun.get_or_insert_with(Instant::now);
            bytes += chunk.data.len() as u64;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LOGS_MAX, all).await.context("the log did not end")??;
    anyhow::ensure!(bytes == RANK_BYTES * u64::from(RANKS), "{bytes} bytes came");
    let begun = begun.context("nothing came")?;
    Ok(bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
