//! What a daemon finds on disk at its start: members of a former life, ended or still running.

use crate::environment::MARKER;
use crate::layout::{self, Layout, MemberLayout};
use crate::process;
use crate::shim::record;
use std::path::Path;
use std::time::Duration;
use types::{MemberEnd, Wish};

/// A supervisor that was told to kill gets so long.
const END_TRIES: u32 = 500;
const END_PAUSE: Duration = Duration::from_millis(20);

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
    daemon::files::spread_folders(&folder);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        match read(layout, &path) {
            Ok(found) => all.push(found),
            Err(reason) => {
                tracing::warn!(folder = %path.display(), reason, "what was half prepared, or cannot be read, is removed");
                end_all(&path);
                remove(&path);
            }
        }
    }
    Ok(all)
}

/// A supervisor of this machine that the members' records name and that stands in another folder: this one is a copy, and what is done for
/// its members would be done to that one's ranks.
pub(crate) fn supervised_elsewhere(layout: &Layout) -> Option<i32> {
    let members = std::fs::read_dir(layout.members()).into_iter().flatten().flatten();
    let mut ranks = members.flat_map(|member| MemberLayout::ranks(&member.path()));
    ranks.find_map(|rank| record::supervised_elsewhere(&rank))
}

fn read(layout: &Layout, path: &Path) -> Result<(Wish, Found), String> {
    let key = path.file_name().and_then(|name| layout::member_key(name.to_str()?)).ok_or("it names no member")?;
    let member = layout.member(key);
    let bytes = std::fs::read(member.wish()).map_err(|error| error.to_string())?;
    let wish: Wish = postcard::from_bytes(&bytes).map_err(|error| error.to_string())?;
    if wish.key != key {
        return Err("it belongs to another member".into());
    }
    let ended = std::fs::read(member.ended()).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok());
    Ok((wish, ended.map_or(Found::Live, Found::Ended)))
}

/// Ends every rank below a member's folder: nobody will watch over them any more. There are none where the member was only
/// half prepared.
fn end_all(path: &Path) {
    for folder in MemberLayout::ranks(path) {
        for _ in 0..END_TRIES {
            if !record::lives_or_call_off(&folder) {
                break;
            }
            if let Some(supervisor) = record::supervisor(&folder).and_then(|record| record.process.open()) {
                process::signal(&supervisor, crate::shim::KILL);
            }
            let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(END_PAUSE.subsec_nanos()) };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
        process::kill_all(&process::marked(&format!("{MARKER}={}", folder.display())));
    }
}

fn remove(path: &Path) {
    if let Err(error) = stores::spool::remove(path) {
        tracing::warn!(folder = %path.display(), %error, "a folder that is no member's cannot be removed");
    }
}

/// Waits until the supervisor of this folder has said who it is, or is gone.
pub(super) async fn supervisor(folder: &Path) -> Option<std::os::fd::OwnedFd> {
    loop {
        let (alive, record) = {
            let folder = folder.to_owned();
            let looked = tokio::task::spawn_blocking(move || {
                let record = record::supervisor(&folder);
                (record::lives_or_call_off(&folder), record)
            });
            looked.await.unwrap_or((false, None))
        };
        if let Some(process) = record.and_then(|record| record.process.open()) {
            return Some(process);
        }
        if !alive {
            return None;
        }
        // It has begun, but its record is not written yet: a matter of a moment.
        tokio::time::sleep(END_PAUSE).await;
    }
}
