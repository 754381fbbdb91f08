//! A call of a model: checked, reserved, sent with a key, relayed, settled; tried again where nothing was delivered yet.
//!
//! ```text
//! body -> plan (pure: checked, translated) -> try -> relay or whole answer
//!                                             ^  |
//!                                             +--+ refused, cut before its first event: settled, next key or a pause
//! ```
//!
//! Every try has a reservation of its own, so what a failed one may have cost is kept within the limits too.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use ob_core::model::Price;
use ob_core::model::Wire;

use crate::body;
use crate::caller::Caller;
use crate::listen::Gate;
use crate::meter::Charge;
use crate::models::Key;
use crate::models::Provider;
use crate::refuse::Again;
use crate::refuse::GateRefusal;
use crate::refuse::json_response;
use crate::relay::BAD_STREAM;
use crate::relay::Manner;
use crate::relay::Mask;
use crate::relay::Relay;
use crate::route::Body;
use crate::translate;
use crate::translate::Origin;
use crate::translate::Translator;
use crate::tries::Tries;
use crate::upstream;
use crate::upstream::Ask;
use crate::wire;
use crate::wire::Prepared;
use crate::wire::Watch;

/// An answer that is not a stream and not what it should be.
const BAD_ANSWER: &str = "bad_model_answer";

/// A call that was checked and can be made.
pub(crate) struct Plan {
    /// The wire of the agent.
    agent: Wire,
    /// The wire in which the provider is asked.
    wire: Wire,
    /// What it is asked.
    prepared: Prepared,
    /// The agent wants to see the usage, where its wire leaves that to it.
    wants_usage: bool,
    /// The model's calls are held to a schema.
    holds: bool,
}

/// A try that came to nothing, and of whose answer nothing was delivered.
struct Failed {
    refused: GateRefusal,
    charge: Option<Charge>,
}

/// Answers a request for an answer of the model.
pub(crate) async fn generate(
    gate: &Arc<Gate>,
    agent: Wire,
    streams: bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let caller = Caller::behind(gate);
    let provider = provider(gate).await?;
    let price = caller.price(&provider)?;
    let (head, body) = request.into_parts();
    let room = body::room_for(gate, &body).await?;
    let body = body::read(gate, body, gate.shared.options.max_body).await?;
    let plan = plan(agent, &provider, &gate.session.model.model, &body, streams)?;
    drop(body);
    let answer = call(caller, &provider, price, &plan, &head.headers).await?;
    drop(room);
    Ok(answer)
}

/// Makes a call, if need be in several tries.
pub(crate) async fn call(
    caller: Caller<'_>,
    provider: &Provider,
    price: Option<Price>,
    plan: &Plan,
    headers: &HeaderMap,
) -> Result<Response<Body>, GateRefusal> {
    let mut tries = Tries::of(provider);
    loop {
        let key = provider.keys.current();
        let failed = match attempt(caller, provider, price, key, plan, headers).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let Some(pause) = tries.after(&failed.refused, provider, key) else {
            return fail(failed).await;
        };
        let (session, reason) = (caller.session.map(tracing::field::display), failed.refused.code);
        tracing::info!(session, reason, ?pause, "a call of a model is tried again");
        if let Some(charge) = failed.charge {
            charge.finish(None).await;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Answers a request to count tokens. That costs nothing at the providers that have it; where there is none, the gate's own
/// estimate is given, and said to be one.
pub(crate) async fn count(
    gate: &Arc<Gate>,
    agent: Wire,
    request: Request<Incoming>,
) -> Result<Response<Body>, GateRefusal> {
    let (caller, options) = (Caller::behind(gate), &gate.shared.options);
    let provider = provider(gate).await?;
    let (head, body) = request.into_parts();
    let room = body::room_for(gate, &body).await?;
    let body = body::read(gate, body, gate.shared.options.max_body).await?;
    let model = caller.model.model.as_str();
    let prepared = wire::prepare_count(agent, &body, model)?;
    drop(body);
    if provider.wire_for(agent) != agent {
        let name = if agent == Wire::Google { "totalTokens" } else { "input_tokens" };
        let mut answer = json_response(StatusCode::OK, &serde_json::json!({ name: prepared.input_tokens }));
        answer.headers_mut().insert("x-estimated", HeaderValue::from_static("true"));
        return Ok(answer);
    }
    let key = provider.keys.current();
    let mut outgoing = upstream::request(&provider, key, agent, model, Ask::Count, (agent, &head.headers))?;
    *outgoing.body_mut() = Some(prepared.body.into());
    let redactor = gate.shared.models.redactor();
    let asking = gate.shared.outside.ask(outgoing);
    let mut response = match tokio::time::timeout(options.head_timeout, asking).await {
        Err(_) => return Err(upstream::no_head(caller.model, options.head_timeout)),
        Ok(Err(error)) => return Err(upstream::no_answer(&error, caller.model).0),
        Ok(Ok(response)) if !response.status().is_success() => {
            return Err(
                upstream::refused(response, caller.model, &redactor, options.stream_idle_timeout).await
            );
        }
        Ok(Ok(response)) => response,
    };
    drop(room);
    let body = collect(caller, &mut response).await.map_err(|(refused, _)| refused)?;
    if !serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|answer| answer.is_object()) {
        return Err(upstream::malformed(caller.model, BAD_ANSWER, "a body that is no count of tokens"));
    }
    Ok(json_body(Mask::new(&provider).hide(body.into())))
}

async fn provider(gate: &Gate) -> Result<Provider, GateRefusal> {
    let models = &gate.shared.models;
    let found = models.provider_within(&gate.session.model, gate.shared.options.model_patience).await;
    found.map_err(|refusal| GateRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_model", refusal))
}

/// Checks a request, and translates it if the provider does not speak the agent's wire.
pub(crate) fn plan(
    agent: Wire,
    provider: &Provider,
    model: &str,
    body: &[u8],
    streams: bool,
) -> Result<Plan, GateRefusal> {
    let wire = provider.wire_for(agent);
    let most = provider.max_output_tokens;
    let holds = provider.holds_calls;
    if wire == agent && !holds {
        let prepared = wire::prepare(wire, body, model, most, streams)?;
        return Ok(Plan { agent, wire, prepared, wants_usage: false, holds });
    }
    let translated = translate::request(agent, wire, body, streams, holds)?;
    let prepared = wire::prepare(wire, &translated.body, model, most, translated.stream)?;
    Ok(Plan { agent, wire, prepared, wants_usage: translated.wants_usage, holds })
}

/// Reserves, asks, and begins to deliver.
async fn attempt(
    caller: Caller<'_>,
    provider: &Provider,
    price: Option<Price>,
    key: Option<Key<'_>>,
    plan: &Plan,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failed> {
    let Caller { shared, model, .. } = caller;
    let options = &shared.options;
    let Prepared { stream, input_tokens, output_tokens, .. } = plan.prepared;
    let ask = if stream { Ask::Stream } else { Ask::Whole };
    let mut outgoing = upstream::request(provider, key, plan.wire, &model.model, ask, (plan.agent, headers))?;
    let mut charge = caller.reserve(input_tokens, output_tokens, price).await?;
    charge.sent();
    let redactor = shared.models.redactor();
    *outgoing.body_mut() = Some(plan.prepared.body.clone().into());
    let answered = tokio::time::timeout(options.head_timeout, shared.outside.ask(outgoing)).await;
    let response = match answered {
        Err(_) => return Err(Failed::new(upstream::no_head(model, options.head_timeout), charge)),
        Ok(Err(error)) => {
            let (refused, not_taken) = upstream::no_answer(&error, model);
            if not_taken {
                charge.not_taken();
            }
            return Err(Failed::new(refused, charge));
        }
        Ok(Ok(response)) if !response.status().is_success() => {
            charge.not_taken();
            let refused = upstream::refused(response, model, &redactor, options.stream_idle_timeout).await;
            return Err(Failed::new(refused, charge));
        }
        Ok(Ok(response)) => response,
    };
    let passed_back = upstream::passed_back(response.headers(), &redactor);
    let mask = Mask::new(provider);
    let mut answer = if stream {
        streamed(caller, response, charge, mask, plan).await?
    } else {
        whole(caller, response, charge, &mask, plan).await?
    };
    answer.headers_mut().extend(passed_back);
    Ok(answer)
}

/// Settles and tells of the failure before the agent learns of it.
async fn fail<T>(Failed { refused, charge }: Failed) -> Result<T, GateRefusal> {
    if let Some(charge) = charge {
        charge.finish(Some(&refused)).await;
    }
    Err(refused)
}

async fn streamed(
    caller: Caller<'_>,
    response: reqwest::Response,
    charge: Charge,
    mask: Mask,
    plan: &Plan,
) -> Result<Response<Body>, Failed> {
    let content_type = content_type(&response);
    if content_type != "text/event-stream" {
        let named = upstream::shown(&content_type, &caller.shared.models.redactor());
        let what = format!("`{named}` instead of an event stream");
        return Err(Failed::new(upstream::malformed(caller.model, BAD_STREAM, &what), charge));
    }
    let translator = plan.translates().then(|| {
        Translator::new(plan.wire, plan.agent, origin(caller, &charge), plan.wants_usage, plan.holds)
    });
    let manner = Manner {
        watch: Watch::new(plan.wire),
        agent: plan.agent,
        hide_usage: plan.prepared.hide_usage,
        translator,
    };
    let relay = Relay::new(response, charge, caller.model.clone(), mask, &caller.shared.options, manner);
    // The first event decides the status: what fails before it is a plain refusal.
    let (first, relay) = relay.begin().await.map_err(|(refused, charge)| Failed { refused, charge })?;
    let frames = stream::unfold((first, relay), async |(first, mut relay)| {
        let bytes = match first {
            Some(first) => first,
            None => relay.next().await?,
        };
        Some((Ok::<_, Infallible>(Frame::data(bytes)), (None, relay)))
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = answer.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(answer)
}

async fn whole(
    caller: Caller<'_>,
    mut response: reqwest::Response,
    mut charge: Charge,
    mask: &Mask,
    plan: &Plan,
) -> Result<Response<Body>, Failed> {
    let malformed = |what: &str| upstream::malformed(caller.model, BAD_ANSWER, what);
    let length = |body: &[u8]| u64::try_from(body.len()).unwrap_or(u64::MAX);
    let body = match collect(caller, &mut response).await {
        Ok(body) => body,
        Err((refused, seen)) => {
            // What was seen of it was paid for.
            charge.wrote(seen);
            return Err(Failed::new(refused, charge));
        }
    };
    let Some(chunk) = Watch::new(plan.wire).whole(&body) else {
        charge.wrote(length(&body));
        return Err(Failed::new(malformed("a body that is no answer of its wire"), charge));
    };
    charge.wrote(chunk.written_bytes);
    if let Some(usage) = chunk.usage {
        charge.reported(usage);
    }
    let body = if !plan.translates() {
        Bytes::from(body)
    } else {
        let tokens = chunk.usage.unwrap_or_default().tokens;
        match translate::answer(plan.wire, plan.agent, &body, &origin(caller, &charge), tokens, plan.holds) {
            Ok(translated) => translated,
            Err(broken) => return Err(Failed::new(malformed(&broken.to_string()), charge)),
        }
    };
    charge.whole();
    charge.finish(None).await;
    Ok(json_body(mask.hide(body)))
}

/// A whole body, or why there is none and how much of it came.
async fn collect(
    caller: Caller<'_>,
    response: &mut reqwest::Response,
) -> Result<Vec<u8>, (GateRefusal, u64)> {
    let options = &caller.shared.options;
    let malformed = |what: &str| upstream::malformed(caller.model, BAD_ANSWER, what);
    let mut body = Vec::new();
    loop {
        let failure = match tokio::time::timeout(options.stream_idle_timeout, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= options.max_event => {
                body.extend_from_slice(&chunk);
                continue;
            }
            Ok(Ok(None)) => return Ok(body),
            Ok(Ok(Some(_))) => malformed("a body that is too large"),
            Ok(Err(_)) => malformed("a body that breaks off in the middle").again(Again::Soon),
            Err(_) => upstream::silent(caller.model, options.stream_idle_timeout),
        };
        return Err((failure, u64::try_from(body.len()).unwrap_or(u64::MAX)));
    }
}

/// What a translated answer says of itself.
fn origin(caller: Caller<'_>, charge: &Charge) -> Origin {
    let id = charge.id().map(|id| id.as_uuid().simple().to_string()).unwrap_or_default();
    let created = u64::try_from(caller.shared.outside.now().as_micros() / 1_000_000).unwrap_or_default();
    Origin { id, model: caller.model.model.clone(), created }
}

fn json_body(body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Full::new(body).boxed_unsync());
    answer.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn content_type(response: &reqwest::Response) -> String {
    let value = response.headers().get(http::header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

// === impl Plan ===

impl Plan {
    /// True if what the provider says is not what the agent is told.
    fn translates(&self) -> bool {
        self.wire != self.agent || self.holds
    }
}

// === impl Failed ===

impl Failed {
    fn new(refused: GateRefusal, charge: Charge) -> Self {
        Self { refused, charge: Some(charge) }
    }
}

impl From<GateRefusal> for Failed {
    fn from(refused: GateRefusal) -> Self {
        Self { refused, charge: None }
    }
}
