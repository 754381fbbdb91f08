//! The models that sessions can name, each with whether it can be used right now. Calls none, and spends nothing.
//!
//! ```text
//! configuration: aliases, providers --one question for each place--> listed, refused, late, unreachable --> rows
//! this machine:  ports              --one question for each port---> servers with their models -----------> rows
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use ob_config::ModelSettings;
use ob_core::Refusal;
use ob_core::Timestamp;
use ob_core::model::ModelRef;
use ob_core::model::ModelSource;
use ob_core::model::ModelView;
use ob_core::model::Pricing;
use ob_core::model::Wire;
use ob_gate::discovery;
use ob_gate::discovery::Answer;
use ob_gate::discovery::Asked;
use ob_gate::discovery::Found;
use ob_gate::discovery::Program;
use secrecy::SecretString;

use super::Catalogue;
use super::configured;
use super::found_for;
use super::reference;
use super::serving;

/// How long a provider may take to list its models. All are asked at once.
const ASK_MAX: Duration = Duration::from_secs(3);

/// Somewhere that models are asked for: a provider, or an alias with a place or a key of its own.
struct Place {
    base_url: String,
    wire: Wire,
    key: Option<SecretString>,
}

/// What is wrong, and what mends it.
type Problem = (String, String);

// === impl Catalogue ===

impl Catalogue {
    /// Every model that sessions can name: those of the configuration, those of servers that were found on this machine, and
    /// the demonstration.
    pub(crate) async fn list(&self, now: Timestamp) -> Vec<ModelView> {
        let settings = self.settings.get();
        let places = places(&settings);
        let asking = join_all(places.iter().map(async |(name, place)| {
            let asked = discovery::ask(&place.base_url, place.wire, place.key.as_ref(), ASK_MAX).await;
            (name.clone(), asked)
        }));
        let (asked, found, default) = tokio::join!(asking, closely(&settings), self.default());
        let asked: BTreeMap<String, Asked> = asked.into_iter().collect();
        let mut views = of_configuration(&settings, &asked, now);
        // What is configured by its address is not found a second time.
        let is_configured = |server: &Found| {
            let port = discovery::port_here(&server.base_url);
            places.values().any(|place| discovery::port_here(&place.base_url) == port)
        };
        views.extend(settings.aliases.iter().filter_map(|(name, alias)| {
            let program = found_for(&settings, alias)?;
            Some(of_alias(name, program, &alias.model, &found))
        }));
        views.extend(found.iter().filter(|server| !is_configured(server)).flat_map(of_server));
        views
            .extend(self.demonstration().ok().map(|demonstration| demonstration_view(demonstration.model())));
        let mut names = std::collections::BTreeSet::new();
        // Of two servers with a model of the same name the first is asked.
        views.retain(|view| names.insert(view.name.clone()));
        for view in &mut views {
            view.is_default = default.as_ref().is_ok_and(|default| is_of(default, view));
        }
        views
    }

    /// The row of a model that was resolved, whether or not it is in the list.
    pub(crate) async fn view(&self, model: &ModelRef, now: Timestamp) -> ModelView {
        let listed = self.list(now).await;
        if let Some(view) = listed.iter().find(|view| is_of(model, view)) {
            return view.clone();
        }
        // Another model of a provider that has a row.
        let settings = self.settings.get();
        let mut view = blank(format!("{}/{}", model.provider, model.model), &model.provider, model.source);
        view.model = Some(model.model.clone());
        if let Some(row) =
            listed.iter().find(|row| row.provider == model.provider && row.source == model.source)
        {
            view = ModelView {
                name: view.name,
                model: view.model,
                is_default: false,
                context_window: None,
                ..row.clone()
            };
        }
        if let Ok(provider) = configured(&settings, model).map(|provider| provider.prices.at(now))
            && model.source == ModelSource::Configured
        {
            (view.price, view.pricing) = (provider, pricing(&settings, provider.is_some()));
        }
        view
    }

    /// The model of sessions that name none. Starts nothing.
    async fn default(&self) -> Result<ModelRef, Refusal> {
        match self.settings.get().session_model.as_deref() {
            Some(name) => self.named(name).await,
            None => self.default_model().await,
        }
    }
}

/// Whom to ask, by the name of the provider or of the alias.
fn places(settings: &ModelSettings) -> BTreeMap<String, Place> {
    let providers = settings.providers.iter().map(|(name, provider)| {
        let key = provider.api_key.as_ref().or(provider.more_keys.first()).cloned();
        let wire = provider.wires.first().copied().unwrap_or(Wire::Chat);
        (name.clone(), Place { base_url: provider.base_url.clone(), wire, key })
    });
    let aliases = settings.aliases.iter().filter_map(|(name, alias)| {
        if alias.base_url.is_none() && alias.api_key.is_none() {
            return None;
        }
        let provider = settings.providers.get(&alias.provider);
        let base_url = alias.base_url.clone().or_else(|| Some(provider?.base_url.clone()))?;
        let wires = alias.wires.as_ref().or(provider.map(|provider| &provider.wires));
        let wire = wires.and_then(|wires| wires.first()).copied().unwrap_or(Wire::Chat);
        let key = alias.api_key.as_ref().or_else(|| provider?.api_key.as_ref()).cloned();
        Some((name.clone(), Place { base_url, wire, key }))
    });
    providers.chain(aliases).collect()
}

/// Servers of this machine, with the windows that they tell only when asked for them.
async fn closely(settings: &ModelSettings) -> Vec<Found> {
    let mut found = discovery::find_local(&settings.discover_ports).await;
    join_all(found.iter_mut().map(Found::look_closer)).await;
    found
}

fn of_configuration(
    settings: &ModelSettings,
    asked: &BTreeMap<String, Asked>,
    now: Timestamp,
) -> Vec<ModelView> {
    let mut views = Vec::new();
    for (name, alias) in settings.aliases.iter().filter(|(_, alias)| found_for(settings, alias).is_none()) {
        let model = reference(name, alias.model.clone(), ModelSource::Configured);
        let asked = asked.get(name).or_else(|| asked.get(&alias.provider));
        let view = ModelView {
            name: name.clone(),
            provider: alias.provider.clone(),
            ..row(settings, &model, asked, now)
        };
        views.push(view);
    }
    for (name, provider) in &settings.providers {
        let asked = asked.get(name);
        match &provider.default_model {
            Some(model) => {
                let model = reference(name, model.clone(), ModelSource::Configured);
                views.push(row(settings, &model, asked, now));
            }
            None => {
                let model = reference(name, String::new(), ModelSource::Configured);
                let view = row(settings, &model, asked, now);
                views.push(ModelView { name: name.clone(), model: None, ..view });
            }
        }
        // A hosted provider lists hundreds; a server of this machine what somebody put there.
        if discovery::port_here(&provider.base_url).is_some() {
            for listed in asked.iter().flat_map(|asked| &asked.models) {
                let model = reference(name, listed.name.clone(), ModelSource::Configured);
                views.push(row(settings, &model, asked, now));
            }
        }
    }
    views
}

/// A row of a configured model.
fn row(settings: &ModelSettings, model: &ModelRef, asked: Option<&Asked>, now: Timestamp) -> ModelView {
    let mut view = blank(format!("{}/{}", model.provider, model.model), &model.provider, model.source);
    view.model = Some(model.model.clone());
    let provider = match configured(settings, model) {
        Ok(provider) => provider,
        Err(refusal) => {
            (view.problem, view.fix) = (Some(refusal.message), refusal.fix);
            return view;
        }
    };
    view.base_url = discovery::shown_url(&provider.base_url);
    view.wires.clone_from(&provider.wires);
    view.has_key = provider.keys.count() > 0;
    view.price = provider.prices.at(now);
    view.pricing = pricing(settings, view.price.is_some());
    let Some(asked) = asked else { return view };
    let listed = asked.models.iter().find(|listed| listed.name == model.model);
    view.context_window = listed.and_then(|listed| listed.context_window);
    let missing = || {
        let is_here = discovery::port_here(&provider.base_url).is_some();
        let names: Vec<&str> = asked.models.iter().map(|listed| listed.name.as_str()).collect();
        // A hosted provider may have more than it lists.
        (is_here && !model.model.is_empty() && listed.is_none() && !names.is_empty()).then(|| {
            (format!("{} serves no such model", asked.host), format!("it serves: {}", names.join(", ")))
        })
    };
    let problem = problem(asked, view.has_key).or_else(missing);
    view.is_reachable = problem.is_none();
    (view.problem, view.fix) = problem.unzip();
    view
}

fn problem(asked: &Asked, has_key: bool) -> Option<Problem> {
    let host = &asked.host;
    let (what, fix) = match asked.answer {
        // Some lack a list of models and serve all the same.
        Answer::Lists | Answer::Other(..500) => return None,
        Answer::Refuses if has_key => (format!("{host} refuses the key"), "set a valid key for its provider"),
        Answer::Refuses => (format!("{host} wants a key and none is set"), "set a key for its provider"),
        Answer::Other(status) => {
            (format!("{host} answers {status}"), "wait, or ask the provider's status page")
        }
        Answer::Unreachable => {
            (format!("no connection to {host}"), "check its base URL, that it runs, and the network")
        }
        Answer::Late => (
            format!("{host} did not answer within {} s", ASK_MAX.as_secs()),
            "check that it runs, and the network",
        ),
        Answer::Malformed => ("its base URL is no URL".to_owned(), "correct its base URL"),
    };
    Some((what, fix.to_owned()))
}

/// The row of an alias whose model is served on this machine.
fn of_alias(name: &str, program: Program, model: &str, found: &[Found]) -> ModelView {
    let served = serving(found, program, model).and_then(|(server, listed)| {
        let full = format!("{}/{}", server.program.provider(), listed.name);
        of_server(server).into_iter().find(|view| view.name == full)
    });
    match served {
        Some(view) => ModelView { name: name.to_owned(), ..view },
        None => ModelView {
            model: Some(model.to_owned()),
            server: Some(program.title().to_owned()),
            problem: Some(format!("no {} of this machine serves it", program.title())),
            fix: Some(program.start().to_owned()),
            ..blank(name.to_owned(), program.provider(), ModelSource::Local)
        },
    }
}

/// The rows of a server that was found.
fn of_server(server: &Found) -> Vec<ModelView> {
    let provider = server.program.provider();
    let view = |name: String| ModelView {
        server: Some(server.program.title().to_owned()),
        wires: vec![Wire::Chat],
        base_url: Some(server.base_url.clone()),
        is_reachable: true,
        ..blank(name, provider, ModelSource::Local)
    };
    if server.models.is_empty() {
        let problem = Some(format!("{} serves no model yet", server.program.title()));
        let fix = Some("give it one: `ollama pull NAME`".to_owned());
        return vec![ModelView { problem, fix, ..view(provider.to_owned()) }];
    }
    let of_model = |listed: &discovery::Listed| ModelView {
        model: Some(listed.name.clone()),
        context_window: listed.context_window,
        ..view(format!("{provider}/{}", listed.name))
    };
    server.models.iter().map(of_model).collect()
}

fn demonstration_view(model: &str) -> ModelView {
    let provider = super::DEMONSTRATION;
    ModelView {
        model: Some(model.to_owned()),
        wires: vec![Wire::Chat],
        is_reachable: true,
        ..blank(format!("{provider}/{model}"), provider, ModelSource::Demonstration)
    }
}

/// A row that says nothing yet.
fn blank(name: String, provider: &str, source: ModelSource) -> ModelView {
    ModelView {
        name,
        source,
        provider: provider.to_owned(),
        model: None,
        is_default: false,
        server: None,
        wires: Vec::new(),
        base_url: None,
        has_key: false,
        context_window: None,
        pricing: if source == ModelSource::Configured { Pricing::Unpriced } else { Pricing::Free },
        price: None,
        is_reachable: false,
        problem: None,
        fix: None,
    }
}

fn pricing(settings: &ModelSettings, has_price: bool) -> Pricing {
    match (has_price, settings.must_have_price) {
        (true, _) => Pricing::Priced,
        (false, true) => Pricing::Refused,
        (false, false) => Pricing::Unpriced,
    }
}

/// True if a row is about this model. An alias is the provider of its model.
fn is_of(model: &ModelRef, view: &ModelView) -> bool {
    let is_named = view.name == model.provider || view.name == format!("{}/{}", model.provider, model.model);
    view.source == model.source && is_named && view.model.as_ref() == Some(&model.model)
}
