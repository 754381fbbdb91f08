//! Finds an OpenAI-compatible model server on this machine.

use std::time::Duration;

use futures_util::future::join_all;
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
    use ob_testkit::Answer;
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
    async fn the_first_port_that_lists_models_is_taken() {
        let html = ModelServer::start().await.expect("a port");
        html.otherwise(Answer::raw("text/html", vec![Step::Send("<html>".into())]));
        let mute = ModelServer::start().await.expect("a port");
        mute.otherwise(Answer::text("x").before_head(Step::Hang));
        let moved = ModelServer::start().await.expect("a port");
        let model = ModelServer::start().await.expect("a port");
        model.otherwise(Answer::status(200, r#"{"object":"list","data":[{"id":"small"}]}"#));
        let to = format!("{}/models", model.base_url());
        moved.otherwise(Answer::status(302, "").header("location", &to));
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
