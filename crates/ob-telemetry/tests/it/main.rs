//! What concerns the whole process: the log that it has once, and its panics.

use ob_core::redact::Redactor;
use ob_telemetry::LogError;
use ob_telemetry::LogOptions;
use ob_telemetry::Metrics;
use ob_telemetry::ServerStopped;

fn options(file: std::path::PathBuf) -> LogOptions {
    LogOptions {
        json: false,
        filter: "info".to_owned(),
        file: Some(file),
        stderr: false,
        redactor: Redactor::new(["hunter2hunter2"]),
    }
}

/// One test, because there is one process.
#[test]
fn a_process_has_one_log_and_its_panics_go_there() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("oubliette.log");
    let metrics = Metrics::new("1");
    let log = ob_telemetry::init(options(path.clone())).expect("the first log");
    assert!(matches!(ob_telemetry::init(options(path.clone())), Err(LogError::Taken)));

    ob_telemetry::install_panic_hook(metrics.clone());
    let panicked = std::thread::spawn(|| panic!("boom with {}", "hunter2hunter2")).join();
    let other = std::thread::spawn(|| std::panic::panic_any(7)).join();
    drop(std::panic::take_hook());
    assert!(panicked.is_err() && other.is_err());

    ServerStopped.emit(&metrics);
    let text = std::fs::read_to_string(&path).expect("the log");
    assert!(text.contains("panic caught") && text.contains("boom with [redacted]"), "{text}");
    assert!(text.contains("tests/it/main.rs:"), "where it was: {text}");
    assert!(text.contains("a_process_has_one_log_and_its_panics_go_there"), "the backtrace: {text}");
    assert!(text.contains("a value that is no text"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.lines().next_back().is_some_and(|line| line.ends_with("shutdown complete")), "{text}");
    assert!(metrics.render().contains("oubliette_panics_total 2\n"));
    assert_eq!(log.lines_lost(), 0);
}
