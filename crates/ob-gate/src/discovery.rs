//! Finds an OpenAI-compatible model server on this machine.

use std::time::Duration;

use futures_util::future::join_all;
use ob_core::model::Wire;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use serde::Deserialize;

use crate::upstream;

/// How long one port may take in all. A server on loopback answers in a millisecond or is busy with something else.
const TIMEOUT: Duration = Duration::from_millis(300);
/// The most bytes of an answer.
const MAX_BODY: usize = 256 * 1024;
/// The most models of one server.
const MAX_MODELS: usize = 200;
/// The most characters of a model's name.
const MAX_NAME: usize = 200;

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
}

/// The first of these loopback ports that lists models as OpenAI does: its base URL and the names of its models.
/// Asks all at once, follows nothing, sends no key.
pub async fn find_local(ports: &[u16]) -> Option<(String, Vec<String>)> {
    find_within(ports, TIMEOUT).await
}

async fn find_within(ports: &[u16], timeout: Duration) -> Option<(String, Vec<String>)> {
    let client = upstream::client(timeout).ok()?;
    let asked = ports.iter().map(|port| {
        let base_url = format!("http://127.0.0.1:{port}/v1");
        let client = &client;
        async move {
            let models = tokio::time::timeout(timeout, models(client, &base_url)).await.ok()??;
            Some((base_url, models))
        }
    });
    join_all(asked).await.into_iter().flatten().next()
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

/// Asks a provider for its models, with its key; no model is called and nothing is spent. Also says whom it asked: scheme,
/// host and port, since the rest of a URL may hold a key.
pub async fn ask(
    base_url: &str,
    wire: Wire,
    key: Option<&SecretString>,
    within: Duration,
) -> (String, Answer) {
    let url = format!("{}/models", upstream::base(base_url, wire));
    let Some(url) = reqwest::Url::parse(&url).ok().filter(|url| url.has_host()) else {
        return ("the provider".to_owned(), Answer::Malformed);
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
        Some(request.send().await.ok()?.status())
    };
    let answer = match tokio::time::timeout(within, asked).await {
        Err(_) => Answer::Late,
        Ok(None) => Answer::Unreachable,
        Ok(Some(status)) if status.is_success() => Answer::Lists,
        Ok(Some(http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN)) => Answer::Refuses,
        Ok(Some(status)) => Answer::Other(status.as_u16()),
    };
    (host, answer)
}

async fn models(client: &reqwest::Client, base_url: &str) -> Option<Vec<String>> {
    let mut response = client.get(format!("{base_url}/models")).send().await.ok()?;
    if response.status() != http::StatusCode::OK {
        return None;
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_BODY {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    parse(&body)
}

fn parse(body: &[u8]) -> Option<Vec<String>> {
    let list: ModelList = serde_json::from_slice(body).ok()?;
    let names: Vec<String> = list.data.into_iter().take(MAX_MODELS).map(|entry| entry.id).collect();
    let is_name = |name: &String| {
        !name.is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control)
    };
    (!names.is_empty() && names.iter().all(is_name)).then_some(names)
}

#[cfg(test)]
mod tests {
    use ob_testkit::Answer as Scripted;
    use ob_testkit::ModelServer;
    use ob_testkit::model_server::Step;

    use super::*;

    #[test]
    fn only_a_list_of_models_counts() {
        assert_eq!(parse(br#"{"data":[{"id":"a","x":1},{"id":"b"}]}"#), Some(vec!["a".into(), "b".into()]));
        for wrong in
            ["", "{}", "[]", r#"{"data":[]}"#, r#"{"data":[{"name":"a"}]}"#, r#"{"data":[{"id":"a\u0007"}]}"#]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_provider_is_asked_with_its_key_and_each_answer_is_told_apart() {
        const LONG: Duration = Duration::from_secs(10);
        let key = SecretString::from("sk-asked-0123456789abcdefghij");
        for (answer, expected) in [
            (Scripted::status(200, r#"{"data":[]}"#), Answer::Lists),
            (Scripted::status(401, "{}"), Answer::Refuses),
            (Scripted::status(404, "{}"), Answer::Other(404)),
            (Scripted::status(503, "{}"), Answer::Other(503)),
        ] {
            let model = ModelServer::start().await.expect("a port");
            model.otherwise(answer);
            let (host, found) = ask(&model.base_url(), Wire::Chat, Some(&key), LONG).await;
            assert_eq!((host, found), (format!("http://{}", model.address()), expected));
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
            assert_eq!(ask(&base, wire, Some(&key), LONG).await.1, Answer::Lists);
            let asked = &model.requests()[0];
            assert_eq!(
                (asked.headers[header].to_str().ok(), asked.path.as_str()),
                (Some(key.expose_secret()), path)
            );
            assert!(asked.headers.get("authorization").is_none());
        }
        let mute = ModelServer::start().await.expect("a port");
        mute.otherwise(Scripted::text("x").before_head(Step::Hang));
        assert_eq!(ask(&mute.base_url(), Wire::Chat, None, Duration::from_millis(50)).await.1, Answer::Late);
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        assert_eq!(
            ask(&format!("http://{free}/v1"), Wire::Messages, None, LONG).await.1,
            Answer::Unreachable
        );
        assert_eq!(ask("nonsense", Wire::Chat, None, LONG).await.1, Answer::Malformed);
        let (host, _) =
            ask(&format!("http://user:secret@{free}/v1?key=secret"), Wire::Google, None, LONG).await;
        assert!(!host.contains("secret"), "{host}");
    }

    #[tokio::test]
    async fn the_first_port_that_lists_models_is_taken() {
        let html = ModelServer::start().await.expect("a port");
        html.otherwise(Scripted::raw("text/html", vec![Step::Send("<html>".into())]));
        let mute = ModelServer::start().await.expect("a port");
        mute.otherwise(Scripted::text("x").before_head(Step::Hang));
        let moved = ModelServer::start().await.expect("a port");
        let model = ModelServer::start().await.expect("a port");
        model.otherwise(Scripted::status(200, r#"{"object":"list","data":[{"id":"small"}]}"#));
        let to = format!("{}/models", model.base_url());
        moved.otherwise(Scripted::status(302, "").header("location", &to));
        let ports = [&html, &mute, &moved, &model].map(|server| server.address().port());
        // Longer than in production: the machine that tests may be busy.
        let find = async |ports: &[u16]| find_within(ports, Duration::from_secs(3)).await;
        assert_eq!(find(&ports).await, Some((model.base_url(), vec!["small".to_string()])));
        assert_eq!(find(&ports[..3]).await, None);
        assert_eq!(find_local(&[]).await, None);
        let request = &model.requests()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v1/models"));
        assert!(request.headers.get("authorization").is_none());
    }
}
