//! Which way a sum goes, by ranks, bytes and transport: a pure function over costs, so that a choice can be looked at
//! without running it.

use std::fmt;
use std::time::Duration;

use crate::shm::exchange::{LINE_BYTES, LINE_RANKS_MAX};
use crate::shm::{HOSTS_BYTES_MIN, RANKS_MAX, SLOT_BYTES, WINDOW_BYTES};
use crate::tcp::{DIRECT_RANKS_MAX, SMALL_BYTES_MAX};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Sockets, within a host or between hosts.
    Tcp,
    /// Memory that all ranks of one host map.
    SharedMemory,
    /// NVIDIA's library, between devices.
    Nccl,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::SharedMemory => "shm",
            Transport::Nccl => "nccl",
        })
    }
}

/// How an all-reduce is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shared memory: the payload lies beside the flag, everybody folds all.
    Line,
    /// Shared memory: one slot per rank, everybody folds all.
    Slots,
    /// Shared memory: each rank folds its part, chunk by chunk; in place for buffers of `alloc`.
    Staged,
    /// TCP: everybody sends all to everybody.
    Flat,
    /// TCP: reduce-scatter and all-gather, everybody with everybody.
    Pairwise,
    /// TCP: down a chain and round, two neighbours only.
    Ring,
    /// Shared memory in each host, and a chain over the hosts for each rank's part.
    Hosts,
    /// Whatever NCCL chooses.
    Nccl,
}

impl Method {
    /// All methods, in code order.
    pub(crate) const ALL: [Method; 8] = [
        Method::Line,
        Method::Slots,
        Method::Staged,
        Method::Flat,
        Method::Pairwise,
        Method::Ring,
        Method::Hosts,
        Method::Nccl,
    ];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Line => "line",
            Method::Slots => "slots",
            Method::Staged => "staged",
            Method::Flat => "flat",
            Method::Pairwise => "pairwise",
            Method::Ring => "ring",
            Method::Hosts => "hosts",
            Method::Nccl => "nccl",
        })
    }
}

/// A choice, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is done.
    pub method: Method,
    /// Waits for others, one after another.
    pub steps: u64,
    /// Bytes that the busiest rank sends, or copies and reads.
    pub bytes: u64,
    /// What the model says it takes.
    pub estimate: Duration,
}

/// Costs of one way: after medians of three runs of `examples/all_reduce` with two ranks, a processor each, 250 to 270 ns apart. Up
/// to 1 MiB the estimates are within a third of these; large sums take up to twice as long, and more ranks than processors far
/// longer.
struct Cost {
    step_ns: u64,
    /// Per message or slot of another rank.
    message_ns: u64,
    /// 1,024 bytes.
    kib_ns: u64,
}

const SHARED: Cost = Cost { step_ns: 900, message_ns: 60, kib_ns: 100 };
const SOCKETS: Cost = Cost { step_ns: 10_000, message_ns: 3_000, kib_ns: 600 };

fn priced(cost: &Cost, method: Method, steps: u64, messages: u64, bytes: u64) -> Choice {
    let nanoseconds = steps * cost.step_ns + messages * cost.message_ns + bytes * cost.kib_ns / 1024;
    Choice { method, steps, bytes, estimate: Duration::from_nanos(nanoseconds) }
}

/// How sums go over TCP unless [`crate::Options`] names an algorithm.
pub(crate) fn over_tcp(world: u64, bytes: u64) -> Method {
    // Between two ranks both other ways send as many bytes, and this one in one step.
    if world <= 2 || bytes <= SMALL_BYTES_MAX as u64 {
        Method::Flat
    } else if world <= DIRECT_RANKS_MAX as u64 {
        Method::Pairwise
    } else {
        // So many senders at once would overflow the switch's queue to one receiver.
        Method::Ring
    }
}

/// Whether sums of 32-bit elements and more go on two levels where each of several hosts has `each` ranks.
pub(crate) fn on_two_levels(each: u64, bytes: u64) -> bool {
    (2..=u64::from(RANKS_MAX)).contains(&each) && bytes >= HOSTS_BYTES_MIN as u64
}

/// As [`plan`], for ranks that are spread evenly over hosts, neighbours in rank order on each; with what carries the bytes between
/// the hosts, or within the only one.
pub fn plan_on_hosts(world: u32, hosts: u32, bytes: u64) -> (Transport, Choice) {
    if hosts <= 1 && world <= RANKS_MAX {
        return (Transport::SharedMemory, plan(world, bytes, Transport::SharedMemory));
    }
    let each = if hosts > 1 && world.is_multiple_of(hosts) { u64::from(world / hosts) } else { 1 };
    if !on_two_levels(each, bytes) {
        return (Transport::Tcp, plan(world, bytes, Transport::Tcp));
    }
    // Down the chain and round for each window; of its host's 2 S a rank sends its part, over the same link as the others.
    let windows = bytes.div_ceil(WINDOW_BYTES as u64);
    let chain = priced(&SOCKETS, Method::Hosts, 2 * windows * (u64::from(hosts) - 1), 2 * windows, 2 * bytes);
    let within = priced(&SHARED, Method::Hosts, 3 * windows, 3 * (each - 1), 4 * bytes);
    let (steps, moved) = (chain.steps + within.steps, 2 * bytes / each + 2 * bytes);
    let choice = Choice { method: Method::Hosts, steps, bytes: moved, estimate: chain.estimate + within.estimate };
    (Transport::Tcp, choice)
}

/// The way to sum `bytes` over `world` ranks, and what it takes. The transports choose by it.
pub fn plan(world: u32, bytes: u64, transport: Transport) -> Choice {
    let others = u64::from(world.max(1)) - 1;
    let world = u64::from(world.max(1));
    let parts = bytes * others / world;
    match transport {
        Transport::SharedMemory => {
            // One copy in and a read of all, against a copy in, a fold, a copy to the result and a copy out.
            let slots = priced(&SHARED, Method::Slots, 1, others, bytes * world);
            let staged = priced(&SHARED, Method::Staged, 2, 2 * others, 2 * parts + 2 * bytes / world);
            if bytes <= LINE_BYTES as u64 && world <= LINE_RANKS_MAX as u64 {
                priced(&SHARED, Method::Line, 1, others, 0)
            } else if bytes <= SLOT_BYTES as u64 && slots.estimate <= staged.estimate {
                slots
            } else {
                staged
            }
        }
        Transport::Tcp => match over_tcp(world, bytes) {
            Method::Flat => priced(&SOCKETS, Method::Flat, 1, others, bytes * others),
            Method::Ring => priced(&SOCKETS, Method::Ring, 2 * others, 2, 2 * bytes),
            method => priced(&SOCKETS, method, 2, 2 * others, 2 * parts),
        },
        // It does not tell how; these are the bytes that any way needs.
        Transport::Nccl => priced(&Cost { step_ns: 0, message_ns: 0, kib_ns: 0 }, Method::Nccl, 0, 0, 2 * parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(world: u32, bytes: u64, transport: Transport) -> Method {
        plan(world, bytes, transport).method
    }

    #[test]
    fn small_sums_take_few_steps_and_large_ones_few_bytes() {
        for world in [2, 3, 8, 16] {
            assert_eq!(method(world, 4, Transport::SharedMemory), Method::Line);
            assert_eq!(method(world, 1 << 20, Transport::SharedMemory), Method::Staged);
            assert_eq!(method(world, 4, Transport::Tcp), Method::Flat);
            let large = if world == 2 { Method::Flat } else { Method::Pairwise };
            assert_eq!(method(world, 1 << 20, Transport::Tcp), large);
        }
        assert_eq!(method(2, 1024, Transport::SharedMemory), Method::Slots);
        assert_eq!(method(17, 1 << 20, Transport::Tcp), Method::Ring);
        assert_eq!(method(17, 4, Transport::SharedMemory), Method::Slots);
    }

    #[test]
    fn several_ranks_on_each_of_several_hosts_sum_on_two_levels() {
        let way = |world, hosts, bytes| {
            let (transport, choice) = plan_on_hosts(world, hosts, bytes);
            (transport, choice.method)
        };
        assert_eq!(way(8, 1, 1 << 20), (Transport::SharedMemory, Method::Staged));
        assert_eq!(way(65, 1, 1 << 20), (Transport::Tcp, Method::Ring));
        assert_eq!(way(8, 2, 1 << 20), (Transport::Tcp, Method::Hosts));
        assert_eq!(way(8, 2, 1 << 10), (Transport::Tcp, Method::Flat));
        assert_eq!(way(8, 8, 1 << 20), (Transport::Tcp, Method::Pairwise));
        assert_eq!(way(9, 2, 1 << 20), (Transport::Tcp, Method::Pairwise), "not as many on each");
        let large = plan_on_hosts(32, 8, 64 << 20).1;
        assert!(large.estimate > plan_on_hosts(32, 8, 1 << 20).1.estimate, "{large:?}");
        assert_eq!(large.steps, 8 * (2 * 7 + 3));
    }

    #[test]
    fn more_bytes_never_go_back_to_a_way_for_fewer() {
        for transport in [Transport::Tcp, Transport::SharedMemory] {
            for world in 1..40 {
                let methods: Vec<_> = (0..28).map(|power| method(world, 1 << power, transport)).collect();
                let changes = methods.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(changes <= 2, "{world} {methods:?}");
            }
        }
    }

    #[test]
    fn every_way_holds_what_it_is_chosen_for() {
        for world in 1..70 {
            for bytes in [0, 47, 48, 49, 1 << 10, 1 << 15, (1 << 15) + 1, 1 << 30] {
                match method(world, bytes, Transport::SharedMemory) {
                    Method::Line => assert!(bytes <= LINE_BYTES as u64 && world <= LINE_RANKS_MAX as u32),
                    Method::Slots => assert!(bytes <= SLOT_BYTES as u64),
                    other => assert_eq!(other, Method::Staged),
                }
            }
        }
    }
}
