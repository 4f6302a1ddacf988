//! How much of the disk a member holds, for the operator's bound: looked at now and then, for the kernel keeps no such count by folder.
//!
//! A bound for accidents: a file that was removed while it is open is not seen, nor what a rank writes outside its folders.

use crate::layout::MemberLayout;
use crate::owner::Owner;
use crate::shim::places::Places;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Folders of many files are looked at seldom enough that it costs a twentieth of a processor at most.
const SHARE: u32 = 20;

/// Looks at one member.
pub(super) struct Disk {
    /// Bytes; 0 = it may hold all there is.
    max: u64,
    folders: Vec<PathBuf>,
    owner: Option<Owner>,
    next: Instant,
    look: Option<JoinHandle<(u64, Duration)>>,
}

impl Disk {
    /// With what its ranks have in a place of their own outside its folder.
    pub(super) fn new(max: u64, layout: &MemberLayout, places: Option<&Places>) -> Self {
        let outside = places.map(|places| places.shm().to_owned());
        let folders = layout.given_to_ranks().into_iter().chain(outside).collect();
        Self { max, folders, owner: Owner::of(layout), next: Instant::now() + LOOK_EVERY, look: None }
    }

    /// Waits until it holds more than it may: why it is to end. May be dropped and called again.
    pub(super) async fn is_over(&mut self) -> String {
        if self.max == 0 {
            return std::future::pending().await;
        }
        loop {
            if self.look.is_none() {
                tokio::time::sleep_until(self.next).await;
            }
            let (folders, owner) = (&self.folders, self.owner);
            let look = self.look.get_or_insert_with(|| {
                let folders = folders.clone();
                tokio::task::spawn_blocking(move || {
                    let begun = std::time::Instant::now();
                    let held = Owner::act(owner, || Ok(held(folders)));
                    (held.unwrap_or_default(), begun.elapsed())
                })
            });
            let (held, took) = look.await.unwrap_or_default();
            self.look = None;
            self.next = Instant::now() + LOOK_EVERY.max(took * SHARE);
            if held > self.max {
                // Said once.
                let max = std::mem::take(&mut self.max);
                return format!(
                    "the job's files here took {held} bytes of at most {max} (--job-disk-bytes-max of the worker)"
                );
            }
        }
    }
}

/// Bytes on disk of all that is below these folders; a file with several names counts once, and links are not followed. What cannot be
/// read counts as nothing.
fn held(mut folders: Vec<PathBuf>) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            }
            if about.is_dir() || about.nlink() < 2 || seen.insert((about.dev(), about.ino())) {
                bytes += about.blocks() * 512;
            }
        }
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_the_disk_counts_once_and_links_are_not_followed() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let all = || held(vec![folder.path().to_owned(), folder.path().join("not there")]);
        assert_eq!(all(), 0);
        let deep = folder.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        let empty = all();
        std::fs::write(deep.join("file"), vec![1; 1 << 20]).unwrap();
        let full = all();
        assert!(full >= empty + (1 << 20) && full < empty + (2 << 20), "{empty} {full}");
        std::fs::hard_link(deep.join("file"), folder.path().join("again")).unwrap();
        // Of which nothing is on the disk.
        std::fs::File::create(deep.join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(elsewhere.path().join("large"), vec![1; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), deep.join("link")).unwrap();
        assert!(all() < full + 100_000, "{full} {}", all());
    }
}
