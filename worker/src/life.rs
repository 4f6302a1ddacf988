//! Which life of which data directory this daemon is, and which cluster it belongs to: two small files, kept for good.

use crate::error::Error;
use crate::layout::Layout;
use crate::process;
use daemon::files::write_atomically;
use std::io;
use std::path::Path;
use types::{ClusterId, WorkerInstance};

/// The identity of this data directory; made at the first start.
pub(crate) fn instance(layout: &Layout) -> Result<WorkerInstance, Error> {
    let path = layout.instance();
    if let Some(text) = read(&path)? {
        let number = text.trim().parse().map_err(|_| damaged(&path, "it holds no number"))?;
        return Ok(WorkerInstance(number));
    }
    let made = daemon::random::worker_instance().map_err(Error::io("make an identity"))?;
    write_atomically(&path, format!("{made}\n").as_bytes()).map_err(Error::io(format!("write {}", path.display())))?;
    Ok(made)
}

/// The cluster that this data directory belongs to; none before the first contact.
pub(crate) fn cluster(layout: &Layout) -> Result<Option<ClusterId>, Error> {
    let path = layout.cluster();
    let Some(text) = read(&path)? else { return Ok(None) };
    let id = parse_hex(text.trim()).ok_or_else(|| damaged(&path, "it holds no cluster id"))?;
    Ok(Some(ClusterId(id)))
}

/// Remembers the cluster of the first contact. Blocks for a flush.
pub(crate) fn join(layout: &Layout, cluster: ClusterId) -> Result<(), Error> {
    let path = layout.cluster();
    write_atomically(&path, format!("{cluster}\n").as_bytes()).map_err(Error::io(format!("write {}", path.display())))
}

/// True when the machine was started anew since this daemon last began here. Blocks for a flush, once a boot.
pub(crate) fn machine_restarted(layout: &Layout) -> Result<bool, Error> {
    let path = layout.boot();
    let now = process::boot_number().map_err(Error::io("tell this boot from others"))?.to_string();
    let before = read(&path)?;
    if before.as_deref() == Some(now.as_str()) {
        return Ok(false);
    }
    write_atomically(&path, now.as_bytes()).map_err(Error::io(format!("write {}", path.display())))?;
    Ok(before.is_some())
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error)),
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged { path: path.display().to_string(), reason: reason.to_owned() }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let first = instance(&layout).unwrap();
        assert_ne!(first.0, 0);
        assert_eq!(instance(&layout).unwrap(), first);
        std::fs::write(layout.instance(), "x").unwrap();
        assert!(matches!(instance(&layout), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_start_of_the_machine_is_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert!(!machine_restarted(&layout).unwrap(), "there was no life before");
        std::fs::write(layout.boot(), "1").unwrap();
        assert!(machine_restarted(&layout).unwrap());
        assert!(!machine_restarted(&layout).unwrap());
    }

    #[test]
    fn the_cluster_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        assert_eq!(cluster(&layout).unwrap(), None);
        let id = ClusterId([0xa7; 16]);
        join(&layout, id).unwrap();
        assert_eq!(cluster(&layout).unwrap(), Some(id));
        std::fs::write(layout.cluster(), "zz").unwrap();
        assert!(matches!(cluster(&layout), Err(Error::Damaged { .. })));
    }
}
