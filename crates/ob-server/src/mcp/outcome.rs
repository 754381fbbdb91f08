//! Results of calls: the data as `structuredContent` and once as text, with the words that clients look for.

use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_core::question::in_words;
use rmcp::model::CallToolResult;
use rmcp::model::ContentBlock;
use serde_json::Value;
use serde_json::json;

/// What an operation answered.
pub(super) fn done(operation: Operation, answer: Value) -> CallToolResult {
    if operation == Operation::CallerToolCall {
        return called(answer);
    }
    let data = data(operation, answer);
    let text = match phrase(operation, &data) {
        Some(phrase) => format!("{phrase}\n{data}"),
        None => data.to_string(),
    };
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(data);
    result
}

/// What a caller's tool answered, as the tool would.
fn called(answer: Value) -> CallToolResult {
    let outcome = &answer["outcome"];
    let failed = |text: &str| CallToolResult::error(vec![ContentBlock::text(text)]);
    match outcome["state"].as_str() {
        Some("answered") => {
            let text = ContentBlock::text(in_words(&outcome["answer"]));
            let mut result = CallToolResult::success(vec![text]);
            result.structured_content = outcome["answer"].is_object().then(|| outcome["answer"].clone());
            result
        }
        Some("failed") => failed(outcome["error"].as_str().unwrap_or_default()),
        Some("timed_out") => failed("nobody answered in time"),
        Some(_) => failed("the call was withdrawn"),
        None => CallToolResult::success(vec![ContentBlock::text(
            "Nobody has answered yet. Call again with the same arguments to wait on, or end your turn: the answer comes as \
             your next message.",
        )]),
    }
}

/// Why it did not: text for people and models, code and fix for programs.
pub(super) fn refused(refusal: &Refusal) -> CallToolResult {
    let mut result = CallToolResult::error(vec![ContentBlock::text(refusal.to_string())]);
    result.structured_content = Some(json!({ "error": refusal }));
    result
}

/// The answer as an object: lists get a name, and a page of events says whether there can be more.
fn data(operation: Operation, mut answer: Value) -> Value {
    match operation {
        Operation::ProjectList => json!({ "projects": answer }),
        Operation::WorkspaceList => json!({ "workspaces": answer }),
        Operation::SessionList => json!({ "sessions": answer }),
        Operation::TokenList => json!({ "tokens": answer }),
        Operation::AuditList => json!({ "entries": answer }),
        Operation::SessionEvents => {
            let status = answer["status"].clone();
            answer["completed"] = (status == "completed").into();
            answer["failed"] = (status == "failed").into();
            if status == "failed" {
                answer["error"] = last_error(&answer["events"]);
            }
            // None is ever dropped: a page is read from the log.
            answer["dropped_events"] = 0.into();
            answer
        }
        _ if answer.is_object() => answer,
        _ => json!({ "result": answer }),
    }
}

fn last_error(events: &Value) -> Value {
    let mut errors = events.as_array().into_iter().flatten().filter(|event| event["type"] == "error");
    errors
        .next_back()
        .map_or_else(|| "the session failed; see its events".into(), |event| event["text"].clone())
}

/// The words that clients look for.
fn phrase(operation: Operation, data: &Value) -> Option<String> {
    match operation {
        Operation::SessionSpawn => {
            let session = data["session_id"].as_str()?;
            let is_resumed = data["resumed"] == true;
            Some(if is_resumed {
                format!("Session {session} resumed.")
            } else {
                format!("New session created: {session}.")
            })
        }
        Operation::SessionAsk => Some(match data["outcome"]["state"].as_str() {
            Some("answered") => format!("The answer: {}", data["outcome"]["answer"].as_str().unwrap_or_default()),
            Some("timed_out") => "Nobody answered in time. Go on as seems best to you.".to_owned(),
            Some(_) => "The question was withdrawn.".to_owned(),
            None => "Nobody has answered yet. Ask the same again to wait on, or end your turn: the answer comes as your \
                     next message."
                .to_owned(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: &CallToolResult) -> &str {
        match &result.content[..] {
            [ContentBlock::Text(block)] => &block.text,
            other => panic!("one text block, not {other:?}"),
        }
    }

    #[test]
    fn text_and_structured_content_are_the_same_data() {
        let result = done(Operation::ProjectList, json!([{ "name": "a" }]));
        assert_eq!(result.structured_content, Some(json!({ "projects": [{ "name": "a" }] })));
        assert_eq!(serde_json::from_str::<Value>(text(&result)).ok(), result.structured_content);
    }

    #[test]
    fn a_spawn_says_its_words_and_names_its_session() {
        let new = done(Operation::SessionSpawn, json!({ "session_id": "gogol_1" }));
        assert!(text(&new).contains("New session created") && text(&new).contains("gogol_1"));
        let old = done(Operation::SessionSpawn, json!({ "session_id": "gogol_1", "resumed": true }));
        assert!(text(&old).contains("resumed") && text(&old).contains("gogol_1"));
    }

    #[test]
    fn a_callers_tool_answers_as_a_tool_of_its_own() {
        let cases = [
            (json!({ "state": "answered", "answer": { "name": "Ada" } }), r#"{"name":"Ada"}"#, Some(false)),
            (json!({ "state": "answered", "answer": "plain" }), "plain", Some(false)),
            (json!({ "state": "failed", "error": "no such customer" }), "no such customer", Some(true)),
            (json!({ "state": "timed_out" }), "in time", Some(true)),
            (Value::Null, "Call again with the same arguments", Some(false)),
        ];
        for (outcome, words, is_error) in cases {
            let result = done(Operation::CallerToolCall, json!({ "question_id": "q1", "outcome": outcome }));
            assert!(text(&result).contains(words), "{}", text(&result));
            assert_eq!(result.is_error, is_error, "{words}");
            assert_eq!(result.structured_content.is_some(), words.starts_with('{'), "{words}");
        }
    }

    #[test]
    fn an_agent_reads_the_answer_first_or_what_to_do_without_one() {
        let cases = [
            (json!({ "state": "answered", "answer": "The blue one." }), "The answer: The blue one."),
            (json!({ "state": "timed_out" }), "Nobody answered in time"),
            (json!({ "state": "withdrawn" }), "withdrawn"),
            (Value::Null, "Nobody has answered yet"),
        ];
        for (outcome, words) in cases {
            let result = done(Operation::SessionAsk, json!({ "question_id": "q1", "outcome": outcome }));
            assert!(text(&result).starts_with(words) || words == "withdrawn", "{}", text(&result));
            assert!(text(&result).contains(words) && text(&result).contains("q1"), "{}", text(&result));
        }
    }

    #[test]
    fn a_page_of_events_has_the_fields_of_the_contract() {
        let page = json!({
            "session_id": "gogol_1", "status": "failed", "last_index": 2,
            "events": [{ "type": "error", "text": "first" }, { "type": "error", "text": "last" }, { "type": "status" }],
        });
        let result = done(Operation::SessionEvents, page).structured_content.expect("data");
        assert_eq!((&result["completed"], &result["failed"]), (&json!(false), &json!(true)));
        assert_eq!((&result["error"], &result["dropped_events"]), (&json!("last"), &json!(0)));
    }

    #[test]
    fn a_refusal_has_its_code_and_its_fix() {
        let result = refused(&Refusal::not_found("session", "gogol_1").fix("list them"));
        assert_eq!(result.is_error, Some(true));
        assert!(text(&result).contains("not found") && text(&result).contains("list them"));
        let error = &result.structured_content.expect("data")["error"];
        assert_eq!((&error["code"], &error["fix"]), (&json!("not_found"), &json!("list them")));
    }
}
