//! The way to a provider: the client, the request, and what its failures mean.

use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use ob_core::Refusal;
use ob_core::redact::Redactor;
use reqwest::Url;
use secrecy::ExposeSecret as _;

use crate::GateSession;
use crate::models::Provider;
use crate::outside::NoAnswer;
use crate::refuse::GateRefusal;

/// Headers of an agent's request that are passed on. None of them can carry a credential that matters to us.
const PASSED_ON: [&str; 3] = ["idempotency-key", "openai-beta", "x-request-id"];
/// Headers of a provider's answer that are passed back.
const PASSED_BACK: [&str; 2] = ["retry-after", "x-request-id"];
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

/// A request for a chat completion, with the provider's key.
pub(crate) fn request(
    provider: &Provider,
    agent: &HeaderMap,
    stream: bool,
) -> Result<reqwest::Request, GateRefusal> {
    let url = completions_url(&provider.base_url)?;
    let mut request = reqwest::Request::new(Method::POST, url);
    let headers = request.headers_mut();
    for name in PASSED_ON {
        if let Some(value) = agent.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    let accept = if stream { "text/event-stream" } else { "application/json" };
    headers.insert(http::header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = &provider.api_key {
        headers
            .insert(http::header::AUTHORIZATION, secret_value(&format!("Bearer {}", key.expose_secret()))?);
    }
    for (name, value) in &provider.extra_headers {
        let name = HeaderName::try_from(name)
            .map_err(|_| misconfigured(format!("`{name}` is no name of a header")))?;
        headers.insert(name, secret_value(value)?);
    }
    Ok(request)
}

/// What a failure to get an answer means. True if the provider cannot have taken the request.
pub(crate) fn no_answer(why: &NoAnswer, session: &GateSession) -> (GateRefusal, bool) {
    let model = &session.model;
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
            (GateRefusal::bad_gateway("provider_unreachable", refusal), true)
        }
        NoAnswer::BrokenOff => {
            let what = format!("the provider of {model} broke the connection before it answered");
            let refusal = Refusal::unavailable(what).fix("try again");
            (GateRefusal::bad_gateway("provider_broke_off", refusal), false)
        }
    }
}

/// The provider did not even answer with a status.
pub(crate) fn no_head(session: &GateSession, within: Duration) -> GateRefusal {
    let refusal =
        Refusal::unavailable(format!("the provider of {} did not answer within {within:?}", session.model))
            .fix("try again, or use another model");
    GateRefusal::new(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", refusal)
}

/// The provider was silent in the middle of its answer.
pub(crate) fn silent(session: &GateSession, within: Duration) -> GateRefusal {
    let message =
        format!("the provider of {} was silent for {within:?} in the middle of an answer", session.model);
    let refusal = Refusal::unavailable(message).fix("try again, or use another model");
    GateRefusal::new(StatusCode::GATEWAY_TIMEOUT, "provider_timeout", refusal)
}

/// The provider's answer is none.
pub(crate) fn malformed(session: &GateSession, code: &'static str, what: &str) -> GateRefusal {
    let refusal = Refusal::unavailable(format!("the provider of {} answered with {what}", session.model))
        .fix("check that its base URL leads to an OpenAI-compatible server (it usually ends in `/v1`)");
    GateRefusal::bad_gateway(code, refusal)
}

/// The provider answered with a status that is no success.
pub(crate) async fn refused(
    response: reqwest::Response,
    session: &GateSession,
    redactor: &Redactor,
    within: Duration,
) -> GateRefusal {
    let (status, headers) = (response.status(), response.headers().clone());
    let model = &session.model;
    let mut refused = if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        // Such a body likes to repeat the key, sometimes in parts: nothing of it is shown.
        let refusal = Refusal::unavailable(format!("the provider of {model} refused our key"))
            .fix("check the provider's key in the server's configuration or environment");
        GateRefusal::bad_gateway("provider_refused_key", refusal)
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
        GateRefusal::new(status, "provider_error", Refusal::unavailable(message).fix(fix))
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
    let mut short: String = clean.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    if clean.chars().count() > MAX_SHOWN {
        short.push('…');
    }
    short
}

fn is_shown(value: &HeaderValue, redactor: &Redactor) -> bool {
    value.to_str().is_ok_and(|text| !redactor.finds(text))
}

fn completions_url(base_url: &str) -> Result<Url, GateRefusal> {
    let url = Url::parse(&format!("{}/chat/completions", base_url.trim_end_matches('/')))
        .map_err(|error| misconfigured(format!("its base URL is malformed ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(misconfigured("its base URL is neither http nor https".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(misconfigured("its base URL has a query or a fragment".into()));
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
        let error = json.get("error")?;
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
    fn a_base_url_leads_to_its_completions() {
        for (base, expected) in [
            ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
            ("http://127.0.0.1:9/v1/", "http://127.0.0.1:9/v1/chat/completions"),
        ] {
            assert_eq!(completions_url(base).expect("a URL").as_str(), expected);
        }
        for wrong in
            ["", "api.example.com", "ftp://h/v1", "https://h/v1?key=abc", "file:///etc", "https://h/#x"]
        {
            let refused = completions_url(wrong).expect_err(wrong);
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
