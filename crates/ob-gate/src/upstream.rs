//! The way to a provider: the client, the request, and what its failures mean.

use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use ob_core::Refusal;
use ob_core::model::ModelRef;
use ob_core::model::Wire;
use ob_core::redact::Redactor;
use reqwest::Url;
use secrecy::ExposeSecret as _;

use crate::models::Key;
use crate::models::Provider;
use crate::outside::NoAnswer;
use crate::refuse::Again;
use crate::refuse::GateRefusal;
use crate::refuse::repeated;

/// Headers of an agent's request that are passed on. None of them can carry a credential that matters to us.
const PASSED_ON: [&str; 2] = ["idempotency-key", "x-request-id"];
/// The same, of agents that speak the provider's own wire.
const PASSED_ON_OPENAI: [&str; 1] = ["openai-beta"];
const PASSED_ON_ANTHROPIC: [&str; 2] = ["anthropic-version", "anthropic-beta"];
/// Headers of a provider's answer that are passed back.
const PASSED_BACK: [&str; 3] = ["retry-after", "x-request-id", "request-id"];
/// The version of Anthropic's wire that is spoken if the agent names none.
pub(crate) const ANTHROPIC_VERSION: &str = "2023-06-01";
/// The most bytes of a provider's error that are read.
const MAX_ERROR: usize = 64 * 1024;
/// The most characters of a provider's error that are shown.
const MAX_SHOWN: usize = 500;
/// Idle connections to providers are closed after this; most providers close them after a minute or more.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// The client that all gates share: no proxy of the environment, no redirects, no cookies.
pub(crate) fn client(connect_timeout: Duration) -> Result<reqwest::Client, String> {
    // Fails only if there is a provider already, which then is used.
    drop(rustls::crypto::ring::default_provider().install_default());
    let builder = || {
        reqwest::Client::builder()
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .pool_idle_timeout(POOL_IDLE)
            .user_agent(concat!("oubliette/", env!("CARGO_PKG_VERSION")))
    };
    // A machine without certificates can still use a model on loopback.
    builder().build().or_else(|_| builder().tls_certs_only([]).build()).map_err(|error| error.to_string())
}

/// What a provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// An answer of the model, in one piece.
    Whole,
    /// An answer of the model, as an event stream.
    Stream,
    /// A count of tokens.
    Count,
}

/// A request in a wire, with one of the provider's keys. `agent` are the headers of the agent's request; what belongs to
/// its wire alone is passed on if it speaks the same.
pub(crate) fn request(
    provider: &Provider,
    key: Option<Key<'_>>,
    wire: Wire,
    model: &str,
    ask: Ask,
    agent: (Wire, &HeaderMap),
) -> Result<reqwest::Request, GateRefusal> {
    let mut request = reqwest::Request::new(Method::POST, url(&provider.base_url, wire, model, ask)?);
    let headers = request.headers_mut();
    let (spoken, agent) = agent;
    let own: &[&'static str] = match wire {
        _ if spoken != wire => &[],
        Wire::Chat | Wire::Responses => &PASSED_ON_OPENAI,
        Wire::Messages => &PASSED_ON_ANTHROPIC,
        Wire::Google => &[],
    };
    for name in PASSED_ON.iter().chain(own) {
        if let Some(value) = agent.get(*name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    if wire == Wire::Messages && !headers.contains_key("anthropic-version") {
        headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
    }
    let accept = if ask == Ask::Stream { "text/event-stream" } else { "application/json" };
    headers.insert(http::header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = key {
        let (name, value) = credential(wire, key.secret.expose_secret());
        headers.insert(name, secret_value(&value)?);
    }
    for (name, value) in &provider.extra_headers {
        let name = HeaderName::try_from(name)
            .map_err(|_| misconfigured(format!("`{name}` is no name of a header")))?;
        headers.insert(name, secret_value(value)?);
    }
    Ok(request)
}

/// The header in which a wire carries a key.
pub(crate) fn credential(wire: Wire, key: &str) -> (HeaderName, String) {
    match wire {
        Wire::Chat | Wire::Responses => (http::header::AUTHORIZATION, format!("Bearer {key}")),
        Wire::Messages => (HeaderName::from_static("x-api-key"), key.to_owned()),
        Wire::Google => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
    }
}

/// What a failure to get an answer means. True if the provider cannot have taken the request.
pub(crate) fn no_answer(why: &NoAnswer, model: &ModelRef) -> (GateRefusal, bool) {
    // The client's own words are not shown: they name the URL, and a URL may hold a key.
    match why {
        NoAnswer::NoClient(error) => {
            let refusal = Refusal::unavailable(format!("this server cannot speak to providers: {error}"))
                .fix("check with `oubliette doctor`");
            (GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_client", refusal), true)
        }
        NoAnswer::NoConnection => {
            let refusal = Refusal::unavailable(format!("no connection to the provider of {model}"))
                .fix("check its base URL and that it runs");
            (GateRefusal::bad_gateway("provider_unreachable", refusal).again(Again::Soon), true)
        }
        NoAnswer::BrokenOff => {
            let what = format!("the provider of {model} broke the connection before it answered");
            let refusal = Refusal::unavailable(what).fix("try again");
            (GateRefusal::bad_gateway("provider_broke_off", refusal).again(Again::Soon), false)
        }
    }
}

/// The provider did not even answer with a status.
pub(crate) fn no_head(model: &ModelRef, within: Duration) -> GateRefusal {
    let refusal = Refusal::unavailable(format!("the provider of {model} did not answer within {within:?}"))
        .fix("try again, or use another model");
    GateRefusal::new(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", refusal)
}

/// The provider was silent in the middle of its answer.
pub(crate) fn silent(model: &ModelRef, within: Duration) -> GateRefusal {
    let message = format!("the provider of {model} was silent for {within:?} in the middle of an answer");
    let refusal = Refusal::unavailable(message).fix("try again, or use another model");
    GateRefusal::new(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", refusal)
}

/// The provider's answer is none.
pub(crate) fn malformed(model: &ModelRef, code: &'static str, what: &str) -> GateRefusal {
    let refusal = Refusal::unavailable(format!("the provider of {model} answered with {what}"))
        .fix("check that its base URL leads to a server that speaks its `wire` (it usually ends in `/v1`)");
    GateRefusal::bad_gateway(code, refusal)
}

/// The provider answered with a status that is no success.
pub(crate) async fn refused(
    response: reqwest::Response,
    model: &ModelRef,
    redactor: &Redactor,
    within: Duration,
) -> GateRefusal {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut refused = if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // Such a body likes to repeat the key, sometimes in parts: nothing of it is shown.
        let refusal = Refusal::unavailable(format!("the provider of {model} refused our key"))
            .fix("check the provider's key in the server's configuration or environment");
        GateRefusal::bad_gateway("provider_refused_key", refusal).again(Again::OtherKey)
    } else if status.is_redirection() || !(status.is_client_error() || status.is_server_error()) {
        let refusal = Refusal::unavailable(format!("the provider of {model} answered with status {status}"))
            .fix("set its base URL to the final address: redirects are not followed, since they could lead the key away");
        GateRefusal::bad_gateway("provider_redirects", refusal)
    } else {
        let said = error_text(response, redactor, within).await;
        let message = format!("the provider of {model} answered with status {}{said}", status.as_u16());
        let fix = match status.as_u16() {
            404 => "check the model's name and the provider's base URL",
            429 => "wait, or ask the provider for a higher rate",
            400..=499 => "change the request as the provider says",
            _ => "try again, or use another model",
        };
        let again = match status.as_u16() {
            429 => Again::Slower,
            408 | 500 | 502 | 503 | 504 | 529 => Again::Soon,
            _ => Again::No,
        };
        GateRefusal::new(status, "provider_error", Refusal::unavailable(message).fix(fix)).again(again)
    };
    refused.upstream = Some(status.as_u16());
    let retry_after = headers.get(http::header::RETRY_AFTER).filter(|value| is_shown(value, redactor));
    refused.retry_after = retry_after.cloned().map(Box::new);
    refused
}

/// Headers of an answer that the agent may see.
pub(crate) fn passed_back(headers: &HeaderMap, redactor: &Redactor) -> Vec<(HeaderName, HeaderValue)> {
    let pass = |name: &'static str| {
        let value = headers.get(name).filter(|value| is_shown(value, redactor))?;
        Some((HeaderName::from_static(name), value.clone()))
    };
    PASSED_BACK.into_iter().filter_map(pass).collect()
}

/// Words of a provider, without secrets and not too long.
pub(crate) fn shown(text: &str, redactor: &Redactor) -> String {
    let clean = redactor.redact(text.trim());
    let mut short = repeated(&clean, MAX_SHOWN);
    if clean.chars().count() > MAX_SHOWN {
        short.push('…');
    }
    short
}

fn is_shown(value: &HeaderValue, redactor: &Redactor) -> bool {
    value.to_str().is_ok_and(|text| !redactor.finds(text))
}

/// The base URL of a wire: Google's OpenAI-compatible form lies under its own.
pub(crate) fn base(base_url: &str, wire: Wire) -> &str {
    let base = base_url.trim_end_matches('/');
    if wire == Wire::Google { base.strip_suffix("/openai").unwrap_or(base) } else { base }
}

/// Where a wire asks a model.
fn url(base_url: &str, wire: Wire, model: &str, ask: Ask) -> Result<Url, GateRefusal> {
    let mut url = Url::parse(base(base_url, wire))
        .map_err(|error| misconfigured(format!("its base URL is malformed ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(misconfigured("its base URL is neither http nor https".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(misconfigured("its base URL has a query or a fragment".into()));
    }
    if wire == Wire::Google {
        let verb = match ask {
            Ask::Whole => "generateContent",
            Ask::Stream => "streamGenerateContent",
            Ask::Count => "countTokens",
        };
        // `tunedModels/x` is a whole name; `x` is one of `models`.
        let name = if model.contains('/') { model.to_owned() } else { format!("models/{model}") };
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(format!("{name}:{verb}").split('/'));
        }
        if ask == Ask::Stream {
            url.set_query(Some("alt=sse"));
        }
        return Ok(url);
    }
    let rest: &[&str] = match (wire, ask) {
        (Wire::Messages, Ask::Count) => &["messages", "count_tokens"],
        (Wire::Messages, _) => &["messages"],
        (Wire::Responses, _) => &["responses"],
        (Wire::Chat | Wire::Google, _) => &["chat", "completions"],
    };
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(rest);
    }
    Ok(url)
}

fn secret_value(value: &str) -> Result<HeaderValue, GateRefusal> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| misconfigured("its key or a header has a character that HTTP does not allow".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn misconfigured(what: String) -> GateRefusal {
    let refusal = Refusal::unavailable(format!("the model's provider cannot be asked: {what}"))
        .fix("correct it in the server's configuration or environment");
    GateRefusal::bad_gateway("provider_misconfigured", refusal)
}

/// What a provider says of its refusal, as `: words`; empty if it says nothing.
async fn error_text(mut response: reqwest::Response, redactor: &Redactor, within: Duration) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_ERROR {
                break;
            }
        }
    };
    // A provider that never ends its error has said enough.
    drop(tokio::time::timeout(within, read).await);
    body.truncate(MAX_ERROR);
    let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let message = json.as_ref().and_then(|json| {
        // Google answers with a list where it would have streamed.
        let error = json.get(0).unwrap_or(json).get("error")?;
        error.get("message").or(Some(error))?.as_str()
    });
    let text = match message {
        Some(message) => shown(message, redactor),
        None => shown(&String::from_utf8_lossy(&body), redactor),
    };
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_leads_to_each_wire() {
        const GOOGLE: &str = "https://google.example/v1beta";
        for (base, wire, ask, expected) in [
            (
                "https://api.example.com/v1",
                Wire::Chat,
                Ask::Stream,
                "https://api.example.com/v1/chat/completions",
            ),
            ("http://127.0.0.1:9/v1/", Wire::Chat, Ask::Whole, "http://127.0.0.1:9/v1/chat/completions"),
            ("https://a.example/v1", Wire::Responses, Ask::Whole, "https://a.example/v1/responses"),
            ("https://a.example/v1", Wire::Messages, Ask::Stream, "https://a.example/v1/messages"),
            (
                "https://a.example/v1",
                Wire::Messages,
                Ask::Count,
                "https://a.example/v1/messages/count_tokens",
            ),
            (GOOGLE, Wire::Google, Ask::Whole, "https://google.example/v1beta/models/m-1:generateContent"),
            (
                "https://google.example/v1beta/openai",
                Wire::Google,
                Ask::Stream,
                "https://google.example/v1beta/models/m-1:streamGenerateContent?alt=sse",
            ),
            (
                "https://google.example/v1beta/openai",
                Wire::Chat,
                Ask::Whole,
                "https://google.example/v1beta/openai/chat/completions",
            ),
        ] {
            assert_eq!(url(base, wire, "m-1", ask).expect("a URL").as_str(), expected);
        }
        let tuned = url(GOOGLE, Wire::Google, "tunedModels/a?b#c/../d", Ask::Count).expect("a URL");
        assert_eq!(tuned.as_str(), "https://google.example/v1beta/tunedModels/a%3Fb%23c/d:countTokens");
        for wrong in
            ["", "api.example.com", "ftp://h/v1", "https://h/v1?key=abc", "file:///etc", "https://h/#x"]
        {
            let refused = url(wrong, Wire::Chat, "m", Ask::Whole).expect_err(wrong);
            assert_eq!(refused.code, "provider_misconfigured");
            assert!(!refused.refusal.message.contains("abc"), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_short_and_clean() {
        let redactor = Redactor::new(["the-provider-key"]);
        let text = shown(&format!("bad\u{1b}[31m the-provider-key {}", "x".repeat(1000)), &redactor);
        assert!(text.starts_with("bad[31m [redacted] xxx"), "{text}");
        assert_eq!(text.chars().count(), MAX_SHOWN + 1);
    }
}
