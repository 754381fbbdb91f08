//! Redaction: whatever stands around a secret, and wherever in a value it is, it does not pass.

use ob_core::redact::Redactor;
use serde_json::Value;

/// What is hidden by value: one in another, one with what JSON and expressions escape, one that overlaps another.
const SECRETS: [&str; 4] =
    ["hunter2-hunter2", "hunter2-hunter2-longer", "a\"b\\c\n+é(.*)x", "longer-and-another"];
/// What is hidden by its form.
const FORMS: [&str; 2] = ["sk-abcdefghijklmnopqrstuvwx", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"];

pub(crate) const WORDS: &[&str] = &[
    "hunter2-hunter2",
    "hunter2-hunter2-longer",
    "a\"b\\c\n+é(.*)x",
    "[redacted]",
    "sk-abcdefghijklmnopqrstuvwx",
    "Bearer abcdefghijklmnop1234",
    "\"hunter2-hunter2\":",
    "a\\\"b\\\\c\\n+é(.*)x",
];

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    thread_local! {
        static REDACTOR: Redactor = Redactor::new(SECRETS);
    }
    REDACTOR.with(|redactor| {
        let clean = redactor.redact(text);
        for secret in SECRETS {
            assert!(!clean.contains(secret), "{secret} is in {clean:?}");
        }
        assert_eq!(redactor.redact(&clean), clean, "what is clean stays as it is");
        assert!(!redactor.finds(&clean));
        if let Ok(mut value) = serde_json::from_str::<Value>(text) {
            redactor.redact_json(&mut value);
            no_secret_in(&value);
        }
    });
}

/// No text of the value holds a secret, names included.
fn no_secret_in(value: &Value) {
    let hidden = |text: &str| {
        for secret in SECRETS.iter().chain(&FORMS) {
            assert!(!text.contains(secret), "{secret} is in {text:?}");
        }
    };
    match value {
        Value::String(text) => hidden(text),
        Value::Array(items) => items.iter().for_each(no_secret_in),
        Value::Object(fields) => fields.iter().for_each(|(name, item)| {
            hidden(name);
            no_secret_in(item);
        }),
        _ => {}
    }
}
