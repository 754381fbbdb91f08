//! What the keys of providers, aliases and models mean together.

use ob_core::Timestamp;
use ob_core::model::Price;
use ob_core::model::Prices;
use ob_core::model::Wire;

use super::Placed;
use super::Resolver;
use crate::check::Checked;
use crate::check::show;
use crate::schema::nearest;
use crate::settings::ModelAlias;
use crate::settings::ProviderSettings;

/// Base URLs of providers, and what they speak.
const KNOWN_PROVIDERS: [(&str, &str, &str); 10] = [
    ("openai", "https://api.openai.com/v1", "openai"),
    ("anthropic", "https://api.anthropic.com/v1", "anthropic"),
    ("deepseek", "https://api.deepseek.com/v1", "chat"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "google"),
    ("groq", "https://api.groq.com/openai/v1", "chat"),
    ("llamacpp", "http://127.0.0.1:8080/v1", "chat"),
    ("mistral", "https://api.mistral.ai/v1", "chat"),
    ("ollama", "http://127.0.0.1:11434/v1", "chat"),
    ("openrouter", "https://openrouter.ai/api/v1", "chat"),
    ("vllm", "http://127.0.0.1:8000/v1", "chat"),
];

/// Providers that no configuration has to name: servers that are found on this machine, and the demonstration model.
const BUILT_IN: [&str; 5] = ["local", "ollama", "llamacpp", "vllm", "demonstration"];

/// What is wrong with a price of which only a part is given.
const HALF_A_PRICE: &str = "needs both `input` and `output`, in US dollars for a million tokens";

/// What is wrong was told.
struct Told;

const PROVIDERS: [&str; 3] = ["credentials", "providers", "credentials"];
const ALIASES: [&str; 2] = ["models", "models"];

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn providers(&mut self) {
        for (name, place) in self.names(&PROVIDERS) {
            let path = format!("{}.{name}", PROVIDERS.join("."));
            let key = |last: &'static str| [&PROVIDERS[..], &[name.as_str(), last]].concat();
            let kind = self.text(&key("provider"));
            let api_key = self.secret(&key("api_key"));
            let base_url = self.text(&key("base_url"));
            let more_keys = self.secrets(&key("api_keys"));
            let wire = self.text(&key("wire"));
            let tools = self.text(&key("tools"));
            let default_model = self.text(&key("default_model"));
            // Read for its effect on people only.
            drop(self.text(&key("description")));
            // The file says where a key goes by a URL, or by another provider's name.
            let leads = base_url.as_ref().or(kind.as_ref().filter(|kind| kind.value != name));
            let leads = leads.filter(|value| value.in_file).map(|value| value.place.clone());
            let kind = kind.map_or_else(|| name.clone(), |kind| kind.value);
            let known = KNOWN_PROVIDERS.iter().find(|(known, ..)| *known == kind);
            let known_url = known.map(|(_, url, _)| (*url).to_owned());
            let Some(url) = base_url.as_ref().map(|url| url.value.clone()).or(known_url) else {
                if self.is_broken(&path) {
                    continue;
                }
                let names = KNOWN_PROVIDERS.map(|(known, ..)| known);
                let what = match nearest(&kind, names) {
                    Some(meant) => format!("unknown provider {}; did you mean `{meant}`?", show(&kind)),
                    None => format!(
                        "provider {} needs the `base_url` of its server; known without one: {}",
                        show(&kind),
                        names.join(", ")
                    ),
                };
                self.mistake(&place, &path, what);
                continue;
            };
            let is_env_key = api_key.as_ref().is_some_and(|key| !key.in_file)
                || more_keys.as_ref().is_some_and(|keys| !keys.in_file);
            if is_env_key {
                self.env_keys.insert(name.clone());
            }
            let own_key = api_key.as_ref().filter(|key| key.in_file).map(|key| key.place.clone());
            let own_keys = more_keys.as_ref().filter(|keys| keys.in_file).map(|keys| keys.place.clone());
            let own_key = own_key.or(own_keys);
            match (leads, base_url.as_ref().filter(|url| url.in_file)) {
                (Some(place), _) if is_env_key => self.check_trust(&place, &path),
                (_, said) => {
                    if let Some(place) = said.map(|url| url.place.clone()).or(own_key) {
                        self.check_destination(&place, &path, &url);
                    }
                }
            }
            if (api_key.is_some() || more_keys.is_some()) && is_plain_http(&url) {
                let warning =
                    format!("{place}: {path}: its key goes over the network without encryption, to {url}");
                self.out.warnings.push(warning);
            }
            // Others that have OpenAI's form have its chat completions; few have the rest.
            let spoken =
                known.map_or(
                    "chat",
                    |(name, of_known, spoken)| {
                        if *name == "openai" && *of_known != url { "chat" } else { *spoken }
                    },
                );
            let provider = ProviderSettings {
                wires: wires(wire.as_ref().map_or(spoken, |wire| wire.value.as_str()), &url),
                holds_calls: tools.is_some_and(|tools| holds_calls(&tools.value)),
                base_url: url,
                api_key: api_key.map(|key| key.value),
                more_keys: more_keys.map(|keys| keys.value).unwrap_or_default(),
                default_model: default_model.map(|model| model.value),
            };
            self.out.settings.models.providers.insert(name, provider);
        }
    }

    /// A file that was only found in the working directory must not send a person's key anywhere.
    fn check_trust(&mut self, place: &str, path: &str) {
        if !self.home.is_trusted {
            self.mistake(
                place,
                path,
                "a file that was found in the working directory may not say where a key of the environment goes; \
                 name the home once with `--dir .`, or set the URL in the environment",
            );
        }
    }

    /// Nor a person's work: what the agent reads goes to the model.
    fn check_destination(&mut self, place: &str, path: &str, url: &str) {
        if !self.home.is_trusted && !is_loopback(url) {
            self.mistake(
                place,
                path,
                "a file that was found in the working directory may not say where tasks and code go, as with a \
                 provider or a key of its own; if you trust it, name the home once with `--dir .`",
            );
        }
    }

    /// The provider that is meant if none is named.
    fn default_provider(&self) -> Option<String> {
        let path: Vec<String> = ["credentials", "providers", "default"].map(str::to_owned).to_vec();
        let providers = &self.out.settings.models.providers;
        match self.values.get(&path).map(|found| &found.value) {
            Some(Checked::Text(name)) => providers.contains_key(name).then(|| name.clone()),
            _ if providers.len() == 1 => providers.keys().next().cloned(),
            // A key alone, as the environment of a developer has many, says less than a model.
            _ => {
                let mut with_model =
                    providers.iter().filter(|(_, provider)| provider.default_model.is_some());
                with_model.next().filter(|_| with_model.next().is_none()).map(|(name, _)| name.clone())
            }
        }
    }

    pub(super) fn aliases(&mut self) {
        let default_provider = self.default_provider();
        for (name, place) in self.names(&ALIASES) {
            let path = format!("{}.{name}", ALIASES.join("."));
            let key = |rest: &[&'static str]| [&ALIASES[..], &[name.as_str()], rest].concat();
            let model = self.text(&key(&["model"]));
            let base_url = self.text(&key(&["baseUrl"]));
            let api_key = self.secret(&key(&["apiKey"]));
            let max_output_tokens = self.whole(&key(&["maxOutputTokens"])).map(|most| most.value);
            let extra_headers = self.texts(&key(&["extraHeaders"])).map(|headers| headers.value);
            let provider = self.text(&key(&["provider"]));
            let price = self.price(&key(&["price"]), &place, &format!("{path}.price")).ok().flatten();
            let wire = self.text(&key(&["wire"]));
            let tools = self.text(&key(&["tools"]));
            drop(self.text(&key(&["displayName"])));
            let provider = match provider {
                Some(provider) => {
                    if base_url.is_none() {
                        self.check_provider(&provider, &format!("{path}.provider"));
                    }
                    provider.value
                }
                None => match &default_provider {
                    Some(provider) => provider.clone(),
                    None if base_url.is_some() => name.clone(),
                    None => {
                        self.mistake(
                            &place,
                            &path,
                            "needs a `provider` or a `baseUrl`: no default provider is set",
                        );
                        continue;
                    }
                },
            };
            let said = base_url.as_ref().filter(|url| url.in_file);
            if let Some(url) = said
                && self.env_keys.contains(&provider)
                && api_key.is_none()
            {
                self.check_trust(&url.place, &format!("{path}.baseUrl"));
            } else {
                let own_key = api_key.as_ref().filter(|key| key.in_file).map(|key| key.place.clone());
                let of_provider =
                    || Some(self.out.settings.models.providers.get(&provider)?.base_url.clone());
                let url = base_url.as_ref().map(|url| url.value.clone()).or_else(of_provider);
                if let (Some(place), Some(url)) = (said.map(|url| url.place.clone()).or(own_key), url) {
                    self.check_destination(&place, &path, &url);
                }
            }
            let alias_url = base_url.as_ref().map(|url| url.value.clone()).unwrap_or_default();
            let alias = ModelAlias {
                wires: wire.map(|wire| wires(&wire.value, &alias_url)),
                holds_calls: tools.map(|tools| holds_calls(&tools.value)),
                provider,
                model: model.map_or_else(|| name.clone(), |model| model.value),
                base_url: base_url.map(|url| url.value),
                api_key: api_key.map(|key| key.value),
                max_output_tokens,
                extra_headers: extra_headers.unwrap_or_default(),
                price,
            };
            self.out.settings.models.aliases.insert(name, alias);
        }
    }

    /// A price; nothing if none of it is given.
    fn price(&mut self, key: &[&str], place: &str, path: &str) -> Result<Option<Price>, Told> {
        let input = self.usd(&[key, &["input"]].concat());
        let output = self.usd(&[key, &["output"]].concat());
        let cached = self.usd(&[key, &["cached_input"]].concat());
        let cache_write = self.usd(&[key, &["cache_write"]].concat());
        match (input, output, &cached, &cache_write) {
            (Some(input), Some(output), ..) => Ok(Some(Price {
                input: input.value,
                output: output.value,
                cached_input: cached.map(|cached| cached.value),
                cache_write: cache_write.map(|written| written.value),
            })),
            (None, None, None, None) => Ok(None),
            _ => {
                self.mistake(place, path, HALF_A_PRICE);
                Err(Told)
            }
        }
    }

    /// What models cost, and what becomes of those of which it is not known.
    pub(super) fn prices(&mut self) {
        const PRICES: [&str; 2] = ["models", "prices"];
        for (model, _) in self.names(&PRICES) {
            let days = [&PRICES[..], &[model.as_str()]].concat();
            let mut dated = Vec::new();
            for (day, place) in self.names(&days) {
                let path = format!("{}.{model}.{day}", PRICES.join("."));
                let price = self.price(&[&days[..], &[day.as_str()]].concat(), &place, &path);
                match (Timestamp::from_day(&day), price) {
                    (None, _) => self.mistake(&place, &path, "is no day; allowed: `YYYY-MM-DD`"),
                    (Some(since), Ok(Some(price))) => dated.push((since, price)),
                    (Some(_), Ok(None)) if !self.is_broken(&path) => {
                        self.mistake(&place, &path, HALF_A_PRICE)
                    }
                    (Some(_), Ok(None) | Err(Told)) => {}
                }
            }
            self.out.settings.models.prices.insert(model, Prices::new(dated));
        }
        if let Some(unpriced) = self.text(&["models", "unpriced"]) {
            self.out.settings.models.must_have_price = unpriced.value == "refuse";
        }
        if let Some(retries) = self.whole(&["models", "retries"]) {
            self.out.settings.models.retries = retries.value;
        }
    }

    /// A provider that is named must be configured; a well-known one may still wait for its key.
    fn check_provider(&mut self, name: &Placed<String>, path: &str) {
        let providers = &self.out.settings.models.providers;
        if providers.contains_key(&name.value) || BUILT_IN.contains(&name.value.as_str()) {
            return;
        }
        if KNOWN_PROVIDERS.iter().any(|(known, ..)| *known == name.value) {
            self.out.warnings.push(format!(
                "{}: {path}: the provider `{}` has no credentials, so this cannot be used yet",
                name.place, name.value
            ));
            return;
        }
        let known: Vec<&str> = providers.keys().map(String::as_str).collect();
        let what = match nearest(&name.value, known.iter().copied()) {
            Some(meant) => {
                format!("no provider {} is configured; did you mean `{meant}`?", show(&name.value))
            }
            None if known.is_empty() => {
                format!("no provider {} is configured; add it to {}", show(&name.value), PROVIDERS.join("."))
            }
            None => {
                format!("no provider {} is configured; configured: {}", show(&name.value), known.join(", "))
            }
        };
        self.mistake(&name.place, path, what);
    }

    pub(super) fn session_model(&mut self) {
        let default_provider = self.default_provider();
        if let Some(name) = self.text(&["credentials", "providers", "default"]) {
            self.check_provider(&name, "credentials.providers.default");
        }
        let now = self.text(&["models", "defaults", "session_model"]);
        let agent = self.text(&["defaults", "agent", "model"]);
        let asked = match (now, agent) {
            (Some(model), _) => Some((model, "models.defaults.session_model")),
            (None, Some(model)) => Some((model, "defaults.agent.model")),
            (None, None) => None,
        };
        let chosen = match asked {
            Some((model, path)) => self.known_model(model, path, default_provider.as_deref()),
            None => default_provider.and_then(|name| {
                let model = self.out.settings.models.providers.get(&name)?.default_model.as_ref()?;
                Some(format!("{name}/{model}"))
            }),
        };
        self.out.settings.models.session_model = chosen;
    }

    /// An alias, or `provider/model`; the bare name of a model belongs to the default provider.
    fn known_model(&mut self, model: Placed<String>, path: &str, provider: Option<&str>) -> Option<String> {
        let models = &self.out.settings.models;
        let name = model.value.as_str();
        let prefix = name.split_once('/').map(|(prefix, _)| prefix);
        let is_full = prefix.is_some_and(|p| models.providers.contains_key(p) || BUILT_IN.contains(&p));
        if models.aliases.contains_key(name) || is_full {
            return Some(model.value);
        }
        if let Some(meant) = nearest(name, models.aliases.keys().map(String::as_str)) {
            let what = format!(
                "no alias {} is configured; did you mean `{meant}`? \
                 A model that really has this name is written `provider/{}`",
                show(name),
                show(name).trim_matches('`')
            );
            self.mistake(&model.place, path, what);
            return None;
        }
        match provider {
            Some(provider) => Some(format!("{provider}/{name}")),
            None => Some(model.value),
        }
    }
}

/// The wires that a word of the configuration stands for.
fn wires(word: &str, url: &str) -> Vec<Wire> {
    match word {
        "responses" => vec![Wire::Responses],
        // Its newest models want bounds and effort as this wire says them, so it is the one to translate to.
        "openai" => vec![Wire::Responses, Wire::Chat],
        "anthropic" => vec![Wire::Messages],
        // Google's own form, and the OpenAI-compatible one that lies under it.
        "google" if url.trim_end_matches('/').ends_with("/openai") => vec![Wire::Google, Wire::Chat],
        "google" => vec![Wire::Google],
        _ => vec![Wire::Chat],
    }
}

/// True if this word means that calls of tools are held to a schema.
fn holds_calls(word: &str) -> bool {
    word == "schema"
}

/// True if a key that goes there can be read on its way.
fn is_plain_http(url: &str) -> bool {
    url.to_ascii_lowercase().starts_with("http://") && !is_loopback(url)
}

/// True if what goes there stays on this machine.
fn is_loopback(url: &str) -> bool {
    let url = url.to_ascii_lowercase();
    let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
