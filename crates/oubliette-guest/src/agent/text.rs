//! Text that is safe to show: valid UTF-8, bounded, without terminal control.

use std::collections::VecDeque;

/// Collects bytes of any amount and keeps the first and the last of them.
#[derive(Debug)]
pub(crate) struct Ends {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_bound: usize,
    tail_bound: usize,
    total: u64,
}

// === impl Ends ===

impl Ends {
    /// Keeps at most this many bytes of the beginning and of the end.
    pub(crate) fn new(head_bound: usize, tail_bound: usize) -> Self {
        Self { head: Vec::new(), tail: VecDeque::new(), head_bound, tail_bound, total: 0 }
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.head_bound - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.tail_bound)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.tail_bound);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// The text; what is missing from its middle is said.
    pub(crate) fn finish(self) -> String {
        let Self { mut head, tail, total, .. } = self;
        let tail = Vec::from(tail);
        let kept = (head.len() + tail.len()) as u64;
        if kept == total {
            head.extend_from_slice(&tail);
            return clean(&head);
        }
        // Cut at line ends if there are any: half lines mislead.
        let head_end = head.iter().rposition(|&byte| byte == b'\n').map_or(head.len(), |end| end + 1);
        let tail_start = match tail.iter().position(|&byte| byte == b'\n') {
            Some(start) if start + 1 < tail.len() => start + 1,
            _ => 0,
        };
        let elided = total - head_end as u64 - (tail.len() - tail_start) as u64;
        let head = clean(&head[..head_end]);
        let gap = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        format!("{head}{gap}[... {elided} bytes left out ...]\n{}", clean(&tail[tail_start..]))
    }
}

/// The bytes as text a person can read: what is not UTF-8 is replaced, escape sequences and control characters are
/// dropped, and of a line that was overwritten only the last state is kept.
pub(crate) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\t')) {
        return text.into_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut line_start = 0;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' => {
                out.push('\n');
                line_start = out.len();
            }
            '\r' => match characters.peek() {
                // A carriage return at the end of a line or of the text overwrites nothing.
                Some('\n' | '\r') | None => {}
                Some(_) => out.truncate(line_start),
            },
            '\u{1b}' => skip_escape(&mut characters),
            '\u{8}' => {
                if out.len() > line_start {
                    out.pop();
                }
            }
            '\t' => out.push('\t'),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

/// The text, no longer than `bound` bytes; what was cut is said.
pub(crate) fn cut(text: &str, bound: usize) -> String {
    if text.len() <= bound {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bound);
    format!("{}[... {} bytes more]", &text[..end], text.len() - end)
}

/// Passes over what follows an escape character (ECMA-48): control sequences, strings, and short sequences.
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.peek().copied() {
        Some('[') => {
            characters.next();
            // Parameters, then one final byte. Anything else ends a broken sequence.
            while let Some(&next) = characters.peek() {
                match next {
                    '\u{20}'..='\u{3f}' => {
                        characters.next();
                    }
                    '\u{40}'..='\u{7e}' => {
                        characters.next();
                        return;
                    }
                    _ => return,
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            characters.next();
            // A string up to its terminator; one without an end must not swallow the lines after it.
            while let Some(&next) = characters.peek() {
                match next {
                    '\u{7}' => {
                        characters.next();
                        return;
                    }
                    '\u{1b}' => {
                        characters.next();
                        characters.next_if_eq(&'\\');
                        return;
                    }
                    '\n' => return,
                    _ => {
                        characters.next();
                    }
                }
            }
        }
        Some('\u{20}'..='\u{2f}') => {
            characters.next();
            characters.next();
        }
        Some('\u{30}'..='\u{7e}') => {
            characters.next();
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminal_control_is_taken_out() {
        for (bytes, expected) in [
            (&b"plain\n"[..], "plain\n"),
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b]0;title\x07text", "text"),
            (b"\x1b]8;;http://x\x1b\\link", "link"),
            (b"\x1b]never closed\nnext", "\nnext"),
            (b"\x1b(Bx", "x"),
            (b"10%\r50%\r100%\n", "100%\n"),
            (b"dos\r\nlines\r\n", "dos\nlines\n"),
            (b"ab\x08c", "ac"),
            (b"a\x00b\x7f", "ab"),
            (b"bad \xff\xfe byte", "bad \u{fffd}\u{fffd} byte"),
        ] {
            assert_eq!(clean(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_middle_of_much_text_is_left_out_and_that_is_said() {
        let mut ends = Ends::new(16, 16);
        for number in 0..100 {
            ends.push(format!("line {number}\n").as_bytes());
        }
        let text = ends.finish();
        assert_eq!(text, "line 0\nline 1\n[... 768 bytes left out ...]\nline 99\n");
    }

    #[test]
    fn a_cut_text_says_so_and_stays_text() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("äää", 3), "ä[... 4 bytes more]");
    }

    proptest! {
        #[test]
        fn whatever_comes_the_text_is_clean(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let text = clean(&bytes);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
        }

        #[test]
        fn the_way_bytes_arrive_changes_nothing(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let mut whole = Ends::new(50, 60);
            whole.push(&bytes);
            let mut pieces = Ends::new(50, 60);
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(whole.finish(), pieces.finish());
        }
    }
}
