//! The steps of writing a checkpoint: a part by each rank, then by one of them the list of all parts and the name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use types::ContentHash;

use super::{FORMAT, Fence, Listed, MANIFEST, Manifest, STATE, Shard, State};
use crate::error::Error;
use crate::files;

/// More than a list of parts needs.
const LIST_BYTES_MAX: u64 = 1 << 20;

/// Where a checkpoint is being written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    step: u64,
    fence: Fence,
}

/// A checkpoint that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) step: u64,
}

impl Place {
    pub(crate) fn new(folder: &Path, step: u64, fence: &Fence) -> Self {
        Place { folder: folder.to_owned(), step, fence: fence.clone() }
    }

    /// Steps done.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Of this attempt alone, so that two attempts never write into one.
    fn temporary(&self) -> PathBuf {
        self.folder.join(format!(".step-{}.{}.tmp", self.step, self.fence.token()))
    }

    /// Writes one rank's part and its list.
    pub(crate) fn write_shard(&self, rank: u32, shard: &Shard) -> Result<(), Error> {
        let temporary = self.temporary();
        daemon::files::create_private_folder(&temporary).map_err(Error::io("make", &temporary))?;
        let mut files = BTreeMap::new();
        for (name, bytes) in shard.files()? {
            files.insert(name.clone(), listed(&bytes));
            write(&temporary.join(name), &bytes)?;
        }
        let path = temporary.join(list_name(rank));
        daemon::files::write_atomically(&path, &json(&files)?).map_err(Error::io("write", &path))
    }

    /// After all `parts` are written: the state, the list of everything, and the name. Then removes all but the `keep` newest.
    pub(crate) fn publish(&self, state: &State, parts: u32, keep: u64) -> Result<Written, Error> {
        let temporary = self.temporary();
        let mut manifest = Manifest { format: FORMAT, files: BTreeMap::new() };
        for rank in 0..parts {
            let path = temporary.join(list_name(rank));
            let bytes = files::read_bounded(&path, LIST_BYTES_MAX)?;
            let list: BTreeMap<String, Listed> = serde_json::from_slice(&bytes)
                .map_err(|error| Error::io("read", &path)(io::Error::other(error.to_string())))?;
            manifest.files.extend(list);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        let bytes = json(state)?;
        manifest.files.insert(STATE.to_owned(), listed(&bytes));
        write(&temporary.join(STATE), &bytes)?;
        write(&temporary.join(MANIFEST), &json(&manifest)?)?;
        daemon::files::sync_folder(&temporary).map_err(Error::io("flush", &temporary))?;
        // As late as can be: whoever took the folder meanwhile goes before.
        self.fence.check()?;
        let name = format!("step-{}", self.step);
        let whole = self.folder.join(&name);
        // Only a run that was started again from an older one meets a folder of this name.
        remove(&whole)?;
        fs::rename(&temporary, &whole).map_err(Error::io("rename", &temporary))?;
        daemon::files::sync_folder(&self.folder).map_err(Error::io("flush", &self.folder))?;
        for old in older_than_kept(&self.folder, keep)? {
            remove(&old)?;
        }
        Ok(Written { name, step: self.step })
    }

    /// Removes what was written of it.
    pub(crate) fn discard(&self) {
        // What stays is removed at the next start.
        let _ = remove(&self.temporary());
    }
}

fn list_name(rank: u32) -> String {
    format!(".listed-{rank}.json")
}

/// Of what is meant to be in a file, so that a fault on the way to the disk is found out too.
fn listed(bytes: &[u8]) -> Listed {
    Listed { bytes: bytes.len() as u64, sha256: ContentHash(Sha256::digest(bytes).into()) }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let write = |path: &Path| {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write(path).map_err(Error::io("write", path))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::Internal(error.to_string()))
}

pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn older_than_kept(folder: &Path, keep: u64) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    found.truncate(found.len().saturating_sub(keep as usize));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
