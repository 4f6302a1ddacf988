//! What the disk itself can do: the same bytes written and flushed as often as a majority's stores would, with nothing around it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Written between two flushes, as the coordinators' stores do it at the most.
const FLUSHED_BYTES: usize = 8 << 20;

/// So many bytes, each of so many copies in a file of its own, written at the same time; how long until all are flushed.
pub(super) fn flush(folder: &Path, bytes: u64, copies: usize) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir_in(folder)?;
    let begun = Instant::now();
    let writers: Vec<_> = (0..copies)
        .map(|copy| {
            let path = folder.path().join(copy.to_string());
            std::thread::spawn(move || write(&path, bytes))
        })
        .collect();
    for writer in writers {
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
    }
    Ok(begun.elapsed())
}

fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![b'x'; FLUSHED_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(FLUSHED_BYTES as u64);
        file.write_all(&piece[..now as usize])?;
        file.sync_data()?;
        left -= now;
    }
    Ok(())
}
