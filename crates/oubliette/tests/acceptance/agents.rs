//! Agents that nobody here wrote, each doing the same work in a sandbox, on a scripted model in its own wire, through the gate.
//!
//! `make agents` installs them and runs these; everywhere else they are skipped, since starting one of them takes most of a
//! minute on a machine that builds.

use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::Answer;
use ob_testkit::Coder;
use ob_testkit::ModelServer;
use ob_testkit::fixtures;
use ob_testkit::model_server::Step;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::KEY;
use crate::harness::can_sandbox;
use crate::harness::until;
use crate::harness::until_in;

/// An agent, its program, a provider that speaks its wire, and the path on which that is asked.
struct Driven {
    agent: &'static str,
    program: &'static str,
    provider: &'static str,
    wire: &'static str,
    path: &'static str,
    /// Whether it hangs up on its model when it is stopped; else its end does.
    hangs_up: bool,
}

const OPENCODE: Driven = Driven {
    agent: "opencode",
    program: "opencode",
    provider: "openai",
    wire: "chat",
    path: "/v1/chat/completions",
    hangs_up: true,
};
const CODEX: Driven = Driven {
    agent: "codex",
    program: "codex-acp",
    provider: "openai",
    wire: "responses",
    path: "/v1/responses",
    hangs_up: true,
};
const GEMINI: Driven = Driven {
    agent: "gemini",
    program: "gemini",
    provider: "gemini",
    wire: "google",
    path: "/v1/models/m-1:streamGenerateContent?alt=sse",
    hangs_up: false,
};
const CLAUDE: Driven = Driven {
    agent: "claude-code",
    program: "claude-agent-acp",
    provider: "anthropic",
    wire: "anthropic",
    path: "/v1/messages",
    hangs_up: true,
};
/// The least of these agents takes a second to start, and the heaviest most of a minute where others build.
const PATIENCE: Duration = Duration::from_secs(400);

/// Names the folder of agents, from the root of the repository.
const ASKED: &str = "OUBLIETTE_TEST_AGENTS";

/// What mends the fixture's fault.
const MEND: &str = r"sed -i 's/self.start <= other.end/self.start < other.end/' src/interval.rs";
/// The last words of the model.
const DONE: &str = "An interval does not overlap with one that begins where it ends.";

// === impl Driven ===

impl Driven {
    /// The folder with its program, if it is asked for; else says why not.
    fn folder(&self) -> Option<PathBuf> {
        let Some(asked) = std::env::var_os(ASKED) else {
            eprintln!("skipped: {} is not asked for: run `make agents`", self.agent);
            return None;
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(asked)
            .join(self.agent)
            .join("node_modules/.bin");
        let folder = folder.canonicalize().expect("it is installed: run `scripts/agents.sh`");
        assert!(folder.join(self.program).exists(), "{} is in {}", self.program, folder.display());
        Some(folder)
    }

    /// A home whose only model is this one, and that knows this agent.
    fn home(&self, model: &ModelServer, folder: &Path) -> Home {
        let mut home = Home::without_model();
        let variable = |key: &str| {
            format!("OUBLIETTE_CREDENTIALS__PROVIDERS__CREDENTIALS__{}__{key}", self.provider.to_uppercase())
        };
        home.set(&variable("BASE_URL"), &model.base_url());
        home.set(&variable("API_KEY"), KEY);
        home.set(&variable("WIRE"), self.wire);
        home.set("OUBLIETTE_AGENTS__PATH", &json!([folder]).to_string());
        home.set("OUBLIETTE_AGENTS__DEFAULT", self.agent);
        // What an agent does about a fault is its own.
        home.set("OUBLIETTE_MODELS__RETRIES", "0");
        home.start();
        home
    }

    /// Starts a session; its id.
    fn spawn(&self, home: &Home, project: &Path, task: &str) -> String {
        let model = format!("{}/m-1", self.provider);
        let project = project.to_str().unwrap();
        let run = ["run", task, "--project", project, "--model", &model, "--detach", "--keep"];
        home.json(&run)["session_id"].as_str().unwrap().to_owned()
    }
}

/// How the session's turn stopped, and everything that happened in it.
fn turn(home: &Home, session: &str) -> (Value, Vec<Value>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let view = home.json(&["session", "get", session]);
        let events = home.events(session);
        if view["last_stop"].is_string() || view["status"] == "failed" {
            return (view, events);
        }
        assert!(
            Instant::now() < deadline,
            "the turn has no end: {}",
            serde_json::to_string(&events).unwrap()
        );
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// The repair, a turn with faults, a turn that is stopped.
async fn works(driven: &'static Driven) {
    let Some(folder) = driven.folder().filter(|_| can_sandbox()) else { return };
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let home = driven.home(&model, &folder);
        let checked = home.json(&["agent", "check", driven.agent]);
        assert_eq!((&checked["is_found"], &checked["is_default"]), (&json!(true), &json!(true)), "{checked}");
        assert!(checked["version"].is_string(), "{checked}");
        repairs(driven, &home, &model);
        survives_faults(driven, &home, &model);
        stops(driven, &home, &model);
    })
    .await
    .unwrap();
}

fn repairs(driven: &Driven, home: &Home, model: &ModelServer) {
    let source = home.user("bookings");
    fixtures::demo_repo(&source).unwrap();
    // A door of this machine, which is no door of the sandbox's.
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("the control: it is open");
    // What it prints does not stand in the command.
    let knock = format!(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null && printf 'door-%s' open || printf 'door-%s' shut"
    );
    let test = "cargo test --offline --quiet 2>&1 | tail -n 3; echo tests: done";
    let coder = Coder::new(&[&knock, test, MEND, test], DONE);
    model.respond(move |request| coder.answer(request));

    let session = driven.spawn(home, &source, "Make the tests pass.");
    let (view, events) = turn(home, &session);
    let told = serde_json::to_string(&events).unwrap();
    assert_eq!(view["last_stop"], "end_turn", "{view}: {told}");
    assert_eq!(view["agent"], driven.agent);
    // W17: what an agent's tools did was lost.
    for kind in ["tool_call", "tool_result", "message", "completion", "usage"] {
        assert!(events.iter().any(|event| event["type"] == kind), "no {kind}: {told}");
    }
    let last = events.iter().rfind(|event| event["type"] == "message" && event["role"] == "agent").unwrap();
    assert!(last["text"].as_str().unwrap().contains(DONE), "{last}");
    let diff = home.json(&["session", "diff", &session]);
    assert!(diff["patch"].as_str().unwrap().contains("+        self.start < other.end"), "{diff}");
    // W18: what it cost was thrown away.
    assert!(view["ledger"]["used"]["tokens"].as_u64().unwrap() > 0, "{view}");

    let requests = model.requests();
    // What commands printed is what the model was told; not every agent tells it to us.
    let heard: String = requests.iter().map(|request| request.body.to_string()).collect();
    assert!(heard.contains("door-shut") && !heard.contains("door-open"), "{heard}");
    assert!(heard.contains("test result: FAILED"), "red before: {heard}");
    assert!(heard.contains("test result: ok"), "green after: {heard}");
    for request in &requests {
        let headers = format!("{:?}", request.headers);
        assert!(headers.contains(KEY), "the key is added outside: {headers}");
    }
    assert!(requests.iter().any(|request| request.path == driven.path), "in its own wire");
}

fn survives_faults(driven: &Driven, home: &Home, model: &ModelServer) {
    let source = home.repository("faulty", &[("a.txt", "broken\n")]);
    let coder = Coder::new(&["echo mended > a.txt"], "All is done.");
    model.respond(move |request| coder.answer(request));
    let busy = json!({ "error": { "message": "slow down", "type": "rate_limit_error", "code": 429 } });
    let broken = json!({ "error": { "message": "a fault", "type": "api_error", "code": 500 } });
    model.push(Answer::status(429, busy.to_string()).header("retry-after", "1"));
    model.push(Answer::status(500, broken.to_string()));
    let session = driven.spawn(home, &source, "Mend it.");
    let (view, events) = turn(home, &session);
    let told = serde_json::to_string(&events).unwrap();
    assert_eq!(view["last_stop"], "end_turn", "{view}: {told}");
    let diff = home.json(&["session", "diff", &session]);
    assert!(diff["patch"].as_str().unwrap().contains("+mended"), "{diff}: {told}");
}

fn stops(driven: &Driven, home: &Home, model: &ModelServer) {
    let source = home.repository("endless", &[("a.txt", "broken\n")]);
    let coder = Coder::new(&["echo begun > a.txt"], "never said");
    model.respond(move |request| match Coder::shell(request) {
        // The second answer never comes.
        Some(_) if ob_testkit::wires::Wire::of(&request.path).calls_before(&request.body) > 0 => {
            Answer::stream(vec![Step::Hang])
        }
        _ => coder.answer(request),
    });
    let hung_up = model.hang_ups();
    let session = driven.spawn(home, &source, "Go on for ever.");
    until_in(PATIENCE, "the first step", || {
        home.json(&["session", "diff", &session])["patch"].as_str().unwrap().contains("+begun")
    });
    home.ok(["session", "interrupt", &session]);
    let (view, events) = turn(home, &session);
    assert_eq!(view["last_stop"], "cancelled", "{events:?}");
    if driven.hangs_up {
        until("the model's client to hang up", || model.hang_ups() > hung_up);
    }
    home.ok(["session", "end", &session]);
    until("the model's client to be gone", || model.hang_ups() > hung_up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_works_in_a_sandbox_through_the_gate() {
    works(&OPENCODE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_works_in_a_sandbox_through_the_gate() {
    works(&CODEX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gemini_works_in_a_sandbox_through_the_gate() {
    works(&GEMINI).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_works_in_a_sandbox_through_the_gate() {
    works(&CLAUDE).await;
}
