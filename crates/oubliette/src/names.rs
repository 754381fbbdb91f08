//! The names that this program answers to. Each is a row here and nothing elsewhere.

use std::ffi::OsStr;
use std::path::Path;

/// The name of every server process (`pgrep -f oubliette-server` finds servers and nothing else).
pub(crate) const SERVER_NAME: &str = "oubliette-server";

/// One name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramName {
    /// What argv[0] ends in.
    pub(crate) name: &'static str,
    /// The subcommand that is meant if none is given.
    pub(crate) implied: &'static str,
}

/// Every name.
pub(crate) const NAMES: &[ProgramName] = &[
    ProgramName { name: "oubliette", implied: "serve" },
    ProgramName { name: SERVER_NAME, implied: "serve" },
];

/// The row of a process that was called so; the first row if it was renamed.
pub(crate) fn of(argv0: &OsStr) -> ProgramName {
    let file = Path::new(argv0).file_name().unwrap_or_default();
    NAMES.iter().copied().find(|row| file == row.name).unwrap_or(NAMES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_with_and_without_its_folder() {
        for called in ["oubliette-server", "./oubliette-server", "/usr/bin/oubliette-server"] {
            assert_eq!(of(OsStr::new(called)).name, SERVER_NAME);
        }
        assert_eq!(of(OsStr::new("/x/renamed")).name, "oubliette");
        assert_eq!(of(OsStr::new("")).name, "oubliette");
    }
}
