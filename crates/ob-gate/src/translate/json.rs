//! Reads JSON of a stranger: every step says where it fails.

use bytes::BytesMut;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;

use super::Untranslatable;
use crate::refuse::repeated;

pub(super) type Fields = Map<String, Value>;

/// Says what is the matter with a place.
pub(super) fn no(at: &str, why: impl Into<String>) -> Untranslatable {
    // A place may hold names that a stranger chose.
    Untranslatable { at: repeated(at, 120), why: why.into() }
}

/// Without a counterpart in the other wire.
pub(super) fn no_counterpart(at: &str) -> Untranslatable {
    no(at, "has no counterpart")
}

/// Of a kind that has no counterpart.
pub(super) fn no_kind(at: &str, kind: &str) -> Untranslatable {
    no(at, format!("is of the type `{}`, which has no counterpart", repeated(kind, 60)))
}

pub(super) fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Fields, Untranslatable> {
    value.as_object().ok_or_else(|| no(at, "must be an object"))
}

pub(super) fn list<'a>(value: &'a Value, at: &str) -> Result<&'a [Value], Untranslatable> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| no(at, "must be a list"))
}

pub(super) fn text<'a>(value: &'a Value, at: &str) -> Result<&'a str, Untranslatable> {
    value.as_str().ok_or_else(|| no(at, "must be a text"))
}

/// A list that may be there; empty if it is missing.
pub(super) fn list_if<'a>(fields: &'a Fields, name: &str, at: &str) -> Result<&'a [Value], Untranslatable> {
    field(fields, name).map_or(Ok(&[][..]), |value| list(value, at))
}

/// A field; `None` if it is missing or null.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A text that must be there.
pub(super) fn text_field<'a>(fields: &'a Fields, name: &str, at: &str) -> Result<&'a str, Untranslatable> {
    let at = format!("{at}.{name}");
    text(field(fields, name).ok_or_else(|| no(&at, "is missing"))?, &at)
}

/// A text that may be there.
pub(super) fn text_if<'a>(
    fields: &'a Fields,
    name: &str,
    at: &str,
) -> Result<Option<&'a str>, Untranslatable> {
    field(fields, name).map(|value| text(value, &format!("{at}.{name}"))).transpose()
}

/// The type of an item; empty if it has none.
pub(super) fn kind(fields: &Fields) -> &str {
    fields.get("type").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(fields: &Fields, name: &str) -> Result<Option<bool>, Untranslatable> {
    field(fields, name)
        .map(|value| value.as_bool().ok_or_else(|| no(name, "must be true or false")))
        .transpose()
}

pub(super) fn whole(fields: &Fields, name: &str) -> Result<Option<u64>, Untranslatable> {
    field(fields, name)
        .map(|value| value.as_u64().ok_or_else(|| no(name, "must be a whole number")))
        .transpose()
}

pub(super) fn number(fields: &Fields, name: &str) -> Result<Option<Number>, Untranslatable> {
    field(fields, name)
        .map(|value| value.as_number().cloned().ok_or_else(|| no(name, "must be a number")))
        .transpose()
}

/// A text, or a list of texts.
pub(super) fn texts(fields: &Fields, name: &str) -> Result<Vec<String>, Untranslatable> {
    match field(fields, name) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(value) => list(value, name)?.iter().map(|item| text(item, name).map(str::to_owned)).collect(),
    }
}

/// Refuses the first field that is neither carried over nor known to be left out without harm. What says nothing (null, an
/// empty list or object) is no field.
pub(super) fn known(
    fields: &Fields,
    at: &str,
    carried: &[&str],
    left_out: &[&str],
) -> Result<(), Untranslatable> {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for (name, value) in fields {
        let name = name.as_str();
        if !carried.contains(&name) && !left_out.contains(&name) && !says_nothing(value) {
            let place = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            return Err(no_counterpart(&place));
        }
    }
    Ok(())
}

/// Sets a field, if there is a value for it.
pub(super) fn put<T: Into<Value>>(fields: &mut Value, name: &str, value: Option<T>) {
    if let Some(value) = value {
        fields[name] = value.into();
    }
}

/// Writes an event of which the data says its own type.
pub(super) fn event(out: &mut BytesMut, name: Option<&str>, data: &Value) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\n");
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data.to_string().as_bytes());
    out.extend_from_slice(b"\n\n");
}
