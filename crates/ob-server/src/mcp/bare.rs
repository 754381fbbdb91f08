//! Bare calls: `{"method": "tools/call", "params": {"name": …, "arguments": …}}` without the rest of JSON-RPC, of any
//! content type, as people type them into curl. One answer as JSON, and its HTTP status says how it went.

use axum::Json;
use axum::response::IntoResponse as _;
use axum::response::Response;
use http::HeaderValue;
use http::header;
use ob_core::Refusal;
use rmcp::model::CallToolResult;
use rmcp::model::JsonObject;
use serde::Deserialize;
use serde_json::json;

use super::Caller;
use super::outcome;
use super::tools;
use super::tools::NoCall;
use crate::api;
use crate::edge::Site;
use crate::reply;

/// A bare call.
#[derive(Deserialize)]
pub(super) struct Call {
    method: String,
    #[serde(default)]
    pub(super) params: Params,
}

/// What it is a call of.
#[derive(Default, Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) arguments: Option<JsonObject>,
}

/// Answers a bare call.
pub(super) async fn answer(site: &Site, caller: Caller, body: &[u8]) -> Response {
    let request = caller.request.clone();
    let mut response = match perform(site, caller, body).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(code = %refusal.code, message = %refusal.message, "bare call refused");
            let mut body = json!(outcome::refused(&refusal));
            body["request_id"] = request.0.into();
            (reply::status_of(&refusal), Json(body)).into_response()
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn perform(site: &Site, caller: Caller, body: &[u8]) -> Result<Response, Refusal> {
    let call: Call = serde_json::from_slice(body).map_err(|error| {
        Refusal::invalid(format!("the body is no call: {error}"))
            .fix(r#"send {"method":"tools/call","params":{"name":"project","arguments":{"action":"list"}}}"#)
    })?;
    match &*call.method {
        "tools/list" => Ok(Json(json!({ "tools": tools::offered(&caller).await? })).into_response()),
        "tools/call" => {
            let called = tools::call(&caller.asker.principal, &call.params.name, call.params.arguments);
            let (operation, params) = called.map_err(|no| match no {
                NoCall::Refused(refusal) => refusal,
                NoCall::UnknownTool(name) => {
                    Refusal::not_found("tool", name).fix("list them with the method `tools/list`")
                }
            })?;
            let answer = api::perform(site, caller.doors, caller.asker, operation, params).await?;
            let result: CallToolResult = outcome::done(operation, answer);
            Ok(Json(result).into_response())
        }
        _ => Err(Refusal::invalid("a bare call has the method `tools/call` or `tools/list`")
            .fix("for everything else, send JSON-RPC with `\"jsonrpc\": \"2.0\"`")),
    }
}
