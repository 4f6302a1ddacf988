//! One look at a job's streams on this disk: the next bytes for one reader, fairly over its streams.

use super::{Piece, Selection};
use crate::api::tail::Tail;
use crate::api::window::Window;
use std::collections::BTreeMap;
use stores::streams::{StreamError, StreamName, StreamStore};
use types::{AttemptNumber, StreamKind};

/// Bytes read in one look, over all streams.
const LOOK_BYTES_MAX: usize = 1 << 20;
/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = types::Limits::CHUNK_BYTES_MAX;

/// How far a reader is.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    /// Only this one.
    pub(super) attempt: Option<AttemptNumber>,
    pub(super) positions: BTreeMap<StreamName, u64>,
    /// Whose bytes were read last.
    pub(super) served: Option<StreamName>,
    /// For streams that are seen for the first time.
    pub(super) tail: Option<Tail>,
    /// Where streams end for a reader who asks by time.
    pub(super) ends: BTreeMap<StreamName, u64>,
}

impl Cursor {
    pub(super) fn new(tail: Option<Tail>) -> Self {
        Self { tail, ..Self::default() }
    }

    fn end(&mut self, window: Window, store: &StreamStore, name: &StreamName) -> Result<u64, StreamError> {
        if let Some(end) = self.ends.get(name) {
            return Ok(*end);
        }
        let end = window.end(store, name)?.unwrap_or(u64::MAX);
        self.ends.insert(*name, end);
        Ok(end)
    }
}

/// What one look at the disk gave.
pub(super) struct Look {
    pub(super) pieces: Vec<Piece>,
    pub(super) cursor: Cursor,
    pub(super) more: bool,
}

pub(super) fn look(store: &StreamStore, selection: &Selection, mut cursor: Cursor) -> Result<Look, StreamError> {
    let mut behind = Vec::new();
    let mut bytes_behind = 0;
    for (name, length) in store.streams_of(selection.job)? {
        if !selection.wants(&name) || cursor.attempt.is_some_and(|attempt| attempt != name.attempt) {
            continue;
        }
        // The times are what the window was found by, and nobody's log.
        if selection.window.is_some() && name.kind == StreamKind::Times {
            continue;
        }
        let position = match (cursor.positions.get(&name), selection.from.get(&name)) {
            (Some(position), _) | (None, Some(position)) => *position,
            (None, None) => {
                let of_tail = cursor.tail.map_or(Ok(0), |tail| tail.begin(store, &name, length))?;
                of_tail.max(selection.window.map_or(Ok(0), |window| window.begin(store, &name))?)
            }
        };
        let length = match selection.window {
            Some(window) => length.min(cursor.end(window, store, &name)?),
            None => length,
        };
        cursor.positions.insert(name, position);
        if position < length {
            behind.push((name, position, length));
            bytes_behind += length - position;
        }
    }
    // Whoever was served last comes last: a rank that prints without pause must not starve the others.
    let served = cursor.served;
    let next = behind.partition_point(|(name, ..)| served.is_some_and(|served| *name <= served));
    behind.rotate_left(next);
    let (mut pieces, mut read) = (Vec::new(), 0);
    for (name, offset, length) in behind {
        let room = LOOK_BYTES_MAX - read;
        if room == 0 {
            break;
        }
        let data = store.read(&name, offset, room.min(PIECE_BYTES_MAX).min((length - offset) as usize))?;
        if data.is_empty() {
            continue;
        }
        read += data.len();
        cursor.positions.insert(name, offset + data.len() as u64);
        cursor.served = Some(name);
        pieces.push(Piece { name, offset, data });
    }
    let more = !pieces.is_empty() && (read as u64) < bytes_behind;
    Ok(Look { pieces, cursor, more })
}
