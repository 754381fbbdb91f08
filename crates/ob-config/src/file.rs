//! Reads a configuration file, of either version, into a [`Node`] tree: bounded, and whatever stands in its place.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::Mistake;
use crate::jsonc;
use crate::tree::Node;
use crate::yaml;

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// A file that was read.
pub(crate) struct ConfigFile {
    pub(crate) root: Node,
    /// Its permission bits.
    pub(crate) mode: u32,
}

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    pub(crate) what: String,
}

/// True if a file is the first version's by its name.
pub(crate) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Reads a configuration file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<ConfigFile>, Mistake> {
    let Some((text, mode)) = read_text(path)? else { return Ok(None) };
    let parsed = if is_yaml(path) { yaml::parse(&text) } else { jsonc::parse(&text) };
    match parsed {
        Ok(root) => Ok(Some(ConfigFile { root, mode })),
        Err(error) => {
            Err(Mistake::new(format!("{}:{}:{}", path.display(), error.line, error.column), error.what))
        }
    }
}

/// The text of a configuration file and its permission bits; `None` if there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<(String, u32)>, Mistake> {
    let wrong = |what: String| Mistake::new(path.display().to_string(), what);
    // Non-blocking, so that a FIFO in its place cannot hold the start up.
    let opened =
        File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
    };
    let metadata = file.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("is larger than {MAX_BYTES} bytes, the most a configuration may have")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
    Ok(Some((text, metadata.mode())))
}

/// A parser's message as ours begin.
pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
