//! The runbooks of the first and of the second version: each of their lines is typed as it stands, or is named with what
//! it waits for.
//!
//! All lines of a runbook are typed in order, in one folder, by a shell that has process ids, a network and `/tmp` of its
//! own: they take port 8080, and kill whatever is called `oubliette`. Where a line has a place for a name, the name is
//! filled in. `docs/runbooks.md` is made from these tables.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::commands::lacks;
use crate::is_current;

/// The configuration of the first runbook, as it stands.
const CONFIG_V1: &str = include_str!("../../../ob-config/src/migrate/runbook-v1.yaml");

/// Where the shell is. Its path must not hold the product's name, or `pgrep -f` would find the shell.
const PLACE: &str = "/mnt";

/// Lines of ours between those of a runbook: `ready` waits for the server, `gone` for its end.
const PRELUDE: &str = "\
ready() { curl -sf --retry 100 --retry-all-errors --retry-delay 1 -o /dev/null http://localhost:8080/ready; }
gone() { for _ in $(seq 600); do pgrep -f oubliette-server >/dev/null || return 0; sleep 0.1; done; return 1; }
";

const CONTAINERS: &str = "containers";
const BACKUPS: &str = "backups";

/// What becomes of a line.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Typed; what it prints contains these.
    Typed(&'static [&'static str]),
    /// Typed with names in the places for them; what it prints contains these.
    Filled(&'static str, &'static [&'static str]),
    /// Typed, and left running until it is ready.
    Left,
    /// Not of the runbook: what a person does between its lines, or looks at to see that they did what they should.
    Ours(&'static [&'static str]),
    /// Waits for something that is not there yet.
    Waits(&'static str),
}

/// A line, and what becomes of it.
type Line = (&'static str, Fate);

use Fate::Filled;
use Fate::Left;
use Fate::Ours;
use Fate::Typed;
use Fate::Waits;

const FIRST: &[Line] = &[
    ("./oubliette", Left),
    ("curl http://localhost:8080/health", Typed(&[r#""status":"ok""#])),
    ("curl http://localhost:8080/ready", Typed(&[r#""status":"ready""#])),
    ("curl http://localhost:8080/metrics", Typed(&["# TYPE oubliette_requests_total counter"])),
    ("./oubliette token create --name ops-admin --scope admin", Typed(&["oub_"])),
    ("./oubliette token list", Typed(&["ID", "ops-admin"])),
    (
        "./oubliette token revoke <token-id>",
        Filled("./oubliette token revoke $(./oubliette token list | awk '/ops-admin/ { print $1 }')", &[]),
    ),
    ("docker info  # or container-runtime info", Waits(CONTAINERS)),
    ("docker ps | grep oubliette", Waits(CONTAINERS)),
    ("docker logs oubliette-<project-id>", Waits(CONTAINERS)),
    ("df -h /path/to/projects", Filled("df -h projects", &["Filesystem"])),
    ("curl http://localhost:8080/metrics | grep active_sessions", Typed(&["oubliette_active_sessions"])),
    (
        "timeout 60 tail -n +1 -f logs/oubliette.log | sed '/🧹 Cleanup/q'",
        Ours(&["🧹 Cleanup", "disk_percent="]),
    ),
    ("docker images | grep oubliette", Waits(CONTAINERS)),
    (r#"curl -X POST "http://localhost:8080/mcp" … "name":"image_rebuild" …"#, Waits(CONTAINERS)),
    ("ls backups/", Waits(BACKUPS)),
    ("tar -xzf backups/<project>_<date>.tar.gz -C projects/", Waits(BACKUPS)),
    ("ls -la backups/", Waits(BACKUPS)),
    ("tar -tzf backups/<project>_<date>.tar.gz", Waits(BACKUPS)),
    ("mkdir /tmp/restore-test", Waits(BACKUPS)),
    ("tar -xzf backups/<project>_<date>.tar.gz -C /tmp/restore-test", Waits(BACKUPS)),
    ("ls /tmp/restore-test/<project>/", Waits(BACKUPS)),
    ("cp data/auth.db data/auth.db.backup", Typed(&[])),
    (
        r#"sqlite3 data/auth.db.backup "PRAGMA integrity_check; SELECT count(*) FROM tokens;""#,
        Ours(&["ok\n1\n"]),
    ),
    (r#"sqlite3 data/auth.db "VACUUM;""#, Typed(&[])),
    ("./oubliette token list", Ours(&["ops-admin"])),
    ("pgrep -f oubliette-server", Typed(&[])),
    ("test $(pgrep -fc oubliette-server) = 1", Ours(&[])),
    ("kill -TERM <pid>", Filled("kill -TERM $(pgrep -f oubliette-server)", &[])),
    (
        "tail -f logs/oubliette.log",
        Filled("timeout 60 tail -f logs/oubliette.log | sed '/shutdown complete/q'", &["shutdown complete"]),
    ),
    ("gone", Ours(&[])),
    ("./oubliette-server -config config.yaml & ready", Ours(&[])),
    ("kill -TERM $(pgrep -f oubliette-server)", Typed(&[])),
    // As the runbook says above: it is stopped when the log says so.
    ("gone", Ours(&[])),
    ("cp -r data data.backup.$(date +%Y%m%d)", Typed(&[])),
    ("cp oubliette-server-new oubliette-server", Typed(&[])),
    ("./oubliette-server -config config.yaml &", Typed(&[])),
    ("sleep 5", Typed(&[])),
    ("curl http://localhost:8080/health", Typed(&[r#""status":"ok""#])),
    ("for name in one two; do ./oubliette token create --name $name --scope admin > $name; done", Ours(&[])),
    (
        r#"curl -s -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $(cat one)" http://localhost:8080/api/v1/projects"#,
        Ours(&["200"]),
    ),
    (
        "./oubliette token list | grep -v ID | awk '{print $1}' | xargs -I{} ./oubliette token revoke {}",
        Typed(&[]),
    ),
    (
        r#"for name in one two; do curl -s -o /dev/null -w '%{http_code} ' -H "Authorization: Bearer $(cat $name)" http://localhost:8080/api/v1/projects; done"#,
        Ours(&["401 401 "]),
    ),
];

const SECOND: &[Line] = &[
    ("oubliette                              # Start server", Left),
    ("curl http://localhost:8080/health    # Liveness", Typed(&[r#""status":"ok""#])),
    ("curl http://localhost:8080/ready     # Readiness", Typed(&[r#""status":"ready""#])),
    ("curl http://localhost:8080/metrics   # Prometheus metrics", Typed(&["oubliette_active_sessions"])),
    ("oubliette --daemon                     # Start in background", Typed(&["already running: pid"])),
    ("oubliette token create --name ops --scope admin", Typed(&["oub_"])),
    ("oubliette token list", Typed(&["ID", "ops"])),
    (
        "oubliette token revoke <token-id>",
        Filled("oubliette token revoke $(oubliette token list | awk '/ops/ { print $1 }')", &[]),
    ),
    ("docker ps", Waits(CONTAINERS)),
    ("container list", Waits(CONTAINERS)),
    ("docker ps | grep oubliette", Waits(CONTAINERS)),
    ("docker logs oubliette-<project-id>", Waits(CONTAINERS)),
    ("ls data/logs/", Ours(&["oubliette.log"])),
    (
        "mcp --setup",
        Filled(
            "oubliette mcp --setup claude-code --scope admin:ro && cat .claude.json",
            &["mcpServers", "oub_"],
        ),
    ),
    ("cp data/auth.db data/auth.db.backup", Typed(&[])),
    (r#"sqlite3 data/auth.db "VACUUM;""#, Typed(&[])),
    ("kill -TERM $(pgrep -f oubliette)", Typed(&[])),
    // Nothing waits here: the next server does.
    ("cp -r data data.backup.$(date +%Y%m%d)", Typed(&[])),
    ("oubliette --daemon", Typed(&["started: pid"])),
    ("curl http://localhost:8080/health", Typed(&[r#""status":"ok""#])),
    // `ops`, which is revoked, and the client's.
    ("sqlite3 data.backup.*/auth.db 'SELECT count(*) FROM tokens'", Ours(&["2\n"])),
];

/// Types the lines; what each printed. The error says which line, and what it printed.
fn typed(folder: &Path, lines: &[Line]) -> Result<(), String> {
    let notes = folder.join("notes");
    std::fs::create_dir(&notes).unwrap();
    let mut script = PRELUDE.to_owned();
    for (number, (line, fate)) in lines.iter().enumerate() {
        let (line, after) = match fate {
            Waits(_) => continue,
            Left => (format!("{line}\n"), "&\nready"),
            Filled(filled, _) => ((*filled).to_owned(), ""),
            Typed(_) | Ours(_) => ((*line).to_owned(), ""),
        };
        std::fs::write(notes.join(format!("{number}.sh")), line).unwrap();
        let background = if after.is_empty() { String::new() } else { after.to_owned() };
        writeln!(script, ". notes/{number}.sh >notes/{number}.out 2>&1 {background}").unwrap();
        writeln!(script, "[ $? = 0 ] || {{ echo {number} >notes/failed; exit 1; }}").unwrap();
    }
    std::fs::write(notes.join("all.sh"), script).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_oubliette")).parent().unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
    let mut shell = Command::new("bwrap");
    shell
        .args(["--dev-bind", "/", "/", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp"])
        // The programs may lie in a folder that is covered now.
        .arg("--ro-bind")
        .arg(programs)
        .arg(programs)
        .arg("--bind")
        .arg(folder)
        .arg(PLACE)
        .args(["--unshare-pid", "--unshare-net", "--die-with-parent", "--chdir", PLACE])
        .args(["timeout", "170", "bash", "notes/all.sh"])
        .env_clear()
        .envs([("PATH", path.as_str()), ("HOME", PLACE)]);
    let output = shell.output().unwrap();
    let printed = |number: usize| {
        let bytes = std::fs::read(notes.join(format!("{number}.out"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if let Ok(failed) = std::fs::read_to_string(notes.join("failed")) {
        let number: usize = failed.trim().parse().unwrap();
        return Err(format!("`{}` failed:\n{}", lines[number].0, printed(number)));
    }
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    for (number, (line, fate)) in lines.iter().enumerate() {
        let (Typed(expected) | Filled(_, expected) | Ours(expected)) = fate else { continue };
        let printed = printed(number);
        if let Some(missing) = expected.iter().find(|part| !printed.contains(**part)) {
            return Err(format!("`{line}` does not print `{missing}`:\n{printed}"));
        }
    }
    Ok(())
}

/// True if the lines can be typed here; else says why not. With `CI=true` they must.
fn can_type() -> bool {
    let missing = ["bwrap", "curl", "sqlite3", "pgrep", "timeout"].into_iter().find(|program| lacks(program));
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "{missing} is not installed");
        eprintln!("skipped: {missing} is not installed");
    }
    missing.is_none()
}

#[test]
fn the_first_runbook_can_be_typed() {
    if !can_type() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["oubliette", "oubliette-server", "oubliette-server-new"] {
        std::fs::copy(env!("CARGO_BIN_EXE_oubliette"), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("config.yaml"), CONFIG_V1).unwrap();
    typed(folder.path(), FIRST).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_second_runbook_can_be_typed() {
    if !can_type() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("oubliette.jsonc"), "{\n  // All config in `oubliette.jsonc`.\n}\n")
        .unwrap();
    typed(folder.path(), SECOND).unwrap_or_else(|error| panic!("{error}"));
}

/// The positive control: a line that fails, prints something else or does not end is told.
#[test]
fn a_runbook_that_is_wrong_fails() {
    if !can_type() {
        return;
    }
    let of = |lines: &[Line]| typed(tempfile::tempdir().unwrap().path(), lines);
    assert_eq!(of(&[("echo one", Typed(&["one"])), ("docker ps", Waits(CONTAINERS))]), Ok(()));
    let error = of(&[("echo one", Typed(&[])), ("ls nowhere", Typed(&[]))]).unwrap_err();
    assert!(error.starts_with("`ls nowhere` failed") && error.contains("No such file"), "{error}");
    let error = of(&[("echo one", Typed(&["two"]))]).unwrap_err();
    assert!(error.starts_with("`echo one` does not print `two`"), "{error}");
    let error = of(&[("exit 3", Typed(&[]))]).unwrap_err();
    assert!(error.contains("exit status: 3"), "{error}");
    // Nothing outside is seen, so nothing outside is killed.
    let mine = std::process::id();
    assert!(of(&[("kill -0 <pid>", Filled(&*format!("kill -0 {mine}").leak(), &[]))]).is_err());
}

#[test]
fn the_page_of_the_runbooks_says_what_becomes_of_each_line() {
    let mut page = String::from(
        "# Runbooks of earlier versions\n\n\
         <!-- Generated from the tables of a test by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->\n\n\
         Operators of the first and of the second version have a runbook each. What its lines do here is tested: each is typed as\n\
         it stands, in order, with names filled in where it has a place for one. The others wait for what is not built yet.\n",
    );
    for (title, lines) in [("First version", FIRST), ("Second version", SECOND)] {
        writeln!(page, "\n## {title}\n\n| line | here |\n| --- | --- |").unwrap();
        for (line, fate) in lines {
            let fate = match fate {
                Ours(_) => continue,
                Typed(_) | Left => "works as it stands".to_owned(),
                Filled(..) => "works, with the name filled in".to_owned(),
                Waits(what) => format!("waits for {what}"),
            };
            writeln!(page, "| `{}` | {fate} |", crate::cell(line)).unwrap();
        }
    }
    is_current("docs/runbooks.md", &page);
}
