//! Splits an event stream into its events without changing a byte.

use bytes::Bytes;
use bytes::BytesMut;

/// One event with the blank line that ends it, or a block of comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its bytes as they came.
    pub(crate) raw: Bytes,
    /// Its `data` lines, joined; `None` if it has none.
    pub(crate) data: Option<Vec<u8>>,
}

/// An event is larger than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Splits a stream that comes in pieces of any length.
#[derive(Debug)]
pub(crate) struct Splitter {
    buffer: BytesMut,
    /// Everything before this was looked at.
    scanned: usize,
    /// Where the line that is being looked at begins.
    line: usize,
    limit: usize,
}

// === impl Splitter ===

impl Splitter {
    /// A splitter of events of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, line: 0, limit }
    }

    /// The next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole block, if it is there.
    pub(crate) fn next_block(&mut self) -> Result<Option<Block>, TooLarge> {
        while let Some(found) = self.buffer.get(self.scanned..).and_then(line_end) {
            let at = self.scanned + found;
            let after = match (self.buffer[at], self.buffer.get(at + 1)) {
                (b'\r', Some(b'\n')) => at + 2,
                // The other half of the line end may still come.
                (b'\r', None) => {
                    self.scanned = at;
                    return self.bounded();
                }
                _ => at + 1,
            };
            let is_blank = at == self.line;
            (self.scanned, self.line) = (after, after);
            if is_blank {
                return self.take(after);
            }
        }
        self.scanned = self.buffer.len();
        self.bounded()
    }

    /// What is left when the stream has ended: a last event without its blank line.
    pub(crate) fn rest(&mut self) -> Option<Block> {
        let all = self.buffer.len();
        (all > 0).then(|| self.take(all).ok().flatten()).flatten()
    }

    /// How many bytes wait for the rest of their event.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn kept(&self) -> usize {
        self.buffer.len()
    }

    fn take(&mut self, length: usize) -> Result<Option<Block>, TooLarge> {
        if length > self.limit {
            return Err(TooLarge);
        }
        (self.scanned, self.line) = (0, 0);
        let raw = self.buffer.split_to(length).freeze();
        let data = data_of(&raw);
        Ok(Some(Block { raw, data }))
    }

    fn bounded(&self) -> Result<Option<Block>, TooLarge> {
        if self.buffer.len() > self.limit { Err(TooLarge) } else { Ok(None) }
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'))
}

/// The `data` lines of a block, joined with line feeds.
fn data_of(raw: &[u8]) -> Option<Vec<u8>> {
    let raw = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
    let mut data: Option<Vec<u8>> = None;
    // A CR LF gives an empty line between its halves, which is no data and does no harm.
    for line in raw.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', value @ ..]) => value.strip_prefix(b" ").unwrap_or(value),
            _ => continue,
        };
        match &mut data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => data = Some(value.to_vec()),
        }
    }
    data.filter(|data| !data.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(stream: &[u8], cuts: usize) -> (Vec<Block>, Option<Block>) {
        let mut splitter = Splitter::new(1 << 20);
        let mut blocks = Vec::new();
        for piece in stream.chunks(cuts.max(1)) {
            splitter.push(piece);
            while let Some(block) = splitter.next_block().expect("small") {
                blocks.push(block);
            }
        }
        (blocks, splitter.rest())
    }

    fn data(stream: &str) -> Vec<Option<String>> {
        let (blocks, rest) = split(stream.as_bytes(), usize::MAX);
        let text = |block: Block| block.data.map(|data| String::from_utf8(data).expect("text"));
        blocks.into_iter().chain(rest).map(text).collect()
    }

    #[test]
    fn the_forms_of_an_event() {
        let some = |text: &str| Some(text.to_string());
        for (stream, expected) in [
            ("data: a\n\n", vec![some("a")]),
            ("data:a\r\n\r\ndata:  b\r\r", vec![some("a"), some(" b")]),
            ("data: a\ndata: b\n\n", vec![some("a\nb")]),
            (": waiting\n\ndata: a\n\n", vec![None, some("a")]),
            ("event: x\nid: 1\ndata: a\n\n", vec![some("a")]),
            ("datax: a\n\n", vec![None]),
            ("data: a", vec![some("a")]),
            ("\u{feff}data: a\n\n", vec![some("a")]),
            ("data\n\n", vec![None]),
        ] {
            assert_eq!(data(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn an_event_over_the_bound_is_refused_before_it_is_whole() {
        let mut splitter = Splitter::new(10);
        splitter.push(b"data: a\n\n");
        assert!(splitter.next_block().expect("fits").is_some());
        splitter.push(b"data: 12345");
        assert_eq!(splitter.next_block(), Err(TooLarge));
    }

    proptest! {
        /// However a stream is cut into pieces, the same blocks come out, and together they are the stream.
        #[test]
        fn cutting_changes_nothing(stream in "(data: ?[a-z]{0,4}|:c|\n|\r\n|\r|\n\n){0,20}", size in 1usize..7) {
            let (whole, whole_rest) = split(stream.as_bytes(), usize::MAX);
            let (pieces, pieces_rest) = split(stream.as_bytes(), size);
            let joined = |blocks: &[Block], rest: &Option<Block>| {
                blocks.iter().chain(rest).flat_map(|block| block.raw.to_vec()).collect::<Vec<u8>>()
            };
            prop_assert_eq!(joined(&whole, &whole_rest), stream.as_bytes());
            prop_assert_eq!(joined(&pieces, &pieces_rest), stream.as_bytes());
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (blocks, rest) = split(&bytes, 3);
            prop_assert!(blocks.len() + usize::from(rest.is_some()) <= bytes.len());
        }
    }
}
