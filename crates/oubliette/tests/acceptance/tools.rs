//! Programs of others that read what we serve: Prometheus with the runbooks' configuration, and schemathesis with our
//! own document of the API. `scripts/setup.sh` installs both where `CI=true`; elsewhere what is missing is skipped.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::Home;
use crate::harness::shown;
use crate::harness::until;

/// The second version's runbook, but for the port, which is another one in each test.
const SCRAPE: &str = "scrape_configs:
  - job_name: 'oubliette'
    static_configs:
      - targets: ['localhost:8080']
";

/// The first version's runbook.
const ALERTS: &str = r#"# Prometheus alert rules
groups:
- name: oubliette
  rules:
  - alert: HighErrorRate
    expr: rate(oubliette_requests_total{status=~"5.."}[5m]) > 0.1
    for: 5m
    labels:
      severity: warning
    annotations:
      summary: High error rate on Oubliette

  - alert: HighLatency
    expr: histogram_quantile(0.95, rate(oubliette_request_duration_seconds_bucket[5m])) > 5
    for: 5m
    labels:
      severity: warning
    annotations:
      summary: High latency on Oubliette

  - alert: TooManySessions
    expr: oubliette_active_sessions > 100
    for: 10m
    labels:
      severity: warning
    annotations:
      summary: High number of active sessions
"#;

/// Every metric that a client of the first version may have in a dashboard.
const PROMISED: [&str; 8] = [
    "oubliette_requests_total",
    "oubliette_request_duration_seconds_bucket",
    "oubliette_active_sessions",
    "oubliette_session_duration_seconds_count",
    "oubliette_session_events_total",
    "oubliette_containers_running",
    "oubliette_projects_total",
    "oubliette_tool_calls_total",
];

/// A program from `target/tools`, or else from the system.
fn tool(name: &str, installed: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let ours = root.join("target/tools").join(installed);
    let found = if ours.exists() {
        Some(ours)
    } else {
        let runs = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
        runs.then(|| name.into())
    };
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is missing: run `CI=true scripts/setup.sh`");
        eprintln!("skipped: {name} is not installed (`CI=true scripts/setup.sh` installs it)");
    }
    found
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn given(program: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn address(home: &Home) -> String {
    home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned()
}

#[test]
fn prometheus_scrapes_the_server_with_the_runbooks_configuration() {
    let Some(promtool) = tool("promtool", "prometheus/usr/bin/promtool") else { return };
    let Some(prometheus) = tool("prometheus", "prometheus/usr/bin/prometheus") else { return };
    let home = Home::without_model();
    home.start();
    let (_, page) =
        home.get("/metrics").split_once("\r\n\r\n").map(|(h, b)| (h.to_owned(), b.to_owned())).unwrap();
    let checked = given(&promtool, &["check", "metrics"], &page);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", shown(&checked));
    // The control: it does find faults.
    let faulty = given(&promtool, &["check", "metrics"], "# TYPE x counter\nx 1\n");
    assert!(!faulty.status.success());

    let folder = home.user("prometheus");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("alerts.yml"), ALERTS).unwrap();
    // Scraped more often than once a minute, so that the test need not wait for so long.
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: ['alerts.yml']\n{}",
        SCRAPE.replace("localhost:8080", &address(&home))
    );
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let checked = given(&promtool, &["check", "config", file.to_str().unwrap()], "");
    assert!(checked.status.success(), "{}", shown(&checked));

    // It cannot choose a port itself. Ours is free until then unless someone else takes just this one.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(&prometheus)
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--log.level=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    let query = |what: &str| -> Vec<Value> {
        let answer = ask(port, &format!("/api/v1/query?query={what}"));
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    };
    until("Prometheus to have scraped", || query("up").iter().any(|sample| sample["value"][1] == "1"));
    for name in PROMISED {
        until(name, || !query(name).is_empty());
    }
    let rules = ask(port, "/api/v1/rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    let names: Vec<_> = rules.iter().map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["HighErrorRate", "HighLatency", "TooManySessions"]);
    until("the rules to have been evaluated", || {
        let rules = ask(port, "/api/v1/rules");
        let all = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        assert!(all.iter().all(|rule| rule["health"] != "err"), "{all:?}");
        !all.is_empty() && all.iter().all(|rule| rule["health"] == "ok")
    });
}

/// What Prometheus answers; nothing while it starts.
fn ask(port: u16, path: &str) -> Value {
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return Value::Null };
    let mut answer = String::new();
    // The old version has no chunks.
    if write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").is_err()
        || stream.read_to_string(&mut answer).is_err()
    {
        return Value::Null;
    }
    answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default()
}

#[test]
fn schemathesis_finds_no_request_that_the_server_stumbles_over() {
    let Some(schemathesis) = tool("schemathesis", "schemathesis/bin/schemathesis") else { return };
    let mut home = Home::without_model();
    home.set("OUBLIETTE_RATE_LIMIT__REQUESTS_PER_SECOND", "1000000");
    home.set("OUBLIETTE_RATE_LIMIT__BURST", "1000000");
    home.start();
    let made = home.json(&["token", "create", "--name", "ops", "--scope", "admin"]);
    let authorization = format!("Authorization: Bearer {}", made["secret"].as_str().unwrap());
    let output = Command::new(&schemathesis)
        .arg("run")
        .arg(format!("http://{}/api/v1/openapi.json", address(&home)))
        .args(["--url", &format!("http://{}", address(&home)), "--header", &authorization])
        // Stopping the server is not what is tried here; and it is one that could be by chance.
        .args(["--exclude-operation-id", "server.stop"])
        .args(["--checks", "not_a_server_error,content_type_conformance,response_schema_conformance"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-time", "40"])
        .args(["--generation-deterministic", "--no-color", "--warnings", "off"])
        .current_dir(home.user(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    assert!(home.get("/health").starts_with("HTTP/1.1 200"), "it still runs");
}
