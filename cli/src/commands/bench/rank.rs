//! One rank of `muster bench all-reduce`: says where it listens, hears where the others do, times each size, and as rank 0
//! says what came of it, one line of JSON a size.

use crate::failure::Exit;
use crate::output::write_stdout;
use anyhow::{Context as _, anyhow};
use clap::Args;
use collectives::{DType, Options, Peer, Rendezvous, Source, bench_all_reduce_of, connect_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::time::Duration;

/// For the others to come, and for each sum.
const PATIENCE: Duration = Duration::from_mins(1);

/// What it is told.
#[derive(Args, Debug)]
pub struct RankArgs {
    #[arg(long)]
    rank: u32,
    #[arg(long)]
    world: u32,
    #[arg(long)]
    dtype: String,
    #[arg(long, value_delimiter = ',')]
    bytes: Vec<usize>,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    tcp: bool,
    #[arg(long)]
    encrypt: bool,
    #[arg(long)]
    alloc: bool,
}

/// What came of one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) bytes: usize,
    pub(super) median_us: f64,
    pub(super) p10_us: f64,
    pub(super) p90_us: f64,
    pub(super) algbw_gbps: f64,
    pub(super) busbw_gbps: f64,
    pub(super) wrong: u64,
}

pub(super) fn run(args: &RankArgs) -> anyhow::Result<Exit> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    write_stdout(format!("{}\n", listener.local_addr()?).as_bytes())?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let peers = line.split_whitespace().zip(0..).map(|(address, rank)| Ok(Peer { rank, address: address.parse()? }));
    let peers = peers.collect::<anyhow::Result<Vec<Peer>>>()?;
    anyhow::ensure!(peers.len() == args.world as usize, "a rank is started by `muster bench all-reduce`");
    pin(args.rank, peers.len());
    let rendezvous = Rendezvous {
        rank: args.rank,
        listener: (peers.len() > 1).then_some(listener),
        peers,
        token: 1,
        // Whoever may start processes of this user may read their sums: there is nothing to keep from others.
        secret: [1; 32],
        timeout: PATIENCE,
        op_timeout: PATIENCE,
    };
    let comm = connect_with(rendezvous, Options { tcp_only: args.tcp, encrypt: args.encrypt, ..Options::default() })?;
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.to_string() == args.dtype);
    let dtype = dtype.ok_or_else(|| anyhow!("there is no type {}", args.dtype))?;
    let source = if args.alloc { Source::Alloc } else { Source::Caller };
    if args.rank == 0 {
        write_stdout(format!("{}\n", comm.backend()).as_bytes())?;
    }
    for bytes in &args.bytes {
        let row = bench_all_reduce_of(&*comm, *bytes, args.seconds, source, dtype)?;
        if args.rank == 0 {
            let row = Row {
                bytes: row.bytes,
                median_us: row.median_us,
                p10_us: row.p10_us,
                p90_us: row.p90_us,
                algbw_gbps: row.algbw_gbps,
                busbw_gbps: row.busbw_gbps,
                wrong: row.wrong,
            };
            write_stdout(format!("{}\n", serde_json::to_string(&row)?).as_bytes())?;
        }
    }
    Ok(Exit::Success)
}

/// One processor each, where there are enough.
fn pin(rank: u32, ranks: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let (true, Some(cpu)) = (ranks <= cpus.len(), cpus.get(rank as usize)) {
        let mut own = CpuSet::new();
        own.set(*cpu);
        // Without it the figures are worse, not wrong.
        let _ = sched_setaffinity(None, &own);
    }
}
