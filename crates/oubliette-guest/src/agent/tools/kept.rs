//! What a command prints: its ends for the model, and all of it in a file as soon as the ends are not all.
//!
//! **Invariant:** what is kept is bounded, for each output and for all of a session; the oldest outputs give way.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use crate::agent::text::Ends;

/// The most bytes of one output that are kept.
const MAX_KEPT: u64 = 8 * 1024 * 1024;
/// The most outputs of a session that are kept.
const MAX_FILES: usize = 16;

/// The output of a command that runs.
#[derive(Debug)]
pub(super) struct Output<'a> {
    folder: &'a Path,
    ends: Ends,
    bound: usize,
    total: u64,
    rest: Rest,
}

/// Where all of it is.
#[derive(Debug)]
enum Rest {
    /// Here, as long as its ends may be all.
    Short(Vec<u8>),
    /// In a file, up to [`MAX_KEPT`].
    Kept { path: PathBuf, file: File, written: u64 },
    /// Nowhere: the file could not be written.
    Lost(io::Error),
}

// === impl Output ===

impl<'a> Output<'a> {
    /// Shows this many bytes of the beginning and of the end. If that is not all, a file in the folder has the rest.
    pub(super) fn new(folder: &'a Path, head: usize, tail: usize) -> Self {
        let rest = Rest::Short(Vec::new());
        Self { folder, ends: Ends::new(head, tail), bound: head + tail, total: 0, rest }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.ends.push(bytes);
        self.total += bytes.len() as u64;
        match &mut self.rest {
            Rest::Short(early) => {
                early.extend_from_slice(bytes);
                if early.len() > self.bound {
                    let early = std::mem::take(early);
                    self.rest = begin(self.folder, &early).unwrap_or_else(Rest::Lost);
                }
            }
            Rest::Kept { file, written, .. } => {
                if let Err(error) = append(file, written, bytes) {
                    self.rest = Rest::Lost(error);
                }
            }
            Rest::Lost(_) => {}
        }
    }

    /// What the model is shown, and where the rest is if there is more.
    pub(super) fn finish(self) -> (String, Option<String>) {
        let Self { ends, total, rest, .. } = self;
        let note = match rest {
            Rest::Short(_) => None,
            Rest::Kept { path, written, .. } => {
                let part = if written < total {
                    format!("the first {written} bytes of {total}")
                } else {
                    format!("all {total} bytes")
                };
                Some(format!(
                    "[{part} that it printed are in {}; look there with `search` and `read`]",
                    path.display()
                ))
            }
            Rest::Lost(error) => Some(format!("[what it printed could not be kept: {error}]")),
        };
        (ends.finish(), note)
    }
}

/// Begins a file with what came so far.
fn begin(folder: &Path, early: &[u8]) -> io::Result<Rest> {
    fs::create_dir_all(folder)?;
    let mut numbers: Vec<u64> =
        fs::read_dir(folder)?.filter_map(|entry| number(&entry.ok()?.path())).collect();
    numbers.sort_unstable();
    for old in numbers.iter().take((numbers.len() + 1).saturating_sub(MAX_FILES)) {
        // One that stays is one too many, which is no reason to keep nothing.
        let _removed = fs::remove_file(path(folder, *old));
    }
    let path = path(folder, numbers.last().map_or(1, |last| last + 1));
    let mut file = File::create_new(&path)?;
    let mut written = 0;
    append(&mut file, &mut written, early)?;
    Ok(Rest::Kept { path, file, written })
}

fn append(file: &mut File, written: &mut u64, bytes: &[u8]) -> io::Result<()> {
    let room = usize::try_from(MAX_KEPT - *written).unwrap_or(usize::MAX);
    let bytes = &bytes[..bytes.len().min(room)];
    file.write_all(bytes)?;
    *written += bytes.len() as u64;
    Ok(())
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.txt"))
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".txt")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(folder: &Path, pieces: &[&[u8]]) -> (String, Option<String>) {
        let mut output = Output::new(folder, 8, 8);
        for piece in pieces {
            output.push(piece);
        }
        output.finish()
    }

    #[test]
    fn a_short_output_needs_no_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let outputs = folder.path().join("outputs");
        assert_eq!(
            finished(&outputs, &[b"0123456\n", b"9abcdef\n"]),
            ("0123456\n9abcdef\n".to_owned(), None)
        );
        assert!(!outputs.exists());
    }

    #[test]
    fn all_of_a_long_output_is_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let outputs = folder.path().join("outputs");
        for number in 1..=2 {
            let (shown, note) = finished(&outputs, &[b"0123456\n", b"middle\n", b"9abcdef\n"]);
            assert!(shown.contains("left out") && !shown.contains("middle"), "{shown}");
            let path = outputs.join(format!("{number}.txt"));
            let note = note.expect("it is long");
            assert!(
                note.contains(&format!("all 23 bytes that it printed are in {}", path.display())),
                "{note}"
            );
            assert_eq!(fs::read(&path).expect("it was kept"), b"0123456\nmiddle\n9abcdef\n");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_gives_way() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flood = vec![b'x'; 1 << 20];
        let (_, note) = finished(folder.path(), &[flood.as_slice(); 9]);
        let note = note.expect("it is long");
        assert!(note.starts_with("[the first 8388608 bytes of 9437184 that"), "{note}");
        for _ in 0..MAX_FILES {
            finished(folder.path(), &[&[b'x'; 20]]);
        }
        let mut left: Vec<u64> = fs::read_dir(folder.path())
            .expect("it is readable")
            .filter_map(|entry| number(&entry.ok()?.path()))
            .collect();
        left.sort_unstable();
        assert_eq!(left, (2..=MAX_FILES as u64 + 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_hides_nothing_else() {
        let (shown, note) = finished(Path::new("/proc/none"), &[b"0123456\n", b"middle\n", b"9abcdef\n"]);
        assert!(shown.starts_with("0123456\n") && shown.ends_with("9abcdef\n"), "{shown}");
        assert!(note.is_some_and(|note| note.contains("could not be kept")));
    }
}
