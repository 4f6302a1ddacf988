//! How far apart the first two processors are at the moment: on a virtual machine that changes within seconds, and with
//! it every figure below a megabyte.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const TURNS: u32 = 5_000;

/// One way of a cache line, in nanoseconds: the fastest tenth.
pub(super) fn nanoseconds() -> u128 {
    let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            for turn in 1..=TURNS {
                wait_for(&there, turn);
                back.store(turn, Ordering::Release);
            }
        });
        // A thread of its own: the caller's may go where it likes afterwards.
        let timing = scope.spawn(|| {
            pin(0);
            let mut times: Vec<Duration> = (1..=TURNS)
                .map(|turn| {
                    let since = Instant::now();
                    there.store(turn, Ordering::Release);
                    wait_for(&back, turn);
                    since.elapsed() / 2
                })
                .collect();
            times.sort_unstable();
            times[times.len() / 10].as_nanos()
        });
        timing.join().unwrap_or_default()
    })
}

fn wait_for(flag: &AtomicU32, turn: u32) {
    let mut spins = 0u32;
    while flag.load(Ordering::Acquire) < turn {
        std::hint::spin_loop();
        spins += 1;
        // On a machine with one processor the other thread would never come to run.
        if spins.is_multiple_of(10_000) {
            std::thread::yield_now();
        }
    }
}

fn pin(place: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    if let Some(cpu) = cpus.nth(place) {
        let mut own = rustix::thread::CpuSet::new();
        own.set(cpu);
        let _ = rustix::thread::sched_setaffinity(None, &own);
    }
}
