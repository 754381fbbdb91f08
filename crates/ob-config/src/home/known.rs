//! Which homes this person named or made. A home that is only found in the working directory may have come with a
//! clone, so what it says is not trusted until it was named once: a folder cannot vouch for itself.
//!
//! One small file for each home, in `$XDG_STATE_HOME/oubliette/homes`, else `~/.local/state/oubliette/homes`: the path of
//! the home, and one word.

use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::env;
use crate::env::Environment;

use super::at;
use super::short_name;

/// How a home is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was named: all that it says counts.
    Named,
    /// Its folders were made by us, in a working directory.
    Made,
}

/// How this home is known, if it is.
pub(crate) fn look(root: &Path, env: &Environment) -> Option<Known> {
    let record = fs::read(folder(env)?.join(short_name(root))).ok()?;
    let word = record.strip_prefix(root.as_os_str().as_bytes())?.strip_prefix(b"\n")?;
    [Known::Named, Known::Made].into_iter().find(|known| known.word().as_bytes() == word)
}

/// Notes that this home is known. Nothing is noted for a person without a folder, and a lesser word never replaces a
/// greater one.
pub(crate) fn note(root: &Path, known: Known, env: &Environment) -> io::Result<()> {
    let Some(folder) = folder(env) else { return Ok(()) };
    if look(root, env).is_some_and(|before| before == known || before == Known::Named) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| at(&folder, &error))?;
    let record = folder.join(short_name(root));
    let draft = folder.join(format!("{}.{}", short_name(root), std::process::id()));
    let mut file = fs::File::create(&draft).map_err(|error| at(&draft, &error))?;
    let content = [root.as_os_str().as_bytes(), b"\n", known.word().as_bytes()].concat();
    file.write_all(&content).and_then(|()| fs::rename(&draft, &record)).map_err(|error| at(&record, &error))
}

fn folder(env: &Environment) -> Option<PathBuf> {
    let state = env
        .absolute(env::XDG_STATE_HOME)
        .or_else(|| env.absolute(env::HOME).map(|person| person.join(".local/state")))?;
    Some(state.join("oubliette/homes"))
}

// === impl Known ===

impl Known {
    const fn word(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Made => "made",
        }
    }
}
