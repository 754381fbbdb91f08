//! The configuration as a JSON Schema, for editors: what they complete, explain and underline.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::reference;
use crate::schema::Kind;
use crate::schema::ROOT;
use crate::schema::Shape;

/// The schema of the file. A text may stand where a number may: `"4G"`, `"0.5"`; `null` is as if the key was not there.
pub fn json_schema() -> Value {
    let mut schema = Map::new();
    schema.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".into(), "Oubliette's configuration".into());
    schema.extend(of(ROOT, ""));
    Value::Object(schema)
}

fn of(shape: Shape, path: &str) -> Map<String, Value> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let schema = match shape {
        Shape::Section(keys) => {
            let properties: Map<String, Value> = keys
                .iter()
                .map(|key| (key.name.to_owned(), of(key.shape, &below(key.name)).into()))
                .collect();
            json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
        }
        Shape::Named(each) => json!({
            "type": ["object", "null"],
            "propertyNames": { "pattern": "^[A-Za-z0-9._-]{1,64}$" },
            "additionalProperties": of(*each, &below("<name>")),
        }),
        Shape::Later => json!({ "description": "Known, and without effect in this version." }),
        Shape::Value(kind) => of_kind(kind),
    };
    let Value::Object(mut schema) = schema else { return Map::new() };
    let doc = reference::doc(path);
    if !doc.is_empty() {
        schema.insert("description".into(), doc.into());
    }
    if let Some(default) = reference::default(path).and_then(|default| serde_json::from_str(default).ok()) {
        schema.insert("default".into(), default);
    }
    schema
}

fn of_kind(kind: Kind) -> Value {
    let texts = || json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } });
    match kind {
        Kind::Text | Kind::Secret => json!({ "type": ["string", "null"], "minLength": 1 }),
        Kind::Choice(choices) => {
            let mut allowed: Vec<Value> = choices.iter().map(|choice| (*choice).into()).collect();
            allowed.push(Value::Null);
            json!({ "enum": allowed })
        }
        Kind::Flag => json!({ "type": ["boolean", "null"] }),
        Kind::Usd => json!({ "type": ["number", "string", "null"], "minimum": 0, "maximum": 1_000_000_000 }),
        Kind::Whole { least, most } => {
            json!({ "type": ["integer", "string", "null"], "minimum": least, "maximum": most })
        }
        Kind::Cpus => json!({ "type": ["number", "string", "null"], "minimum": 0.01, "maximum": 1024 }),
        Kind::PerSecond => {
            json!({ "type": ["number", "string", "null"], "minimum": 0.001, "maximum": 1_000_000 })
        }
        Kind::Size | Kind::Rate => json!({
            "type": ["integer", "string", "null"],
            "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\s*$",
        }),
        Kind::Secrets | Kind::Paths | Kind::Words => {
            json!({ "type": ["array", "null"], "items": { "type": "string", "minLength": 1 } })
        }
        Kind::Ports => {
            json!({ "type": ["array", "null"], "items": { "type": "integer", "minimum": 1, "maximum": 65535 } })
        }
        Kind::Variables | Kind::Headers => texts(),
        Kind::Url => json!({ "type": ["string", "null"], "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^@?#]+$" }),
        Kind::Address => json!({ "type": ["string", "null"], "pattern": ":[0-9]+$" }),
        Kind::Filter => json!({ "type": ["string", "null"], "minLength": 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_schema_and_explained() {
        let schema = json_schema();
        for key in reference::reference() {
            let at = key.path.split('.').fold(&schema, |at, name| match name {
                "<name>" => &at["additionalProperties"],
                name => &at["properties"][name],
            });
            assert_eq!(at["description"], key.doc, "{}", key.path);
            let default: Option<Value> = key.default.map(|text| serde_json::from_str(text).expect(text));
            assert_eq!(at.get("default"), default.as_ref(), "{}", key.path);
        }
        for key in reference::reference_later() {
            let at = key.split('.').fold(&schema, |at, name| &at["properties"][name]);
            assert!(at["description"].as_str().is_some_and(|text| text.contains("without effect")), "{key}");
        }
        assert_eq!(schema["properties"]["serverr"], Value::Null, "the control");
        assert_eq!(schema["additionalProperties"], false, "unknown keys are underlined");
    }
}
