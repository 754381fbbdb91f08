//! Finding a home and making it. The same rule for every command:
//!
//! `--dir` > `OUBLIETTE_HOME` > the folder of `-config F` (its parent if that is named `config`) > `.` if it holds a
//! configuration > `./.oubliette` if it exists > `~/.oubliette`.
//!
//! **Invariant:** a home of the working directory that nobody named is used, but what it says is not trusted: it may
//! have come with a clone. See [`known`].

pub(crate) mod known;

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::home::Layout;
use sha2::Digest as _;

use crate::LoadOptions;
use crate::Mistake;
use crate::env;
use crate::env::Environment;
use crate::file::is_yaml;
use known::Known;

/// What a new home's `config/oubliette.jsonc` says: nothing but defaults.
pub const DEFAULT_FILE: &str = include_str!("default.jsonc");

/// The configuration file of the first version.
const FILE_V1: &str = "config.yaml";
/// What the configuration of a home is called.
pub const FILE_V2: &str = "oubliette.jsonc";

/// A socket path may have 108 bytes at most, and below this come `/s/`, eight characters and the name of a socket.
const LONGEST_RUNTIME: usize = 48;

/// Names the home that a runtime folder belongs to.
const MARK: &str = "home";

/// A home that was found.
pub(crate) struct Found {
    /// The real path of its root.
    pub(crate) root: PathBuf,
    pub(crate) layout: Layout,
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    pub(crate) by: FoundBy,
    /// True if whoever runs us chose this home, now or before; else whoever wrote the folder did.
    pub(crate) is_trusted: bool,
    /// Where sockets go, if the configuration says nothing.
    pub(crate) runtime: PathBuf,
}

/// The rule that found a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// `--dir`.
    Dir,
    /// `OUBLIETTE_HOME`.
    Variable,
    /// The folder of `--config F`.
    ConfigFile,
    /// The working directory, or `.oubliette` in it: whoever wrote that folder chose the settings, and not whoever
    /// typed the command.
    WorkingDirectory,
    /// `~/.oubliette`.
    Person,
}

/// Finds the home.
pub(crate) fn find(options: &LoadOptions, env: &Environment) -> Result<Found, Mistake> {
    let file = options.config_file.as_ref().map(|file| explicit_file(options, file)).transpose()?;
    let (root, by, place) = root_of(options, env, file.as_deref())?;
    if fs::metadata(&root).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(Mistake::new(place, format!("{} is not a folder", root.display())));
    }
    let root = resolve_links(&root);
    let file = one_file(&root, file)?;
    if by == FoundBy::WorkingDirectory {
        for path in [Some(root.as_path()), file.as_deref()].into_iter().flatten() {
            own(path, options.uid)?;
        }
    }
    let known = known::look(&root, env);
    let is_trusted = by != FoundBy::WorkingDirectory || known == Some(Known::Named);
    if !is_trusted && known.is_none() {
        refuse_brought_data(&root)?;
    }
    let layout = if file.as_deref().is_some_and(is_yaml) { Layout::V1 } else { Layout::V2 };
    let runtime = runtime_folder(&root, options.uid, env);
    Ok(Found { root, layout, file, by, is_trusted, runtime })
}

fn root_of(
    options: &LoadOptions,
    env: &Environment,
    file: Option<&Path>,
) -> Result<(PathBuf, FoundBy, &'static str), Mistake> {
    let at = |path: &Path| normal(&options.cwd.join(path));
    if let Some(dir) = &options.dir {
        if dir.as_os_str().is_empty() {
            return Err(Mistake::new("--dir", "is empty; name a folder"));
        }
        return Ok((at(dir), FoundBy::Dir, "--dir"));
    }
    if let Some(dir) = env.path(env::OUBLIETTE_HOME) {
        return Ok((at(&dir), FoundBy::Variable, env::OUBLIETTE_HOME));
    }
    if let Some(file) = file {
        let folder = file.parent().unwrap_or(Path::new("/"));
        let folder = match (folder.file_name(), folder.parent()) {
            (Some(name), Some(parent)) if name == "config" => parent,
            _ => folder,
        };
        return Ok((folder.to_owned(), FoundBy::ConfigFile, "--config"));
    }
    let holds_file = candidates(&options.cwd).iter().any(|path| path.is_file());
    if holds_file {
        return Ok((at(Path::new(".")), FoundBy::WorkingDirectory, "working directory"));
    }
    let hidden = at(Path::new(".oubliette"));
    // In the person's own folder this is the same as the last rule.
    if hidden.is_dir() && env.absolute(env::HOME).as_deref() != Some(options.cwd.as_path()) {
        return Ok((hidden, FoundBy::WorkingDirectory, "working directory"));
    }
    match env.absolute(env::HOME) {
        Some(person) => Ok((normal(&person.join(".oubliette")), FoundBy::Person, env::HOME)),
        None => Err(Mistake::new(
            env::HOME,
            "is not set to an absolute path, so there is no `~/.oubliette`; name a home with `--dir` or `OUBLIETTE_HOME`",
        )),
    }
}

/// The places of a configuration file in a home.
fn candidates(root: &Path) -> [PathBuf; 3] {
    [root.join("config").join(FILE_V2), root.join(FILE_V2), root.join(FILE_V1)]
}

fn explicit_file(options: &LoadOptions, file: &Path) -> Result<PathBuf, Mistake> {
    let path = normal(&options.cwd.join(file));
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(Mistake::new("--config", format!("{} is not a regular file", path.display()))),
        Err(error) => Err(Mistake::new("--config", format!("{} cannot be read: {error}", path.display()))),
    }
}

/// The one configuration file of a home; more than one is a mistake, for nobody could say which counts.
fn one_file(root: &Path, explicit: Option<PathBuf>) -> Result<Option<PathBuf>, Mistake> {
    let mut files: Vec<PathBuf> = candidates(root).into_iter().filter(|path| path.exists()).collect();
    if let Some(explicit) = explicit {
        // A file of another name does not compete with those of its own version.
        files.retain(|path| is_yaml(path) != is_yaml(&explicit));
        files.insert(0, resolve_links(&explicit));
    }
    match files.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some(file.clone())),
        [first, second, ..] => Err(Mistake::new(
            first.display().to_string(),
            format!("this home has a second configuration file, {}; remove one of them", second.display()),
        )),
    }
}

/// A home that we did not make and nobody named must not bring sessions that go on, or tokens that open doors: they may
/// have come with a clone.
fn refuse_brought_data(root: &Path) -> Result<(), Mistake> {
    let brought = ["data", "logs", "projects"].map(|name| root.join(name));
    match brought.iter().find(|folder| folder.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(folder) => Err(Mistake::new(
            folder.display().to_string(),
            "was found in the working directory and not made here by you; if you trust this home, name it once with \
             `--dir .`",
        )),
    }
}

/// A folder or file that someone else could have put into the working directory must not choose the settings.
fn own(path: &Path, uid: u32) -> Result<(), Mistake> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(()) };
    let (owner, mode) = (metadata.uid(), metadata.mode());
    let why = if owner != uid && owner != 0 {
        format!("belongs to user {owner}")
    } else if !metadata.is_dir() && mode & 0o022 != 0 {
        "can be written by others".to_owned()
    } else {
        return Ok(());
    };
    Err(Mistake::new(
        path.display().to_string(),
        format!("was found in the working directory and {why}; if you trust it, name the home with `--dir`"),
    ))
}

/// Without `.` and `..`, as the words of the path say.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            // Nothing is above the root: `pop` says so and does nothing.
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

/// The real path, also of what does not exist yet: one home has one name, whatever links lead to it.
pub(crate) fn resolve_links(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let Ok(real) = fs::canonicalize(ancestor) {
            return match path.strip_prefix(ancestor) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
    }
    path.to_owned()
}

/// A short name of the home at `root`, the same for every command.
pub(crate) fn short_name(root: &Path) -> String {
    let digest = sha2::Sha256::digest(root.as_os_str().as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The home's own folder in `sockets`; nothing if a socket in it would have too long a path.
pub(crate) fn sockets_folder(sockets: &Path, root: &Path) -> Option<PathBuf> {
    Some(sockets.join(short_name(root))).filter(|folder| folder.as_os_str().len() <= LONGEST_RUNTIME)
}

/// Where the sockets of the home at `root` go: short, private, and the same for every command.
fn runtime_folder(root: &Path, uid: u32, env: &Environment) -> PathBuf {
    let name = short_name(root);
    if uid == 0 && rustix::fs::access("/run", rustix::fs::Access::WRITE_OK).is_ok() {
        return Path::new("/run/oubliette").join(name);
    }
    let own_runtime =
        env.absolute(env::XDG_RUNTIME_DIR).map(|dir| dir.join("oubliette").join(&name)).filter(|dir| {
            dir.as_os_str().len() <= LONGEST_RUNTIME
                && dir
                    .ancestors()
                    .nth(2)
                    .is_some_and(|xdg| fs::metadata(xdg).is_ok_and(|m| m.is_dir() && m.uid() == uid))
        });
    own_runtime.unwrap_or_else(|| PathBuf::from(format!("/tmp/oubliette-{uid}")).join(name))
}

/// Makes a folder, and those above it, that only we can enter, if it is missing.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a missing home: folders with mode 0700, and a configuration file that says nothing but defaults. Makes its
/// runtime folder too, as [`make_runtime`] does. Returns true if it made the home.
pub fn make_home(home: &Home) -> io::Result<bool> {
    let is_new = !home.root().try_exists().map_err(|error| at(home.root(), &error))?;
    let logs = home.logs();
    for folder in [home.root().to_owned(), home.config(), home.data(), home.blobs(), home.projects(), logs] {
        make_folder(&folder).map_err(|error| at(&folder, &error))?;
    }
    if is_new && home.layout() == Layout::V2 {
        let path = home.config().join(FILE_V2);
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => file.write_all(DEFAULT_FILE.as_bytes()).map_err(|error| at(&path, &error))?,
            // Another command makes the same home at the same time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(&path, &error)),
        }
    }
    make_runtime(home)?;
    Ok(is_new)
}

/// Makes the runtime folder of a home if it is missing: mode 0700, and ours. It may go with a reboot while the home
/// stays.
///
/// # Errors
/// If the folder, or the one above it, is someone else's, is a link, or can be written by others; or if it belongs to
/// another home.
pub fn make_runtime(home: &Home) -> io::Result<()> {
    let folder = home.runtime();
    if let Some(parent) = folder.parent() {
        let is_ours = parent.file_name().is_some_and(|name| name.as_bytes().starts_with(b"oubliette"));
        if is_ours || !parent.exists() {
            make_private(parent)?;
        }
    }
    make_private(folder)?;
    let mark = folder.join(MARK);
    let root = home.root().as_os_str().as_bytes();
    match File::options().write(true).create_new(true).mode(0o600).open(&mark) {
        Ok(mut file) => file.write_all(root).map_err(|error| at(&mark, &error)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let known = fs::read(&mark).map_err(|error| at(&mark, &error))?;
            // Empty while another command of the same home writes it.
            if known.is_empty() || known == root {
                return Ok(());
            }
            let other = String::from_utf8_lossy(&known).into_owned();
            Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} belongs to the home {other}", folder.display()),
            ))
        }
        Err(error) => Err(at(&mark, &error)),
    }
}

/// Makes a folder that only we can enter, or makes sure that the one there is one.
fn make_private(folder: &Path) -> io::Result<()> {
    let refuse = |what: String| {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {what}", folder.display())))
    };
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(at(folder, &error)),
    }
    // Not `metadata`: a link in a folder that all may write leads wherever its maker wants.
    let metadata = fs::symlink_metadata(folder).map_err(|error| at(folder, &error))?;
    let us = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return refuse("is not a folder".to_owned());
    }
    if metadata.uid() != us {
        return refuse(format!("belongs to user {} and not to us, user {us}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse("can be written by others; remove it".to_owned());
    }
    if metadata.mode() & 0o055 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(|error| at(folder, &error))?;
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

// === impl Found ===

impl Found {
    /// What to tell the operator about the choice.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match self.by {
            FoundBy::WorkingDirectory => vec![format!(
                "the home is {}, for it was found in the working directory; `--dir` names another",
                self.root.display()
            )],
            FoundBy::Dir | FoundBy::Variable | FoundBy::ConfigFile | FoundBy::Person => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
