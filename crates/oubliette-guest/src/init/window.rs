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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Acknowledge(u64),
        Read { offset: u64, most: usize },
        Finish,
        Abandon,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Push),
            4 => (0..400_u64).prop_map(Step::Acknowledge),
            6 => (0..400_u64, 0..100_usize).prop_map(|(offset, most)| Step::Read { offset, most }),
            1 => Just(Step::Finish),
            1 => Just(Step::Abandon),
        ]
    }

    proptest! {
        /// The model keeps every byte for ever, and only says which of them the window must still have.
        #[test]
        fn it_behaves_as_a_stream_that_forgets_only_what_is_acknowledged(
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut window = Window::new(LIMIT);
            let mut all: Vec<u8> = Vec::new();
            let mut acked = 0;
            let mut state = State::Open;
            for step in steps {
                match step {
                    Step::Push(mut bytes) => {
                        bytes.truncate(window.room());
                        window.push(&bytes);
                        all.extend(bytes);
                    }
                    // Often near the interesting offsets.
                    Step::Acknowledge(offset) => {
                        let offset = acked as u64 + offset % 80;
                        let made_room = window.acknowledge(offset);
                        if offset > all.len() as u64 {
                            prop_assert_eq!(made_room, None);
                        } else {
                            prop_assert_eq!(made_room, Some(offset as usize > acked));
                            acked = acked.max(offset as usize);
                        }
                    }
                    Step::Read { offset, most } => {
                        let offset = (acked as u64 + offset % 90).saturating_sub(10) as usize;
                        let got = window.read(offset as u64, most);
                        if offset < acked {
                            prop_assert_eq!(got, Read::Gone);
                        } else if offset > all.len() {
                            prop_assert_eq!(got, Read::Beyond);
                        } else if offset == all.len() {
                            let want = match state {
                                State::Open => Read::Wait,
                                State::Ended => Read::End,
                                State::Abandoned => Read::Gone,
                            };
                            prop_assert_eq!(got, want);
                        } else {
                            let Read::Bytes(bytes) = got else { panic!("{got:?}") };
                            prop_assert!(bytes.len() <= most && (most == 0 || !bytes.is_empty()));
                            prop_assert_eq!(&bytes[..], &all[offset..offset + bytes.len()]);
                        }
                    }
                    Step::Finish => {
                        window.finish();
                        state = if state == State::Open { State::Ended } else { state };
                    }
                    Step::Abandon => {
                        window.abandon();
                        state = if state == State::Open { State::Abandoned } else { state };
                    }
                }
                prop_assert_eq!(window.end(), all.len() as u64);
                prop_assert_eq!(window.room(), LIMIT - (all.len() - acked));
            }
        }
    }

    #[test]
    fn an_empty_window_gives_its_memory_back() {
        let mut window = Window::new(1 << 20);
        window.push(&vec![0; 1 << 20]);
        assert_eq!(window.room(), 0);
        assert_eq!(window.acknowledge(1 << 20), Some(true));
        assert_eq!(window.kept.capacity(), 0);
    }
}
