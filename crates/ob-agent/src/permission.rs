//! Answers an agent that asks for permission. The sandbox is the boundary, so what happens inside it is allowed; every
//! question and answer is recorded.

use agent_client_protocol_schema::v1::RequestPermissionOutcome;
use agent_client_protocol_schema::v1::RequestPermissionResponse;
use agent_client_protocol_schema::v1::SelectedPermissionOutcome;
use ob_core::EventBody;
use ob_core::EventKind;
use serde_json::Value;
use serde_json::json;

use crate::bounds;
use crate::bounds::NAME_MAX;
use crate::bounds::NOTE_MAX;

const ALLOWED: &str = "autonomy: sandboxed, allowed";
const CANCELLED: &str = "the turn is being cancelled";
const NOTHING_TO_ALLOW: &str = "the agent offers no option that allows it";

/// What the agent is answered, and what is recorded.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// For the agent.
    pub(crate) response: RequestPermissionResponse,
    /// For the session's log.
    pub(crate) event: EventBody,
}

/// Answers the question in `params`.
pub(crate) fn answer(params: &Value, cancelling: bool) -> Answer {
    let options = params["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (chosen, rule) = match (cancelling, choose(options)) {
        (true, _) => (None, CANCELLED),
        (false, None) => (None, NOTHING_TO_ALLOW),
        (false, Some(id)) => (Some(id), ALLOWED),
    };
    let outcome = match chosen {
        Some(id) => RequestPermissionOutcome::Selected(SelectedPermissionOutcome::new(id.to_owned())),
        None => RequestPermissionOutcome::Cancelled,
    };
    let call = &params["toolCall"];
    let question = call["title"].as_str().unwrap_or("the agent asks for permission");
    let mut event =
        EventBody::new(EventKind::Approval).text(bounds::cut(question, NOTE_MAX)).data(bounds::data(json!({
            "question": call,
            "options": options,
            "answer": chosen.unwrap_or("cancelled"),
            "rule": rule,
        })));
    event.tool_call_id = call["toolCallId"].as_str().map(|id| bounds::prefix(id, NAME_MAX).to_owned());
    Answer { response: RequestPermissionResponse::new(outcome), event }
}

/// The id of the option to take: what allows once, else always, else whatever allows.
fn choose(options: &[Value]) -> Option<&str> {
    let of_kind = |is: fn(&str) -> bool| {
        options
            .iter()
            .filter(|option| option["kind"].as_str().is_some_and(is))
            .find_map(|option| option["optionId"].as_str())
    };
    of_kind(|kind| kind == "allow_once")
        .or_else(|| of_kind(|kind| kind == "allow_always"))
        .or_else(|| of_kind(|kind| kind.starts_with("allow")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_choices() {
        let option = |id: &str, kind: &str| json!({ "optionId": id, "name": id, "kind": kind });
        let (once, always) = (option("o", "allow_once"), option("a", "allow_always"));
        let (no, never) = (option("n", "reject_once"), option("nn", "reject_always"));
        let new = option("s", "allow_session");
        let table = [
            ("once before always", json!([always, no, once]), false, Some("o"), ALLOWED),
            ("always if not once", json!([no, always, never]), false, Some("a"), ALLOWED),
            ("a kind of allowing that we do not know", json!([no, new]), false, Some("s"), ALLOWED),
            ("always before one we do not know", json!([new, always]), false, Some("a"), ALLOWED),
            ("only ways to refuse", json!([no, never]), false, None, NOTHING_TO_ALLOW),
            ("no options", json!([]), false, None, NOTHING_TO_ALLOW),
            ("options of a wrong type", json!("o"), false, None, NOTHING_TO_ALLOW),
            ("an option without id", json!([{ "kind": "allow_once" }, always]), false, Some("a"), ALLOWED),
            ("an option that is no object", json!([7, null, once]), false, Some("o"), ALLOWED),
            ("cancelling", json!([once]), true, None, CANCELLED),
        ];
        for (name, options, cancelling, chosen, rule) in table {
            let params =
                json!({ "toolCall": { "toolCallId": "t1", "title": "Run `make`" }, "options": options });
            let answer = answer(&params, cancelling);
            let expected = match chosen {
                Some(id) => json!({ "outcome": { "outcome": "selected", "optionId": id } }),
                None => json!({ "outcome": { "outcome": "cancelled" } }),
            };
            assert_eq!(serde_json::to_value(&answer.response).expect("JSON"), expected, "{name}");
            assert_eq!(answer.event.text.as_deref(), Some("Run `make`"), "{name}");
            assert_eq!(answer.event.tool_call_id.as_deref(), Some("t1"), "{name}");
            let data = answer.event.data.expect("details");
            assert_eq!(data["rule"], rule, "{name}");
            assert_eq!(data["answer"], chosen.unwrap_or("cancelled"), "{name}");
            assert_eq!(data["question"], params["toolCall"], "{name}");
        }
    }
}
