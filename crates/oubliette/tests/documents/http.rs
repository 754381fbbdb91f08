//! `docs/http.md`: every route, from the operation table, the schemas and the authoriser.

use std::fmt::Write as _;

use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::Principal;
use ob_core::RefusalCode;
use ob_core::Scope;
use ob_core::authorize;
use ob_core::operation::Access;
use ob_core::operation::Method;
use ob_core::operation::Operation;
use ob_core::operation::TargetKind;
use schemars::Schema;
use schemars::schema_for;
use serde_json::Value;

use crate::cell;
use crate::is_current;

const HEAD: &str = r#"# HTTP

<!-- Generated from the operation table by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

The server listens on `server.address`, by default `localhost:8080`. Routes under `/api/v1` want
`Authorization: Bearer oub_…`; `oubliette token create --name N --scope S` makes one, with the server up or down. A listener on
loopback serves only requests whose `Host` is this machine, and no page of another origin.

Parameters stand in the path, and for `GET` in the query, for `POST` in a JSON body (`Content-Type: application/json`, at most
1 MiB). An unknown parameter is refused, with the names of those that there are. Every answer is JSON, or an event stream; a
large one is compressed (`Accept-Encoding: gzip`). `GET /api/v1/openapi.json` describes all of it for programs, as
[openapi.json](openapi.json) does.

`POST /mcp`, `GET /mcp` and `DELETE /mcp` do the same operations for clients of [MCP](mcp.md).

## Probes

| route | token | answer |
| --- | --- | --- |
| `GET /health` | no | 200 `{"status": "ok"}`; for requests from this machine, or with a token `admin` or `admin:ro`, also `checks` with status, message and fix of each part |
| `GET /ready` | no | 200 `{"status": "ready"}`, or 503 with the reason, what is missing, and `Retry-After` |
| `GET /metrics` | from this machine no, else `admin` or `admin:ro` | Prometheus text, see [metrics.md](metrics.md) |

## Errors

A refusal is a problem as RFC 9457 has it, `application/problem+json`:

```json
{
  "type": "urn:oubliette:problem:not_found", "title": "There is no such thing", "status": 404,
  "code": "not_found", "detail": "…", "fix": "…", "request_id": "…"
}
```

Branch on `code` only. `fix` is there if something can be done. The log has the details under `request_id`, which is your
`X-Request-ID` if you sent one (at most 64 letters, digits, `.`, `_`, `-`), and comes back in that header.

"#;

const LIMITS: &str = r#"
## Limits

| what | how much | and then |
| --- | --- | --- |
| requests of one token | `rate_limit.requests_per_second`, and `rate_limit.burst` at once | 429 with `Retry-After` |
| requests without a valid token, of one address (of IPv6, one /64) | the same | 429 with `Retry-After`; from another machine before anything is looked up, until the time is over |
| connections of one listener | 4096, or a third of the open files that the server may have | more wait; from another machine 503 when seven eighths are taken |
| connections of one address of another machine | 256 | 429, closed |
| head of a request, and silence between two | 30 s; 32 KiB, of which 8 KiB target | 408, 431, 414 |
| body | 30 s, 1 MiB | 408, 413 |
| an answer that the client does not take | 60 s | closed |
| a request in all | 90 s to the head of its answer | 503 |

Probes, and requests on the control socket, which the commands use, are not counted. A stream counts once, when it is opened.
"#;

const EVENTS: &str = r#"
## Events and cursors

A session's events are numbered from 0 without a gap, and are on disk before anyone sees them. A number never changes its
meaning, so the number of the last event that you have is all that you need to go on: after a cut, after a restart of the
server, after a year. `cursor=N` means events with a number above `N`; `-1` is all of them.

**As pages.** `GET …/events?cursor=N` answers with at most `limit` events and `last_index`, the next cursor. With
`wait_ms` an empty page waits for the first event, so a loop of such calls misses nothing and does not hurry.

**As a stream.** With `Accept: text/event-stream` the same route sends each event as `id: N`, `event: TYPE`, `data: JSON`,
first those that are there, then each as it happens. A comment is sent after 15 seconds of silence. The last event says why
there are no more, and the stream closes:

| `event` | why | what to do |
| --- | --- | --- |
| `end` | the session is over, and everything was sent | nothing |
| `closing` | the server stops | connect again with `Last-Event-ID: N` (browsers do that by themselves) or `cursor=N` |
| `refused` | the token was revoked or has expired, or a fault; `data` is the problem | as its `fix` says |

A stream that closes without any of them was cut: connect again as after `closing`.

### Kinds of events

"#;

#[test]
fn the_page_of_the_routes_is_the_operation_table() {
    let mut page = HEAD.to_owned();
    page.push_str("| `code` | status |\n| --- | --- |\n");
    for code in RefusalCode::ALL {
        writeln!(page, "| `{code}` | {} |", code.http_status()).unwrap();
    }
    page.push_str(
        "\nHTTP itself adds 405 for a method that a route has not, 408 for a request that is too late, 413, 414 and 431 for a body, a\n\
         target and a head that are too large, and 415 for a body that is not plain JSON; their `type` is `about:blank`. What is no\n\
         HTTP, or has a head of more than 64 KiB, gets a bare status line.\n",
    );
    page.push_str(LIMITS);
    page.push_str("\n## Routes\n\n| route | operation | scopes |\n| --- | --- | --- |\n");
    for operation in Operation::ALL {
        let spec = operation.spec();
        writeln!(
            page,
            "| [`{}`](#{}) | `{}` | {} |",
            route(*operation),
            spec.name().replace('.', ""),
            spec.name(),
            scopes(*operation)
        )
        .unwrap();
    }
    page.push_str(
        "\n`project` is `project:ID`, and reaches its own project only; to it, any other is `not_found`. Lists show what the token may see.\n",
    );
    for operation in Operation::ALL {
        page.push_str(&described(*operation));
    }
    page.push_str(EVENTS);
    let kinds = serde_json::to_value(schema_for!(EventKind)).unwrap();
    page.push_str("| `type` | what happened |\n| --- | --- |\n");
    for kind in kinds["oneOf"].as_array().unwrap() {
        let doc = kind["description"].as_str().unwrap();
        writeln!(page, "| `{}` | {} |", kind["const"].as_str().unwrap(), cell(doc)).unwrap();
    }
    page.push_str("\nBeside `index` and `at`, an event has those of these fields that its kind needs:\n\n");
    page.push_str(&fields(&schema_for!(EventBody), &[], false));
    is_current("docs/http.md", &page);
}

#[test]
fn the_document_for_programs_is_what_the_server_serves() {
    let document = serde_json::to_string_pretty(&ob_server::openapi::document()).unwrap();
    is_current("docs/openapi.json", &(document + "\n"));
}

fn route(operation: Operation) -> String {
    let spec = operation.spec();
    let method = match spec.method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Delete => "DELETE",
    };
    format!("{method} /api/v1{}", spec.path)
}

/// The scopes that the authoriser lets through, asked of the authoriser.
fn scopes(operation: Operation) -> String {
    if operation.spec().access == Access::Inside {
        return "none: only [agents](mcp.md#from-within-a-sandbox)".to_owned();
    }
    let project = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let target = match operation.spec().target {
        TargetKind::Global => authorize::Target::Global,
        TargetKind::Project => authorize::Target::Project(project),
    };
    let known = [
        ("admin", Scope::Admin),
        ("admin:ro", Scope::AdminReadOnly),
        ("project", Scope::Project(project)),
        ("project:ro", Scope::ProjectReadOnly(project)),
    ];
    let allowed = known.iter().filter(|(_, scope)| {
        let principal = Principal::Token { id: "tok_000000000000".parse().unwrap(), scope: *scope };
        authorize::decide(&principal, operation, target).allowed
    });
    let names: Vec<_> = allowed.map(|(name, _)| format!("`{name}`")).collect();
    assert!(!names.is_empty(), "{operation:?}");
    names.join(", ")
}

fn described(operation: Operation) -> String {
    let spec = operation.spec();
    let schema = (spec.parameters)();
    let in_path: Vec<&str> = spec.path.split(['{', '}']).skip(1).step_by(2).collect();
    let mut text = format!("\n### {}\n\n`{}`: {}\n", spec.name(), route(operation), cell(spec.doc));
    let parameters = fields(&schema, &in_path, true);
    if !parameters.is_empty() {
        write!(text, "\n{parameters}").unwrap();
    }
    let answer = (spec.answer)().to_value();
    if answer["type"] == "array" {
        let item = answer["items"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        writeln!(text, "\nAnswers a list, each with {}.", names(&answer["$defs"][item])).unwrap();
    } else {
        writeln!(text, "\nAnswers {}.", names(&answer)).unwrap();
    }
    text
}

/// The names of an answer's fields.
fn names(schema: &Value) -> String {
    let properties = schema["properties"].as_object().unwrap();
    let names: Vec<_> = properties.keys().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The fields of a schema as a table; nothing if there are none.
fn fields(schema: &Schema, in_path: &[&str], parameters: bool) -> String {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return String::new() };
    if properties.is_empty() {
        return String::new();
    }
    let root = serde_json::to_value(schema).unwrap();
    let required = root["required"].as_array().cloned().unwrap_or_default();
    let mut table = if parameters {
        "| parameter | value | |\n| --- | --- | --- |\n".to_owned()
    } else {
        "| field | value | |\n| --- | --- | --- |\n".to_owned()
    };
    for (name, property) in properties {
        let place = if in_path.contains(&name.as_str()) {
            ", in the path"
        } else if parameters && required.iter().any(|required| required == name) {
            ", required"
        } else {
            ""
        };
        let doc = property["description"].as_str().unwrap_or_default();
        assert!(!doc.is_empty(), "{name} is not described");
        writeln!(table, "| `{name}` | {}{place} | {} |", cell(&kind(property, &root)), cell(doc)).unwrap();
    }
    table
}

/// The kind of a value, in words.
fn kind(schema: &Value, root: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return match name {
            "ProjectId" | "WorkspaceId" => "UUID".to_owned(),
            "SessionId" => "session id".to_owned(),
            "Scope" => "scope".to_owned(),
            name => kind(&root["$defs"][name], root),
        };
    }
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let constants: Vec<_> =
            choices.iter().filter_map(|one| one["const"].as_str()).map(|one| format!("`{one}`")).collect();
        if !constants.is_empty() {
            return constants.join(" or ");
        }
        let real = choices.iter().find(|one| one["type"] != "null");
        return real.map(|one| kind(one, root)).unwrap_or_default();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|one| format!("`{}`", one.as_str().unwrap()))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect(),
        _ => return "any".to_owned(),
    };
    let word = match types.as_slice() {
        ["string"] => "text",
        ["integer"] => "whole number",
        ["number"] => "number",
        ["boolean"] => "flag",
        ["object"] => "object",
        ["array"] => "list",
        _ => "any",
    };
    word.to_owned()
}
