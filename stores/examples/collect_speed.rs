//! How long a look for blobs that nothing names takes: lists of files read, then each blob of the store looked at once.
//!
//! ```sh
//! cargo run --release -p stores --features measure --example collect_speed -- FOLDER 10000 20     # folders, files in each
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};
use stores::blobs::{BlobStore, Terms};
use stores::trees;
use types::{ContentHash, FileKind, Tree, TreeEntry};

/// Blobs that are stored together.
const BATCH: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: collect_speed FOLDER TREES FILES";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, folders, files] = arguments.as_slice() else { return Err(usage.into()) };
    let (folders, files): (usize, usize) = (folders.parse()?, files.parse()?);
    let store = BlobStore::open(&PathBuf::from(folder))?;
    let (begun, mut lists) = (Instant::now(), Vec::new());
    for number in 0..folders {
        lists.push(one(&store, number, files)?);
    }
    println!("{folders} folders of {files} files were stored in {:.1} s", begun.elapsed().as_secs_f64());
    for round in ["first", "second"] {
        let begun = Instant::now();
        let mut named = lists.clone();
        for list in &lists {
            named.extend(trees::load(&store, list)?.unwrap_or_default().entries().iter().map(|entry| entry.hash));
        }
        named.sort_unstable();
        let read = begun.elapsed();
        let terms = Terms { read, grace: Duration::from_hours(1) };
        let collected = store.collect(&|hash| named.binary_search(hash).is_ok(), &|| begun.elapsed(), terms)?;
        let all = begun.elapsed();
        println!(
            "{round}: lists read in {:.2} s, {} blobs looked at in {:.2} s",
            read.as_secs_f64(),
            collected.seen,
            all.saturating_sub(read).as_secs_f64()
        );
    }
    Ok(())
}

/// A folder of small files that no other has.
fn one(store: &BlobStore, number: usize, files: usize) -> Result<ContentHash, Box<dyn std::error::Error>> {
    let (mut entries, mut blobs) = (Vec::new(), Vec::new());
    for file in 0..files {
        let text = format!("file {file} of folder {number}");
        let blob = store.import(&mut text.as_bytes(), 1 << 10)?;
        let path = format!("part/file-{file}");
        entries.push(TreeEntry { path, kind: FileKind::File, bytes: blob.bytes(), hash: blob.hash() });
        blobs.push(blob);
        if blobs.len() >= BATCH {
            store.commit(std::mem::take(&mut blobs))?;
        }
    }
    store.commit(blobs)?;
    Ok(trees::store_tree(store, &Tree::new(entries)?)?)
}
