//! One collector: where it is, what proves to it who sends, and what it says to a batch.

use bytes::Bytes;
use identity::https::{PostFault, Poster, parse_headers};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// After each try that failed and may be repeated; then the batch is dropped.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// See the module.
pub(super) struct Collector {
    /// What it is, in metrics and logs.
    pub(super) name: &'static str,
    pub(super) url: String,
    headers: Option<PathBuf>,
    poster: Option<Poster>,
}

/// The header fields in a file of its user's own.
pub(super) fn headers(file: &Path) -> Result<http::HeaderMap, String> {
    let bytes = daemon::files::read_secret(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: it is no text", file.display()))?;
    parse_headers(&text).map_err(|faults| format!("{}: {}", file.display(), faults.join("; ")))
}

impl Collector {
    /// Nothing is read or sent yet.
    pub(super) fn new(name: &'static str, url: String, headers: Option<PathBuf>) -> Self {
        Self { name, url, headers, poster: None }
    }

    /// Sends this, some times if need be. What proves us is read again after a refusal: it may have been renewed.
    pub(super) async fn send(&mut self, kind: &'static str, body: Bytes) -> Result<(), String> {
        let poster = match self.poster.take() {
            Some(poster) => poster,
            None => self.connect().await?,
        };
        let mut pauses = PAUSES.into_iter();
        loop {
            match (poster.post(kind, body.clone()).await, pauses.next()) {
                (Ok(()), _) => break,
                (Err(PostFault::Later(_)), Some(pause)) => tokio::time::sleep(pause).await,
                (Err(PostFault::Later(why) | PostFault::Refused(why)), _) => return Err(why),
            }
        }
        self.poster = Some(poster);
        Ok(())
    }

    async fn connect(&self) -> Result<Poster, String> {
        let file = self.headers.clone();
        let read = move || file.as_deref().map_or_else(|| Ok(http::HeaderMap::new()), headers);
        let headers = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
        Poster::new(&self.url, headers).await
    }
}
