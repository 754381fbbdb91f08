//! Which model a session gets: a configured one, else a local one that answers, else the demonstration.

mod list;

use std::sync::Arc;

use async_trait::async_trait;
use ob_config::ModelAlias;
use ob_config::ModelSettings;
use ob_config::ProviderSettings;
use ob_core::Refusal;
use ob_core::check::Check;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::model::Prices;
use ob_core::model::Wire;
use ob_gate::discovery;
use ob_gate::discovery::Found;
use ob_gate::discovery::Listed;
use ob_gate::discovery::Program;
use ob_gate::models::Keys;
use ob_gate::models::Models;
use ob_gate::models::Provider;
use secrecy::SecretString;

use crate::live::Live;

/// The most tokens of one answer, where the configuration says nothing.
const DEFAULT_MAX_OUTPUT: u32 = 8192;
/// The most characters of a model's name, its provider's included.
const MAX_NAME: usize = 400;
/// What `models.prices` calls the price of models that have none there.
const DEFAULT_PRICE: &str = "default";
/// How to get a model.
const WAYS: &str = "set OPENAI_API_KEY (and OPENAI_BASE_URL, OPENAI_MODEL), configure `credentials.providers`, or start \
                    a local OpenAI-compatible server";
/// The name of the demonstration's provider.
const DEMONSTRATION: &str = "demonstration";

/// A scripted model server that can be started when there is no other model.
#[async_trait]
pub trait Demonstration: Send + Sync + 'static {
    /// Its model's name.
    fn model(&self) -> &str;
    /// Makes sure that it runs; its base URL, with `/v1`.
    async fn start(&self) -> Result<String, Refusal>;
}

/// The models of this server. Puts what it chooses where the gate finds it.
pub struct Catalogue {
    settings: Live<ModelSettings>,
    models: Arc<Models>,
    demonstration: Option<Arc<dyn Demonstration>>,
}

// === impl Catalogue ===

impl Catalogue {
    /// Models as configured; `demonstration` is the last resort, if its program is installed.
    pub fn new(
        settings: ModelSettings,
        models: Arc<Models>,
        demonstration: Option<Arc<dyn Demonstration>>,
    ) -> Self {
        Self { settings: Live::new(settings), models, demonstration }
    }

    /// Models as configured anew. What the gate has of configured ones is renewed, so that the next call goes where the
    /// configuration says and with its key, and nowhere if it says nothing.
    pub(crate) fn apply(&self, settings: ModelSettings) {
        self.settings.set(settings);
        let settings = self.settings.get();
        for model in self.models.list() {
            if model.source != ModelSource::Configured {
                continue;
            }
            match configured(&settings, &model) {
                Ok(provider) => self.models.put(model, provider),
                Err(refusal) => {
                    tracing::warn!(%model, %refusal, "the model is not configured any more");
                    self.models.remove(&model);
                }
            }
        }
    }

    /// The model of this name, or the default one, ready to be asked.
    pub async fn resolve(&self, name: Option<&str>) -> Result<ModelRef, Refusal> {
        let settings = self.settings.get();
        let model = match name.or(settings.session_model.as_deref()) {
            Some(name) => self.named(name).await?,
            None => self.default_model().await?,
        };
        self.ensure(&model).await?;
        Ok(model)
    }

    /// Makes sure that the gate can ask this model; it may have been chosen by an earlier server.
    pub async fn ensure(&self, model: &ModelRef) -> Result<(), Refusal> {
        let provider = match model.source {
            ModelSource::Configured => configured(&self.settings.get(), model)?,
            ModelSource::Local => {
                let settings = self.settings.get();
                let found = discovery::find_local(&settings.discover_ports).await;
                let program = Program::of(&model.provider).unwrap_or(Program::Other);
                let (server, _) = serving(&found, program, &model.model).ok_or_else(|| {
                    Refusal::unavailable(format!("no model server of this machine serves {model} any more"))
                        .fix("start it again, or configure a provider")
                })?;
                plain(&settings, server.base_url.clone())
            }
            ModelSource::Demonstration => plain(&self.settings.get(), self.demonstration()?.start().await?),
        };
        self.models.put(model.clone(), provider);
        Ok(())
    }

    /// Which model a session gets that names none, for `/health` and `doctor`. Starts nothing and spends nothing.
    pub async fn check(&self) -> Check {
        const NAME: &str = "model";
        let named = self.settings.get().session_model.clone();
        let found = match named.as_deref() {
            Some(name) => self.named(name).await,
            None => self.default_model().await,
        };
        match found {
            Ok(model) if model.source == ModelSource::Demonstration => {
                let cost = "agents do nothing but mend small faults that tests show";
                Check::warn(NAME, "only the scripted demonstration, which is not a language model", cost)
                    .fix(WAYS)
            }
            Ok(model) => Check::ok(NAME, format!("sessions use {model}")),
            Err(refusal) => Check {
                fix: refusal.fix,
                cost: Some("sessions that name no model are refused".to_owned()),
                ..Check::not_configured(NAME, refusal.message)
            },
        }
    }

    async fn default_model(&self) -> Result<ModelRef, Refusal> {
        // The default provider's model is `session_model` already; of several without a default, the first will do.
        let settings = self.settings.get();
        let providers = &settings.providers;
        let with_model = |(name, provider): (&String, &ProviderSettings)| {
            provider.default_model.clone().map(|model| reference(name, model, ModelSource::Configured))
        };
        if let Some(model) = providers.iter().find_map(with_model) {
            return Ok(model);
        }
        if !providers.is_empty() {
            let names: Vec<&str> = providers.keys().map(String::as_str).collect();
            return Err(Refusal::invalid(format!(
                "no model was named, and none of the providers has a default model: `{}`",
                names.join("`, `")
            ))
            .fix("set OPENAI_MODEL or `models.defaults.session_model`, or pass `--model PROVIDER/MODEL`"));
        }
        if let Some((alias, _)) = settings.aliases.iter().find(|(_, alias)| alias.base_url.is_some()) {
            return self.alias(alias).await;
        }
        let found = discovery::find_local(&settings.discover_ports).await;
        if let Some((server, model)) = found.iter().find_map(|server| Some((server, server.models.first()?)))
        {
            return Ok(reference(server.program.provider(), model.name.clone(), ModelSource::Local));
        }
        let demonstration = self.demonstration()?;
        Ok(reference(DEMONSTRATION, demonstration.model().to_owned(), ModelSource::Demonstration))
    }

    async fn named(&self, name: &str) -> Result<ModelRef, Refusal> {
        let settings = self.settings.get();
        if name.is_empty() || name.chars().count() > MAX_NAME {
            return Err(Refusal::invalid(format!("a model's name has 1 to {MAX_NAME} characters"))
                .fix("list them with `oubliette model list`"));
        }
        if settings.aliases.contains_key(name) {
            return self.alias(name).await;
        }
        if let Some(provider) = settings.providers.get(name)
            && let Some(model) = &provider.default_model
        {
            return Ok(reference(name, model.clone(), ModelSource::Configured));
        }
        let demonstration = self.demonstration().ok().map(|demonstration| demonstration.model());
        let names_it = name.strip_prefix(DEMONSTRATION).and_then(|rest| rest.strip_prefix('/'));
        if name == DEMONSTRATION || name == "demo" || (names_it.is_some() && names_it == demonstration) {
            let model = self.demonstration()?.model().to_owned();
            return Ok(reference(DEMONSTRATION, model, ModelSource::Demonstration));
        }
        if let Some((provider, model)) = name.split_once('/') {
            if settings.providers.contains_key(provider) && !model.is_empty() {
                return Ok(reference(provider, model.to_owned(), ModelSource::Configured));
            }
            if let Some(program) = Program::of(provider).filter(|_| !model.is_empty()) {
                return self.local(program, Some(model)).await;
            }
        } else if let Some(program) = Program::of(name) {
            return self.local(program, None).await;
        } else if settings.providers.len() == 1
            && let Some(provider) = settings.providers.keys().next()
        {
            // With one provider there is no doubt whose model it is.
            return Ok(reference(provider, name.to_owned(), ModelSource::Configured));
        }
        let known: Vec<&str> =
            settings.aliases.keys().chain(settings.providers.keys()).map(String::as_str).collect();
        let known = if known.is_empty() { "none is configured".to_owned() } else { known.join(", ") };
        Err(Refusal::not_found("model", name).fix(format!("use an alias or PROVIDER/MODEL; known: {known}")))
    }

    /// A model of a server of this machine, as it is now: this one, else the first that it lists.
    async fn local(&self, program: Program, model: Option<&str>) -> Result<ModelRef, Refusal> {
        let ports = &self.settings.get().discover_ports;
        let found = discovery::find_local(ports).await;
        let known: Vec<&str> = found
            .iter()
            .filter(|server| is_meant(server, program))
            .flat_map(|server| server.models.iter().map(|listed| listed.name.as_str()))
            .collect();
        let listed = match model {
            Some(model) => serving(&found, program, model).map(|(_, listed)| listed.name.as_str()),
            None => known.first().copied(),
        };
        if let Some(listed) = listed {
            return Ok(reference(program.provider(), listed.to_owned(), ModelSource::Local));
        }
        let title = program.title();
        if found.iter().any(|server| is_meant(server, program)) {
            let name = format!("{}/{}", program.provider(), model.unwrap_or("MODEL"));
            let fix = match known.as_slice() {
                [] => "it serves none yet: give it one, as with `ollama pull NAME`".to_owned(),
                known => format!("the {title} of this machine serves: {}", known.join(", ")),
            };
            return Err(Refusal::not_found("model", name).fix(fix));
        }
        let looked = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let what = format!("no {title} answers on this machine (ports of `models.discover_ports`: {looked})");
        Err(Refusal::unavailable(what).fix(format!("{}, or configure where it is", program.start())))
    }

    async fn alias(&self, name: &str) -> Result<ModelRef, Refusal> {
        let settings = self.settings.get();
        let alias = settings.aliases.get(name).ok_or_else(|| {
            Refusal::not_found("model", name).fix("use an alias of the configuration, or PROVIDER/MODEL")
        })?;
        if let Some(program) = found_for(&settings, alias) {
            return self.local(program, Some(&alias.model)).await;
        }
        // The alias is the provider's name here, since it may override the provider's URL and key.
        Ok(reference(name, alias.model.clone(), ModelSource::Configured))
    }

    fn demonstration(&self) -> Result<&Arc<dyn Demonstration>, Refusal> {
        let is_wanted = self.settings.get().demonstration;
        self.demonstration.as_ref().filter(|_| is_wanted).ok_or_else(|| {
            Refusal::unavailable("no model: no provider is configured and no local model server answers")
                .fix(WAYS)
        })
    }
}

/// The program that an alias means whose provider is nowhere configured, since it is found on this machine.
fn found_for(settings: &ModelSettings, alias: &ModelAlias) -> Option<Program> {
    let is_configured = settings.providers.contains_key(&alias.provider) || alias.base_url.is_some();
    Program::of(&alias.provider).filter(|_| !is_configured)
}

/// True if this server is meant by the program's name; any is meant by `local`.
fn is_meant(server: &Found, program: Program) -> bool {
    program == Program::Other || server.program == program
}

/// The first server that is meant and serves this model.
fn serving<'a>(found: &'a [Found], program: Program, model: &str) -> Option<(&'a Found, &'a Listed)> {
    let mut meant = found.iter().filter(|server| is_meant(server, program));
    meant.find_map(|server| Some((server, server.model(model)?)))
}

/// Who answers for a model that is configured.
fn configured(settings: &ModelSettings, model: &ModelRef) -> Result<Provider, Refusal> {
    let alias = settings.aliases.get(&model.provider).filter(|alias| alias.model == model.model);
    let owner = alias.map_or(model.provider.as_str(), |alias| alias.provider.as_str());
    let provider = settings.providers.get(owner);
    let base_url = alias
        .and_then(|alias| alias.base_url.clone())
        .or_else(|| provider.map(|provider| provider.base_url.clone()))
        .ok_or_else(|| {
            Refusal::not_found("provider", owner)
                .fix("configure it under `credentials.providers.credentials`")
        })?;
    let keys: Vec<SecretString> = match alias.and_then(|alias| alias.api_key.clone()) {
        Some(own) => vec![own],
        None => provider
            .map(|provider| provider.api_key.iter().chain(&provider.more_keys).cloned().collect())
            .unwrap_or_default(),
    };
    let wires = alias
        .and_then(|alias| alias.wires.clone())
        .or_else(|| provider.map(|provider| provider.wires.clone()))
        .unwrap_or_else(|| vec![Wire::Chat]);
    let holds_calls = alias
        .and_then(|alias| alias.holds_calls)
        .or_else(|| provider.map(|provider| provider.holds_calls))
        .unwrap_or(false);
    Ok(Provider {
        base_url,
        wires,
        holds_calls,
        keys: Arc::new(Keys::new(keys)),
        extra_headers: alias
            .map(|alias| alias.extra_headers.clone().into_iter().collect())
            .unwrap_or_default(),
        max_output_tokens: alias.and_then(|alias| alias.max_output_tokens).unwrap_or(DEFAULT_MAX_OUTPUT),
        prices: match alias.and_then(|alias| alias.price) {
            Some(price) => Prices::always(price),
            None => prices(settings, &model.model),
        },
        must_have_price: settings.must_have_price,
        retries: settings.retries,
    })
}

/// The prices of a model: by its name, or what stands behind the last `/` of it.
fn prices(settings: &ModelSettings, model: &str) -> Prices {
    let short = model.rsplit('/').next().unwrap_or(model);
    let found = [model, short, DEFAULT_PRICE].into_iter().find_map(|name| settings.prices.get(name));
    found.cloned().unwrap_or_default()
}

fn reference(provider: &str, model: String, source: ModelSource) -> ModelRef {
    ModelRef { provider: provider.to_owned(), model, source }
}

/// Who answers for a model of this machine, which costs nothing.
fn plain(settings: &ModelSettings, base_url: String) -> Provider {
    Provider {
        base_url,
        wires: vec![Wire::Chat],
        holds_calls: false,
        keys: Arc::default(),
        extra_headers: Vec::new(),
        max_output_tokens: DEFAULT_MAX_OUTPUT,
        prices: Prices::default(),
        must_have_price: false,
        retries: settings.retries,
    }
}

#[cfg(test)]
mod tests;
