//! JSON Schemas as MCP clients take them: flat, without references, without `null`.
//!
//! Models read these schemas, and many clients know only the plain part of JSON Schema.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// References deeper than this are a circle; the table has none.
const DEPTH_MAX: usize = 16;

/// One parameter of an operation.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    /// Its name in the operation.
    pub(super) name: String,
    /// Its schema.
    pub(super) schema: Map<String, Value>,
    /// True if it must be given.
    pub(super) required: bool,
}

/// The parameters of an operation, in its order.
pub(super) fn parameters(schema: &schemars::Schema) -> Vec<Parameter> {
    let object = |name: &str| schema.get(name).and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let definitions = object("$defs").cloned().unwrap_or_default();
    object("properties")
        .into_iter()
        .flatten()
        .map(|(name, property)| Parameter {
            name: name.clone(),
            schema: plain(property, &definitions, 0),
            required: required.is_some_and(|names| names.iter().any(|n| n == name)),
        })
        .collect()
}

/// A schema with its references in place, without the choice of `null`, and with choices of constants as an `enum`.
fn plain(schema: &Value, definitions: &Map<String, Value>, depth: usize) -> Map<String, Value> {
    let Some(schema) = schema.as_object().filter(|_| depth < DEPTH_MAX) else { return Map::new() };
    let mut schema = schema.clone();
    if let Some(Value::String(reference)) = schema.remove("$ref")
        && let Some(target) = reference.strip_prefix("#/$defs/").and_then(|name| definitions.get(name))
    {
        let mut resolved = plain(target, definitions, depth + 1);
        resolved.append(&mut schema);
        schema = resolved;
    }
    for choice in ["anyOf", "oneOf"] {
        let Some(Value::Array(mut options)) = schema.remove(choice) else { continue };
        options.retain(|option| option.get("type").is_none_or(|kind| kind != "null"));
        if let Some(constants) = constants(&options) {
            schema.insert("type".to_owned(), "string".into());
            schema.insert("enum".to_owned(), constants);
        } else if let [only] = &options[..] {
            let mut only = plain(only, definitions, depth + 1);
            only.append(&mut schema);
            schema = only;
        } else {
            let options = options.iter().map(|o| Value::Object(plain(o, definitions, depth + 1))).collect();
            schema.insert(choice.to_owned(), Value::Array(options));
        }
    }
    if let Some(Value::Array(kinds)) = schema.get("type") {
        let kinds: Vec<_> = kinds.iter().filter(|kind| **kind != "null").cloned().collect();
        schema.insert("type".to_owned(), if let [one] = &kinds[..] { one.clone() } else { json!(kinds) });
    }
    for inner in ["items", "additionalProperties", "propertyNames"] {
        if let Some(value) = schema.get(inner).filter(|value| value.is_object()) {
            let value = plain(value, definitions, depth + 1);
            schema.insert(inner.to_owned(), Value::Object(value));
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    // Rust's number types are of no use to a client.
    if schema
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|f| f.starts_with("uint") || f.starts_with("int") || f == "double")
    {
        schema.remove("format");
    }
    schema
}

/// The values, if all options are constants.
fn constants(options: &[Value]) -> Option<Value> {
    let mut all = Vec::new();
    for option in options {
        match (option.get("const"), option.get("enum")) {
            (Some(one), _) => all.push(one.clone()),
            (None, Some(Value::Array(some))) => all.extend(some.iter().cloned()),
            _ => return None,
        }
    }
    (!all.is_empty()).then_some(Value::Array(all))
}

#[cfg(test)]
mod tests {
    use ob_core::operation::Operation;

    use super::*;

    fn of(operation: Operation, name: &str) -> Value {
        let all = parameters(&(operation.spec().parameters)());
        Value::Object(all.into_iter().find(|p| p.name == name).expect("a parameter").schema)
    }

    #[test]
    fn an_option_of_an_enum_is_an_enum() {
        let status = of(Operation::SessionList, "status");
        assert_eq!(
            (&status["type"], &status["enum"]),
            (&json!("string"), &json!(["active", "completed", "failed"]))
        );
        assert_eq!(status["description"], "Only with this status.");
    }

    #[test]
    fn no_schema_has_a_reference_or_a_null() {
        for operation in Operation::ALL {
            for parameter in parameters(&(operation.spec().parameters)()) {
                let text = Value::Object(parameter.schema).to_string();
                assert!(!text.contains("$ref") && !text.contains("null"), "{operation:?}: {text}");
                assert!(text.contains("\"description\""), "{operation:?}: {text}");
            }
        }
    }
}
