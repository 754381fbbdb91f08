//! A process's standard input: bytes with offsets, taken once each.
//!
//! Several requests may bring the same bytes (a retry while the handler of a cut connection is still there). All
//! progress happens in [`Input::write`] in one step without a wait, so each byte reaches the pipe exactly once, and
//! `taken` is exact wherever a handler is dropped.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::net::unix::pipe;

/// See the module.
pub(super) struct Input {
    state: Mutex<State>,
}

struct State {
    /// Offset of the next byte.
    taken: u64,
    end: End,
}

enum End {
    Open(Arc<pipe::Sender>),
    /// The host closed it.
    Closed,
    /// The process closed its end: whatever else comes is taken and thrown away, as a shell pipeline would.
    Broken,
}

/// Why bytes were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputError {
    #[error("bytes before this offset are missing")]
    Gap,
    #[error("the input was closed")]
    Closed,
}

// === impl Input ===

impl Input {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let pipe = pipe::Sender::from_owned_fd(pipe)?;
        Ok(Self { state: Mutex::new(State { taken: 0, end: End::Open(Arc::new(pipe)) }) })
    }

    /// The offset of the next byte.
    pub(super) fn taken(&self) -> u64 {
        self.state().taken
    }

    /// Takes `bytes`, which begin at `offset`; skips those that were taken before. Waits while the pipe is full.
    pub(super) async fn take(&self, offset: u64, bytes: &[u8]) -> Result<(), InputError> {
        while let Some(full) = self.write(offset, bytes)? {
            if full.writable().await.is_err() {
                self.state().end = End::Broken;
            }
        }
        Ok(())
    }

    /// Closes the input behind `offset`.
    pub(super) fn close(&self, offset: u64) -> Result<(), InputError> {
        let mut state = self.state();
        if offset > state.taken {
            return Err(InputError::Gap);
        }
        if let End::Open(_) = state.end {
            state.end = End::Closed;
        }
        Ok(())
    }

    /// Writes what the pipe takes now. Returns the pipe if it is full and bytes are left.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<Option<Arc<pipe::Sender>>, InputError> {
        let end = offset + bytes.len() as u64;
        let mut state = self.state();
        loop {
            if offset > state.taken {
                return Err(InputError::Gap);
            }
            let skip = (state.taken - offset) as usize;
            if skip >= bytes.len() {
                return Ok(None);
            }
            let pipe = match &state.end {
                End::Open(pipe) => Arc::clone(pipe),
                End::Closed => return Err(InputError::Closed),
                End::Broken => {
                    state.taken = end;
                    return Ok(None);
                }
            };
            match pipe.try_write(&bytes[skip..]) {
                Ok(count) => state.taken += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(pipe)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => state.end = End::Broken,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn piped() -> (Input, std::fs::File) {
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        (Input::new(write).expect("a pipe's write end"), std::fs::File::from(read))
    }

    #[tokio::test]
    async fn bytes_that_were_taken_are_skipped_and_gaps_are_refused() {
        let (input, mut pipe) = piped();
        input.take(0, b"hello").await.expect("the first bytes");
        input.take(2, b"llo, wor").await.expect("overlapping bytes");
        input.take(0, b"he").await.expect("old bytes");
        assert_eq!(input.take(11, b"!").await, Err(InputError::Gap));
        assert_eq!(input.close(11), Err(InputError::Gap));
        input.take(10, b"ld").await.expect("the next bytes");
        assert_eq!(input.taken(), 12);
        input.close(12).expect("all was taken");
        input.close(12).expect("closing again");
        assert_eq!(input.take(12, b"x").await, Err(InputError::Closed));
        input.take(5, b", wor").await.expect("old bytes after the close");
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("the read end");
        assert_eq!(text, "hello, world");
    }

    #[tokio::test]
    async fn a_process_that_closed_its_input_takes_and_drops_the_rest() {
        let (input, pipe) = piped();
        input.take(0, b"abc").await.expect("room in the pipe");
        drop(pipe);
        input.take(3, b"defgh").await.expect("a broken pipe is no error");
        assert_eq!(input.taken(), 8);
        assert_eq!(input.take(9, b"x").await, Err(InputError::Gap));
        input.close(8).expect("closing is harmless");
    }

    #[tokio::test]
    async fn a_handler_that_is_dropped_while_the_pipe_is_full_leaves_an_exact_count() {
        let (input, mut pipe) = piped();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        // Fills the pipe, waits, and is dropped.
        tokio::select! {
            taken = input.take(0, &bytes) => panic!("the pipe takes all: {taken:?}"),
            () = async { while input.taken() == 0 { tokio::task::yield_now().await } } => {}
        }
        let taken = input.taken() as usize;
        assert!(taken > 0 && taken < bytes.len());
        let mut first = vec![0; taken];
        pipe.read_exact(&mut first).expect("what was taken");
        let reader = std::thread::spawn(move || {
            let mut rest = Vec::new();
            pipe.read_to_end(&mut rest).expect("the rest");
            rest
        });
        input.take(0, &bytes).await.expect("the whole again");
        input.close(bytes.len() as u64).expect("all was taken");
        first.extend(reader.join().expect("the reader"));
        assert!(first == bytes);
    }
}
