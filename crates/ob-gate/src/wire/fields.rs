//! The top level of a request. What is below it stays as it came, byte by byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::refuse::GateRefusal;

/// The fields of a JSON object, each still as it was written.
pub(crate) struct Fields(BTreeMap<String, Box<RawValue>>);

// === impl Fields ===

impl Fields {
    /// Reads an object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, GateRefusal> {
        serde_json::from_slice(body).map(Self).map_err(|error| {
            GateRefusal::invalid(
                None,
                format!("the body is no JSON object (line {}, column {})", error.line(), error.column()),
                "send the request as a JSON object",
            )
        })
    }

    /// A field; `None` if it is missing or null.
    pub(crate) fn get<'a, T: Deserialize<'a>>(
        &'a self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, GateRefusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|_| {
            GateRefusal::invalid(
                Some(name),
                format!("`{name}` is malformed"),
                &format!("`{name}` must be {expected}"),
            )
        })
    }

    /// A field that is an object itself; empty if it is missing.
    pub(crate) fn object(&self, name: &'static str) -> Result<Self, GateRefusal> {
        Ok(Self(self.get(name, "an object")?.unwrap_or_default()))
    }

    /// The items of a list, of which there must be one.
    pub(crate) fn items(&self, name: &'static str, example: &str) -> Result<Vec<&RawValue>, GateRefusal> {
        let items: Vec<&RawValue> = self.get(name, "a list")?.unwrap_or_default();
        if items.is_empty() {
            let what = format!("`{name}` is missing or empty");
            return Err(GateRefusal::invalid(Some(name), what, &format!("send at least one: {example}")));
        }
        Ok(items)
    }

    /// True if a field is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.get() != "null")
    }

    /// A field as it was written.
    pub(crate) fn raw(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).map(|value| &**value)
    }

    /// Sets a field.
    pub(crate) fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        let raw = serde_json::value::to_raw_value(value);
        self.0.insert(name.to_owned(), raw.expect("numbers, texts and maps of them are always JSON"));
    }

    /// Sets a field to an object.
    pub(crate) fn put_object(&mut self, name: &str, value: &Self) {
        self.put(name, &value.0);
    }

    /// Takes a field away.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The bytes to send.
    pub(crate) fn body(&self) -> Bytes {
        serde_json::to_vec(&self.0).expect("what was JSON is JSON").into()
    }

    /// Bounds a number of tokens: what is asked for, at most `most`; `None` if nothing was asked for.
    pub(crate) fn bound(&mut self, name: &'static str, most: u64) -> Result<Option<u64>, GateRefusal> {
        let Some(asked) = self.get::<u64>(name, "a number of tokens")? else { return Ok(None) };
        if asked > most {
            self.put(name, &most);
        }
        Ok(Some(asked.min(most)))
    }

    /// As [`Fields::bound`], and asks for `most` if nothing was asked for.
    pub(crate) fn bound_or_put(&mut self, name: &'static str, most: u64) -> Result<u64, GateRefusal> {
        if let Some(asked) = self.bound(name, most)? {
            return Ok(asked);
        }
        self.put(name, &most);
        Ok(most)
    }
}
