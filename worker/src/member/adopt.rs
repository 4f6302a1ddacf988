//! What a daemon finds on disk at its start: members of a former life, ended or still running.

use super::Context;
use crate::layout::{self, Layout};
use std::path::Path;
use types::{MemberEnd, Wish};

/// How a member was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its end was known.
    Ended(MemberEnd),
    /// Its ranks were started; how they are must be looked up.
    Live,
}

/// Every member that the former life left, and removes what was only half prepared. Blocks.
pub(crate) fn find(layout: &Layout) -> std::io::Result<Vec<(Wish, Found)>> {
    let folder = layout.members();
    daemon::files::create_private_folder(&folder)?;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        match read(layout, &path) {
            Some(found) => all.push(found),
            // No supervisor was started before the wish was written.
            None => remove(&path),
        }
    }
    Ok(all)
}

fn read(layout: &Layout, path: &Path) -> Option<(Wish, Found)> {
    let key = layout::member_key(path.file_name()?.to_str()?)?;
    let member = layout.member(key);
    let wish: Wish = postcard::from_bytes(&std::fs::read(member.wish()).ok()?).ok()?;
    if wish.key != key {
        return None;
    }
    let ended = std::fs::read(member.ended()).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok());
    Some((wish, ended.map_or(Found::Live, Found::Ended)))
}

fn remove(path: &Path) {
    if let Err(error) = stores::spool::remove(path) {
        tracing::warn!(folder = %path.display(), %error, "a folder that is no member's cannot be removed");
    }
}

/// Waits until the supervisor of this folder has said who it is, or is gone.
pub(super) async fn supervisor(context: &Context, folder: &Path) -> Option<std::os::fd::OwnedFd> {
    use crate::layout::rank;
    use crate::shim::spec::{ShimRecord, read_record};
    let mut changes = context.watcher.folder(folder).await;
    loop {
        if folder.join(rank::EXIT).exists() {
            return None;
        }
        let (alive, record) = {
            let folder = folder.to_owned();
            let looked = tokio::task::spawn_blocking(move || {
                let record = read_record::<ShimRecord>(&folder.join(rank::SHIM));
                (crate::shim::lives_or_call_off(&folder), record)
            });
            looked.await.unwrap_or((false, None))
        };
        if let Some(process) = record.and_then(|record| record.process.open()) {
            return Some(process);
        }
        if !alive {
            return None;
        }
        // It has begun, but its record is not written yet.
        let heard = async {
            match &mut changes {
                Some(changes) => drop(changes.changed().await),
                None => std::future::pending().await,
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_millis(100), heard).await;
    }
}
