//! Lines as they come out of the log: redacted, in both forms, into a file that is reopened.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use tracing::debug;
use tracing::error;
use tracing::info;
use tracing::warn;

use super::*;

/// A log in a folder of its own, not the process's.
struct Place {
    dir: TempDir,
    dispatch: tracing::Dispatch,
    log: Log,
}

impl Place {
    fn new(json: bool, filter: &str) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let options = LogOptions {
            json,
            filter: filter.to_owned(),
            file: Some(dir.path().join("oubliette.log")),
            stderr: false,
            redactor: Redactor::new(["hunter2hunter2"]),
        };
        let (subscriber, log) = build(options).expect("a log");
        Self { dir, dispatch: tracing::Dispatch::new(subscriber), log }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("oubliette.log")
    }

    fn with(&self, act: impl FnOnce()) {
        tracing::dispatcher::with_default(&self.dispatch, act);
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("the log")
    }
}

#[test]
fn every_line_is_redacted_in_text_and_json_in_message_and_fields() {
    for json in [false, true] {
        let place = Place::new(json, "info");
        place.with(|| {
            info!(key = "hunter2hunter2", other = ?Some("x hunter2hunter2"), "said hunter2hunter2 {}", "sk-abcdefghijklmnopqrstuvwx");
            info!("plain");
        });
        let text = place.text();
        assert!(!text.contains("hunter2") && !text.contains("sk-abc"), "{text}");
        assert_eq!(text.matches("[redacted]").count(), 4, "{text}");
        assert!(text.contains("plain"), "the control");
        assert_eq!(text.lines().count(), 2);
    }
}

#[test]
fn a_secret_that_is_learnt_later_is_redacted_from_then_on() {
    let place = Place::new(false, "info");
    place.with(|| info!("later-secret"));
    place.log.set_redactor(Redactor::new(["later-secret"]));
    place.with(|| info!("later-secret"));
    assert_eq!(place.text().matches("later-secret").count(), 1);
}

#[test]
fn the_file_is_ours_alone_and_appended_to() {
    let place = Place::new(false, "info");
    place.with(|| info!("one"));
    assert_eq!(fs::metadata(place.path()).expect("the log").permissions().mode() & 0o777, 0o600);
    // What copytruncate does: the next line stands at the start, and not behind a hole.
    File::options().write(true).open(place.path()).expect("the log").set_len(0).expect("truncated");
    place.with(|| info!("two"));
    let text = place.text();
    assert!(text.ends_with("two\n") && !text.contains('\0') && !text.contains("one"), "{text:?}");
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew_when_told() {
    let place = Place::new(false, "info");
    let moved = place.dir.path().join("oubliette.log.1");
    fs::rename(place.path(), &moved).expect("moved");
    place.with(|| info!("to the old"));
    place.log.reopen().expect("opened");
    place.with(|| info!("to the new"));
    assert!(fs::read_to_string(&moved).expect("the old one").contains("to the old"));
    assert!(place.text().contains("to the new") && !place.text().contains("to the old"));

    let folder = place.dir.path().join("sub");
    fs::create_dir(&folder).expect("a folder");
    fs::remove_file(place.path()).expect("it was there");
    fs::create_dir(place.path()).expect("a folder in its place");
    let error = place.log.reopen().expect_err("a folder is no file");
    assert!(error.to_string().ends_with("oubliette.log cannot be opened"), "{error}");
    place.with(|| info!("nobody reads this"));
    assert_eq!(place.log.lines_lost(), 0, "the old file is still in use");
}

#[test]
fn a_full_disk_loses_lines_and_counts_them_and_nothing_else() {
    let options = LogOptions {
        json: false,
        filter: "info".to_owned(),
        file: Some("/dev/full".into()),
        stderr: false,
        redactor: Redactor::default(),
    };
    let (subscriber, log) = build(options).expect("a log");
    tracing::subscriber::with_default(subscriber, || {
        info!("one");
        info!("two");
    });
    assert_eq!(log.lines_lost(), 2);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let dir = TempDir::new().expect("a temporary folder");
    let options = LogOptions {
        json: false,
        filter: "info".to_owned(),
        file: Some(dir.path().join("gone/oubliette.log")),
        stderr: false,
        redactor: Redactor::default(),
    };
    let error = build(options).err().expect("its folder is missing");
    assert!(matches!(&error, LogError::Open { path, .. } if path.ends_with("gone/oubliette.log")), "{error}");
}

#[test]
fn the_filter_can_be_changed_and_a_wrong_one_changes_nothing() {
    let place = Place::new(false, "warn");
    let say = || place.with(|| debug!("quiet word"));
    say();
    assert_eq!(place.text(), "");
    place.log.set_filter("debug").expect("a filter");
    say();
    assert_eq!(place.text().matches("quiet word").count(), 1);
    assert!(matches!(place.log.set_filter("a=b=c,,"), Err(LogError::Filter { .. })));
    say();
    assert_eq!(place.text().matches("quiet word").count(), 2);
}

#[test]
fn loud_libraries_are_quiet_unless_they_are_asked_for() {
    let say = |filter: &str| {
        let place = Place::new(false, filter);
        place.with(|| {
            info!(target: "bollard::docker", "body with everything");
            warn!(target: "hyper::client", "a warning");
            error!(target: "hyper::client", "an error");
            info!(target: "ob_gate", "ours");
        });
        let text = place.text();
        ["body with everything", "a warning", "an error", "ours"].map(|word| text.contains(word))
    };
    assert_eq!(say("info"), [false, true, true, true]);
    assert_eq!(say("trace"), [false, true, true, true]);
    assert_eq!(say("info,bollard=info"), [true, true, true, true]);
    assert_eq!(say("error"), [false, false, true, false]);
    assert_eq!(say("off"), [false; 4]);
}

#[test]
fn lines_of_many_threads_do_not_mix() {
    let place = Place::new(true, "info");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let place = &place;
            scope.spawn(move || {
                place.with(|| {
                    for line in 0..100 {
                        info!(thread, line, text = "x".repeat(500), "said");
                    }
                });
            });
        }
    });
    let text = place.text();
    assert_eq!(text.lines().count(), 800);
    assert!(
        text.lines().all(|line| line.starts_with('{') && line.ends_with('}') && line.contains("\"said\""))
    );
}
