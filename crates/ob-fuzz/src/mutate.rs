//! Mutations without coverage: enough to notice on every test run that a parser has become careless.

/// A small generator of numbers, the same on every machine: what a test finds once, it finds again.
#[derive(Debug)]
pub struct Numbers(u64);

// === impl Numbers ===

impl Numbers {
    /// Begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number below `end`, which is not 0 (xorshift64*).
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (number % end as u64) as usize
    }
}

/// A few changes to `bytes`: flipped, overwritten, removed, doubled, spliced with `other`, or a word put in.
pub fn mutate(bytes: &[u8], other: &[u8], words: &[&str], numbers: &mut Numbers) -> Vec<u8> {
    /// Longer inputs find little that shorter ones do not, and cost more.
    const LONGEST: usize = 8 * 1024;
    let mut out = bytes.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(out.len() + 1);
        let until = (at + numbers.below(16)).min(out.len());
        match numbers.below(8) {
            0 if at < out.len() => out[at] ^= 1 << numbers.below(8),
            1 if at < out.len() => out[at] = numbers.below(256) as u8,
            2 => drop(out.drain(at..until)),
            3 => {
                let copy = out[at..until].to_vec();
                out.splice(at..at, copy);
            }
            4 if !other.is_empty() => {
                let from = numbers.below(other.len());
                let to = (from + numbers.below(64)).min(other.len());
                out.splice(at..until, other[from..to].iter().copied());
            }
            5 if !words.is_empty() => {
                out.splice(at..at, words[numbers.below(words.len())].bytes());
            }
            6 => out.truncate(at),
            _ => out.insert(at, b"\0\n\r\"\\{}[]:,-0aA\xff"[numbers.below(16)]),
        }
    }
    out.truncate(LONGEST);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_mutations_and_they_differ_from_what_they_came_from() {
        let run = |seed| {
            let mut numbers = Numbers::new(seed);
            (0..100).map(|_| mutate(b"data: {}\n\n", b"other", &["word"], &mut numbers)).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(9));
        assert!(run(7).iter().filter(|bytes| bytes.as_slice() != b"data: {}\n\n").count() > 90);
    }
}
