//! Redaction: secrets are taken out of every text before it is kept or shown (invariant 4, `no_secret_inside`).

use std::borrow::Cow;

/// What stands where a secret stood.
pub const MASK: &str = "[redacted]";

/// A secret shorter than this is not looked for: it would hit ordinary words.
const SHORTEST: usize = 8;

/// Knows secrets by value and tokens by form, and takes both out of texts. Has no `Debug` on purpose.
#[derive(Clone)]
pub struct Redactor {
    secrets: Vec<Box<str>>,
    forms: regex::Regex,
}

// === impl Redactor ===

impl Default for Redactor {
    fn default() -> Self {
        Self::new(std::iter::empty::<String>())
    }
}

impl Redactor {
    /// Knows these secrets by value, and the usual forms of keys and tokens.
    pub fn new(secrets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut secrets: Vec<Box<str>> = secrets
            .into_iter()
            .map(Into::into)
            .filter(|secret: &String| secret.len() >= SHORTEST)
            .map(String::into_boxed_str)
            .collect();
        // The longest first: one secret may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let forms = regex::Regex::new(
            r"(?x)
              oub_[0-9a-f]{64}
            | sk-[A-Za-z0-9_-]{20,}
            | gh[pousr]_[A-Za-z0-9]{36,}
            | github_pat_[A-Za-z0-9_]{22,}
            | AIza[A-Za-z0-9_-]{35}
            | (?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{16,}",
        )
        .expect("a constant expression, compiled in a test");
        Self { secrets, forms }
    }

    /// The text without secrets; borrowed if there were none.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut out = Cow::Borrowed(text);
        for secret in &self.secrets {
            if out.contains(&**secret) {
                out = Cow::Owned(out.replace(&**secret, MASK));
            }
        }
        match self.forms.replace_all(&out, MASK) {
            Cow::Borrowed(_) => out,
            Cow::Owned(clean) => Cow::Owned(clean),
        }
    }

    /// True if the text holds a secret.
    pub fn finds(&self, text: &str) -> bool {
        matches!(self.redact(text), Cow::Owned(_))
    }

    /// Takes secrets out of every string of a JSON value, the names of fields among them.
    pub fn redact_json(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => {
                if let Cow::Owned(clean) = self.redact(text) {
                    *text = clean;
                }
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            serde_json::Value::Object(map) => {
                if map.keys().any(|name| self.finds(name)) {
                    let mut clean = serde_json::Map::new();
                    for (name, item) in std::mem::take(map) {
                        let mut name = self.redact(&name).into_owned();
                        // Two names may be one without their secrets, and neither's value may be lost.
                        while clean.contains_key(&name) {
                            name.push('_');
                        }
                        clean.insert(name, item);
                    }
                    *map = clean;
                }
                map.values_mut().for_each(|item| self.redact_json(item));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_known_forms_go() {
        let redactor = Redactor::new(["hunter2hunter2", "hunter2hunter2-long"]);
        for (text, clean) in [
            ("key hunter2hunter2 here", "key [redacted] here"),
            ("hunter2hunter2-long", "[redacted]"),
            ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: [redacted]"),
            ("sk-proj-abcdefghijklmnopqrstu", "[redacted]"),
            ("nothing to see", "nothing to see"),
            ("task sk-short", "task sk-short"),
        ] {
            assert_eq!(redactor.redact(text), clean);
        }
        assert!(matches!(redactor.redact("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_is_cleaned_to_its_leaves() {
        let redactor = Redactor::new(["hunter2hunter2"]);
        let mut value = serde_json::json!({"a": ["hunter2hunter2", 1], "b": {"c": "x hunter2hunter2"}});
        redactor.redact_json(&mut value);
        assert_eq!(value, serde_json::json!({"a": [MASK, 1], "b": {"c": format!("x {MASK}")}}));
        let mut value = serde_json::json!({"hunter2hunter2": 1, "[redacted]": 2});
        redactor.redact_json(&mut value);
        let fields = value.as_object().expect("an object");
        assert!(fields.len() == 2 && fields.keys().all(|name| name.starts_with(MASK)), "{value}");
    }

    #[test]
    fn a_secret_too_short_to_tell_is_left() {
        assert_eq!(Redactor::new(["abc"]).redact("abc"), "abc");
    }
}
