//! Tells who asked that something in a folder changed: one inotify instance for all folders, level-triggered.
//!
//! A receiver sees a number rise; what changed it finds out by looking. Changes between two looks are one. Where a folder
//! cannot be watched (the kernel's limit), its number rises ten times a second instead: slower, never wrong.

use rustix::fs::inotify;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

const POLL_EVERY: Duration = Duration::from_millis(100);
const MAILBOX: usize = 256;
const BUFFER_BYTES: usize = 16 * 1024;

enum Message {
    /// Watch this folder from now on.
    Add { folder: PathBuf, reply: oneshot::Sender<watch::Receiver<u64>> },
}

/// Asks the watcher. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    mailbox: mpsc::Sender<Message>,
}

impl Handle {
    /// A number that rises when a file in `folder` is written, made or renamed. Ends with its last receiver.
    pub(crate) async fn folder(&self, folder: &Path) -> Option<watch::Receiver<u64>> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Add { folder: folder.to_owned(), reply }).await.ok()?;
        answer.await.ok()
    }
}

struct Watcher {
    inotify: Option<AsyncFd<Arc<OwnedFd>>>,
    mailbox: mpsc::Receiver<Message>,
    watched: BTreeMap<i32, watch::Sender<u64>>,
    polled: Vec<watch::Sender<u64>>,
}

/// Starts the actor; it ends with the last handle.
pub(crate) fn start() -> (Handle, impl Future<Output = ()> + Send) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let watcher = async move {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let inotify = inotify::init(flags).map_err(std::io::Error::from);
        let inotify = inotify.map(Arc::new).and_then(crate::process::readable);
        let inotify = inotify.map_err(|error| tracing::warn!(%error, "no inotify: folders are polled")).ok();
        Watcher { inotify, mailbox, watched: BTreeMap::new(), polled: Vec::new() }.run().await;
    };
    (Handle { mailbox: sender }, watcher)
}

impl Watcher {
    async fn run(mut self) {
        // Outside the loop: events of other folders must not put it off.
        let mut poll = tokio::time::interval(POLL_EVERY);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.mailbox.recv() => match message {
                    Some(Message::Add { folder, reply }) => drop(reply.send(self.add(&folder))),
                    None => return,
                },
                () = readable(self.inotify.as_ref()) => self.take_events(),
                _ = poll.tick(), if !self.polled.is_empty() => {
                    self.polled.retain(|sender| !sender.is_closed());
                    self.polled.iter().for_each(bump);
                }
            }
        }
    }

    fn add(&mut self, folder: &Path) -> watch::Receiver<u64> {
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let (sender, receiver) = watch::channel(0);
        let added = self.inotify.as_ref().map(|fd| inotify::add_watch(fd.get_ref(), folder, flags));
        match added {
            Some(Ok(id)) => {
                // The same folder again gets the same number: both receivers hear of it.
                if let Some(standing) = self.watched.get(&id).filter(|standing| !standing.is_closed()) {
                    return standing.subscribe();
                }
                self.watched.insert(id, sender);
            }
            Some(Err(error)) => {
                tracing::debug!(folder = %folder.display(), %error, "folder is polled");
                self.polled.push(sender);
            }
            None => self.polled.push(sender),
        }
        receiver
    }

    fn take_events(&mut self) {
        let Some(fd) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut changed = std::collections::BTreeSet::new();
        let mut overflow = false;
        let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
        let mut gone = Vec::new();
        while let Ok(event) = reader.next() {
            overflow |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                gone.push(event.wd());
            }
            changed.insert(event.wd());
        }
        for id in gone {
            self.watched.remove(&id);
        }
        if overflow {
            self.watched.values().for_each(bump);
            return;
        }
        for id in changed {
            let Some(sender) = self.watched.get(&id) else { continue };
            if sender.is_closed() {
                let _ = inotify::remove_watch(fd.get_ref(), id);
                self.watched.remove(&id);
            } else {
                bump(sender);
            }
        }
    }
}

fn bump(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

async fn readable(inotify: Option<&AsyncFd<Arc<OwnedFd>>>) {
    let Some(fd) = inotify else { return std::future::pending().await };
    match fd.readable().await {
        // Everything is read after this, so the next wait is for something new.
        Ok(mut guard) => guard.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_is_heard_of_by_all_who_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (handle, watcher) = start();
        let watcher = tokio::spawn(watcher);
        let mut first = handle.folder(folder.path()).await.unwrap();
        let mut second = handle.folder(folder.path()).await.unwrap();
        std::fs::write(folder.path().join("a"), "x").unwrap();
        first.changed().await.unwrap();
        second.changed().await.unwrap();
        drop(handle);
        watcher.await.unwrap();
    }
}
