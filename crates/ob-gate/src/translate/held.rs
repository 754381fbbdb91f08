//! Tools for models that do not call them in their wire's own form: every answer is held to a JSON schema that has one call of a
//! tool, or the last words.
//!
//! ```text
//! tools, calls, results -> instructions, a schema of the answer, plain texts     (hold)
//! {"tool": "read", "arguments": {…}}                    -> a call                (release)
//! {"answer": "…"}, or what no server held to the schema -> a text
//! ```
//!
//! A server that holds its answers to a schema (llama.cpp, vLLM and Ollama do) makes of the smallest model one that calls well-formed;
//! whether it calls the right thing is the model's matter.

use serde_json::Value;
use serde_json::json;

use super::Untranslatable;
use super::hub::Call;
use super::hub::Choice;
use super::hub::Delta;
use super::hub::Format;
use super::hub::Part;
use super::hub::Reply;
use super::hub::Request;
use super::hub::Said;
use super::hub::Stop;
use super::hub::Tool;
use super::hub::Turn;
use super::json::no;

/// The fields of an answer: the tool that is called, what it is called with, the last words.
const TOOL: &str = "tool";
const ARGUMENTS: &str = "arguments";
const ANSWER: &str = "answer";

/// The same request without tools: they are told in words, and the answer has to be a call of one or the last words.
pub(super) fn hold(mut request: Request) -> Result<Request, Untranslatable> {
    let turns = std::mem::take(&mut request.turns);
    let names: Vec<Option<String>> = turns
        .iter()
        .map(|turn| match turn {
            Turn::Result(result) => named(&turns, &result.call),
            _ => None,
        })
        .collect();
    request.turns = turns.into_iter().zip(names).map(|(turn, name)| in_words(turn, name)).collect();
    let choice = request.choice.take().unwrap_or(Choice::Auto);
    let tools = std::mem::take(&mut request.tools);
    request.parallel = None;
    if tools.is_empty() || choice == Choice::None {
        return Ok(request);
    }
    if request.format.is_some() {
        return Err(no("response_format", "cannot be had together with tools that are held to a schema"));
    }
    let meant = |tool: &&Tool| !matches!(&choice, Choice::Named(name) if *name != tool.name);
    let may_answer = choice == Choice::Auto;
    let mut forms: Vec<Value> = tools.iter().filter(meant).map(form).collect();
    forms.extend(may_answer.then(|| object(&[(ANSWER, json!({ "type": "string" }))])));
    request.system.push(instructions(&tools, may_answer));
    if let Some(Turn::User(parts)) = request.turns.last_mut() {
        remind(parts, may_answer);
    }
    let schema = json!({ "anyOf": forms });
    request.format = Some(Format::Schema { name: "step".to_owned(), schema, strict: None });
    Ok(request)
}

/// What a whole answer says, by the same form.
pub(super) fn release(reply: Reply, id: &str) -> Reply {
    let text = reply.text();
    match step(&text, id) {
        Some(Said::Call(call)) => {
            let mut said: Vec<Said> =
                reply.said.into_iter().filter(|said| matches!(said, Said::Reasoning(_))).collect();
            said.push(Said::Call(call));
            Reply { said, stop: Stop::Calls }
        }
        Some(answer) => {
            let mut said: Vec<Said> =
                reply.said.into_iter().filter(|said| !matches!(said, Said::Text(_))).collect();
            said.push(answer);
            Reply { said, stop: reply.stop }
        }
        None => reply,
    }
}

/// Keeps the text of a stream back until it is whole.
#[derive(Debug)]
pub(super) struct Release {
    id: String,
    text: String,
}

// === impl Release ===

impl Release {
    /// Calls get this id, which no other answer has.
    pub(super) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), text: String::new() }
    }

    /// What becomes of a piece.
    pub(super) fn delta(&mut self, delta: Delta, deltas: &mut Vec<Delta>) {
        match delta {
            Delta::Text(text) => self.text.push_str(&text),
            Delta::Stop(stop) => {
                let text = std::mem::take(&mut self.text);
                let released = match step(&text, &self.id) {
                    Some(Said::Call(Call { id, name, arguments })) => {
                        deltas.extend([Delta::Call { id, name }, Delta::Arguments(arguments)]);
                        Stop::Calls
                    }
                    Some(Said::Text(text)) => {
                        deltas.push(Delta::Text(text));
                        stop
                    }
                    _ => {
                        deltas.extend((!text.is_empty()).then_some(Delta::Text(text)));
                        stop
                    }
                };
                deltas.push(Delta::Stop(released));
            }
            other => deltas.push(other),
        }
    }
}

/// What an answer of the schema says; nothing if it is none.
fn step(text: &str, id: &str) -> Option<Said> {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return None };
    match (fields.get(TOOL), fields.get(ARGUMENTS), fields.get(ANSWER)) {
        (Some(Value::String(name)), Some(arguments), _) if !name.is_empty() => {
            let (id, name) = (format!("call_{id}"), name.clone());
            Some(Said::Call(Call { id, name, arguments: arguments.to_string() }))
        }
        (_, _, Some(Value::String(answer))) => Some(Said::Text(answer.clone())),
        _ => None,
    }
}

/// The name of the tool that was called so.
fn named(turns: &[Turn], call: &str) -> Option<String> {
    turns.iter().find_map(|turn| {
        let Turn::Assistant(said) = turn else { return None };
        said.iter().find_map(|said| match said {
            Said::Call(made) if made.id == call => Some(made.name.clone()),
            _ => None,
        })
    })
}

/// A turn as the model saw and said it.
fn in_words(turn: Turn, name: Option<String>) -> Turn {
    match turn {
        Turn::User(parts) => Turn::User(parts),
        Turn::Assistant(said) => Turn::Assistant(
            said.into_iter()
                .map(|said| match said {
                    Said::Call(call) => {
                        Said::Text(json!({ TOOL: call.name, ARGUMENTS: call.input() }).to_string())
                    }
                    other => other,
                })
                .collect(),
        ),
        Turn::Result(result) => {
            let name = name.unwrap_or_else(|| "the tool".to_owned());
            let what = if result.is_error { "failed" } else { "returned" };
            let mut parts = vec![Part::Text(format!("{name} {what}:"))];
            parts.extend(result.content);
            Turn::User(parts)
        }
    }
}

/// A small model does what it read last: without this it says at once that all is done.
fn remind(parts: &mut Vec<Part>, may_answer: bool) {
    let mut reminder = format!(
        "\n\n(Answer with one JSON object: {{\"{TOOL}\": NAME, \"{ARGUMENTS}\": {{…}}}} for what is to be done next. Nothing is done unless \
         you call a tool for it."
    );
    if may_answer {
        reminder.extend([" {\"", ANSWER, "\": TEXT} only once all of it was done by tools."]);
    }
    reminder.push(')');
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push_str(&reminder),
        _ => parts.push(Part::Text(reminder)),
    }
}

/// The form of a call of this tool.
fn form(tool: &Tool) -> Value {
    let name = json!({ "type": "string", "const": tool.name });
    object(&[(TOOL, name), (ARGUMENTS, tool.parameters.clone())])
}

fn object(fields: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
}

fn instructions(tools: &[Tool], may_answer: bool) -> String {
    let end = match may_answer {
        true => format!("; {{\"{ANSWER}\": TEXT}} ends the work, once it is done or cannot be done"),
        false => String::new(),
    };
    let list = tools.iter().map(|tool| {
        let description = tool.description.as_deref().unwrap_or_default();
        format!("\n- {}: {description} Its {ARGUMENTS}: {}", tool.name, tool.parameters)
    });
    format!(
        "You work step by step. Each of your messages is one JSON object and nothing else: \
         {{\"{TOOL}\": NAME, \"{ARGUMENTS}\": {{…}}}} calls a tool, and its result is the next message{end}. The tools:{}",
        list.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::super::hub::CallResult;
    use super::*;

    fn request() -> Request {
        let call = Call { id: "c1".into(), name: "read".into(), arguments: "{\"path\":\"a\"}".into() };
        let result =
            CallResult { call: "c1".into(), content: vec![Part::Text("one".into())], is_error: false };
        Request {
            system: vec!["Work.".into()],
            turns: vec![
                Turn::User(vec![Part::Text("Mend it.".into())]),
                Turn::Assistant(vec![Said::Call(call)]),
                Turn::Result(result),
            ],
            tools: ["read", "write"]
                .map(|name| Tool {
                    name: name.into(),
                    description: Some(format!("To {name}.")),
                    parameters: json!({ "type": "object" }),
                    strict: None,
                })
                .to_vec(),
            parallel: Some(true),
            ..Request::default()
        }
    }

    fn forms(request: &Request) -> Vec<String> {
        let Some(Format::Schema { schema, .. }) = &request.format else { return Vec::new() };
        let fields =
            |form: &Value| form["required"].to_string() + &form["properties"][TOOL]["const"].to_string();
        schema["anyOf"].as_array().expect("forms").iter().map(fields).collect()
    }

    #[test]
    fn tools_become_words_and_a_schema_and_calls_what_the_model_wrote() {
        let held = hold(request()).expect("it can be held");
        assert!(held.tools.is_empty() && held.choice.is_none() && held.parallel.is_none());
        assert!(held.system[1].contains("- write: To write. Its arguments: {\"type\":\"object\"}"));
        assert_eq!(
            forms(&held),
            [r#"["tool","arguments"]"read""#, r#"["tool","arguments"]"write""#, r#"["answer"]null"#]
        );
        let Turn::Assistant(said) = &held.turns[1] else { panic!("{:?}", held.turns[1]) };
        let Said::Text(said) = &said[0] else { panic!("{said:?}") };
        assert_eq!(
            serde_json::from_str::<Value>(said).expect("JSON"),
            json!({ "tool": "read", "arguments": { "path": "a" } })
        );
        let Turn::User(told) = &held.turns[2] else { panic!("{:?}", held.turns[2]) };
        let told = Part::text_of(told);
        assert!(told.starts_with("read returned:\none\n\n(Answer with one JSON object"), "{told}");
        assert_eq!(held.turns[0], request().turns[0], "only the last turn is reminded");
    }

    #[test]
    fn what_must_or_must_not_be_called_is_so_by_the_schema() {
        let with =
            |choice: Choice| hold(Request { choice: Some(choice), ..request() }).expect("it can be held");
        assert_eq!(forms(&with(Choice::Named("write".into()))), [r#"["tool","arguments"]"write""#]);
        assert_eq!(forms(&with(Choice::Required)).len(), 2, "it must call one");
        assert_eq!(forms(&with(Choice::None)), [""; 0]);
        let both = Request { format: Some(Format::Json), ..request() };
        assert!(hold(both).expect_err("two forms").to_string().contains("response_format"));
    }

    #[test]
    fn an_answer_of_the_schema_is_a_call_or_words_and_any_other_is_what_it_is() {
        let call = r#"{"tool":"read","arguments":{"path":"a"}}"#;
        for (text, stop, said, stops) in [
            (call, Stop::End, "call call_7 read {\"path\":\"a\"}", Stop::Calls),
            (r#"{"answer":"Done."}"#, Stop::End, "Done.", Stop::End),
            // A server that takes no schema.
            ("I would read a.", Stop::End, "I would read a.", Stop::End),
            (r#"{"tool":"read","argum"#, Stop::Length, r#"{"tool":"read","argum"#, Stop::Length),
            (r#"{"tool":5,"arguments":{}}"#, Stop::End, r#"{"tool":5,"arguments":{}}"#, Stop::End),
            ("", Stop::End, "", Stop::End),
        ] {
            let shown = |reply: &Reply| {
                let calls =
                    reply.calls().map(|call| format!("call {} {} {}", call.id, call.name, call.arguments));
                calls.chain(std::iter::once(reply.text())).collect::<String>()
            };
            let whole = release(Reply { said: vec![Said::Text(text.to_owned())], stop }, "7");
            assert_eq!((shown(&whole).as_str(), whole.stop), (said, stops), "{text}");
            let (mut streamed, mut release) = (Vec::new(), Release::new("7"));
            let pieces = text.chars().map(|c| Delta::Text(c.to_string()));
            pieces.chain([Delta::Stop(stop)]).for_each(|delta| release.delta(delta, &mut streamed));
            let streamed = Reply::of(streamed);
            assert_eq!((shown(&streamed).as_str(), streamed.stop), (said, stops), "{text}");
        }
    }
}
