//! Blobs into a shared folder and back; what is damaged stays here.

#![allow(clippy::unwrap_used)]

use super::*;
use stores::blobs::hash_of;

async fn shared(folder: &std::path::Path) -> Archive {
    let (store, prefix) = place::open(&format!("file://{}", folder.display()), None).await.unwrap();
    Archive { store, prefix }
}

async fn fetched(archive: &Archive, place: &Workspace, hash: &ContentHash) -> Option<Vec<u8>> {
    let fetched = archive.get(place, hash).await.unwrap()?;
    let pieces: Vec<Bytes> = fetched.pieces.try_collect().await.unwrap();
    let bytes = pieces.concat();
    assert_eq!(bytes.len() as u64, fetched.bytes_total);
    Some(bytes)
}

#[tokio::test]
async fn blobs_come_back_as_they_were_whatever_their_size_and_of_their_workspace_alone() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (blobs, archive) = (BlobStore::open(folder.path()).unwrap(), shared(outside.path()).await);
    let (vision, speech) = (Workspace::new("vision").unwrap(), Workspace::new("speech").unwrap());
    for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 7] {
        let content: Vec<u8> = (0..bytes).map(|n| (n * 31 % 251) as u8).collect();
        let hash = blobs.put_bytes(&content).unwrap();
        assert_eq!(archive.bytes_of(&vision, &hash).await.unwrap(), None);
        assert_eq!(archive.put(&vision, blobs.clone(), hash).await.unwrap(), bytes);
        assert_eq!(archive.bytes_of(&vision, &hash).await.unwrap(), Some(bytes));
        assert_eq!(fetched(&archive, &vision, &hash).await, Some(content));
        assert_eq!(fetched(&archive, &speech, &hash).await, None);
    }
}

#[tokio::test]
async fn what_is_damaged_here_does_not_get_there() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (blobs, archive) = (BlobStore::open(folder.path()).unwrap(), shared(outside.path()).await);
    for bytes in [100, PART_BYTES as usize + 100] {
        let content = vec![7; bytes];
        let hash = blobs.put_bytes(&content).unwrap();
        let text = hash.to_string();
        let mut damaged = content;
        damaged[50] ^= 1;
        std::fs::write(folder.path().join(&text[..2]).join(&text[2..]), &damaged).unwrap();
        assert!(archive.put(&Workspace::default(), blobs.clone(), hash).await.is_err());
        assert_eq!(archive.bytes_of(&Workspace::default(), &hash).await.unwrap(), None);
    }
    let missing = hash_of(b"never stored");
    assert!(archive.put(&Workspace::default(), blobs, missing).await.unwrap_err().contains("removed meanwhile"));
}
