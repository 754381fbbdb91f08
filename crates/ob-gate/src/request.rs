//! A chat completion as the agent asks for it, checked and made ready for the provider.
//!
//! Only the top level is looked at; everything below it is passed on byte by byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::refuse::GateRefusal;

/// Bytes of a request that count as one token in an estimate: prose has four or more, code and other scripts three.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that each message costs beside its text.
const TOKENS_PER_MESSAGE: u64 = 8;
/// The most answers to one request (`n`).
const MAX_CHOICES: u64 = 16;

/// A request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What is sent to the provider.
    pub(crate) body: Bytes,
    /// The agent wants an event stream.
    pub(crate) stream: bool,
    /// We asked for the usage and the agent did not: it does not see the event that only holds it.
    pub(crate) hide_usage: bool,
    /// Tokens that the provider will read, rather too many than too few.
    pub(crate) input_tokens: u64,
    /// The most tokens that it may write.
    pub(crate) output_tokens: u64,
}

/// Checks a request and prepares it for `model`, whose answers have at most `max_output_tokens` tokens.
pub(crate) fn prepare(body: &[u8], model: &str, max_output_tokens: u32) -> Result<Prepared, GateRefusal> {
    let max_output = u64::from(max_output_tokens);
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).map_err(|error| {
        GateRefusal::invalid(
            None,
            format!("the body is no JSON object (line {}, column {})", error.line(), error.column()),
            "send an OpenAI chat completion request as JSON",
        )
    })?;
    let messages: Vec<&RawValue> = field(&fields, "messages", "a list of messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(GateRefusal::invalid(
            Some("messages"),
            "`messages` is missing or empty",
            "send at least one message: {\"role\": \"user\", \"content\": \"…\"}",
        ));
    }
    let message_count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
    let stream = field(&fields, "stream", "true or false")?.unwrap_or(false);
    let choices: u64 = field(&fields, "n", "a small number")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&choices) {
        return Err(GateRefusal::invalid(Some("n"), format!("`n` is {choices}"), "ask for 1 to 16 answers"));
    }
    let mut asked_output = max_output;
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(asked) = field::<u64>(&fields, name, "a number of tokens")? else { continue };
        asked_output = asked_output.min(asked);
        if asked > max_output {
            fields.insert(name.to_string(), raw(&max_output));
        }
    }
    let hide_usage = stream && ask_for_usage(&mut fields)?;
    fields.insert("model".to_string(), raw(model));
    let body = serde_json::to_vec(&fields)
        .map_err(|_| GateRefusal::invalid(None, "the body cannot be written again", "send plain JSON"))?;
    let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    Ok(Prepared {
        input_tokens: bytes.div_ceil(BYTES_PER_TOKEN) + message_count.saturating_mul(TOKENS_PER_MESSAGE),
        output_tokens: asked_output * choices,
        body: body.into(),
        stream,
        hide_usage,
    })
}

/// Makes sure that a stream reports its usage. True if the agent had not asked for it.
fn ask_for_usage(fields: &mut BTreeMap<String, Box<RawValue>>) -> Result<bool, GateRefusal> {
    let mut options: BTreeMap<String, Box<RawValue>> =
        field(fields, "stream_options", "an object")?.unwrap_or_default();
    let asked = field(&options, "include_usage", "true or false")?.unwrap_or(false);
    if !asked {
        options.insert("include_usage".to_string(), raw(&true));
        fields.insert("stream_options".to_string(), raw(&options));
    }
    Ok(!asked)
}

/// A field of the top level; `None` if it is missing or null.
fn field<'a, T: serde::Deserialize<'a>>(
    fields: &'a BTreeMap<String, Box<RawValue>>,
    name: &'static str,
    expected: &str,
) -> Result<Option<T>, GateRefusal> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|_| {
        GateRefusal::invalid(
            Some(name),
            format!("`{name}` is malformed"),
            &format!("`{name}` must be {expected}"),
        )
    })
}

fn raw<T: serde::Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("numbers, texts and maps of them are always JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::json;

    use super::*;

    fn prepared(request: &Value) -> (Prepared, Value) {
        let prepared = prepare(request.to_string().as_bytes(), "real", 100).expect("well-formed");
        let sent = serde_json::from_slice(&prepared.body).expect("JSON");
        (prepared, sent)
    }

    fn request(more: Value) -> Value {
        let mut request = json!({"model": "any", "messages": [{"role": "user", "content": "hi"}]});
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        request
    }

    #[test]
    fn only_the_model_changes_in_a_plain_request() {
        let asked = request(json!({"temperature": 0.25, "tools": [{"z": 1, "a": [2.0, null]}]}));
        let (prepared, sent) = prepared(&asked);
        let mut expected = asked;
        expected["model"] = json!("real");
        assert_eq!(sent, expected);
        assert!(!prepared.stream && !prepared.hide_usage);
        assert_eq!(prepared.output_tokens, 100);
    }

    #[test]
    fn a_stream_is_asked_for_its_usage_and_other_options_stay() {
        for (asked, hides) in [
            (json!({"stream": true}), true),
            (json!({"stream": true, "stream_options": null}), true),
            (json!({"stream": true, "stream_options": {"include_usage": false, "x": 1}}), true),
            (json!({"stream": true, "stream_options": {"include_usage": true}}), false),
        ] {
            let (prepared, sent) = prepared(&request(asked.clone()));
            assert_eq!(prepared.hide_usage, hides, "{asked}");
            assert_eq!(sent["stream_options"]["include_usage"], true, "{asked}");
            assert_eq!(sent["stream_options"]["x"], asked["stream_options"]["x"], "{asked}");
        }
    }

    #[test]
    fn the_output_is_bounded_by_the_smaller_of_what_is_asked_and_allowed() {
        for (asked, sent_tokens, reserved) in [
            (json!({"max_tokens": 7}), json!(7), 7),
            (json!({"max_tokens": 101}), json!(100), 100),
            (json!({"max_tokens": 7, "n": 3}), json!(7), 21),
            (json!({"max_tokens": null}), json!(null), 100),
        ] {
            let (prepared, sent) = prepared(&request(asked));
            assert_eq!(sent["max_tokens"], sent_tokens);
            assert_eq!(prepared.output_tokens, reserved);
        }
        let (_, sent) = prepared(&request(json!({"max_completion_tokens": 5000})));
        assert_eq!(sent["max_completion_tokens"], 100);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (body, param) in [
            ("", None),
            ("[]", None),
            ("{\"messages\": [", None),
            ("{}", Some("messages")),
            ("{\"messages\": []}", Some("messages")),
            ("{\"messages\": \"hi\"}", Some("messages")),
            ("{\"messages\": [1], \"stream\": \"yes\"}", Some("stream")),
            ("{\"messages\": [1], \"stream\": true, \"stream_options\": 1}", Some("stream_options")),
            ("{\"messages\": [1], \"max_tokens\": -1}", Some("max_tokens")),
            ("{\"messages\": [1], \"n\": 0}", Some("n")),
            ("{\"messages\": [1], \"n\": 17}", Some("n")),
        ] {
            let refused = prepare(body.as_bytes(), "m", 10).expect_err(body);
            assert_eq!((refused.status.as_u16(), refused.param), (400, param), "{body}");
            assert!(refused.refusal.fix.is_some(), "{body}");
        }
    }

    #[test]
    fn a_duplicate_field_cannot_smuggle_a_model() {
        let body = br#"{"model":"a","messages":[1],"model":"b"}"#;
        let prepared = prepare(body, "real", 10).expect("well-formed");
        assert_eq!(prepared.body, r#"{"messages":[1],"model":"real"}"#);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(prepare(&body, "m", 10));
        }

        #[test]
        fn no_text_like_a_request_panics(body in r#"\{"messages":\[(1|\{\}|"x"),?\],"(n|stream|max_tokens)":[-0-9a-z{}\[\]",:]{0,12}\}"#) {
            drop(prepare(body.as_bytes(), "m", 10));
        }
    }
}
