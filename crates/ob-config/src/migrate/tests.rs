//! Old files in, new files out, in real homes.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

/// The file of the first version's runbook, with a person's remarks.
const RUNBOOK: &str = include_str!("runbook-v1.yaml");

fn home(file: &str) -> (TempDir, LoadOptions) {
    let dir = TempDir::new().expect("a temporary folder");
    let root = dir.path().join("home");
    fs::create_dir(&root).expect("a folder");
    fs::write(root.join("config.yaml"), file).expect("a file");
    let env = [("HOME".into(), dir.path().join("nobody").into())].into();
    let options = LoadOptions {
        dir: Some(root),
        env,
        cwd: dir.path().to_owned(),
        uid: rustix::process::geteuid().as_raw(),
        ..LoadOptions::default()
    };
    (dir, options)
}

#[test]
fn the_runbooks_file_becomes_one_of_the_present_that_means_the_same() {
    let (_dir, options) = home(RUNBOOK);
    let before = crate::load(&options).expect("the old one");
    let migration = Migration::plan(&options).expect("a plan");
    insta::assert_snapshot!("migrated", migration.text);
    assert!(!migration.to.exists() && migration.from.exists(), "a plan does nothing");

    migration.perform().expect("done");
    let after = crate::load(&options).expect("the new one");
    assert_eq!(after.file.as_deref(), Some(&*fs::canonicalize(&migration.to).expect("it exists")));
    assert_eq!(format!("{:?}", before.settings), format!("{:?}", after.settings));
    assert_eq!((before.home.logs(), before.home.projects()), (after.home.logs(), after.home.projects()));
    assert_eq!(fs::read_to_string(&migration.backup).expect("kept"), RUNBOOK);
    assert!(!migration.from.exists());
    assert_eq!(fs::metadata(&migration.to).expect("it exists").permissions().mode() & 0o777, 0o600);
    assert!(matches!(Migration::plan(&options), Err(MigrateError::Nothing(_))), "once is enough");
}

#[test]
fn no_comment_is_lost_wherever_it_stands() {
    let file = "# 1\n\n# 2\nserver: # 3\n  # 4\n  address: \"localhost:9\" # 5\n# 6\nruntime: # 7\n  # 8\n  memory: 1G # 9\n\
                \x20 # 10\n  cpus: 1\nmodels:\n  discover_ports: # 11\n    - 1 # 12\n    # 13\n    - 2\n# 14\n";
    let (_dir, options) = home(file);
    let text = Migration::plan(&options).expect("a plan").text;
    for number in 1..=14 {
        let count = text.lines().filter(|line| line.ends_with(&format!("// {number}"))).count();
        assert_eq!(count, 1, "{number} in\n{text}");
    }
}

#[test]
fn forms_that_json_has_not_are_written_as_ones_that_it_has() {
    let file = "runtime: {cpus: .5, memory: 1G}\nsandbox: {pids: 0100, env: {A: \"\\x41\\n\"}}\nlog: {level: 'info'}\n";
    let (_dir, options) = home(file);
    let text = Migration::plan(&options).expect("a plan").text;
    for part in [r#""cpus": 0.5,"#, r#""pids": 100,"#, r#""A": "A\n""#, r#""level": "info""#] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_file_with_mistakes_is_not_touched() {
    let (_dir, options) = home("runtime:\n  memroy: 4G\n");
    let Err(MigrateError::Mistakes(mistakes)) = Migration::plan(&options) else { panic!("it has a mistake") };
    assert!(mistakes.to_string().contains("config.yaml:2:3: runtime.memroy: unknown key"), "{mistakes}");
}

#[test]
fn what_is_there_is_never_replaced() {
    let (_dir, options) = home("server:\n  address: localhost:9\n");
    let migration = Migration::plan(&options).expect("a plan");
    fs::write(&migration.backup, "mine").expect("a file");
    assert!(migration.perform().is_err());
    assert_eq!(fs::read_to_string(&migration.backup).expect("kept"), "mine");
    assert!(migration.from.exists() && !migration.to.exists());
    let migration = Migration::plan(&options).expect("a plan");
    assert!(migration.backup.ends_with("config.yaml.old-1"));
    migration.perform().expect("with another name for the old one");
}
