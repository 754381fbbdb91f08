//! Starts an agent that others make: writes its configuration into its home, then becomes it, or serves it if it is a
//! plain program ([`plain`]).
//!
//! What to do is in a variable and not in arguments, which every process inside can read; and the files are written from
//! within, as the agent itself, so that no link in its home leads a server's hand anywhere.

mod plain;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;

use ob_core::agent::AgentStart;
use ob_core::agent::GATE_PLACE;
use ob_core::agent::HOME_PLACE;
use ob_core::agent::START_VARIABLE;
use ob_core::link::GATE_PORT;
use ob_core::link::HOME_DIR;

/// The exit code of a program that cannot be started, as shells have it.
const NOT_STARTED: u8 = 127;

/// Why an agent was not started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("nothing says what to start")]
    Nothing,
    #[error("what to start is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("`{0}` is no path of a file under the home")]
    Path(String),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start {program}: {source}")]
    Program { program: String, source: io::Error },
    #[error("cannot serve {program}: {source}")]
    Serve { program: String, source: io::Error },
}

pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if even this cannot be written.
            drop(writeln!(io::stderr(), "start: {error}"));
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn run() -> Result<(), StartError> {
    // tidy: environment: this is the main of its program; ob-config is not in the guest.
    let variable = |name: &str| std::env::var(name).ok();
    let told = variable(START_VARIABLE).ok_or(StartError::Nothing)?;
    let home = PathBuf::from(variable("HOME").unwrap_or_else(|| HOME_DIR.to_owned()));
    let base = variable("OPENAI_BASE_URL").unwrap_or_else(|| format!("http://127.0.0.1:{GATE_PORT}/v1"));
    let start = placed(serde_json::from_str(&told)?, base.trim_end_matches("/v1"), &home);
    write_files(&home, &start.files)?;
    let (program, arguments) = start.argv.split_first().ok_or(StartError::Nothing)?;
    if let Some(via) = start.plain {
        return plain::serve(&start, via)
            .map_err(|source| StartError::Serve { program: program.clone(), source });
    }
    let source = Command::new(program).args(arguments).envs(&start.env).env_remove(START_VARIABLE).exec();
    Err(StartError::Program { program: program.clone(), source })
}

/// With what only the inside knows: where the gate and the home are.
fn placed(start: AgentStart, gate: &str, home: &Path) -> AgentStart {
    let home = home.to_string_lossy();
    let place = |text: String| text.replace(GATE_PLACE, gate).replace(HOME_PLACE, &home);
    let all =
        |texts: BTreeMap<String, String>| texts.into_iter().map(|(name, text)| (name, place(text))).collect();
    AgentStart {
        argv: start.argv.into_iter().map(place).collect(),
        env: all(start.env),
        files: all(start.files),
        plain: start.plain,
    }
}

fn write_files(home: &Path, files: &BTreeMap<String, String>) -> Result<(), StartError> {
    for (name, text) in files {
        let relative = Path::new(name);
        if name.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(StartError::Path(name.clone()));
        }
        let path = home.join(relative);
        let written = || {
            fs::create_dir_all(path.parent().unwrap_or(home))?;
            // The home outlives the sandbox: what an earlier agent put there goes, also if it is a link.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => fs::write(&path, text),
            }
        };
        written().map_err(|source| StartError::Write { path: path.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(name: &str) -> BTreeMap<String, String> {
        [(name.to_owned(), "{gate}".to_owned())].into()
    }

    #[test]
    fn the_places_are_put_in_everywhere() {
        let start = AgentStart {
            argv: vec!["p".to_owned(), "{home}/x".to_owned()],
            env: [("URL".to_owned(), "{gate}/v1".to_owned())].into(),
            files: files(".c/settings.json"),
            plain: None,
        };
        let start = placed(start, "http://127.0.0.1:7", Path::new("/h"));
        assert_eq!(start.argv, ["p", "/h/x"]);
        assert_eq!(start.env["URL"], "http://127.0.0.1:7/v1");
        assert_eq!(start.files[".c/settings.json"], "http://127.0.0.1:7");
    }

    #[test]
    fn files_are_written_anew_and_not_through_links() {
        let home = tempfile::tempdir().expect("a folder");
        let victim = home.path().join("victim");
        fs::write(&victim, "precious").expect("written");
        fs::create_dir(home.path().join(".c")).expect("a folder");
        std::os::unix::fs::symlink(&victim, home.path().join(".c/settings.json")).expect("a link");
        write_files(home.path(), &files(".c/settings.json")).expect("it is written");
        assert_eq!(fs::read_to_string(home.path().join(".c/settings.json")).expect("a file"), "{gate}");
        assert_eq!(fs::read_to_string(victim).expect("a file"), "precious");
    }

    #[test]
    fn a_path_that_leads_out_of_the_home_is_refused() {
        let home = tempfile::tempdir().expect("a folder");
        for name in ["", "/etc/x", "../x", "a/../../x", "."] {
            let error = write_files(home.path(), &files(name)).expect_err(name);
            assert!(matches!(error, StartError::Path(_)), "{error}");
        }
    }
}
