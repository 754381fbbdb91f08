//! What must not leave in a bundle: every secret that can be known here, by value; and what looks like one, by form.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;

use ob_config::Loaded;
use ob_config::is_sensitive_name;
use ob_core::redact::MASK;
use ob_core::redact::Redactor;
use regex::Regex;

use crate::cli::Context;

/// The most bytes of a configuration file that are looked through.
const FILE_MAX: u64 = 4 << 20;

/// Takes secrets out of texts. Has no `Debug` on purpose.
pub(super) struct Secrets {
    redactor: Redactor,
    logins: Regex,
}

// === impl Secrets ===

impl Secrets {
    /// Those of this process's environment and of the home, also if its configuration cannot be understood.
    pub(super) fn of(context: &Context, loaded: Option<&Loaded>) -> Self {
        let mut known = BTreeSet::new();
        for (name, value) in &context.env {
            if is_sensitive_name(&name.to_string_lossy()) {
                known.insert(value.to_string_lossy().into_owned());
            }
        }
        if let Some(loaded) = loaded {
            known.extend(loaded.settings.redactor_secrets());
            let env = loaded.settings.sandbox.env.iter();
            known.extend(env.filter(|(name, _)| is_sensitive_name(name)).map(|(_, value)| value.clone()));
            if let Some(file) = &loaded.file
                && fs::metadata(file).is_ok_and(|found| found.len() <= FILE_MAX)
                && let Ok(text) = fs::read_to_string(file)
            {
                known.extend(values_of_sensitive_names(&text));
            }
        }
        // In JSON some characters are written otherwise.
        let escaped: Vec<String> = known
            .iter()
            .map(|secret| serde_json::Value::from(secret.as_str()).to_string())
            .map(|quoted| quoted[1..quoted.len() - 1].to_owned())
            .collect();
        known.extend(escaped);
        let logins = Regex::new(r"://[^/\s@\x22']+@").expect("a constant expression, compiled in a test");
        Self { redactor: Redactor::new(known), logins }
    }

    /// The text without secrets.
    pub(super) fn taken_out(&self, text: &str) -> String {
        let text = self.redactor.redact(text);
        match self.logins.replace_all(&text, format!("://{MASK}@")) {
            Cow::Borrowed(_) => text.into_owned(),
            Cow::Owned(clean) => clean,
        }
    }
}

/// Values that stand behind a name that sounds secret, in a file that need not be well-formed; comments included.
fn values_of_sensitive_names(text: &str) -> Vec<String> {
    let pair = Regex::new(
        r#"([A-Za-z0-9_.-]+)["']?[ \t]*[:=][ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([^\s"',}\]]+))"#,
    )
    .expect("a constant expression, compiled in a test");
    pair.captures_iter(text)
        .filter(|found| is_sensitive_name(&found[1]))
        .flat_map(|found| {
            let raw = (2..=4).find_map(|group| found.get(group)).map_or("", |value| value.as_str());
            let read: Option<String> = serde_json::from_str(&format!("\"{raw}\"")).ok();
            [Some(raw.to_owned()), read]
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn values_behind_names_that_sound_secret_are_found_in_any_file() {
        let jsonc = r#"{ "api_key": "hunter2\"hunter2", // apiKey: "in-a-comment"
            "name": "plain", "extraHeaders": { "X-Token": 'single-quotes' }, broken "#;
        let found = values_of_sensitive_names(jsonc);
        for secret in ["hunter2\"hunter2", r#"hunter2\"hunter2"#, "in-a-comment", "single-quotes"] {
            assert!(found.iter().any(|value| value == secret), "{secret} in {found:?}");
        }
        assert!(!found.iter().any(|value| value == "plain"), "{found:?}");
        let yaml = "auth:\n  factory_api_key: not-quoted-at-all\n  default_github_token: \"quoted-token\"\n";
        assert_eq!(values_of_sensitive_names(yaml).len(), 4);
    }

    #[test]
    fn secrets_of_the_environment_go_in_every_spelling_and_logins_go_from_urls() {
        let env = BTreeMap::from([
            ("MY_API_KEY".into(), "quote\"and\\slash".into()),
            ("EDITOR".into(), "not-a-secret".into()),
        ]);
        let context = Context { argv: Vec::new(), env, cwd: "/".into() };
        let secrets = Secrets::of(&context, None);
        let json = serde_json::json!({ "said": "quote\"and\\slash", "editor": "not-a-secret" }).to_string();
        let clean = secrets.taken_out(&json);
        assert!(!clean.contains("slash") && clean.contains("not-a-secret"), "{clean}");
        assert_eq!(secrets.taken_out("plain quote\"and\\slash"), "plain [redacted]");
        assert_eq!(secrets.taken_out("https://me:pass@host/v1 a@b"), "https://[redacted]@host/v1 a@b");
        assert_eq!(secrets.taken_out("http://host/a@b"), "http://host/a@b");
    }
}
