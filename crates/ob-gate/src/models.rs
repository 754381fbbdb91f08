//! Which provider answers for a model, and with what key. The only place that holds keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::model::Prices;
use ob_core::model::Wire;
use ob_core::redact::Redactor;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use tokio::sync::watch;

/// The models of this server.
pub struct Models {
    table: RwLock<Table>,
    /// Told whenever one is added.
    added: watch::Sender<()>,
}

/// A provider, ready to be asked.
#[derive(Clone)]
pub struct Provider {
    /// The base URL, with the version: `/v1`, `/v1beta`.
    pub base_url: String,
    /// The wires that it speaks. An agent's own is used if it is among them, else the first, with translation.
    pub wires: Vec<Wire>,
    /// Calls of tools are held to a JSON schema, for models that do not make them in their wire's own form.
    pub holds_calls: bool,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// Added to each request.
    pub extra_headers: Vec<(String, String)>,
    /// The most tokens of one answer; part of the reservation.
    pub max_output_tokens: u32,
    /// What it costs.
    pub prices: Prices,
    /// A call without a price is refused; else it costs nothing.
    pub must_have_price: bool,
    /// How often a call is tried again of whose answer nothing was delivered.
    pub retries: u32,
}

/// The keys of a provider, of which one is in use. Has no `Debug`.
#[derive(Default)]
pub struct Keys {
    keys: Vec<SecretString>,
    /// The one in use.
    at: AtomicUsize,
}

/// A key that a call uses.
#[derive(Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) secret: &'a SecretString,
    index: usize,
}

struct Table {
    /// By provider and model; where a provider came from is no part of its name.
    providers: BTreeMap<(String, String), (ModelRef, Provider)>,
    redactor: Arc<Redactor>,
}

// === impl Models ===

impl Models {
    /// No models yet.
    pub fn new() -> Self {
        let table = Table { providers: BTreeMap::new(), redactor: Arc::new(Redactor::default()) };
        Self { table: RwLock::new(table), added: watch::Sender::new(()) }
    }

    /// Adds or replaces the provider that answers for this model.
    pub fn put(&self, model: ModelRef, mut provider: Provider) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let known = table.providers.get(&(model.provider.clone(), model.model.clone()));
        if let Some((_, known)) = known.filter(|(_, known)| known.keys.is_same(&provider.keys)) {
            // A key that was passed over stays so.
            provider.keys = Arc::clone(&known.keys);
        }
        table.providers.insert((model.provider.clone(), model.model.clone()), (model, provider));
        table.renew_redactor();
        drop(table);
        self.added.send_replace(());
    }

    /// No provider answers for this model from now on.
    pub fn remove(&self, model: &ModelRef) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.providers.remove(&(model.provider.clone(), model.model.clone()));
        table.renew_redactor();
    }

    /// The provider that answers for this model, or why there is none.
    pub fn provider(&self, model: &ModelRef) -> Result<Provider, Refusal> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, provider)) = table.providers.get(&(model.provider.clone(), model.model.clone())) {
            return Ok(provider.clone());
        }
        let known: Vec<String> = table.providers.values().map(|(model, _)| model.to_string()).collect();
        let fix = if known.is_empty() {
            "set `OPENAI_API_KEY`, or name a provider under `models` in the configuration".to_string()
        } else {
            format!("configure its provider, or use one of: {}", known.join(", "))
        };
        Err(Refusal::new(RefusalCode::Unavailable, format!("no provider answers for the model {model}"))
            .fix(fix))
    }

    /// As [`Self::provider`]; a model of this machine that does not answer yet, after a restart of both, is waited for.
    pub async fn provider_within(&self, model: &ModelRef, patience: Duration) -> Result<Provider, Refusal> {
        // Before the first look, so that what is added between the two is seen.
        let mut added = self.added.subscribe();
        let waiting = async {
            loop {
                match self.provider(model) {
                    Err(_) if model.source != ModelSource::Configured => {}
                    known => return known,
                }
                if added.changed().await.is_err() {
                    return self.provider(model);
                }
            }
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(known) => known,
            Err(_) => self.provider(model),
        }
    }

    /// Every model, by provider and name.
    pub fn list(&self) -> Vec<ModelRef> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.providers.values().map(|(model, _)| model.clone()).collect()
    }

    /// Knows the keys of all providers and takes them out of texts.
    pub fn redactor(&self) -> Arc<Redactor> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner).redactor)
    }
}

impl Default for Models {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Table ===

impl Table {
    fn renew_redactor(&mut self) {
        let secrets =
            self.providers.values().flat_map(|(_, provider)| provider.secrets()).collect::<Vec<_>>();
        self.redactor = Arc::new(Redactor::new(secrets));
    }
}

// === impl Provider ===

impl Provider {
    /// The wire in which it is asked for an agent that speaks this one.
    pub(crate) fn wire_for(&self, agent: Wire) -> Wire {
        if self.wires.contains(&agent) { agent } else { self.wires.first().copied().unwrap_or(Wire::Chat) }
    }

    /// Everything about it that must not be shown: the key, and the values of the headers, which often are keys too.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let keys = self.keys.keys.iter().map(|key| key.expose_secret().to_string());
        // `Bearer abc` is as secret as `abc`.
        let headers =
            self.extra_headers.iter().map(|(_, value)| value.rsplit(' ').next().unwrap_or(value).to_string());
        keys.chain(headers).filter(|secret| !secret.is_empty()).collect()
    }
}

// === impl Keys ===

impl Keys {
    /// These keys, of which the first is used first. Without any, requests carry none.
    pub fn new(keys: Vec<SecretString>) -> Self {
        Self { keys, at: AtomicUsize::new(0) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// The one in use.
    pub(crate) fn current(&self) -> Option<Key<'_>> {
        let index = self.at.load(Ordering::Relaxed).checked_rem(self.keys.len())?;
        Some(Key { secret: self.keys.get(index)?, index })
    }

    /// Uses the next one from now on, unless another call did so already.
    pub(crate) fn pass_over(&self, key: Key<'_>) {
        let next = (key.index + 1) % self.keys.len().max(1);
        let exchanged = self.at.compare_exchange(key.index, next, Ordering::Relaxed, Ordering::Relaxed);
        tracing::info!(
            from = key.index,
            to = next,
            is_news = exchanged.is_ok(),
            "a provider's key is passed over"
        );
    }

    fn is_same(&self, other: &Self) -> bool {
        let exposed =
            |keys: &Self| keys.keys.iter().map(|key| key.expose_secret().to_owned()).collect::<Vec<_>>();
        exposed(self) == exposed(other)
    }
}

#[cfg(test)]
mod tests {
    use ob_core::model::ModelSource;

    use super::*;

    fn model(name: &str) -> ModelRef {
        ModelRef { provider: "acme".into(), model: name.into(), source: ModelSource::Configured }
    }

    fn provider(key: &str) -> Provider {
        Provider {
            base_url: "http://127.0.0.1:1/v1".into(),
            wires: vec![Wire::Chat],
            holds_calls: false,
            keys: Arc::new(Keys::new(vec![key.to_string().into()])),
            extra_headers: vec![("x-token".into(), "Bearer header-secret-1".into())],
            max_output_tokens: 1,
            prices: Prices::default(),
            must_have_price: false,
            retries: 0,
        }
    }

    fn refusal(models: &Models, name: &str) -> String {
        models.provider(&model(name)).err().expect("no such model").to_string()
    }

    #[test]
    fn an_unknown_model_is_refused_with_those_that_are_known() {
        let models = Models::new();
        assert!(refusal(&models, "a").contains("OPENAI_API_KEY"));
        models.put(model("b"), provider("key-of-acme-1"));
        assert!(refusal(&models, "a").ends_with("use one of: acme/b"));
        assert!(models.provider(&model("b")).is_ok());
        assert_eq!(models.list(), [model("b")]);
    }

    #[test]
    fn the_redactor_knows_every_key_and_forgets_one_that_was_replaced() {
        let models = Models::new();
        models.put(model("a"), provider("key-of-acme-1"));
        models.put(model("b"), provider("key-of-acme-2"));
        let redactor = models.redactor();
        for secret in ["key-of-acme-1", "key-of-acme-2", "header-secret-1"] {
            assert!(redactor.finds(secret), "{secret}");
        }
        models.put(model("a"), provider("key-of-acme-3"));
        assert!(models.redactor().finds("key-of-acme-3"));
        assert!(!models.redactor().finds("key-of-acme-1"));
        models.remove(&model("b"));
        assert!(!models.redactor().finds("key-of-acme-2"));
        assert!(models.provider(&model("b")).is_err() && models.provider(&model("a")).is_ok());
    }

    #[test]
    fn a_key_that_was_passed_over_stays_so_until_the_keys_change() {
        let keys = |names: &[&str]| {
            Arc::new(Keys::new(names.iter().map(|name| SecretString::from((*name).to_owned())).collect()))
        };
        let models = Models::new();
        let put = |names: &[&str]| models.put(model("a"), Provider { keys: keys(names), ..provider("x") });
        let current = || {
            let provider = models.provider(&model("a")).expect("it is there");
            provider.keys.current().map(|key| key.secret.expose_secret().to_owned())
        };
        put(&["one", "two"]);
        assert_eq!(current().as_deref(), Some("one"));
        let provider = models.provider(&model("a")).expect("it is there");
        let first = provider.keys.current().expect("a key");
        provider.keys.pass_over(first);
        // Two calls that failed with the same key pass over it once.
        provider.keys.pass_over(first);
        put(&["one", "two"]);
        assert_eq!(current().as_deref(), Some("two"));
        provider.keys.pass_over(provider.keys.current().expect("a key"));
        assert_eq!(current().as_deref(), Some("one"), "round again");
        put(&["three"]);
        assert_eq!(current().as_deref(), Some("three"));
        put(&[]);
        assert_eq!(current(), None);
    }
}
