//! Parameters of an operation from a request: path, query and body, merged into one object.
//!
//! A name may come from one place only, and once; text of path and query takes the type that the operation's schema
//! says. What is unknown is refused here by name for the query (so that a typing error is told), and by the operation
//! itself for the body.

use std::fmt;

use ob_core::Refusal;
use ob_core::operation::Operation;
use serde::Deserializer as _;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;

use crate::reply::short;

/// What an operation takes. Made once for a route: a schema is much work.
pub(crate) struct Parameters {
    /// The operation's name.
    of: String,
    properties: Map<String, Value>,
}

// === impl Parameters ===

impl Parameters {
    /// Those of an operation.
    pub(crate) fn of(operation: Operation) -> Self {
        let spec = operation.spec();
        let properties = match (spec.parameters)().remove("properties") {
            Some(Value::Object(properties)) => properties,
            _ => Map::new(),
        };
        Self { of: spec.name(), properties }
    }

    /// Merges what came with a request.
    pub(crate) fn merge(
        &self,
        path: &[(String, String)],
        query: &[(String, String)],
        body: &[u8],
    ) -> Result<Value, Refusal> {
        let mut merged = Map::new();
        for (name, text) in path.iter().chain(query) {
            let property = self.properties.get(name).ok_or_else(|| self.unknown(name))?;
            put(&mut merged, name, typed(name, text, property)?)?;
        }
        for (name, value) in object(body)? {
            put(&mut merged, &name, value)?;
        }
        Ok(Value::Object(merged))
    }

    fn unknown(&self, name: &str) -> Refusal {
        let refusal = Refusal::invalid(format!("unknown parameter `{}` for {}", short(name), self.of));
        if self.properties.is_empty() {
            return refusal.fix("leave it out: this operation has no parameters");
        }
        let known: Vec<_> = self.properties.keys().map(|known| format!("`{known}`")).collect();
        refusal.fix(format!("use {}", known.join(", ")))
    }
}

fn put(merged: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Refusal> {
    if merged.insert(name.to_owned(), value).is_some() {
        return Err(Refusal::invalid(format!("parameter `{}` was given twice", short(name)))
            .fix("give each parameter once: in the path, the query or the body"));
    }
    Ok(())
}

/// The value that a text stands for, by the property's schema.
fn typed(name: &str, text: &str, property: &Value) -> Result<Value, Refusal> {
    let is = |kind: &str| match property.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(any)) => any.iter().any(|t| t == kind),
        _ => false,
    };
    let wrong = |expected: &str| {
        Err(Refusal::invalid(format!("parameter `{name}` is `{}`, which is not {expected}", short(text)))
            .fix(format!("give {expected}, or leave it out")))
    };
    if is("integer") {
        return match text.parse::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => wrong("a whole number"),
        };
    }
    if is("number") {
        return match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => wrong("a number"),
        };
    }
    if is("boolean") {
        return match text {
            "true" | "1" | "" => Ok(true.into()),
            "false" | "0" => Ok(false.into()),
            _ => wrong("`true` or `false`"),
        };
    }
    Ok(text.into())
}

/// The members of a JSON object, in order, with duplicates; none of an empty body.
fn object(body: &[u8]) -> Result<Vec<(String, Value)>, Refusal> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    deserializer.deserialize_map(Members).and_then(|members| deserializer.end().map(|()| members)).map_err(
        |error| {
            Refusal::invalid(format!("the body is not a JSON object: {error}"))
                .fix("send one JSON object with `Content-Type: application/json`")
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn of(
        operation: Operation,
        path: &[(&str, &str)],
        query: &[(&str, &str)],
        body: &str,
    ) -> Result<Value, Refusal> {
        Parameters::of(operation).merge(&pairs(path), &pairs(query), body.as_bytes())
    }

    #[test]
    fn text_of_the_query_takes_the_type_of_the_schema() {
        let id = "gogol_20261118_110640_deadbeef";
        assert_eq!(
            of(
                Operation::SessionEvents,
                &[("session_id", id)],
                &[("cursor", "-1"), ("wait_ms", "20"), ("limit", "5")],
                ""
            ),
            Ok(json!({ "session_id": id, "cursor": -1, "wait_ms": 20, "limit": 5 }))
        );
        assert_eq!(
            of(Operation::SessionResult, &[("session_id", id)], &[("turn", "2"), ("wait_ms", "9")], ""),
            Ok(json!({ "session_id": id, "turn": 2, "wait_ms": 9 }))
        );
        assert_eq!(
            of(Operation::ServerStop, &[], &[("keep_sandboxes", "true")], ""),
            Ok(json!({ "keep_sandboxes": true }))
        );
        assert_eq!(
            of(Operation::SessionList, &[], &[("status", "active")], ""),
            Ok(json!({ "status": "active" }))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let id = "gogol_20261118_110640_deadbeef";
        let cases = [
            (of(Operation::SessionList, &[], &[("limit", "ten")], ""), "`limit` is `ten`"),
            (of(Operation::SessionList, &[], &[("limt", "10")], ""), "unknown parameter `limt`"),
            (of(Operation::SessionList, &[], &[("limit", "1"), ("limit", "2")], ""), "given twice"),
            (
                of(Operation::SessionMessage, &[("session_id", id)], &[], r#"{"session_id":"x"}"#),
                "given twice",
            ),
            (of(Operation::SessionSpawn, &[], &[], r#"{"message":"a","message":"b"}"#), "given twice"),
            (of(Operation::SessionSpawn, &[], &[], "[1]"), "not a JSON object"),
            (of(Operation::SessionSpawn, &[], &[], "{} {}"), "not a JSON object"),
            (of(Operation::SessionSpawn, &[], &[], "\u{1}"), "not a JSON object"),
        ];
        for (result, expected) in cases {
            let refusal = result.expect_err(expected);
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
    }

    #[test]
    fn a_body_may_be_empty() {
        assert_eq!(of(Operation::ServerStop, &[], &[], " \n"), Ok(json!({})));
    }
}
