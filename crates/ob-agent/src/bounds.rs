//! Bounds on what an agent says. An agent is untrusted: without these it could fill the server's memory or its store.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;

/// The most bytes of one text, and of all texts in one tree of data, in an event.
pub(crate) const TEXT_MAX: usize = 1024 * 1024;
/// The most bytes of a text that is about the agent rather than of it: an error, a stray line.
pub(crate) const NOTE_MAX: usize = 4 * 1024;
/// The most bytes of a name: of a tool, a tool call, a message, the agent itself.
pub(crate) const NAME_MAX: usize = 256;
/// The most values in one message. A line of 16 MiB could hold eight million, at 30 to 80 bytes of memory each.
pub(crate) const NODES_MAX: usize = 100_000;
/// The deepest data of one message. Readers of stored events stop at 128, and an event adds some levels of its own.
pub(crate) const DEPTH_MAX: usize = 64;

/// The key under which a map says what was left out of it.
const CUT_KEY: &str = "[cut]";

/// The text up to `max` bytes, never within a character; if that is not all, a note says how much is missing.
pub(crate) fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = prefix(text, max);
    Cow::Owned(format!("{kept}{}", cut_note(text.len() - kept.len())))
}

/// The text up to `max` bytes, never within a character.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// What stands in place of this many bytes.
pub(crate) fn cut_note(bytes: usize) -> String {
    format!(" [cut: {bytes} more bytes]")
}

/// The text in pieces of at most `max` bytes, never within a character. `max` is at least 4, so each piece moves on.
pub(crate) fn pieces(text: &str, max: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let piece = prefix(rest, max);
        rest = &rest[piece.len()..];
        (!piece.is_empty()).then_some(piece)
    })
}

/// The data with at most [`TEXT_MAX`] bytes of text in it, the first ones.
pub(crate) fn data(value: Value) -> Value {
    let mut budget = TEXT_MAX;
    shorten(value, &mut budget)
}

fn shorten(value: Value, budget: &mut usize) -> Value {
    match value {
        Value::String(text) => {
            let short = cut(&text, *budget).into_owned();
            *budget -= text.len().min(*budget);
            Value::String(short)
        }
        Value::Array(items) => items.into_iter().map(|item| shorten(item, budget)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, field)| {
                let key = cut(&key, NAME_MAX).into_owned();
                *budget -= key.len().min(*budget);
                (key, shorten(field, budget))
            })
            .collect(),
        other => other,
    }
}

/// Parses JSON; what is deeper than [`DEPTH_MAX`] or more than [`NODES_MAX`] is left out and said to be.
pub(crate) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let nodes = Cell::new(NODES_MAX);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Node { nodes: &nodes, depth: DEPTH_MAX }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Builds one value of what is left of the budget.
struct Node<'a> {
    nodes: &'a Cell<usize>,
    depth: usize,
}

// === impl Node ===

impl Node<'_> {
    fn child(&self) -> Self {
        Self { nodes: self.nodes, depth: self.depth.saturating_sub(1) }
    }

    /// True if a level and a value are left; then the value is paid for.
    fn take(&self) -> bool {
        let left = self.nodes.get();
        self.nodes.set(left.saturating_sub(1));
        left > 0 && self.depth > 0
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let mut left_out = 0_u64;
        loop {
            if self.take() {
                match seq.next_element_seed(self.child())? {
                    Some(item) => items.push(item),
                    None => break,
                }
            } else if seq.next_element::<IgnoredAny>()?.is_some() {
                left_out += 1;
            } else {
                break;
            }
        }
        if left_out > 0 {
            items.push(format!("[cut: {left_out} more items]").into());
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let mut left_out = 0_u64;
        while let Some(key) = map.next_key::<String>()? {
            if self.take() {
                fields.insert(key, map.next_value_seed(self.child())?);
            } else {
                map.next_value::<IgnoredAny>()?;
                left_out += 1;
            }
        }
        if left_out > 0 {
            fields.insert(CUT_KEY.to_owned(), format!("{left_out} more fields").into());
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cut_text_says_how_much_is_missing_and_keeps_whole_characters() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 4), "long [cut: 2 more bytes]");
        assert_eq!(cut("aé", 2), "a [cut: 2 more bytes]");
        assert_eq!(cut("é", 0), " [cut: 2 more bytes]");
    }

    #[test]
    fn all_texts_of_a_tree_share_one_budget() {
        let value = data(json!({ "a": "x".repeat(TEXT_MAX), "b": ["y"], "c": 7 }));
        assert!(value["a"].as_str().is_some_and(|text| text.ends_with("[cut: 1 more bytes]")), "a");
        assert_eq!(value["b"][0], " [cut: 1 more bytes]");
        assert_eq!(value["c"], 7);
    }

    #[test]
    fn a_tree_that_is_too_wide_is_cut_and_says_so() {
        let text = serde_json::to_string(&vec![0; NODES_MAX + 2]).expect("JSON");
        let value = parse(&text).expect("it parses");
        let items = value.as_array().expect("an array");
        assert_eq!(items.len(), NODES_MAX + 1);
        assert_eq!(items[NODES_MAX], "[cut: 2 more items]");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_cut_so_that_readers_of_events_can_parse_it() {
        for (open, inner, close) in [("[", "1", "]"), (r#"{"a":"#, "1", "}")] {
            let deep = 120;
            let text = format!("{}{inner}{}", open.repeat(deep), close.repeat(deep));
            let value = parse(&text).expect("it parses");
            assert!(value.to_string().contains("cut"), "{value}");
            let stored = format!("{}{value}{}", "[".repeat(8), "]".repeat(8));
            serde_json::from_str::<Value>(&stored).expect("readers can parse it");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_within_the_bounds_is_parsed_as_it_is(value in values()) {
            let text = value.to_string();
            prop_assert_eq!(parse(&text).expect("it parses"), value);
        }

        #[test]
        fn pieces_are_the_text_and_none_is_too_long(text in ".{0,64}", max in 4_usize..9) {
            let all: Vec<&str> = pieces(&text, max).collect();
            prop_assert!(all.iter().all(|piece| !piece.is_empty() && piece.len() <= max));
            prop_assert_eq!(all.concat(), text);
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }
}
