//! How fast streams are appended and read: the store alone, through its flusher, without network or Raft.
//!
//! `cargo run --release -p stores --features measure --example stream_speed -- FOLDER`: one line for each number of streams and size of an append.
#![allow(clippy::unwrap_used)] // a program for measuring: what fails ends it

use bytes::Bytes;
use std::path::Path;
use std::time::Instant;
use stores::streams::{Flusher, FlusherOptions, StreamLimits, StreamName, StreamStore};
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Token};

/// Appends of one stream on their way, as a worker has them.
const IN_FLIGHT: usize = 16;
/// Of one read, as a follower takes it.
const READ_BYTES: usize = 256 << 10;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = std::env::args().nth(1).unwrap();
    for (streams, append, total) in
        [(1, 256 << 10, 512 << 20), (8, 64 << 10, 512 << 20), (64, 4_096, 64 << 20), (8, 100, 4 << 20)]
    {
        let place = Path::new(&folder).join(format!("{streams}-{append}"));
        let store = StreamStore::open(&place, StreamLimits::default()).unwrap();
        let bytes = total / streams as usize / append * append;
        let begun = Instant::now();
        write(&store, streams, append, bytes).await;
        let written = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        for rank in 0..streams {
            read(&store, rank, bytes);
        }
        let megabytes = (bytes * streams as usize) as f64 / 1e6;
        println!(
            "{streams} streams, appends of {append} bytes: appended {:.1} MB/s, read {:.1} MB/s",
            megabytes / written,
            megabytes / begun.elapsed().as_secs_f64()
        );
        drop(store);
        std::fs::remove_dir_all(&place).unwrap();
    }
}

fn name(rank: u32) -> StreamName {
    StreamName { job: JobId(1), attempt: AttemptNumber(1), rank: RankIndex(rank), kind: StreamKind::Stdout }
}

async fn write(store: &StreamStore, streams: u32, append: usize, bytes: usize) {
    let (flusher, thread) = Flusher::start(store.clone(), FlusherOptions::default()).unwrap();
    let data = Bytes::from((0..append).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>());
    let writers: Vec<_> = (0..streams)
        .map(|rank| {
            let (flusher, data) = (flusher.clone(), data.clone());
            tokio::spawn(async move {
                let mut waiting = std::collections::VecDeque::new();
                for offset in (0..bytes as u64).step_by(append) {
                    let queued = flusher.queue_append(name(rank), Token(1), offset, data.clone()).await.unwrap();
                    waiting.push_back(queued);
                    if waiting.len() >= IN_FLIGHT {
                        waiting.pop_front().unwrap().await.unwrap().unwrap();
                    }
                }
                for queued in waiting {
                    queued.await.unwrap().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    drop(flusher);
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
}

fn read(store: &StreamStore, rank: u32, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        let data = store.read(&name(rank), at as u64, READ_BYTES).unwrap();
        assert!(!data.is_empty(), "a stream is too short");
        at += data.len();
    }
}
