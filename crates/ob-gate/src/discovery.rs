//! Finds model servers on this machine, and asks providers for their models.
//!
//! What is looked for is looked for on loopback only: whoever wants another machine asked names it in the configuration.

use std::time::Duration;

use futures_util::future::join_all;
use ob_core::model::Wire;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde_json::Value;

use crate::upstream;

/// How long one port may take in all. A server on loopback answers in a millisecond, if it is not busy with a model.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of a list of models: the longest of a provider has half of that.
const MAX_BODY: usize = 1024 * 1024;
/// The most models of one server.
const MAX_MODELS: usize = 1000;
/// The most characters of a model's name.
const MAX_NAME: usize = 200;
/// The port that is Ollama's alone.
const OLLAMA_PORT: u16 = 11434;
/// What the tag of a model is at Ollama if none is given.
const OLLAMA_TAG: &str = ":latest";
/// Where servers and providers say in a list how many tokens a conversation may have: vLLM, Groq, OpenRouter and others,
/// LM Studio, Google, llama.cpp.
const WINDOWS: [&str; 6] = [
    "/max_model_len",
    "/context_window",
    "/context_length",
    "/max_context_length",
    "/inputTokenLimit",
    "/meta/n_ctx",
];

/// A program that serves models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Ollama.
    Ollama,
    /// llama.cpp's server.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// One that has the same API.
    Other,
}

/// A model server of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub program: Program,
    /// Its base URL, with `/v1`.
    pub base_url: String,
    /// What it serves. Ollama may have none yet.
    pub models: Vec<Listed>,
}

/// A model in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The tokens that a conversation may have, if the list says so.
    pub context_window: Option<u64>,
}

// === impl Program ===

impl Program {
    /// Every program.
    pub const ALL: [Self; 4] = [Self::Ollama, Self::LlamaCpp, Self::Vllm, Self::Other];

    /// The program that this provider's name stands for.
    pub fn of(provider: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.provider() == provider)
    }

    /// The name of the provider that it is.
    pub const fn provider(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::LlamaCpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Other => "local",
        }
    }

    /// What people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ollama => "Ollama",
            Self::LlamaCpp => "llama.cpp",
            Self::Vllm => "vLLM",
            Self::Other => "model server",
        }
    }

    /// How it is started.
    pub const fn start(self) -> &'static str {
        match self {
            Self::Ollama => "start it with `ollama serve`",
            Self::LlamaCpp => "start it with `llama-server --jinja -m FILE`",
            Self::Vllm => "start it with `vllm serve MODEL --enable-auto-tool-choice`",
            Self::Other => "start it",
        }
    }

    /// What a server on this port is that lists this.
    fn behind(port: u16, entries: &[Value]) -> Self {
        let is_owned_by = |owner: &str| entries.iter().any(|entry| entry["owned_by"] == owner);
        if is_owned_by("llamacpp") {
            Self::LlamaCpp
        } else if is_owned_by("vllm") {
            Self::Vllm
        } else if is_owned_by("library") || port == OLLAMA_PORT {
            // Models that are not of its library are owned by whoever made them.
            Self::Ollama
        } else {
            Self::Other
        }
    }
}

// === impl Found ===

impl Found {
    /// The model that it means by this name.
    pub fn model(&self, name: &str) -> Option<&Listed> {
        let is_named = |listed: &&Listed| listed.name == name;
        let is_tagged = |listed: &&Listed| listed.name.strip_suffix(OLLAMA_TAG) == Some(name);
        self.models
            .iter()
            .find(is_named)
            .or_else(|| self.models.iter().find(is_tagged).filter(|_| self.program == Program::Ollama))
    }

    /// Asks for the windows that its list does not tell: those that llama.cpp was started with, and those of models that
    /// Ollama has in memory.
    pub async fn look_closer(&mut self) {
        let root = self.base_url.trim_end_matches("/v1");
        let (path, list, window) = match self.program {
            Program::LlamaCpp => ("/props", "", "/default_generation_settings/n_ctx"),
            Program::Ollama => ("/api/ps", "/models", "/context_length"),
            Program::Vllm | Program::Other => return,
        };
        let asked = async { get_json(&upstream::client(TIMEOUT).ok()?, &format!("{root}{path}")).await };
        let Ok(Some(said)) = tokio::time::timeout(TIMEOUT, asked).await else { return };
        for model in &mut self.models {
            let of_model = match said.pointer(list) {
                Some(Value::Array(entries)) => entries.iter().find(|entry| entry["name"] == *model.name),
                of_all => of_all,
            };
            let known = of_model.and_then(|entry| entry.pointer(window)?.as_u64());
            model.context_window = model.context_window.or(known.filter(|window| *window > 0));
        }
    }
}

/// The servers on these loopback ports that list models as OpenAI does, in the order of the ports. Asks all at once, follows
/// nothing, sends no key.
pub async fn find_local(ports: &[u16]) -> Vec<Found> {
    find_within(ports, TIMEOUT).await
}

async fn find_within(ports: &[u16], timeout: Duration) -> Vec<Found> {
    let Ok(client) = upstream::client(timeout) else { return Vec::new() };
    let asked = ports.iter().map(|port| {
        let client = &client;
        async move { tokio::time::timeout(timeout, find(client, *port)).await.ok()? }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn find(client: &reqwest::Client, port: u16) -> Option<Found> {
    let base_url = format!("http://127.0.0.1:{port}/v1");
    let list = get_json(client, &format!("{base_url}/models")).await?;
    let entries = entries(&list, Wire::Chat)?;
    let program = Program::behind(port, entries);
    let models = listed(entries, Wire::Chat)?;
    // An empty list may be anything's.
    (!models.is_empty() || program == Program::Ollama).then_some(Found { program, base_url, models })
}

/// What came of asking a provider for its models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who was asked: scheme, host and port, since the rest of a URL may hold a key.
    pub host: String,
    /// What it says.
    pub answer: Answer,
    /// What it lists, as far as that can be read; long lists come in pages, of which this is the first.
    pub models: Vec<Listed>,
}

/// What a provider says if it is asked for its models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It lists them.
    Lists,
    /// It wants a key, or another one.
    Refuses,
    /// It answers with this status and no list.
    Other(u16),
    /// There is no connection to it.
    Unreachable,
    /// It did not answer in time.
    Late,
    /// Its base URL is none.
    Malformed,
}

/// Asks a provider for its models, with its key; no model is called and nothing is spent.
pub async fn ask(base_url: &str, wire: Wire, key: Option<&SecretString>, within: Duration) -> Asked {
    let url = format!("{}/models", upstream::base(base_url, wire));
    let Some(url) = reqwest::Url::parse(&url).ok().filter(|url| url.has_host()) else {
        return Asked { host: "the provider".to_owned(), answer: Answer::Malformed, models: Vec::new() };
    };
    let host = url.origin().ascii_serialization();
    let asked = async {
        let client = upstream::client(within).ok()?;
        let mut request = client.get(url);
        if wire == Wire::Messages {
            request = request.header("anthropic-version", upstream::ANTHROPIC_VERSION);
        }
        if let Some(key) = key {
            let (name, value) = upstream::credential(wire, key.expose_secret());
            request = request.header(name, value);
        }
        let response = request.send().await.ok()?;
        let status = response.status();
        let list = if status.is_success() { json(response).await } else { None };
        let models = list.and_then(|list| listed(entries(&list, wire)?, wire)).unwrap_or_default();
        Some((status, models))
    };
    let (answer, models) = match tokio::time::timeout(within, asked).await {
        Err(_) => (Answer::Late, Vec::new()),
        Ok(None) => (Answer::Unreachable, Vec::new()),
        Ok(Some((status, models))) if status.is_success() => (Answer::Lists, models),
        Ok(Some((http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN, models))) => {
            (Answer::Refuses, models)
        }
        Ok(Some((status, models))) => (Answer::Other(status.as_u16()), models),
    };
    Asked { host, answer, models }
}

/// The port of a URL, if it leads to this machine.
pub fn port_here(url: &str) -> Option<u16> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?;
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    is_here.then(|| url.port_or_known_default()).flatten()
}

/// A URL without what may be a secret in it: who asks, and what stands behind its path.
pub fn shown_url(url: &str) -> Option<String> {
    let mut url = reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host)?;
    url.set_query(None);
    url.set_fragment(None);
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    Some(url.to_string())
}

async fn get_json(client: &reqwest::Client, url: &str) -> Option<Value> {
    let response = client.get(url).send().await.ok()?;
    if response.status() == http::StatusCode::OK { json(response).await } else { None }
}

/// A body of bounded size.
async fn json(mut response: reqwest::Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_BODY {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).ok()
}

/// The entries of a list of models; nothing if it is none.
fn entries(list: &Value, wire: Wire) -> Option<&[Value]> {
    match list.get(if wire == Wire::Google { "models" } else { "data" })? {
        Value::Array(entries) => Some(entries),
        // Ollama's list of no models.
        Value::Null => Some(&[]),
        _ => None,
    }
}

/// The models of a list; nothing if one has no name that can be shown.
fn listed(entries: &[Value], wire: Wire) -> Option<Vec<Listed>> {
    let model = |entry: &Value| {
        let name = match wire {
            Wire::Google => entry.get("name")?.as_str()?.trim_start_matches("models/"),
            _ => entry.get("id")?.as_str()?,
        };
        let is_shown =
            !name.is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
        let window = WINDOWS.iter().find_map(|at| entry.pointer(at)?.as_u64()).filter(|window| *window > 0);
        is_shown.then(|| Listed { name: name.to_owned(), context_window: window })
    };
    entries.iter().take(MAX_MODELS).map(model).collect()
}

#[cfg(test)]
mod tests {
    use ob_testkit::Answer as Scripted;
    use ob_testkit::ModelServer;
    use ob_testkit::model_server::Step;

    use super::*;

    fn parse(body: &str) -> Option<Vec<Listed>> {
        let list: Value = serde_json::from_str(body).ok()?;
        listed(entries(&list, Wire::Chat)?, Wire::Chat)
    }

    fn names(models: &[Listed]) -> Vec<&str> {
        models.iter().map(|model| model.name.as_str()).collect()
    }

    #[test]
    fn only_a_list_of_models_counts() {
        let list =
            parse(r#"{"data":[{"id":"a","x":1},{"id":"b"}],"models":[{"name":"a"}]}"#).expect("a list");
        assert_eq!(names(&list), ["a", "b"]);
        for empty in [r#"{"data":[]}"#, r#"{"data":null,"object":"list"}"#] {
            assert_eq!(parse(empty), Some(Vec::new()), "{empty}");
        }
        let long = format!(r#"{{"data":[{{"id":"{}"}}]}}"#, "x".repeat(MAX_NAME + 1));
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"data":5}"#,
            r#"{"data":[{"name":"a"}]}"#,
            r#"{"data":[{"id":"a\u0007"}]}"#,
            r#"{"data":[{"id":""}]}"#,
            &long,
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let google: Value = serde_json::json!({"models": [{"name": "models/g-1", "inputTokenLimit": 1000}]});
        let google = listed(entries(&google, Wire::Google).expect("a list"), Wire::Google);
        assert_eq!(google, Some(vec![Listed { name: "g-1".into(), context_window: Some(1000) }]));
    }

    #[test]
    fn the_window_is_read_where_each_server_says_it() {
        for (entry, window) in [
            (r#"{"id":"a","max_model_len":32768,"owned_by":"vllm"}"#, Some(32_768)),
            (r#"{"id":"a","meta":{"n_ctx_train":131072,"n_ctx":8192}}"#, Some(8192)),
            // What it was trained for is not what the server gives.
            (r#"{"id":"a","meta":{"n_ctx_train":131072}}"#, None),
            (r#"{"id":"a","context_window":0}"#, None),
            (r#"{"id":"a","context_length":"long"}"#, None),
        ] {
            let list = parse(&format!(r#"{{"data":[{entry}]}}"#)).expect("a list");
            assert_eq!(list[0].context_window, window, "{entry}");
        }
    }

    #[test]
    fn a_server_is_known_by_what_it_says_of_itself_or_by_its_port() {
        for (port, owner, expected) in [
            (1, "llamacpp", Program::LlamaCpp),
            (OLLAMA_PORT, "vllm", Program::Vllm),
            (1, "library", Program::Ollama),
            (OLLAMA_PORT, "somebody", Program::Ollama),
            (8000, "somebody", Program::Other),
        ] {
            let entries = [serde_json::json!({"id": "a", "owned_by": owner})];
            assert_eq!(Program::behind(port, &entries), expected, "{port} {owner}");
        }
        for program in Program::ALL {
            assert_eq!(Program::of(program.provider()), Some(program));
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_secret() {
        let shown = |url: &str| shown_url(url);
        assert_eq!(shown("https://u:p@h.example/v1?key=k#f").as_deref(), Some("https://h.example/v1"));
        assert_eq!(shown("http://127.0.0.1:1/v1").as_deref(), Some("http://127.0.0.1:1/v1"));
        assert_eq!((shown("nonsense"), shown("data:x")), (None, None));
        for (url, port) in [
            ("http://localhost:8000/v1", Some(8000)),
            ("http://[::1]:8000/v1", Some(8000)),
            ("http://127.1.2.3/v1", Some(80)),
            ("http://localhost.example:8000/v1", None),
            ("http://10.0.0.1:8000/v1", None),
            ("nonsense", None),
        ] {
            assert_eq!(port_here(url), port, "{url}");
        }
    }

    #[test]
    fn a_model_of_ollama_may_be_named_without_its_tag() {
        let models = ["a:latest", "b:7b"].map(|name| Listed { name: name.into(), context_window: None });
        let found = |program| Found { program, base_url: String::new(), models: models.to_vec() };
        let of = |program, name: &str| found(program).model(name).map(|listed| listed.name.clone());
        assert_eq!(of(Program::Ollama, "a").as_deref(), Some("a:latest"));
        assert_eq!(of(Program::Ollama, "b:7b").as_deref(), Some("b:7b"));
        assert_eq!(of(Program::Ollama, "b"), None);
        assert_eq!(of(Program::Vllm, "a"), None);
    }

    #[tokio::test]
    async fn a_provider_is_asked_with_its_key_and_each_answer_is_told_apart() {
        const LONG: Duration = Duration::from_secs(10);
        let key = SecretString::from("sk-asked-0123456789abcdefghij");
        for (answer, expected) in [
            (Scripted::status(200, r#"{"data":[{"id":"small"}]}"#), Answer::Lists),
            (Scripted::status(401, "{}"), Answer::Refuses),
            (Scripted::status(404, "{}"), Answer::Other(404)),
            (Scripted::status(503, "{}"), Answer::Other(503)),
        ] {
            let model = ModelServer::start().await.expect("a port");
            model.otherwise(answer);
            let asked = ask(&model.base_url(), Wire::Chat, Some(&key), LONG).await;
            let expected = Asked {
                host: format!("http://{}", model.address()),
                models: if expected == Answer::Lists { vec![small()] } else { Vec::new() },
                answer: expected,
            };
            assert_eq!(asked, expected);
            let authorization = model.requests()[0].headers.get("authorization").cloned();
            assert!(authorization.is_some_and(|value| value.to_str().is_ok_and(|v| v.ends_with("fghij"))));
        }
        for (wire, base, header, path) in [
            (Wire::Messages, "", "x-api-key", "/v1/models"),
            (Wire::Google, "/openai", "x-goog-api-key", "/v1/models"),
        ] {
            let model = ModelServer::start().await.expect("a port");
            model.otherwise(Scripted::status(200, "{}"));
            let base = format!("{}{base}", model.base_url());
            assert_eq!(ask(&base, wire, Some(&key), LONG).await.answer, Answer::Lists);
            let asked = &model.requests()[0];
            assert_eq!(
                (asked.headers[header].to_str().ok(), asked.path.as_str()),
                (Some(key.expose_secret()), path)
            );
            assert!(asked.headers.get("authorization").is_none());
        }
        let mute = ModelServer::start().await.expect("a port");
        mute.otherwise(Scripted::text("x").before_head(Step::Hang));
        assert_eq!(
            ask(&mute.base_url(), Wire::Chat, None, Duration::from_millis(50)).await.answer,
            Answer::Late
        );
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        assert_eq!(
            ask(&format!("http://{free}/v1"), Wire::Messages, None, LONG).await.answer,
            Answer::Unreachable
        );
        assert_eq!(ask("nonsense", Wire::Chat, None, LONG).await.answer, Answer::Malformed);
        let asked = ask(&format!("http://user:secret@{free}/v1?key=secret"), Wire::Google, None, LONG).await;
        assert!(!asked.host.contains("secret"), "{asked:?}");
    }

    fn small() -> Listed {
        Listed { name: "small".into(), context_window: None }
    }

    #[tokio::test]
    async fn every_port_that_lists_models_is_found_and_no_other() {
        let html = ModelServer::start().await.expect("a port");
        html.otherwise(Scripted::raw("text/html", vec![Step::Send("<html>".into())]));
        let mute = ModelServer::start().await.expect("a port");
        mute.otherwise(Scripted::text("x").before_head(Step::Hang));
        let endless = ModelServer::start().await.expect("a port");
        endless.otherwise(Scripted::status(200, format!(r#"{{"data":[],"x":"{}"}}"#, "x".repeat(MAX_BODY))));
        let empty = ModelServer::start().await.expect("a port");
        empty.otherwise(Scripted::status(200, r#"{"data":[]}"#));
        let moved = ModelServer::start().await.expect("a port");
        let model = ModelServer::start().await.expect("a port");
        model.otherwise(Scripted::status(200, r#"{"object":"list","data":[{"id":"small"}]}"#));
        let other = ModelServer::start().await.expect("a port");
        let list = r#"{"data":[{"id":"large","owned_by":"vllm","max_model_len":4096}]}"#;
        other.otherwise(Scripted::status(200, list));
        let to = format!("{}/models", model.base_url());
        moved.otherwise(Scripted::status(302, "").header("location", &to));
        let ports = [&html, &mute, &endless, &empty, &moved, &other, &model].map(|s| s.address().port());
        // Longer than in production: the machine that tests may be busy.
        let find = async |ports: &[u16]| find_within(ports, Duration::from_secs(3)).await;
        let large = Listed { name: "large".into(), context_window: Some(4096) };
        let expected = [(Program::Vllm, &other, large), (Program::Other, &model, small())].map(
            |(program, server, listed)| Found { program, base_url: server.base_url(), models: vec![listed] },
        );
        assert_eq!(find(&ports).await, expected);
        assert_eq!(find(&ports[..5]).await, []);
        assert_eq!(find_local(&[]).await, []);
        let request = &model.requests()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v1/models"));
        assert!(request.headers.get("authorization").is_none());
    }

    #[tokio::test]
    async fn a_closer_look_tells_the_window_that_a_server_was_started_with() {
        let closer = async |program: Program, path: &'static str, body: &'static str| {
            let server = ModelServer::start().await.expect("a port");
            server.otherwise(Scripted::status(200, body));
            let mut found = Found { program, base_url: server.base_url(), models: vec![small()] };
            // A busy machine may not answer in time.
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            while found.models[0].context_window.is_none() && tokio::time::Instant::now() < deadline {
                found.look_closer().await;
            }
            assert_eq!(server.requests()[0].path, path);
            found.models[0].context_window
        };
        let props = r#"{"default_generation_settings":{"n_ctx":8192}}"#;
        assert_eq!(closer(Program::LlamaCpp, "/props", props).await, Some(8192));
        let running =
            r#"{"models":[{"name":"other","context_length":1},{"name":"small","context_length":4096}]}"#;
        assert_eq!(closer(Program::Ollama, "/api/ps", running).await, Some(4096));
    }
}
