//! The part of an output stream that was read from a process and not yet acknowledged by the host.
//!
//! ```text
//!   0 ......... start ------------------- end ......... start + limit
//!     forgotten        kept, can be sent       room
//! ```
//!
//! Invariants: at most `limit` bytes are kept; bytes leave only by [`Window::acknowledge`]; `start` and `end` never go
//! back.

use std::collections::VecDeque;

use bytes::Bytes;

/// A freed window of at least this size gives its memory back when it is empty.
const KEEP_CAPACITY: usize = 4 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    start: u64,
    kept: VecDeque<u8>,
    limit: usize,
    state: State,
}

/// Whether more bytes can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// All writers closed their end.
    Ended,
    /// The process was forgotten while the stream was open.
    Abandoned,
}

/// What there is to send from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// These bytes.
    Bytes(Bytes),
    /// Nothing yet.
    Wait,
    /// The stream ends here.
    End,
    /// The bytes were acknowledged and forgotten, or the process was.
    Gone,
    /// The offset is behind the end.
    Beyond,
}

// === impl Window ===

impl Window {
    pub(super) fn new(limit: usize) -> Self {
        Self { start: 0, kept: VecDeque::new(), limit, state: State::Open }
    }

    /// The offset behind the last byte that was read from the process.
    pub(super) fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// How many bytes may be pushed.
    pub(super) fn room(&self) -> usize {
        self.limit - self.kept.len()
    }

    /// Adds bytes, at most [`room`](Self::room).
    pub(super) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room(), "more was read than there is room for");
        self.kept.extend(bytes);
    }

    /// No more bytes will come.
    pub(super) fn finish(&mut self) {
        if self.state == State::Open {
            self.state = State::Ended;
        }
    }

    /// The process is forgotten.
    pub(super) fn abandon(&mut self) {
        if self.state == State::Open {
            self.state = State::Abandoned;
        }
    }

    /// Forgets the bytes below `offset`. Returns whether that made room, or nothing if `offset` is behind the end.
    pub(super) fn acknowledge(&mut self, offset: u64) -> Option<bool> {
        if offset > self.end() {
            return None;
        }
        let count = usize::try_from(offset.saturating_sub(self.start)).ok()?;
        drop(self.kept.drain(..count));
        self.start += count as u64;
        if self.kept.is_empty() && self.kept.capacity() > KEEP_CAPACITY {
            self.kept = VecDeque::new();
        }
        Some(count > 0)
    }

    /// What there is to send from `offset` on, at most `most` bytes.
    pub(super) fn read(&self, offset: u64, most: usize) -> Read {
        if offset < self.start {
            return Read::Gone;
        }
        let Some(left) = self.end().checked_sub(offset) else {
            return Read::Beyond;
        };
        match (left, self.state) {
            (0, State::Open) => Read::Wait,
            (0, State::Ended) => Read::End,
            (0, State::Abandoned) => Read::Gone,
            _ => {
                let skip = (offset - self.start) as usize;
                let (first, second) = self.kept.as_slices();
                // One copy of one slice; the reader comes back for what wraps round.
                let slice = if skip < first.len() { &first[skip..] } else { &second[skip - first.len()..] };
                Read::Bytes(Bytes::copy_from_slice(&slice[..slice.len().min(most)]))
            }
        }
    }
}
