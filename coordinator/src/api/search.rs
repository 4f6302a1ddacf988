//! Searches what a reader follows: only lines that match go out, in time that is linear in what is read.
//!
//! ```text
//!  follow ─> pieces ─> cut into lines ─> match ─> lines that do; else, now and then, how far it is
//! ```
//!
//! The bytes come as for any reader, a piece at a time, and no more than [`AT_ONCE_MAX`] pieces are matched at a time however
//! many search: a long stream takes long, and takes nothing from anybody else. A line is searched in parts of
//! [`LINE_BYTES_MAX`], so that one that never ends fills no memory.

use super::follow::Piece;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use regex::bytes::{Regex, RegexBuilder};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use stores::streams::StreamName;
use tokio::sync::Semaphore;
use tonic::Status;

/// Pieces that are matched at the same time on this coordinator.
const AT_ONCE_MAX: usize = 2;
/// Longest pattern.
const PATTERN_BYTES_MAX: usize = 1_024;
/// What a pattern may become: with the length of a line this bounds the time for one.
const COMPILED_BYTES_MAX: usize = 256 << 10;
/// Longest part of a line that is looked at.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Searched in vain, after which the reader is told how far it is: where to go on at another coordinator.
const PROGRESS_BYTES: usize = 4 << 20;

type Pieces = BoxStream<'static, Result<Piece, Status>>;

/// The turns of all searches here. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Searches(Arc<Semaphore>);

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }
}

/// Reads a pattern; none where the text is empty.
pub(super) fn pattern(text: &str, ignore_case: bool) -> Result<Option<Regex>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > PATTERN_BYTES_MAX {
        let text = format!("the pattern has {} bytes: {PATTERN_BYTES_MAX} are the most", text.len());
        return Err(Status::invalid_argument(text));
    }
    let built = RegexBuilder::new(text).case_insensitive(ignore_case).size_limit(COMPILED_BYTES_MAX).build();
    built.map(Some).map_err(|error| Status::invalid_argument(format!("the pattern cannot be used: {error}")))
}

/// Of these pieces the lines that match.
pub(super) fn search(searches: &Searches, pattern: Regex, pieces: Pieces) -> Pieces {
    let search = Search { pattern, partial: BTreeMap::new(), in_vain: 0 };
    let at = At { searches: searches.clone(), pieces, search: Some(search), found: VecDeque::new() };
    stream::unfold(at, |mut at| async move { at.next().await.map(|next| (next, at)) }).boxed()
}

/// Where a search is.
struct At {
    searches: Searches,
    pieces: Pieces,
    /// Nothing once it is over.
    search: Option<Search>,
    found: VecDeque<Piece>,
}

impl At {
    async fn next(&mut self) -> Option<Result<Piece, Status>> {
        loop {
            if let Some(piece) = self.found.pop_front() {
                return Some(Ok(piece));
            }
            let mut search = self.search.take()?;
            let piece = match self.pieces.next().await {
                None => {
                    self.found = search.finish().into();
                    continue;
                }
                Some(Err(status)) => return Some(Err(status)),
                Some(Ok(piece)) => piece,
            };
            // The semaphore is never closed; were it, the search would go on without a turn.
            let _turn = self.searches.0.acquire().await;
            let matched = tokio::task::spawn_blocking(move || (search.piece(&piece), search)).await;
            match matched {
                Ok((found, search)) => (self.found, self.search) = (found.into(), Some(search)),
                Err(error) => return Some(Err(Status::internal(error.to_string()))),
            }
        }
    }
}

struct Search {
    pattern: Regex,
    /// Of each stream the line that has not ended yet.
    partial: BTreeMap<StreamName, Line>,
    /// Bytes since something was sent.
    in_vain: usize,
}

#[derive(Default)]
struct Line {
    offset: u64,
    bytes: Vec<u8>,
}

impl Search {
    fn piece(&mut self, piece: &Piece) -> Vec<Piece> {
        let mut found = Found::default();
        self.finish_before(&piece.name, &mut found);
        let mut line = self.partial.remove(&piece.name).unwrap_or(Line { offset: piece.offset, bytes: Vec::new() });
        let parts = piece.data.split_inclusive(|byte| *byte == b'\n').flat_map(|part| part.chunks(LINE_BYTES_MAX));
        for part in parts {
            if line.bytes.len() + part.len() > LINE_BYTES_MAX {
                line = self.ended(&piece.name, line, &mut found);
            }
            line.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") {
                line = self.ended(&piece.name, line, &mut found);
            }
        }
        let searched = line.offset;
        self.partial.insert(piece.name, line);
        self.in_vain = if found.pieces.is_empty() { self.in_vain + piece.data.len() } else { 0 };
        if self.in_vain >= PROGRESS_BYTES {
            self.in_vain = 0;
            found.pieces.push((piece.name, searched, Vec::new()));
        }
        found.into_pieces()
    }

    /// The lines that never end.
    fn finish(&mut self) -> Vec<Piece> {
        let mut found = Found::default();
        for (name, line) in std::mem::take(&mut self.partial) {
            self.ended(&name, line, &mut found);
        }
        found.into_pieces()
    }

    /// An attempt is read after the one before it was read to its end.
    fn finish_before(&mut self, name: &StreamName, found: &mut Found) {
        while let Some(first) = self.partial.first_entry().filter(|first| first.key().attempt < name.attempt) {
            let (name, line) = first.remove_entry();
            self.ended(&name, line, found);
        }
    }

    /// Keeps the line if it matches; returns the one that begins behind it, in the same memory.
    fn ended(&self, name: &StreamName, mut line: Line, found: &mut Found) -> Line {
        let text = line.bytes.strip_suffix(b"\n").unwrap_or(&line.bytes);
        if !line.bytes.is_empty() && self.pattern.is_match(text) {
            found.add(name, &line);
        }
        line.offset += line.bytes.len() as u64;
        line.bytes.clear();
        line
    }
}

/// Lines that matched, those that follow each other together.
#[derive(Default)]
struct Found {
    pieces: Vec<(StreamName, u64, Vec<u8>)>,
}

impl Found {
    fn add(&mut self, name: &StreamName, line: &Line) {
        match self.pieces.last_mut() {
            Some((last, offset, bytes)) if last == name && *offset + bytes.len() as u64 == line.offset => {
                bytes.extend_from_slice(&line.bytes);
            }
            _ => self.pieces.push((*name, line.offset, line.bytes.clone())),
        }
    }

    fn into_pieces(self) -> Vec<Piece> {
        let piece = |(name, offset, bytes): (_, _, Vec<u8>)| Piece { name, offset, data: Bytes::from(bytes) };
        self.pieces.into_iter().map(piece).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{AttemptNumber, JobId, RankIndex, StreamKind};

    fn name(attempt: u32, rank: u32) -> StreamName {
        let (attempt, rank) = (AttemptNumber(attempt), RankIndex(rank));
        StreamName { job: JobId(1), attempt, rank, kind: StreamKind::Stdout }
    }

    fn piece(name: StreamName, offset: u64, data: &[u8]) -> Piece {
        Piece { name, offset, data: Bytes::copy_from_slice(data) }
    }

    async fn found(text: &str, ignore_case: bool, pieces: Vec<Piece>) -> Vec<Piece> {
        let pattern = pattern(text, ignore_case).unwrap().unwrap();
        let pieces = stream::iter(pieces.into_iter().map(Ok)).boxed();
        search(&Searches::default(), pattern, pieces).map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn a_line_is_found_however_its_bytes_come() {
        let text = b"one\nloss=NaN here\ntwo\nthree\nloss=nan";
        for cut in 0..text.len() {
            let (head, rest) = text.split_at(cut);
            let pieces = vec![piece(name(1, 0), 0, head), piece(name(1, 0), cut as u64, rest)];
            let all = found("^loss=nan", true, pieces.clone()).await;
            let expected = [piece(name(1, 0), 4, b"loss=NaN here\n"), piece(name(1, 0), 28, b"loss=nan")];
            assert_eq!(all, expected, "cut at {cut}");
            assert_eq!(found("^loss=nan$", false, pieces).await, expected[1..], "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn ranks_are_told_apart_and_an_attempt_ends_before_the_next() {
        let pieces =
            vec![piece(name(1, 0), 0, b"a x"), piece(name(1, 1), 0, b"b\nb x\n"), piece(name(2, 0), 0, b"c\nx\nx\n")];
        let expected = [piece(name(1, 1), 2, b"b x\n"), piece(name(1, 0), 0, b"a x"), piece(name(2, 0), 2, b"x\nx\n")];
        assert_eq!(found("x", false, pieces).await, expected);
    }

    #[tokio::test]
    async fn a_line_without_end_fills_no_memory_and_a_search_in_vain_says_how_far_it_is() {
        let block = vec![b'y'; 1 << 20];
        let pieces = (0..9).map(|n| piece(name(1, 0), n << 20, &block)).collect();
        let told = found("x", false, pieces).await;
        assert_eq!(told.len(), 2);
        for (piece, at) in told.iter().zip([4_u64 << 20, 8 << 20]) {
            assert!(piece.data.is_empty() && piece.offset <= at && piece.offset + LINE_BYTES_MAX as u64 >= at);
        }
    }

    #[test]
    fn a_pattern_is_bounded_and_its_fault_is_told() {
        assert!(pattern("", false).unwrap().is_none());
        for (bad, why) in
            [("(", "unclosed group"), (r"(\w{900}){900}", "size limit"), (&*"x".repeat(1_025), "1024 are the most")]
        {
            let fault = pattern(bad, false).unwrap_err();
            assert_eq!(fault.code(), tonic::Code::InvalidArgument);
            assert!(fault.message().contains(why), "{}", fault.message());
        }
    }
}
