//! Resources: a project, what was said in a session, what changed in its workspace; and completions of their ids.
//!
//! Each is read through the operation that shows the same, so one authoriser sees every reader.

use std::fmt::Write as _;

use ob_core::EventKind;
use ob_core::Refusal;
use ob_core::event::Role;
use ob_core::operation::EventPage;
use ob_core::operation::Operation;
use rmcp::model::CompleteResult;
use rmcp::model::CompletionInfo;
use rmcp::model::ListResourcesResult;
use rmcp::model::ReadResourceResult;
use rmcp::model::Resource;
use rmcp::model::ResourceContents;
use rmcp::model::ResourceTemplate;
use serde_json::Value;
use serde_json::json;

use super::Caller;

const SCHEME: &str = "oubliette://";
const MARKDOWN: &str = "text/markdown";
const JSON: &str = "application/json";
const PATCH: &str = "text/x-diff";

/// Sessions on one page of the list.
const PAGE: usize = 100;

/// Events of a transcript that are read at once.
const EVENTS: u32 = 1000;

/// A transcript is cut at the event that makes it longer than this.
const TRANSCRIPT_MAX: usize = 1024 * 1024;

/// A tool's arguments in a transcript are cut at so many characters.
const LINE_MAX: usize = 400;

/// What a URI names.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Project(&'a str),
    Transcript(&'a str),
    Diff(&'a str),
}

/// The templates of all resources.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    vec![
        ResourceTemplate::new(format!("{SCHEME}projects/{{project_id}}"), "project")
            .with_title("Project")
            .with_description("A project: its source, default model and limits.")
            .with_mime_type(JSON),
        ResourceTemplate::new(format!("{SCHEME}sessions/{{session_id}}/transcript"), "transcript")
            .with_title("Transcript of a session")
            .with_description("What was said and done in a session, in order.")
            .with_mime_type(MARKDOWN),
        ResourceTemplate::new(format!("{SCHEME}sessions/{{session_id}}/diff"), "diff")
            .with_title("Changes of a session")
            .with_description("What changed in the session's workspace, as a patch.")
            .with_mime_type(PATCH),
    ]
}

/// A page of what the caller may see: on the first all projects, on each the next sessions, newest first.
pub(super) async fn list(caller: &Caller, cursor: Option<String>) -> Result<ListResourcesResult, Refusal> {
    let mut resources = Vec::new();
    if cursor.is_none() {
        for project in array(call(caller, Operation::ProjectList, json!({})).await?) {
            let (id, name) = (text(&project["id"]), text(&project["name"]));
            resources.push(
                Resource::new(format!("{SCHEME}projects/{id}"), format!("project {name}"))
                    .with_description(text(&project["description"]))
                    .with_mime_type(JSON),
            );
        }
    }
    let sessions =
        array(call(caller, Operation::SessionList, json!({ "limit": PAGE, "before": cursor })).await?);
    for session in &sessions {
        let (id, title) = (text(&session["session_id"]), text(&session["title"]));
        resources.push(
            Resource::new(format!("{SCHEME}sessions/{id}/transcript"), format!("transcript {id}"))
                .with_title(title)
                .with_mime_type(MARKDOWN),
        );
        resources.push(
            Resource::new(format!("{SCHEME}sessions/{id}/diff"), format!("changes {id}"))
                .with_mime_type(PATCH),
        );
    }
    let mut page = ListResourcesResult::with_all_items(resources);
    if sessions.len() == PAGE {
        page.next_cursor = sessions.last().map(|last| text(&last["session_id"]).to_owned());
    }
    Ok(page)
}

/// A resource's contents.
pub(super) async fn read(caller: &Caller, uri: &str) -> Result<ReadResourceResult, Refusal> {
    let named = parse(uri).ok_or_else(|| {
        Refusal::not_found("resource", uri.chars().filter(|c| !c.is_control()).take(120).collect::<String>())
            .fix("list them with `resources/list` and `resources/templates/list`")
    })?;
    let (text, kind) = match named {
        Named::Project(id) => {
            let project = call(caller, Operation::ProjectGet, json!({ "project_id": id })).await?;
            (project.to_string(), JSON)
        }
        Named::Diff(id) => {
            let diff = call(caller, Operation::SessionDiff, json!({ "session_id": id })).await?;
            (text(&diff["patch"]).to_owned(), PATCH)
        }
        Named::Transcript(id) => (transcript(caller, id).await?, MARKDOWN),
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(kind)]))
}

/// Ids that begin, or for a session end, as typed.
pub(super) async fn complete(caller: &Caller, name: &str, typed: &str) -> Result<CompleteResult, Refusal> {
    let ids: Vec<String> = match name {
        "project_id" => {
            let projects = array(call(caller, Operation::ProjectList, json!({ "limit": 1000 })).await?);
            projects.iter().map(|project| text(&project["id"]).to_owned()).collect()
        }
        "session_id" => {
            let sessions = array(call(caller, Operation::SessionList, json!({ "limit": 1000 })).await?);
            sessions.iter().map(|session| text(&session["session_id"]).to_owned()).collect()
        }
        _ => Vec::new(),
    };
    let mut fitting: Vec<String> =
        ids.into_iter().filter(|id| id.starts_with(typed) || id.ends_with(typed)).collect();
    let total = u32::try_from(fitting.len()).unwrap_or(u32::MAX);
    let more = fitting.len() > CompletionInfo::MAX_VALUES;
    fitting.truncate(CompletionInfo::MAX_VALUES);
    let info = CompletionInfo::with_pagination(fitting, Some(total), more).map_err(Refusal::internal)?;
    Ok(CompleteResult::new(info))
}

fn parse(uri: &str) -> Option<Named<'_>> {
    let rest = uri.strip_prefix(SCHEME)?;
    match rest.split('/').collect::<Vec<_>>()[..] {
        ["projects", id] => Some(Named::Project(id)),
        ["sessions", id, "transcript"] => Some(Named::Transcript(id)),
        ["sessions", id, "diff"] => Some(Named::Diff(id)),
        _ => None,
    }
}

async fn call(caller: &Caller, operation: Operation, mut params: Value) -> Result<Value, Refusal> {
    if let Some(params) = params.as_object_mut() {
        params.retain(|_, value| !value.is_null());
    }
    caller.doors.call(&caller.asker, operation, params).await
}

async fn transcript(caller: &Caller, session: &str) -> Result<String, Refusal> {
    let mut out = String::new();
    let mut cursor = -1;
    loop {
        let params = json!({ "session_id": session, "cursor": cursor, "limit": EVENTS });
        let page = call(caller, Operation::SessionEvents, params).await?;
        let page: EventPage = serde_json::from_value(page).map_err(|error| {
            tracing::error!(%error, "a page of events is not one");
            Refusal::internal("the session's events cannot be read")
        })?;
        for event in &page.events {
            line(&mut out, event.body.kind, &event.body);
            if out.len() > TRANSCRIPT_MAX {
                // Writing to a string does not fail.
                writeln!(out, "\n[cut here; read on with `session` events, since_index {}]", event.index)
                    .ok();
                return Ok(out);
            }
        }
        if page.events.is_empty() {
            return Ok(out);
        }
        cursor = page.last_index;
    }
}

/// One event as Markdown. Pieces of a message are left out, since the whole message follows them.
fn line(out: &mut String, kind: EventKind, body: &ob_core::EventBody) {
    let words = body.text.as_deref().unwrap_or_default();
    let tool = body.tool_name.as_deref().unwrap_or("a tool");
    let short = |value: &Option<Value>| -> String {
        value.as_ref().map(|v| v.to_string().chars().take(LINE_MAX).collect()).unwrap_or_default()
    };
    let written = match kind {
        EventKind::Delta | EventKind::Usage => Ok(()),
        EventKind::Message => {
            let who = match body.role {
                Some(Role::User) => "User",
                Some(Role::Thought) => "Agent (thinking)",
                Some(Role::Agent) | None => "Agent",
            };
            writeln!(out, "\n## {who}\n\n{words}")
        }
        EventKind::ToolCall => writeln!(out, "\n- calls `{tool}` {}", short(&body.arguments)),
        EventKind::ToolResult => writeln!(out, "- `{tool}` {words} {}", short(&body.result)),
        EventKind::Error => writeln!(out, "\n**Error:** {words}"),
        EventKind::System
        | EventKind::Completion
        | EventKind::Status
        | EventKind::Approval
        | EventKind::CallerToolRequest => {
            writeln!(out, "\n*{words}*")
        }
    };
    // Writing to a string does not fail.
    written.ok();
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all,
        _ => Vec::new(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_one_thing_or_nothing() {
        assert_eq!(parse("oubliette://projects/1"), Some(Named::Project("1")));
        assert_eq!(parse("oubliette://sessions/s/transcript"), Some(Named::Transcript("s")));
        assert_eq!(parse("oubliette://sessions/s/diff"), Some(Named::Diff("s")));
        for wrong in [
            "",
            "oubliette://",
            "file:///etc/passwd",
            "oubliette://sessions/s",
            "oubliette://sessions/../projects/1",
            "oubliette://sessions/s/diff/",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
