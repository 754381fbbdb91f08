//! Answers an agent that asks for permission, at once and by the rules of its autonomy (`ob_core::agent::Autonomy`), so no
//! agent waits for a person who is not there (W26). The sandbox is the wall whatever is answered. Every question is
//! recorded with its answer and the rule that made it.

use agent_client_protocol_schema::v1::RequestPermissionOutcome;
use agent_client_protocol_schema::v1::RequestPermissionResponse;
use agent_client_protocol_schema::v1::SelectedPermissionOutcome;
use ob_core::EventBody;
use ob_core::EventKind;
use ob_core::agent::Act;
use ob_core::agent::Autonomy;
use serde_json::Value;
use serde_json::json;

use crate::bounds;
use crate::bounds::NAME_MAX;
use crate::bounds::NOTE_MAX;

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

/// Answers the question in `params`, which is about a tool of this kind.
pub(crate) fn answer(params: &Value, kind: &str, autonomy: Autonomy, cancelling: bool) -> Answer {
    let options = params["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ruling = autonomy.rule(Act::of_kind(kind));
    let (chosen, rule) = match (cancelling, ruling.is_allowed) {
        (true, _) => (None, CANCELLED.to_owned()),
        (false, true) => match choose(options, "allow") {
            Some(id) => (Some(id), ruling.rule),
            None => (None, NOTHING_TO_ALLOW.to_owned()),
        },
        // An agent that is refused goes on without; one whose question is cancelled stops its turn.
        (false, false) => (choose(options, "reject"), ruling.rule),
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

/// The id of the option to take: what allows or rejects once, else always, else in whatever way.
fn choose<'a>(options: &'a [Value], verb: &str) -> Option<&'a str> {
    let of_kind = |is: &dyn Fn(&str) -> bool| {
        options
            .iter()
            .filter(|option| option["kind"].as_str().is_some_and(is))
            .find_map(|option| option["optionId"].as_str())
    };
    let exactly = |how: &str| of_kind(&|kind| kind.strip_prefix(verb) == Some(how));
    exactly("_once").or_else(|| exactly("_always")).or_else(|| of_kind(&|kind| kind.starts_with(verb)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &str = "autonomy high: running commands is allowed";

    fn option(id: &str, kind: &str) -> Value {
        json!({ "optionId": id, "name": id, "kind": kind })
    }

    fn chosen_and_rule(call: &Value, options: &Value, autonomy: Autonomy) -> (String, String) {
        let kind = call["kind"].as_str().unwrap_or_default();
        let answer = answer(&json!({ "toolCall": call, "options": options }), kind, autonomy, false);
        let data = answer.event.data.expect("details");
        (
            data["answer"].as_str().unwrap_or_default().to_owned(),
            data["rule"].as_str().unwrap_or_default().to_owned(),
        )
    }

    #[test]
    fn the_table_of_choices() {
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
            let call = json!({ "toolCallId": "t1", "title": "Run `make`", "kind": "execute" });
            let params = json!({ "toolCall": call, "options": options });
            let answer = answer(&params, "execute", Autonomy::High, cancelling);
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

    #[test]
    fn what_the_autonomy_does_not_allow_is_rejected_with_the_rule() {
        let all =
            json!([option("y", "allow_once"), option("n", "reject_once"), option("nn", "reject_always")]);
        let kind = |kind: &str| json!({ "toolCallId": "t", "kind": kind });
        for (call, autonomy, chosen, rule) in [
            (kind("execute"), Autonomy::Low, "n", "autonomy low: running commands needs medium"),
            (kind("execute"), Autonomy::Medium, "y", "autonomy medium: running commands is allowed"),
            (kind("edit"), Autonomy::Off, "n", "autonomy off: changing files needs low"),
            (kind("read"), Autonomy::Off, "y", "autonomy off: looking is allowed"),
            (kind("fetch"), Autonomy::Medium, "n", "autonomy medium: reaching out needs high"),
            (json!({}), Autonomy::Medium, "n", "autonomy medium: what is not known to be less needs high"),
        ] {
            let expected = (chosen.to_owned(), rule.to_owned());
            assert_eq!(chosen_and_rule(&call, &all, autonomy), expected);
        }
        let no_way_to_refuse = json!([option("y", "allow_once")]);
        let (chosen, _) = chosen_and_rule(&kind("edit"), &no_way_to_refuse, Autonomy::Off);
        assert_eq!(chosen, "cancelled", "never allowed for want of a way to refuse");
    }
}
