//! Groups of ranks inside the test process: threads over loopback, listeners on port 0.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The children of a test are told who they are by variables: nobody else reads them.
#![allow(clippy::disallowed_methods)]

pub mod exact;
pub mod processes;
pub mod standin;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use collectives::{Algorithm, Communicator, Error, Options, Peer, Rendezvous, connect_with};

/// Generous: only an upper bound for a starved machine, never waited for in a passing test.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What each rank of a group of `world` connects with.
pub fn rendezvous(world: usize) -> Vec<Rendezvous> {
    let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let peers: Vec<_> =
        listeners.iter().zip(0..).map(|(listener, rank)| Peer { rank, address: address(listener) }).collect();
    let one = |(listener, rank)| Rendezvous {
        rank,
        peers: peers.clone(),
        listener: (world > 1).then_some(listener),
        token: 7,
        secret: [9; 32],
        timeout: PATIENCE,
        op_timeout: PATIENCE,
    };
    listeners.into_iter().zip(0..).map(one).collect()
}

/// Connects all at once over TCP, one thread each; results in rank order.
pub fn connect_all(all: Vec<Rendezvous>, algorithm: Algorithm) -> Vec<Result<Arc<dyn Communicator>, Error>> {
    connect_all_with(all, Options { algorithm, tcp_only: true, ..Options::default() })
}

/// As [`connect_all`], with any options.
pub fn connect_all_with(all: Vec<Rendezvous>, options: Options) -> Vec<Result<Arc<dyn Communicator>, Error>> {
    let connect = |one| std::thread::spawn(move || connect_with(one, options));
    let threads: Vec<_> = all.into_iter().map(connect).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// A connected group that shares memory.
pub fn sharing(world: usize) -> Vec<Arc<dyn Communicator>> {
    connect_all_with(rendezvous(world), Options::default()).into_iter().map(|one| one.unwrap()).collect()
}

/// A connected group over TCP.
pub fn group(world: usize, algorithm: Algorithm) -> Vec<Arc<dyn Communicator>> {
    connect_all(rendezvous(world), algorithm).into_iter().map(|one| one.unwrap()).collect()
}

/// Runs the same on all ranks at once; results in rank order.
pub fn on_all<R: Send>(group: &[Arc<dyn Communicator>], run: impl Fn(&dyn Communicator) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.iter().map(|one| scope.spawn(|| run(&**one))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
