//! `openapi.json`: the routes in OpenAPI 3.1, made of the operation table as the routes themselves are.
//!
//! Schemas are those of the operations' own types, in the dialect that OpenAPI 3.1 has (JSON Schema 2020-12), so they go
//! in as they are; only their definitions move to `components`.

use std::sync::Arc;
use std::sync::OnceLock;

use axum::extract::Request;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::response::Response;
use bytes::Bytes;
use http::header;
use ob_core::RefusalCode;
use ob_core::operation::Method;
use ob_core::operation::Operation;
use ob_core::operation::OperationSpec;
use schemars::Schema;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::edge::Site;
use crate::edge::id_of;
use crate::edge::peer_of;
use crate::reply;

/// Where it is served.
pub(crate) const ROUTE: &str = "/api/v1/openapi.json";

/// The document, for whoever has a token.
pub(crate) async fn serve(State(site): State<Arc<Site>>, request: Request) -> Response {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let id = id_of(&request);
    if let Err(denied) = site.caller(peer_of(&request), request.headers(), &id).await {
        return reply::denied(&denied, &id);
    }
    let text = TEXT.get_or_init(|| document().to_string().into()).clone();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The document.
pub fn document() -> Value {
    let mut components = Components::default();
    let mut paths = Map::new();
    for operation in Operation::ALL {
        let spec = operation.spec();
        let path = paths.entry(format!("/api/v1{}", spec.path)).or_insert_with(|| json!({}));
        let method = match spec.method {
            Method::Get => "get",
            Method::Post => "post",
            Method::Delete => "delete",
        };
        path[method] = described(*operation, &spec, &mut components);
    }
    for (path, probe) in probes() {
        paths.insert(path.to_owned(), json!({ "get": probe }));
    }
    components.0.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Oubliette",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs AI agents unattended in kernel sandboxes.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost:8080" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What `oubliette token create` prints.",
                },
            },
            "responses": {
                "Problem": {
                    "description": "A refusal.",
                    "content": { (reply::PROBLEM_JSON): { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
            "schemas": components.0,
        },
    })
}

/// The schemas that others refer to.
#[derive(Default)]
struct Components(Map<String, Value>);

// === impl Components ===

impl Components {
    /// A schema with its definitions moved here.
    fn take(&mut self, schema: Schema) -> Value {
        let mut schema = schema.to_value();
        let Some(members) = schema.as_object_mut() else { return schema };
        members.remove("$schema");
        let title = members.remove("title");
        for (name, mut definition) in members.remove("$defs").and_then(into_members).unwrap_or_default() {
            refer_here(&mut definition);
            self.0.insert(name, definition);
        }
        refer_here(&mut schema);
        match title.as_ref().and_then(Value::as_str) {
            Some(name) if schema["type"] == "object" => {
                self.0.insert(name.to_owned(), schema);
                json!({ "$ref": format!("#/components/schemas/{name}") })
            }
            _ => schema,
        }
    }

    /// A schema whose members are parameters: it goes where they are described.
    fn take_parameters(&mut self, schema: Schema) -> Value {
        let mut schema = schema.to_value();
        if let Some(members) = schema.as_object_mut() {
            members.remove("title");
        }
        Schema::try_from(schema).map(|schema| self.take(schema)).unwrap_or_default()
    }
}

fn into_members(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Points references at where definitions are in an OpenAPI document.
fn refer_here(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(at) if name == "$ref" => {
                        *at = at.replacen("#/$defs/", "#/components/schemas/", 1);
                    }
                    value => refer_here(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(refer_here),
        _ => {}
    }
}

fn described(operation: Operation, spec: &OperationSpec, components: &mut Components) -> Value {
    let schema = components.take_parameters((spec.parameters)());
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
    let in_path: Vec<&str> = spec.path.split(['{', '}']).skip(1).step_by(2).collect();
    let mut parameters = Vec::new();
    let mut body = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let place = match spec.method {
            _ if in_path.contains(&name.as_str()) => "path",
            Method::Post => {
                body.insert(name.clone(), property.clone());
                continue;
            }
            Method::Get | Method::Delete => "query",
        };
        parameters.push(parameter(name, place, required(name), property));
    }
    let answer = components.take((spec.answer)());
    let mut content = json!({ "application/json": { "schema": answer } });
    if operation == Operation::SessionEvents {
        content["text/event-stream"] = json!({ "schema": { "type": "string" } });
        let last = json!({
            "type": "integer", "minimum": -1,
            "description": "For a stream that goes on: the number of the last event that came. Goes over `cursor`.",
        });
        parameters.push(parameter("Last-Event-ID", "header", false, &last));
    }
    let mut described = json!({
        "operationId": spec.name(),
        "tags": [spec.tool],
        "summary": one_line(spec.doc),
        "parameters": parameters,
        "responses": {
            "200": { "description": "Done.", "content": content },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    if spec.method == Method::Post {
        let wanted: Vec<&String> = body.keys().filter(|name| required(name)).collect();
        described["requestBody"] = json!({
            "required": !wanted.is_empty(),
            "content": { "application/json": { "schema": {
                "type": "object", "properties": body, "required": wanted, "additionalProperties": false,
            } } },
        });
    }
    described
}

fn parameter(name: &str, place: &str, required: bool, property: &Value) -> Value {
    let mut schema = property.clone();
    let description = schema.as_object_mut().and_then(|members| members.remove("description"));
    without_null(&mut schema);
    json!({
        "name": name, "in": place, "required": required || place == "path",
        "description": description, "schema": schema,
    })
}

/// Text has no null: a parameter that is not given is left out.
fn without_null(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    if members.get("default") == Some(&Value::Null) {
        members.remove("default");
    }
    if let Some(types) = members.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|kind| kind != "null");
        if let [one] = types.as_slice() {
            members["type"] = one.clone();
        }
    }
    if let Some(choices) = members.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice["type"] != "null");
        if let [one] = choices.as_slice() {
            *schema = one.clone();
        }
    }
}

fn probes() -> [(&'static str, Value); 4] {
    let answers = |kind: &str, schema: Value| json!({ "description": "Done.", "content": { kind: { "schema": schema } } });
    let health = json!({
        "type": "object", "required": ["status"],
        "properties": { "status": { "const": "ok" }, "checks": { "type": "object" } },
    });
    let ready = json!({
        "type": "object", "required": ["status"],
        "properties": {
            "status": { "enum": ["ready", "not ready"] }, "reason": { "type": "string" },
            "missing": { "type": "array", "items": { "type": "string" } },
        },
    });
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    [
        (
            "/health",
            json!({
                "operationId": "health", "tags": ["probes"], "security": [{}, { "token": [] }],
                "summary": "Alive; from this machine or with a wide token, also what works and what does not.",
                "responses": { "200": answers("application/json", health), "default": problem },
            }),
        ),
        (
            "/ready",
            json!({
                "operationId": "ready", "tags": ["probes"], "security": [],
                "summary": "Ready for work, or why not.",
                "responses": {
                    "200": answers("application/json", ready.clone()), "503": answers("application/json", ready),
                    "default": problem,
                },
            }),
        ),
        (
            "/metrics",
            json!({
                "operationId": "metrics", "tags": ["probes"], "security": [{}, { "token": [] }],
                "summary": "Metrics in Prometheus' text format; from another machine with a wide token.",
                "responses": { "200": answers("text/plain", json!({ "type": "string" })), "default": problem },
            }),
        ),
        (
            ROUTE,
            json!({
                "operationId": "openapi", "tags": ["probes"], "summary": "This document.",
                "responses": { "200": answers("application/json", json!({ "type": "object" })), "default": problem },
            }),
        ),
    ]
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "A refusal, as RFC 9457 has it, with a stable code.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": { "enum": RefusalCode::ALL, "description": "Branch on this." },
            "detail": { "type": "string", "description": "What was asked and why not." },
            "fix": { "type": "string", "description": "What to do about it." },
            "request_id": { "type": "string", "description": "Under which the log has the details." },
        },
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 40, "{}", found.len());
        for reference in found {
            let at = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(at).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_is_there_with_its_parameters() {
        let document = document();
        for operation in Operation::ALL {
            let spec = operation.spec();
            let method = format!("{:?}", spec.method).to_lowercase();
            let described = &document["paths"][format!("/api/v1{}", spec.path)][method];
            assert_eq!(described["operationId"], spec.name());
            let schema = (spec.parameters)();
            let names = schema.get("properties").and_then(Value::as_object).map(Map::len).unwrap_or_default();
            let body = &described["requestBody"]["content"]["application/json"]["schema"]["properties"];
            let extra = usize::from(*operation == Operation::SessionEvents);
            let listed = described["parameters"].as_array().map_or(0, Vec::len) - extra;
            assert_eq!(listed + body.as_object().map_or(0, Map::len), names, "{}", spec.name());
            assert!(described["responses"]["200"]["content"]["application/json"]["schema"].is_object());
        }
    }
}
