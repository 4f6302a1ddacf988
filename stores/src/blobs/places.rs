//! Places: stores within a store, each with blobs of its own, so that who may look at one learns nothing of the others.

use super::{BlobError, BlobStore};
use crate::disk::At;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Before the name of a place's folder: no shelf begins so.
const MARK: char = '@';

/// Those that were opened.
pub(super) type Places = Mutex<BTreeMap<String, BlobStore>>;

impl BlobStore {
    /// The store of a place, made when it is first asked for; none = this one. A name is a folder's: 1 to 63 letters, digits, `.`, `_` or
    /// `-`, a letter or digit first.
    pub fn of(&self, place: Option<&str>) -> Result<BlobStore, BlobError> {
        let Some(place) = place else { return Ok(self.clone()) };
        if !is_place(place) {
            return Err(BlobError::Place(place.to_owned()));
        }
        let mut places = self.inner.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(place) {
            return Ok(known.clone());
        }
        let folder = self.inner.root.join(format!("{MARK}{place}"));
        let store = BlobStore::open_with(&folder, self.inner.options)?;
        places.insert(place.to_owned(), store.clone());
        Ok(store)
    }

    /// Places that have a folder on the disk, by name.
    pub fn places(&self) -> Result<Vec<String>, BlobError> {
        let root = &self.inner.root;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(root).at("list", root)? {
            let name = entry.at("list", root)?.file_name();
            let place = name.to_str().and_then(|name| name.strip_prefix(MARK));
            found.extend(place.filter(|place| is_place(place)).map(str::to_owned));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Forgets a place that has no blobs: its folder goes. False when it has some, or is not there.
    pub fn remove_place(&self, place: &str) -> Result<bool, BlobError> {
        let store = self.of(Some(place))?;
        if !store.list(None, 1)?.is_empty() {
            return Ok(false);
        }
        let mut places = self.inner.places.lock().unwrap_or_else(PoisonError::into_inner);
        // Only when nobody else holds it: a put under way has its folder.
        let is_ours = std::sync::Arc::strong_count(&store.inner) == 2;
        if !is_ours {
            return Ok(false);
        }
        places.remove(place);
        match std::fs::remove_dir_all(&store.inner.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &store.inner.root)?,
            _ => Ok(true),
        }
    }
}

fn is_place(name: &str) -> bool {
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    starts_well && name.len() <= 63 && name.bytes().all(is_plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_one_place_has_is_not_in_another() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let vision = store.of(Some("vision")).unwrap();
        let hash = vision.put_bytes(b"weights").unwrap();
        assert!(vision.contains(&hash) && store.of(Some("vision")).unwrap().contains(&hash));
        assert!(!store.contains(&hash) && !store.of(Some("speech")).unwrap().contains(&hash));
        store.put_bytes(b"other").unwrap();
        assert_eq!(vision.list(None, 10).unwrap(), [hash]);
        assert_eq!(store.list(None, 10).unwrap().len(), 1);
        assert_eq!(store.places().unwrap(), ["speech", "vision"]);
    }

    #[test]
    fn places_are_there_after_a_restart_and_go_when_they_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        let hash = store.of(Some("vision")).unwrap().put_bytes(b"weights").unwrap();
        store.of(Some("empty")).unwrap();
        drop(store);
        let store = BlobStore::open(folder.path()).unwrap();
        assert!(store.of(Some("vision")).unwrap().contains(&hash));
        assert!(store.remove_place("empty").unwrap() && !store.remove_place("vision").unwrap());
        let held = store.of(Some("held")).unwrap();
        assert!(!store.remove_place("held").unwrap(), "who writes to it would lose its folder");
        drop(held);
        assert!(store.remove_place("held").unwrap());
        assert_eq!(store.places().unwrap(), ["vision"]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path()).unwrap();
        for bad in ["", "..", ".", "a/b", "/etc", "-a", "a b", "a\0", &"a".repeat(64)] {
            assert!(matches!(store.of(Some(bad)), Err(BlobError::Place(_))), "{bad:?}");
        }
        assert_eq!(store.places().unwrap(), [""; 0]);
    }
}
