//! Where an agent's program is on this machine, and what a sandbox must see of the machine for it to run.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use ob_config::AgentSettings;
use serde_json::Value;

/// What every sandbox sees already.
const SYSTEM: &str = "/usr";
/// The folder in which Node keeps packages.
const PACKAGES: &str = "node_modules";
/// What is read of a program's beginning: the line that says what interprets it.
const HEAD: u64 = 256;
/// The most bytes of a package's description.
const DESCRIPTION_MAX: u64 = 256 * 1024;

/// A program that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Itself, without links: at the same place inside.
    pub(super) path: PathBuf,
    /// What is to be shown to a sandbox besides what it sees.
    pub(super) read_only: Vec<PathBuf>,
    /// Folders for its `PATH`, where what interprets it is.
    pub(super) folders: Vec<PathBuf>,
    /// Its version, as its package says.
    pub(super) version: Option<String>,
}

/// The first of these programs that is there; or why none can be used. `shown` is what sandboxes see of the machine.
pub(super) fn find(names: &[String], settings: &AgentSettings, shown: &[PathBuf]) -> Result<Program, String> {
    let found = names.iter().find_map(|name| look(name, &settings.search));
    let found = found.ok_or_else(|| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        format!("its program {} was not found", names.join(" or "))
    })?;
    let path = real(&found)?;
    let is_shown =
        |path: &Path| path.starts_with(SYSTEM) || shown.iter().any(|shown| path.starts_with(shown));
    let mut program =
        Program { version: version(&path), path: path.clone(), read_only: Vec::new(), folders: Vec::new() };
    if !is_shown(&path) {
        program.read_only.push(package(&path));
    }
    if let Some(interpreter) = interpreter(&path) {
        let found = look(&interpreter, &settings.search)
            .ok_or_else(|| format!("`{interpreter}`, which its program needs, was not found"))?;
        let whole = real(&found)?;
        if !is_shown(&whole) {
            program.read_only.push(prefix(&whole));
            program.folders.extend(whole.parent().map(Path::to_owned));
        }
    }
    for path in &program.read_only {
        if let Some(why) = settings.hidden.why_not(path) {
            return Err(format!("{} cannot be shown to sandboxes: {why}", path.display()));
        }
    }
    Ok(program)
}

/// A program by its name in these folders, or by its path.
fn look(name: &str, search: &[PathBuf]) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && is_program(path));
    }
    search.iter().map(|folder| folder.join(name)).find(is_program)
}

fn real(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|error| format!("cannot open {}: {error}", path.display()))
}

/// What belongs to a program: all packages beside its own, its Python environment, or the file alone.
fn package(program: &Path) -> PathBuf {
    let mut outermost = None;
    for folder in program.ancestors() {
        if folder.file_name().is_some_and(|name| name == PACKAGES) {
            outermost = Some(folder);
        }
    }
    let environment = program.ancestors().nth(2).filter(|folder| folder.join("pyvenv.cfg").is_file());
    outermost.or(environment).unwrap_or(program).to_owned()
}

/// What interprets a script: a name or a path.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    fs::File::open(program).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if !first.ends_with("/env") {
        return Some(first.to_owned());
    }
    words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned)
}

/// Where an interpreter has its things: the folder over its `bin`, or the file alone.
fn prefix(interpreter: &Path) -> PathBuf {
    let over_bin = interpreter.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "bin"));
    over_bin.and_then(Path::parent).unwrap_or(interpreter).to_owned()
}

/// The version of the package that a program is in.
fn version(program: &Path) -> Option<String> {
    let folders = program.ancestors().skip(1);
    let inside = folders.take_while(|folder| folder.file_name().is_some_and(|name| name != PACKAGES));
    let description = inside.map(|folder| folder.join("package.json")).find(|file| file.is_file())?;
    let mut text = String::new();
    fs::File::open(description).ok()?.take(DESCRIPTION_MAX).read_to_string(&mut text).ok()?;
    let description: Value = serde_json::from_str(&text).ok()?;
    let version = description["version"].as_str()?;
    Some(version.chars().filter(|c| c.is_ascii_graphic()).take(40).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine on which agents were installed.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir_in("/var/tmp").expect("a folder"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().expect("it is there").join(name)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
            path
        }

        fn find(&self, name: &str, search: &[&str], shown: &[PathBuf]) -> Result<Program, String> {
            let search = search.iter().map(|folder| self.path(folder)).collect();
            let settings = AgentSettings { search, ..AgentSettings::default() };
            find(&[name.to_owned()], &settings, shown)
        }
    }

    #[test]
    fn a_package_of_node_is_shown_with_what_it_depends_on_and_what_interprets_it() {
        let machine = Machine::new();
        let program = machine.file("npm/lib/node_modules/agent/bin/agent.js", "#!/usr/bin/env -S node --x\n");
        machine.file("npm/lib/node_modules/agent/package.json", r#"{"version": "1.2.3"}"#);
        let node = machine.file("node/v20/bin/node", "\x7fELF");
        fs::create_dir_all(machine.path("npm/bin")).expect("made");
        symlink("../lib/node_modules/agent/bin/agent.js", machine.path("npm/bin/agent")).expect("linked");
        let found = machine.find("agent", &["npm/bin", "node/v20/bin"], &[]).expect("it is there");
        assert_eq!(
            found,
            Program {
                path: program,
                read_only: vec![machine.path("npm/lib/node_modules"), machine.path("node/v20")],
                folders: vec![node.parent().expect("a folder").to_owned()],
                version: Some("1.2.3".to_owned()),
            }
        );
        let shown = [machine.path("npm"), machine.path("node")];
        let found = machine.find("agent", &["npm/bin", "node/v20/bin"], &shown).expect("it is there");
        assert_eq!(
            (found.read_only, found.folders),
            (Vec::new(), Vec::new()),
            "what is shown is not shown twice"
        );
    }

    #[test]
    fn a_single_file_is_shown_alone_and_an_environment_of_python_whole() {
        let machine = Machine::new();
        let program = machine.file("bin/agent", "\x7fELF");
        let found = machine.find("agent", &["bin"], &[]).expect("it is there");
        assert_eq!((found.read_only, found.version), (vec![program], None));

        machine.file("venv/bin/agent", "#!/bin/sh\n");
        machine.file("venv/pyvenv.cfg", "");
        let found = machine.find("agent", &["venv/bin"], &[]).expect("it is there");
        assert_eq!(found.read_only, [machine.path("venv")]);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let machine = Machine::new();
        machine.file("bin/script", "#!/usr/bin/env no-such-interpreter\n");
        fs::write(machine.path("bin/data"), "no program").expect("written");
        for (name, expected) in [
            ("agent", "its program `agent` was not found"),
            ("data", "its program `data` was not found"),
            ("./bin/script", "was not found"),
            ("script", "`no-such-interpreter`, which its program needs, was not found"),
        ] {
            let problem = machine.find(name, &["bin"], &[]).expect_err(name);
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_program_among_keys_is_not_shown() {
        let machine = Machine::new();
        machine.file(".ssh/agent", "\x7fELF");
        machine.file("home/config/agent", "\x7fELF");
        let place = machine.path("home");
        let options = ob_config::LoadOptions {
            dir: Some(place),
            env: [("HOME".into(), machine.path("").into_os_string())].into(),
            cwd: machine.path(""),
            ..Default::default()
        };
        let mut settings = ob_config::load(&options).expect("a configuration").settings.agents;
        for (folder, expected) in
            [(".ssh", "people keep keys there"), ("home/config", "files of this server")]
        {
            settings.search = vec![machine.path(folder)];
            let problem = find(&["agent".to_owned()], &settings, &[]).expect_err(folder);
            assert!(problem.contains(expected), "{problem}");
        }
        machine.file("tools/agent", "\x7fELF");
        settings.search = vec![machine.path("tools")];
        assert!(find(&["agent".to_owned()], &settings, &[]).is_ok(), "the control");
    }
}
