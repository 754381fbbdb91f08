//! Cuts the agent's output into lines. The line that is not whole yet is part of the saved state, so everything that
//! was received may be forgotten by the guest.

use std::borrow::Cow;

use serde::Deserialize;
use serde::Serialize;

/// The most bytes of one line. The largest honest messages carry a file or a picture.
pub(crate) const LINE_MAX: usize = 16 * 1024 * 1024;

/// The agent's output so far.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lines {
    /// How many bytes were received.
    offset: u64,
    /// The beginning of the line that is not whole yet.
    #[serde(with = "crate::outbox::base64_bytes")]
    partial: Vec<u8>,
}

/// A line has more than [`LINE_MAX`] bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

// === impl Lines ===

impl Lines {
    /// How many bytes were received.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Counts bytes as received.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.offset += bytes as u64;
    }

    /// Takes the next line out of `bytes`, without its end; `None` if there is no whole one, and then the rest is kept.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, TooLong> {
        let all: &'a [u8] = bytes;
        let end = all.iter().position(|byte| *byte == b'\n');
        let head = &all[..end.unwrap_or(all.len())];
        if self.partial.len() + head.len() > LINE_MAX {
            return Err(TooLong);
        }
        match end {
            Some(end) => {
                *bytes = &all[end + 1..];
                if self.partial.is_empty() {
                    return Ok(Some(Cow::Borrowed(head)));
                }
                self.partial.extend_from_slice(head);
                Ok(Some(Cow::Owned(std::mem::take(&mut self.partial))))
            }
            None => {
                *bytes = &[];
                self.partial.extend_from_slice(head);
                Ok(None)
            }
        }
    }

    /// The last line, if the output ended without an end of line.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in ["ab", "c\n\nde", "\nf"] {
            let mut bytes = piece.as_bytes();
            while let Some(line) = lines.next(&mut bytes).expect("short lines") {
                seen.push(String::from_utf8(line.into_owned()).expect("text"));
            }
        }
        assert_eq!(seen, ["abc", "", "de"]);
        assert_eq!(lines.finish(), b"f");
    }

    #[test]
    fn a_line_may_have_the_most_bytes_and_not_one_more() {
        let whole = vec![b'x'; LINE_MAX];
        let mut lines = Lines::default();
        assert_eq!(lines.next(&mut whole.as_slice()), Ok(None));
        assert!(matches!(lines.next(&mut b"\n".as_slice()), Ok(Some(line)) if line.len() == LINE_MAX));

        let mut lines = Lines::default();
        assert_eq!(lines.next(&mut whole.as_slice()), Ok(None));
        assert_eq!(lines.next(&mut b"x".as_slice()), Err(TooLong));
        assert_eq!(lines.next(&mut b"x\n".as_slice()), Err(TooLong));
    }
}
