//! From the first version's file to the present one: the same meaning under the present names, with the comments.
//!
//! ```text
//! config.yaml -> tree + comments -> present names, folders spelled out -> JSONC -> read again and compared -> written
//! ```
//!
//! **Invariant:** nothing is written unless the new text means what the old one did; and at no moment is the home without
//! a configuration. A crash half way leaves both files, which every command tells of.

mod write;

use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use ob_core::home::Layout;

use crate::LoadOptions;
use crate::Loaded;
use crate::Machine;
use crate::Mistake;
use crate::Mistakes;
use crate::file;
use crate::home;
use crate::jsonc;
use crate::yaml;

/// A migration that was thought through and not done.
#[derive(Clone, Debug)]
pub struct Migration {
    /// The file of the first version.
    pub from: PathBuf,
    /// The new file. It does not exist.
    pub to: PathBuf,
    /// What the old file will be called. It does not exist.
    pub backup: PathBuf,
    /// What the new file will say.
    pub text: String,
}

/// Why a configuration is not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The old file, or something beside it, has mistakes.
    #[error("the configuration has mistakes\n{0}")]
    Mistakes(#[from] Mistakes),
    /// The home has no file of the first version.
    #[error("{0} has no `config.yaml`: there is nothing to migrate")]
    Nothing(PathBuf),
    /// The new text would not mean the same. A defect of ours; nothing was written.
    #[error("the new file would not mean the same: {0}; nothing was changed")]
    Differs(String),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

// === impl Migration ===

impl Migration {
    /// Thinks it through: reads the old file, writes the new text, and makes sure that it means the same.
    pub fn plan(options: &LoadOptions) -> Result<Self, MigrateError> {
        let before = crate::load(options)?;
        let from = before.file.clone().filter(|file| file::is_yaml(file));
        let from = from.ok_or_else(|| MigrateError::Nothing(before.home.root().to_owned()))?;
        let missing = || Mistake::new(from.display().to_string(), "is gone");
        let (old, _) =
            file::read_text(&from).map_err(Mistakes::from)?.ok_or_else(missing).map_err(Mistakes::from)?;
        let wrong = |error: file::SyntaxError| {
            let place = format!("{}:{}:{}", from.display(), error.line, error.column);
            MigrateError::Mistakes(Mistake::new(place, error.what).into())
        };
        let tree = yaml::parse(&old).map_err(wrong)?;
        let text = write::jsonc(&old, &tree, &yaml::comments(&old).map_err(wrong)?);
        let to = before.home.root().join("config").join(home::FILE_V2);
        is_the_same(&before, &text, options, &to)?;
        let backup = free_name(&from);
        Ok(Self { from, to, backup, text })
    }

    /// Does it: the new file is written beside, the old one gets its new name, the new one its own.
    pub fn perform(&self) -> Result<(), MigrateError> {
        let draft = self.to.with_extension("jsonc.new");
        let failed = |path: &Path, source| MigrateError::Write { path: path.to_owned(), source };
        let folder = self.to.parent().unwrap_or(Path::new("/"));
        home::make_folder(folder).map_err(|error| failed(folder, error))?;
        // It may hold keys.
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(&draft, error))?;
        // Neither link replaces what is there.
        fs::hard_link(&self.from, &self.backup).map_err(|error| failed(&self.backup, error))?;
        fs::hard_link(&draft, &self.to).map_err(|error| failed(&self.to, error))?;
        for done in [&draft, &self.from] {
            fs::remove_file(done).map_err(|error| failed(done, error))?;
        }
        for folder in [Some(folder), self.from.parent()].into_iter().flatten() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(folder, error))?;
        }
        Ok(())
    }
}

/// Reads the new text as if it stood in the home already.
fn is_the_same(before: &Loaded, text: &str, options: &LoadOptions, to: &Path) -> Result<(), MigrateError> {
    let tree = jsonc::parse(text).map_err(|error| {
        MigrateError::Differs(format!("line {}, column {}: {}", error.line, error.column, error.what))
    })?;
    let (after, mistakes) = crate::read(options, Machine::this(), |found| {
        found.layout = Layout::V2;
        found.file = Some(to.to_owned());
        Some(tree)
    })?;
    if !mistakes.0.is_empty() {
        return Err(MigrateError::Differs(mistakes.to_string()));
    }
    let differs = crate::changes(&before.values, &after.values);
    // Folders are spelled out in the new file: compared below.
    if let Some(change) = differs.iter().find(|change| !change.path.starts_with("paths.")) {
        return Err(MigrateError::Differs(format!("`{}` would change", change.path)));
    }
    let folders = |loaded: &Loaded| (loaded.home.data(), loaded.home.logs(), loaded.home.projects());
    if folders(before) != folders(&after) || before.home.runtime() != after.home.runtime() {
        return Err(MigrateError::Differs("a folder would move".to_owned()));
    }
    if format!("{:?}", before.settings) != format!("{:?}", after.settings) {
        return Err(MigrateError::Differs("the settings would change".to_owned()));
    }
    Ok(())
}

/// The name with `.old` behind it, or with a number as well if that is taken.
pub(crate) fn free_name(from: &Path) -> PathBuf {
    let name = |suffix: &str| {
        let mut name = from.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let numbered = (1..).map(|number| name(&format!(".old-{number}")));
    let mut names = std::iter::once(name(".old")).chain(numbered);
    names.find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| name(".old"))
}

#[cfg(test)]
mod tests;
