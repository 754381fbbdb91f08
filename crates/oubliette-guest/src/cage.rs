//! Closing the cage: carries out the server's order (see [`ob_core::cage`]) on the calling process, for good.
//!
//! Done by the first process of a sandbox before it starts a thread, opens a socket or reads a word from anyone, so
//! that everything in the sandbox, the guest included, lives under it. Each part is demanded and not asked for: one that
//! the kernel does not grant whole is an error, and there is no sandbox.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;

use landlock::ABI;
use landlock::Access as _;
use landlock::AccessFs;
use landlock::BitFlags;
use landlock::CompatLevel;
use landlock::Compatible as _;
use landlock::PathBeneath;
use landlock::PathFd;
use landlock::Ruleset;
use landlock::RulesetAttr as _;
use landlock::RulesetCreated;
use landlock::RulesetCreatedAttr as _;
use landlock::RulesetError;
use landlock::RulesetStatus;
use landlock::Scope;
use ob_core::cage::CAGE_FILE;
use ob_core::cage::Cage;
use ob_core::cage::FileAccess;
use ob_core::cage::Landlock;
use ob_core::cage::MAX_CAGE;
use rustix::process::DumpableBehavior;

/// Why the cage cannot be closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CageError {
    #[error("cannot read {CAGE_FILE}: {0}")]
    Order(#[source] io::Error),
    #[error("cannot hide from other processes: {0}")]
    Hide(#[source] rustix::io::Errno),
    #[error("cannot name {path} to landlock: {source}")]
    Path { path: String, source: landlock::PathFdError },
    #[error("landlock: {0}")]
    Landlock(#[from] RulesetError),
    #[error("landlock: the kernel restricts less than was asked for")]
    Partial,
    #[error("cannot execute {program}: {source}")]
    Execute { program: String, source: io::Error },
}

/// Closes the cage as the order inside says.
pub(crate) fn close() -> Result<(), CageError> {
    let order = read(Path::new(CAGE_FILE)).map_err(CageError::Order)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(order.umask));
    if order.is_guest_hidden {
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(CageError::Hide)?;
    }
    order.landlock.as_ref().map_or(Ok(()), restrict)
}

/// Closes the cage and becomes another program. For tests of the walls: the guest itself is not there then.
pub(crate) fn execute(mut args: impl Iterator<Item = String>) -> ExitCode {
    let program = args.next().unwrap_or_default();
    let closed = close().map(|()| Command::new(&program).args(args).exec());
    let error = match closed {
        Ok(source) => CageError::Execute { program, source },
        Err(error) => error,
    };
    complain(&error);
    ExitCode::FAILURE
}

/// A line that becomes the reason of the sandbox's end.
pub(crate) fn complain(error: &CageError) {
    use io::Write as _;
    // Nothing is left to do if even this cannot be written.
    drop(writeln!(io::stderr(), "cage: {error}"));
}

fn read(path: &Path) -> io::Result<Cage> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_CAGE).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Restricts this process, and what it starts from now on.
fn restrict(order: &Landlock) -> Result<(), CageError> {
    let abi = ABI::from(i32::try_from(order.abi).unwrap_or(i32::MAX));
    let status = ruleset(order, abi)?.restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => Err(CageError::Partial),
    }
}

fn ruleset(order: &Landlock, abi: ABI) -> Result<RulesetCreated, CageError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    let scopes = Scope::from_all(abi);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    let mut created = ruleset.create()?;
    for rule in &order.rules {
        let path =
            PathFd::new(&rule.path).map_err(|source| CageError::Path { path: rule.path.clone(), source })?;
        let mut rights = rights(rule.access, abi);
        if !Path::new(&rule.path).is_dir() {
            rights &= AccessFs::from_file(abi);
        }
        created = created.add_rule(PathBeneath::new(path, rights))?;
    }
    Ok(created)
}

/// The kernel's names of what may be done. Never more than the interface knows.
fn rights(access: FileAccess, abi: ABI) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let rights = match access {
        FileAccess::List => AccessFs::ReadDir.into(),
        FileAccess::Read => read,
        FileAccess::Execute => read | AccessFs::Execute,
        FileAccess::Change => {
            AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
        }
        FileAccess::Use => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
    };
    rights & AccessFs::from_all(abi)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [FileAccess; 5] =
        [FileAccess::List, FileAccess::Read, FileAccess::Execute, FileAccess::Change, FileAccess::Use];

    #[test]
    fn no_access_asks_for_a_right_that_the_kernels_interface_does_not_know() {
        for number in ob_core::cage::LANDLOCK_LEAST..=ob_core::cage::LANDLOCK_MOST {
            let abi = ABI::from(i32::try_from(number).expect("small"));
            for access in ALL {
                let rights = rights(access, abi);
                assert!(AccessFs::from_all(abi).contains(rights), "{access:?} in {number}");
                assert!(!rights.is_empty(), "{access:?} in {number}");
            }
        }
    }

    #[test]
    fn what_may_be_changed_may_be_renamed_between_folders_and_never_becomes_a_device() {
        let rights = rights(FileAccess::Change, ABI::V6);
        assert!(rights.contains(AccessFs::Refer | AccessFs::Truncate | AccessFs::MakeReg));
        assert!(!rights.intersects(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev));
    }

    #[test]
    fn what_is_read_is_not_written_and_what_is_used_is_not_executed() {
        let writing = AccessFs::from_write(ABI::V6);
        for access in [FileAccess::List, FileAccess::Read, FileAccess::Execute] {
            assert!(!rights(access, ABI::V6).intersects(writing), "{access:?}");
        }
        assert!(!rights(FileAccess::Use, ABI::V6).intersects(AccessFs::Execute | AccessFs::MakeReg));
        assert!(!rights(FileAccess::List, ABI::V6).contains(AccessFs::ReadFile));
    }

    #[test]
    fn an_order_that_is_missing_cut_or_unknown_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cage.json");
        assert!(read(&path).is_err(), "missing");
        let whole = r#"{"landlock":null,"umask":18,"is_guest_hidden":true}"#;
        for text in [&whole[..whole.len() - 1], "{}", &whole.replace("umask", "unmask")] {
            std::fs::write(&path, text).expect("written");
            assert!(read(&path).is_err(), "{text}");
        }
        std::fs::write(&path, whole).expect("written");
        assert_eq!(read(&path).expect("whole").umask, 0o022, "the control");
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error() {
        let order = Landlock {
            abi: 2,
            rules: vec![ob_core::cage::FileRule { path: "/does/not/exist".into(), access: FileAccess::Read }],
        };
        // Where the kernel has no Landlock, it is another error, and one too.
        assert!(ruleset(&order, ABI::V2).is_err());
    }
}
