//! One rank of the measurement: connects, times each size, and as rank 0 prints the rows.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use collectives::{DType, Options, Peer, Rendezvous, Source, Wire, bench_all_reduce_of, connect_with};

const PATIENCE: Duration = Duration::from_mins(1);

/// `RANK WAY BYTES,BYTES.. SECONDS STREAMS LABEL ADDRESS`.
pub(super) fn main(arguments: &[String]) -> Result<(), String> {
    let [rank, way, bytes, seconds, streams, label, address] = arguments else {
        return Err("a rank is started by the program itself".to_owned());
    };
    let rank: u32 = rank.parse().map_err(|_| "no rank")?;
    let seconds: f64 = seconds.parse().map_err(|_| "no seconds")?;
    let listener = TcpListener::bind((address.as_str(), 0)).map_err(|error| error.to_string())?;
    println!("{}", listener.local_addr().map_err(|error| error.to_string())?);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| error.to_string())?;
    let peers = line.split_whitespace().zip(0..).map(|(address, rank)| Ok(Peer { rank, address: address.parse()? }));
    let peers = peers.collect::<Result<Vec<Peer>, <SocketAddr as std::str::FromStr>::Err>>();
    let peers = peers.map_err(|error| error.to_string())?;
    pin(rank, peers.len());
    let listener = (peers.len() > 1).then_some(listener);
    let (token, secret) = (1, [1; 32]);
    let rendezvous = Rendezvous { rank, peers, listener, token, secret, timeout: PATIENCE, op_timeout: PATIENCE };
    let wire = if way == "bf16" { Wire::Bf16 } else { Wire::Native };
    let streams = streams.parse().map_err(|_| "no streams")?;
    let host_label = label.parse().map_err(|_| "no label")?;
    let encrypt = way == "sealed";
    let tcp_only = encrypt || way == "tcp" || way == "bf16";
    let options = Options { tcp_only, encrypt, wire, streams, host_label, ..Options::default() };
    let comm = connect_with(rendezvous, options).map_err(|error| error.to_string())?;
    let source = if way == "alloc" { Source::Alloc } else { Source::Caller };
    for bytes in bytes.split(',') {
        let bytes: usize = bytes.parse().map_err(|_| "no bytes")?;
        let row = bench_all_reduce_of(&*comm, bytes, seconds, source, DType::F32).map_err(|error| error.to_string())?;
        if rank == 0 {
            let (bytes, median, p10, p90) = (row.bytes, row.median_us, row.p10_us, row.p90_us);
            println!("{bytes},{median:.2},{p10:.2},{p90:.2},{:.3},{:.3}", row.algbw_gbps, row.busbw_gbps);
        }
    }
    Ok(())
}

/// One processor each, where there are enough.
fn pin(rank: u32, ranks: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if ranks <= cpus.len() {
        let mut own = rustix::thread::CpuSet::new();
        own.set(cpus[rank as usize]);
        let _ = rustix::thread::sched_setaffinity(None, &own);
    }
}
