//! The transcript of a session: one JSON item per line, appended as things happen, read back after a restart.
//!
//! Invariants:
//! - An item is on its way to disk (written, not synced) before the client or the model hears of what it says. A crash
//!   of the agent loses nothing; a crash of the machine may lose the last items.
//! - A torn last line is cut off before anything is appended after it.
//! - One process at a time: the file is locked, and the lock goes with the process.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// The format's version, in the first line.
const VERSION: u32 = 1;
/// The longest line that is read back. Items are smaller by construction.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Item {
    /// The first line.
    Session {
        /// Of the format.
        version: u32,
        /// The session's id, as in the file's name.
        id: String,
    },
    /// A prompt.
    User {
        /// What was asked.
        text: String,
    },
    /// An answer of the model.
    Assistant {
        /// What it said; may be empty.
        text: String,
        /// What it wants done, in order.
        calls: Vec<Call>,
    },
    /// The result of a call.
    Tool {
        /// Which call.
        call_id: String,
        /// False if the tool could not do it.
        ok: bool,
        /// What the model is told.
        text: String,
    },
    /// Written by a later version; kept in the file, of no meaning here.
    #[serde(other)]
    Unknown,
}

/// A tool call of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Unique in its session.
    pub(crate) id: String,
    /// The tool's name as the model gave it.
    pub(crate) name: String,
    /// JSON as the model gave it, which may not be valid.
    pub(crate) arguments: String,
}

/// Why a transcript cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// There is none.
    #[error("there is no such session")]
    Missing,
    /// Another process has it.
    #[error("the session is in use by another process")]
    InUse,
    /// It was written by a later version.
    #[error("the session was written by a later version (format {0})")]
    Newer(u32),
    /// The disk said no.
    #[error("the transcript {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open transcript.
#[derive(Debug)]
pub(crate) struct Transcript {
    file: File,
    items: Vec<Item>,
}

// === impl Transcript ===

impl Transcript {
    /// Makes a new one.
    pub(crate) fn create(folder: &Path, id: &str) -> Result<Self, OpenError> {
        let path = path(folder, id);
        let io = |source| OpenError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(io)?;
        lock(&file).map_err(|error| error.unwrap_or(OpenError::InUse))?;
        let mut transcript = Self { file, items: Vec::new() };
        transcript.append(Item::Session { version: VERSION, id: id.to_owned() }).map_err(io)?;
        Ok(transcript)
    }

    /// Reads one back.
    pub(crate) fn open(folder: &Path, id: &str) -> Result<Self, OpenError> {
        let path = path(folder, id);
        let io = |source| OpenError::Io { path: path.clone(), source };
        let file = match OpenOptions::new().append(true).read(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(OpenError::Missing),
            Err(error) => return Err(io(error)),
        };
        lock(&file).map_err(|error| error.unwrap_or(OpenError::InUse))?;
        let mut items = Vec::new();
        let mut whole = 0;
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(io)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            whole += length as u64;
            // A line that makes no sense was torn by a full disk; the ones after it are still good.
            match serde_json::from_slice(&line) {
                Ok(Item::Session { version, .. }) if version > VERSION => {
                    return Err(OpenError::Newer(version));
                }
                Ok(item) => items.push(item),
                Err(_torn) => {}
            }
        }
        drop(reader);
        file.set_len(whole).map_err(io)?;
        Ok(Self { file, items })
    }

    /// What happened so far.
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds an item, to the file first.
    pub(crate) fn append(&mut self, item: Item) -> io::Result<()> {
        let mut line = serde_json::to_vec(&item)?;
        line.push(b'\n');
        let before = self.file.seek(SeekFrom::End(0))?;
        if let Err(error) = self.file.write_all(&line) {
            // A full disk may have taken half of the line. If this fails too, reading back skips that half.
            let _cut = self.file.set_len(before);
            return Err(error);
        }
        self.items.push(item);
        Ok(())
    }

    /// True if a call with this id was made before.
    pub(crate) fn has_call(&self, id: &str) -> bool {
        self.items.iter().any(|item| match item {
            Item::Assistant { calls, .. } => calls.iter().any(|call| call.id == id),
            _ => false,
        })
    }

    /// The calls that have no result, in order. Only the last answer of the model can have such.
    pub(crate) fn unanswered(&self) -> Vec<String> {
        let last =
            self.items.iter().rposition(|item| matches!(item, Item::Assistant { .. } | Item::User { .. }));
        let Some((Item::Assistant { calls, .. }, results)) =
            last.and_then(|last| self.items[last..].split_first())
        else {
            return Vec::new();
        };
        let answered =
            |id: &str| results.iter().any(|item| matches!(item, Item::Tool { call_id, .. } if call_id == id));
        calls.iter().filter(|call| !answered(&call.id)).map(|call| call.id.clone()).collect()
    }
}

fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.jsonl"))
}

/// `Err(None)` if another process has the lock.
fn lock(file: &File) -> Result<(), Option<OpenError>> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(None),
        // A file system without locks: better unlocked than unusable.
        Err(TryLockError::Error(_unsupported)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Item {
        Item::User { text: text.to_owned() }
    }

    fn call(id: &str) -> Call {
        Call { id: id.to_owned(), name: "read".to_owned(), arguments: "{}".to_owned() }
    }

    fn written(folder: &Path) -> Vec<u8> {
        let mut transcript = Transcript::create(folder, "s").expect("it is new");
        transcript.append(user("one")).expect("the disk has room");
        transcript.append(user("two")).expect("the disk has room");
        drop(transcript);
        std::fs::read(path(folder, "s")).expect("it was written")
    }

    #[test]
    fn a_torn_last_line_is_dropped_at_every_byte_and_the_next_item_is_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bytes = written(folder.path());
        let second =
            bytes.len() - bytes.rsplitn(3, |&byte| byte == b'\n').nth(1).expect("three lines").len() - 1;
        for end in second..bytes.len() {
            std::fs::write(path(folder.path(), "s"), &bytes[..end]).expect("it is writable");
            let mut transcript = Transcript::open(folder.path(), "s").expect("a torn line is no obstacle");
            assert_eq!(transcript.items()[1..], [user("one")], "cut at {end}");
            transcript.append(user("three")).expect("the disk has room");
            drop(transcript);
            let transcript = Transcript::open(folder.path(), "s").expect("it is whole");
            assert_eq!(transcript.items()[1..], [user("one"), user("three")]);
        }
    }

    #[test]
    fn lines_that_make_no_sense_and_items_of_later_versions_are_passed_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bytes = written(folder.path());
        bytes.extend_from_slice(
            b"{\"type\":\"us\n{\"type\":\"dream\",\"of\":1}\n{\"type\":\"user\",\"text\":\"x\"}\n",
        );
        std::fs::write(path(folder.path(), "s"), &bytes).expect("it is writable");
        let transcript = Transcript::open(folder.path(), "s").expect("it is readable");
        assert_eq!(transcript.items()[3..], [Item::Unknown, user("x")]);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(Transcript::open(folder.path(), "s"), Err(OpenError::Missing)));
        let open = Transcript::create(folder.path(), "s").expect("it is new");
        assert!(matches!(Transcript::open(folder.path(), "s"), Err(OpenError::InUse)));
        drop(open);
        assert!(Transcript::open(folder.path(), "s").is_ok());
        let newer = b"{\"type\":\"session\",\"version\":2,\"id\":\"s\"}\n";
        std::fs::write(path(folder.path(), "s"), newer).expect("it is writable");
        assert!(matches!(Transcript::open(folder.path(), "s"), Err(OpenError::Newer(2))));
    }

    #[test]
    fn calls_without_a_result_are_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut transcript = Transcript::create(folder.path(), "s").expect("it is new");
        let calls = vec![call("a"), call("b")];
        transcript.append(Item::Assistant { text: String::new(), calls }).expect("the disk has room");
        let result = Item::Tool { call_id: "b".to_owned(), ok: true, text: String::new() };
        transcript.append(result).expect("the disk has room");
        assert_eq!(transcript.unanswered(), ["a"]);
        assert!(transcript.has_call("b") && !transcript.has_call("c"));
        transcript.append(user("next")).expect("the disk has room");
        assert!(transcript.unanswered().is_empty());
    }

    #[test]
    fn the_format_of_version_1_stays_readable() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let golden = concat!(
            "{\"type\":\"session\",\"version\":1,\"id\":\"s\"}\n",
            "{\"type\":\"user\",\"text\":\"fix it\"}\n",
            "{\"type\":\"assistant\",\"text\":\"\",\"calls\":[{\"id\":\"a\",\"name\":\"read\",\"arguments\":\"{}\"}]}\n",
            "{\"type\":\"tool\",\"call_id\":\"a\",\"ok\":false,\"text\":\"no\"}\n",
        );
        let mut transcript = Transcript::create(folder.path(), "s").expect("it is new");
        transcript.append(user("fix it")).expect("the disk has room");
        let answer = Item::Assistant { text: String::new(), calls: vec![call("a")] };
        transcript.append(answer).expect("the disk has room");
        let result = Item::Tool { call_id: "a".to_owned(), ok: false, text: "no".to_owned() };
        transcript.append(result).expect("the disk has room");
        assert_eq!(std::fs::read_to_string(path(folder.path(), "s")).expect("it was written"), golden);
        let items = transcript.items().to_vec();
        drop(transcript);
        assert_eq!(Transcript::open(folder.path(), "s").expect("it is whole").items(), items);
    }
}
