//! `docs/mcp.md`: every tool, action and parameter, from the tools that clients are shown.

use std::fmt::Write as _;

use ob_core::Principal;
use serde_json::Value;

use crate::cell;
use crate::is_current;

const HEAD: &str = r#"# MCP

<!-- Generated from the operation table by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

Every operation of the server is a tool for clients of the [Model Context Protocol](https://modelcontextprotocol.io): the same
operations, under the same rules, as over [HTTP](http.md).

## Add it to a client

For a client on this machine, one command makes a token for it and writes the server into its file. Everything else in the
file stays, comments included; the token of an entry that was there before is revoked.

```sh
oubliette mcp --setup claude-code
```

It knows `claude` (Claude Desktop), `claude-code`, `codex`, `cursor`, `gemini`, `opencode`, `vscode` and `zed`. `--config PATH` names
another file than the one that the client keeps for you, such as one of a project. In the folder of a project the token may
do everything in that project; elsewhere it may read. `--scope` and `--expires-in` say otherwise. The client then starts
`oubliette mcp` and talks to it over standard input and output; that starts the server if none runs.

For any other client, local or not, the address is `http://HOST:PORT/mcp`, with the header `Authorization: Bearer oub_…`:

```sh
oubliette token create --name my-client --scope admin:ro --expires-in 30d
```

## Protocol

`POST`, `GET` and `DELETE` on `/mcp` (or `/mcp/`) are Streamable HTTP. Versions 2024-11-05 to 2025-11-25 have MCP sessions;
2026-07-28 has none, and is found with `server/discover`. Who asks is told by the token of each request. An MCP session
belongs to the token that opened it: for another one it is not there (404). A token has at most 256 of them, a listener 1,024;
one without a request for an hour ends.

| what | how |
| --- | --- |
| a result | `structuredContent`, and the same as JSON in one text block; `session` `spawn` says before it "New session created: …" or "Session … resumed" |
| a refusal | a result with `isError`, the reason and what to do as text, and `structuredContent.error.code`, as in [errors](http.md#errors) |
| an unknown tool, a malformed message | a JSON-RPC error |
| no or a wrong token | 401 with JSON-RPC error -32001 and `WWW-Authenticate` |
| too many requests or MCP sessions | 429 with JSON-RPC error -32029 and `Retry-After` |
| a long call | `notifications/progress` every 2 seconds if the request has a `progressToken`; `notifications/cancelled` ends a call that reads at once, and one that changes something is finished though nobody waits for it |

**Events without asking.** After a client has started a session, written to it or read its events, the stream of `GET /mcp`
carries each further event as `notifications/message`, logger `oubliette.session`, the event with its `session_id` as `data`. It needs no
`logging/setLevel`. It is read from the log as fast as the client takes it; after a cut, `Last-Event-ID` goes on where it stood. A newer
stream of the same MCP session ends the older one. A token that is revoked ends its streams with the next event. Clients of
2026-07-28 have no such stream: they read `session` `events` from `last_index` on, with `wait_ms`.

**Resources** are `oubliette://projects/{project_id}`, `oubliette://sessions/{session_id}/transcript` (Markdown) and
`oubliette://sessions/{session_id}/diff` (a patch). **Prompts** are `delegate`, `follow` and `review`. Ids are completed.

**Bare calls.** A POST of an object without `jsonrpc` is taken whatever its content type, and answered as JSON with the HTTP
status of its outcome:

```sh
TOKEN=$(oubliette token create --name bare --scope admin)
curl -X POST "http://localhost:8080/mcp" \
  -H "Authorization: Bearer $TOKEN" \
  -d '{"method":"tools/call","params":{"name":"project","arguments":{"action":"list"}}}'
```

## From within a sandbox

An agent finds the tools of its session at `http://127.0.0.1:4000/mcp`, without a token: who asks is known by the gate that it asks
through. An agent that takes MCP servers over HTTP is told of it when its session begins. It may start children (`session` `spawn`, where
`project_id` goes without saying and a child ends with its answer unless `end_when_idle` is false), look at itself and those below it, and
message, interrupt and end those below it. Nobody else is there for it. There are no MCP sessions and no pushed messages: `wait_ms` waits, and `session`
`result` says what came of a child. [Children](design/children.md) says what bounds them.

It may also ask a person (`ask`). The session is then `waiting_answer`, its `questions` say what it asks, and whoever may give it
messages may answer: `oubliette session answer`, `session` `answer`. The call waits for up to a minute; who asks the same again waits on. An
answer that comes when the turn is over is the agent's next message. [Questions](design/questions.md) says what becomes of one.

## Tools of the caller

A client that starts a session (`session` `spawn`) or gives it a message may do things for its agent: `caller_id` names the client, and `caller_tools` what it
does, each with `name`, `description`, `input_schema` and, if five minutes are not right, `timeout_s`. The agent is offered them as `{caller_id}_{name}`.
A call is a `caller_tool_request` event with `tool_name`, `arguments` and `data.request_id`, pushed with the logger `oubliette.caller_tool`. Answer it with
`caller_tool_response`: `result`, or `error`. It may take until the event's `data.expires_at`, and outlives the server.

Not there yet: the tasks extension, `subscriptions/listen`, and input that a tool asks for.

## Tools

A client is shown the tools and actions that its token may ever use; `ask` is for agents only. Parameters that are not in the table of an action are
refused by name. `prompt` is taken for `message`; `cursor` and `limit` for `since_index` and `max_events`. A call of `session` without
`action`, but with `project_id` and `message`, is a `spawn`.
"#;

#[test]
fn the_page_of_the_tools_is_what_clients_are_shown() {
    let mut page = HEAD.to_owned();
    let project = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let agent = Principal::Session { id: "gogol_20261118_110640_deadbeef".parse().unwrap(), project };
    let mut tools = ob_server::tools_of(&Principal::Operator);
    let outside: Vec<_> = tools.iter().map(|tool| tool.name.clone()).collect();
    // What only agents are shown, which stands at the end.
    tools.extend(ob_server::tools_of(&agent).into_iter().filter(|tool| !outside.contains(&tool.name)));
    for tool in tools {
        let schema = tool.schema_as_json_value();
        writeln!(page, "\n### `{}`\n", tool.name).unwrap();
        writeln!(page, "{}\n", tool.description.as_deref().unwrap_or_default().replacen("\n- ", "\n\n- ", 1))
            .unwrap();
        page.push_str("| parameter | type | actions and meaning |\n| --- | --- | --- |\n");
        for (name, property) in schema["properties"].as_object().unwrap() {
            if name == "action" {
                continue;
            }
            let meaning = property["description"].as_str().unwrap_or_default().replace('\n', "<br>");
            writeln!(page, "| `{name}` | {} | {} |", cell(&kind(property)), cell(&meaning)).unwrap();
        }
    }
    is_current("docs/mcp.md", &page);
}

/// A parameter's type in words, with its bounds.
fn kind(property: &Value) -> String {
    let mut words = match (&property["enum"], property["type"].as_str()) {
        (Value::Array(all), _) => all
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", "),
        (_, Some(kind)) => kind.to_owned(),
        _ => "any".to_owned(),
    };
    for (key, said) in [
        ("minLength", "at least"),
        ("maxLength", "at most"),
        ("minimum", "from"),
        ("maximum", "to"),
        ("default", "default"),
    ] {
        if !property[key].is_null() {
            write!(words, ", {said} {}", property[key]).unwrap();
        }
    }
    words
}
