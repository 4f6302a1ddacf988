//! Rank to rank: the communicator that data-parallel training sums its gradients with, and nothing about jobs or
//! scheduling.
//!
//! The calling thread does the work: no runtime, no hidden threads (except in [`Pipeline`], and the watchdog of
//! [`nccl`]).
//!
//! | S bytes, n ranks | algorithm | latency steps | bytes sent per rank |
//! |---|---|---|---|
//! | all-reduce, up to 32 KiB | everybody sends all to everybody, each sums by itself | 1 | S (n-1) |
//! | all-reduce, 2 ranks | each sends all to the other, chunk by chunk, and sums by itself | 1 | S |
//! | all-reduce, up to 16 ranks | pairwise reduce-scatter and all-gather, chunk by chunk | 2 | 2 S (n-1)/n |
//! | all-reduce, above 16 ranks | chain down and round, chunk by chunk | 2 (n-1) | 2 S |
//! | reduce-scatter | pairwise, each rank sums its part | 1 | S (n-1)/n |
//! | all-gather, S together | pairwise | 1 | S (n-1)/n |
//! | broadcast | the root sends to everybody | 1 | S (n-1) by the root |
//! | barrier | everybody greets everybody | 1 | 64 (n-1) |
//!
//! That is TCP; ranks that turn out to be all on one host go through shared memory instead, with the same results
//! ([`plan()`] says which way a sum goes, `docs/collectives.md` why).
//!
//! Each operation adds 64 bytes per partner. 16-bit floats go pairwise at any number of ranks: a chain would round their
//! sums at every rank. Sources: R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication
//! Operations in MPICH", 2005 (pairwise exchange); P. Patarasuk, X. Yuan, "Bandwidth Optimal All-reduce
//! Algorithms for Clusters of Workstations", 2009 (the bound 2 S (n-1)/n, and the ring that the chain is made from).
//!
//! Trust: a connection proves that its other end knows the attempt's secret before it carries anything. What follows is
//! encrypted where a rank asks for it ([`Options::encrypt`]); otherwise it is neither encrypted nor signed, and data addresses belong in
//! a network that strangers can neither read nor write.
//!
//! Promises, each with tests that carry its number (`cargo test -p collectives coll_4`):
//! - **COLL-1** Every rank ends an `all_reduce` with the same bits.
//! - **COLL-2** These bits are those of the serial loop over the ranks in rank order, for every backend algorithm,
//!   chunk size and timing; 16-bit floats are summed in `f32` and rounded once. (NCCL chooses its own order.)
//! - **COLL-3** A frame or a connection of another fencing token, or of one who does not know the secret, is refused;
//!   it never takes the place of the right one.
//! - **COLL-4** A rank that dies ends the operation of all others within a second, and all name the same culprit.
//! - **COLL-5** Ranks that call different operations get [`Error::Mismatch`], not a hang and not wrong sums. (Over
//!   NCCL, which does not compare calls, they are compared once one has waited for half a second.)
//! - **COLL-6** After the first error a communicator answers every call with [`Error::Aborted`] at once.
//! - **COLL-7** Where it encrypts, who listens on the way reads nothing of what ranks send, also with the secret and later, and who
//!   changes, leaves out or repeats something ends the group; results are the same bits.
//!
//! ```text
//! connect ── rendezvous: dial lower ranks, accept higher ones, challenge both ways; control and data sockets per pair
//!    └─ tcp::Communicator ── engine: one poll loop ── transfer: direct | pairwise | ring   (what to send and receive)
//!                         └─ control: abort and goodbye frames, eventfd, the first cause
//!    └─ all on one host: shm::Communicator ── group: flags and waits ── exchange: who copies and folds what
//!                         └─ the tcp::Communicator above, for control
//! ```

#[cfg(target_endian = "big")]
compile_error!("elements cross the wire in the machine's byte order, which must be little endian");

mod bench;
mod buffer;
mod communicator;
mod error;
pub mod fuzzed;
mod local;
pub mod nccl;
mod pipeline;
mod plan;
mod recorder;
mod reduce;
mod shared;
mod shm;
mod stall;
mod tcp;
mod ticks;

pub use bench::{BenchRow, Source, bench_all_reduce, bench_all_reduce_of};
pub use buffer::{Buf, BufMut, DType, Element, Op};
pub use communicator::{Algorithm, Communicator, Options, Peer, Rendezvous, Wire, connect, connect_with};
pub use error::Error;
pub use pipeline::{Handle, Memory, Part, Pipeline};
pub use plan::{Choice, Method, Transport, plan, plan_on_hosts};
pub use recorder::{Entry, State};
pub use shared::CommBuf;
pub use stall::{Behind, Stall, Tell};
pub use tcp::tunnel;
