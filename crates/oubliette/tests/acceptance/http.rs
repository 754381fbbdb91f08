//! HTTP as clients and operators use it: streams that go on, tokens that stop, limits that are set.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use serde_json::Value;

use crate::harness::Home;
use crate::harness::PATIENCE;
use crate::harness::can_sandbox;
use crate::harness::shown;
use crate::harness::until;

/// What one GET with a token is answered: status and body.
fn get(address: &str, token: &str, path: &str) -> (u16, String) {
    let mut stream = connect(address, token, path, "Connection: close\r\n");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn connect(address: &str, token: &str, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The old version has no chunks, so lines are as they were sent.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    )
    .unwrap();
    stream
}

/// An event stream: its lines as they came, and true once it has ended.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<(Vec<String>, bool)>>);

impl Stream {
    fn open(address: &str, token: &str, session: &str, headers: &str) -> Self {
        let path = format!("/api/v1/sessions/{session}/events");
        let stream = connect(address, token, &path, &format!("Accept: text/event-stream\r\n{headers}"));
        let this = Self::default();
        let sink = this.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                sink.0.lock().unwrap().0.push(line);
            }
            sink.0.lock().unwrap().1 = true;
        });
        this
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().0.iter().any(|line| line.contains(text))
    }

    fn is_over(&self) -> bool {
        self.0.lock().unwrap().1
    }

    /// The numbers of the events that came.
    fn ids(&self) -> Vec<u64> {
        self.lines()
            .iter()
            .filter_map(|line| line.strip_prefix("id: "))
            .map(|id| id.parse().unwrap())
            .collect()
    }
}

fn address(home: &Home) -> String {
    home.json(&["status"])["addresses"][0].as_str().unwrap().to_owned()
}

fn token(home: &Home, name: &str, scope: &str, more: &[&str]) -> String {
    let args = ["token", "create", "--name", name, "--scope", scope];
    let made: Value = home.json(&[&args[..], more].concat());
    made["secret"].as_str().unwrap().to_owned()
}

/// The emergency loop of the first version's runbook, as it stands there, while the server runs and streams are open.
/// W13: before, a token could only be revoked by whoever still had its secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_emergency_loop_of_the_runbook_revokes_every_token_at_once() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("ok"));
    tokio::task::spawn_blocking(move || {
        const LOOP: &str =
            "./oubliette token list | grep -v ID | awk '{print $1}' | xargs -I{} ./oubliette token revoke {}";
        let home = Home::new(&model);
        home.start();
        let address = address(&home);
        let session = home.spawn(&home.repository("thing", &[("a.txt", "one\n")]), "look");
        let project = home.json(&["session", "get", &session])["project_id"].as_str().unwrap().to_owned();
        let scopes = ["admin".to_owned(), "admin:ro".to_owned(), format!("project:{project}:ro")];
        let tokens: Vec<String> =
            (0..).zip(&scopes).map(|(n, scope)| token(&home, &format!("ops-{n}"), scope, &[])).collect();
        token(&home, "short", "admin", &["--expires-in", "30d"]);
        let streams: Vec<_> =
            tokens.iter().map(|token| Stream::open(&address, token, &session, "")).collect();
        until("every stream to have begun", || streams.iter().all(|stream| stream.has("\"index\":0")));

        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_oubliette"), home.user("oubliette")).unwrap();
        let output = Command::new("sh")
            .args(["-c", LOOP])
            .current_dir(home.user(""))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", home.user(""))
            .env("OUBLIETTE_HOME", home.root())
            .output()
            .unwrap();

        assert!(output.status.success(), "{}", shown(&output));
        until("every stream to end", || streams.iter().all(Stream::is_over));
        for stream in &streams {
            let lines = stream.lines();
            let last = lines.iter().rposition(|line| line == "event: refused").expect("a last word");
            assert!(lines[last..].iter().any(|line| line.contains("unauthenticated")), "{lines:#?}");
        }
        for token in &tokens {
            assert_eq!(get(&address, token, "/api/v1/projects").0, 401);
        }
        let list = home.json(&["token", "list"]);
        let list = list.as_array().unwrap();
        assert!(list.len() == 4 && list.iter().all(|token| token["revoked_at"].is_string()), "{list:?}");
        // A new one works, and the loop may run again.
        let new = token(&home, "after", "admin", &[]);
        assert_eq!(get(&address, &new, "/api/v1/projects").0, 200);
    })
    .await
    .unwrap();
}

/// A client that only does what an event source does: it keeps the last number and gives it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_without_a_gap_after_a_restart_of_the_server() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    model.otherwise(Answer::text("ok"));
    tokio::task::spawn_blocking(move || {
        let home = Home::new(&model);
        home.start();
        let secret = token(&home, "reader", "admin:ro", &[]);
        let session = home.spawn(&home.repository("thing", &[("a.txt", "one\n")]), "look");
        let first = Stream::open(&address(&home), &secret, &session, "");
        until("the first turn", || home.state(&session) == "idle" && first.has("\"index\":2"));
        home.ok(["stop"]);
        until("the stream to end", || first.is_over());
        assert!(first.has("event: closing"), "{:#?}", first.lines());
        let last = *first.ids().last().unwrap();

        home.start();
        let second = Stream::open(&address(&home), &secret, &session, &format!("Last-Event-ID: {last}\r\n"));
        home.ok(["session", "message", &session, "again"]);
        until("the second task", || second.has("\"again\""));
        home.ok(["session", "end", &session]);
        until("the end", || second.is_over());
        assert!(second.has("event: end"), "{:#?}", second.lines());
        let seen: Vec<u64> = first.ids().into_iter().chain(second.ids()).collect();
        let all: Vec<u64> = (0..home.events(&session).len() as u64).collect();
        assert_eq!(seen, all, "each event once, in order");
    })
    .await
    .unwrap();
}

/// W13: tokens could not expire.
#[test]
fn a_token_that_expired_is_nobodys() {
    let home = Home::without_model();
    home.start();
    let address = address(&home);
    let secret = token(&home, "brief", "admin", &["--expires-in", "1s"]);
    until("the token to expire", || get(&address, &secret, "/api/v1/projects").0 == 401);
    let info = home.json(&["token", "info", "brief"]);
    assert!(info["expires_at"].is_string() && info["revoked_at"].is_null(), "{info}");
}

#[test]
fn the_rate_limit_is_as_configured_and_follows_the_configuration() {
    let home = Home::without_model();
    let file = home.root().join("config/oubliette.jsonc");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    // One in a thousand seconds, so that how fast this machine is does not matter.
    std::fs::write(&file, r#"{ "rate_limit": { "requests_per_second": 0.001, "burst": 2 } }"#).unwrap();
    home.start();
    let address = address(&home);
    let secret = token(&home, "ops", "admin", &[]);
    let ask = || get(&address, &secret, "/api/v1/projects");
    assert_eq!([ask().0, ask().0], [200, 200]);
    let (status, problem) = ask();
    assert_eq!(status, 429, "{problem}");
    assert!(problem.contains("\"code\":\"limit_exceeded\""), "{problem}");
    assert!(home.get("/health").starts_with("HTTP/1.1 200"), "probes are not counted");
    home.ok(["project", "list"]);
    std::fs::write(&file, r#"{ "rate_limit": { "requests_per_second": 1000, "burst": 1000 } }"#).unwrap();
    home.ok(["reload"]);
    assert!((0..50).all(|_| ask().0 == 200), "it was raised while the server ran");
}
