//! Which model a session gets, and from where.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use ob_config::ModelAlias;
use ob_core::RefusalCode;
use ob_testkit::Answer;
use ob_testkit::ModelServer;

use super::*;

#[derive(Default)]
struct Demo {
    starts: AtomicUsize,
}

#[async_trait]
impl Demonstration for Demo {
    fn model(&self) -> &str {
        "demo-model"
    }

    async fn start(&self) -> Result<String, Refusal> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok("http://127.0.0.1:1/v1".to_owned())
    }
}

fn provider(default_model: Option<&str>) -> ProviderSettings {
    ProviderSettings {
        base_url: "http://127.0.0.1:1/v1".to_owned(),
        wires: vec![Wire::Chat],
        api_key: None,
        more_keys: Vec::new(),
        default_model: default_model.map(ToOwned::to_owned),
    }
}

fn alias(provider: &str, model: &str) -> ModelAlias {
    ModelAlias {
        provider: provider.to_owned(),
        model: model.to_owned(),
        base_url: None,
        api_key: None,
        max_output_tokens: None,
        wires: None,
        extra_headers: std::collections::BTreeMap::new(),
        price: None,
    }
}

/// Nothing is configured, and no port is looked at.
fn nothing() -> ModelSettings {
    ModelSettings { discover_ports: Vec::new(), ..ModelSettings::default() }
}

/// Two providers, one of them with a default model, and an alias.
fn configured() -> ModelSettings {
    let mut settings = nothing();
    settings.providers.insert("alpha".to_owned(), provider(None));
    settings.providers.insert("beta".to_owned(), provider(Some("large")));
    settings.aliases.insert("quick".to_owned(), alias("beta", "small"));
    settings
}

fn catalogue(settings: ModelSettings, demonstration: bool) -> Catalogue {
    let demonstration = demonstration.then(|| Arc::new(Demo::default()) as Arc<dyn Demonstration>);
    Catalogue::new(settings, Arc::new(Models::new()), demonstration)
}

#[tokio::test]
async fn what_was_named_comes_before_every_default_and_each_default_before_the_next() {
    let model_server = ModelServer::start().await.expect("a loopback port");
    let listed = serde_json::json!({ "object": "list", "data": [{ "id": "found", "object": "model" }] });
    model_server.otherwise(Answer::status(200, listed.to_string()));
    let with_local = |mut settings: ModelSettings| {
        settings.discover_ports = vec![model_server.address().port()];
        settings
    };
    let with_session_model = |mut settings: ModelSettings| {
        settings.session_model = Some("alpha/chosen".to_owned());
        settings
    };
    let cases = [
        ("an alias by name", Some("quick"), with_session_model(with_local(configured())), "quick/small"),
        ("a full name", Some("alpha/x/y"), with_session_model(configured()), "alpha/x/y"),
        ("a provider by name", Some("beta"), configured(), "beta/large"),
        ("the session model", None, with_session_model(with_local(configured())), "alpha/chosen"),
        ("a provider's default model", None, with_local(configured()), "beta/large"),
        ("a local server", None, with_local(nothing()), "local/found (found on this machine)"),
        ("the demonstration", None, nothing(), "demo-model (scripted demonstration, not a language model)"),
        (
            "the demonstration by its full name",
            Some("demonstration/demo-model"),
            with_session_model(configured()),
            "demo-model (scripted demonstration, not a language model)",
        ),
    ];
    for (what, name, settings, expected) in cases {
        let model = catalogue(settings, true).resolve(name).await.expect(what);
        assert_eq!(model.to_string(), expected, "{what}");
    }
}

#[tokio::test]
async fn without_any_model_the_refusal_says_how_to_get_one() {
    let mut without_default = nothing();
    without_default.providers.insert("alpha".to_owned(), provider(None));
    let mut no_demonstration = nothing();
    no_demonstration.demonstration = false;
    let cases = [
        ("nothing at all", None, nothing(), false, RefusalCode::Unavailable, "OPENAI_API_KEY"),
        ("switched off", None, no_demonstration, true, RefusalCode::Unavailable, "OPENAI_API_KEY"),
        (
            "a provider without a default model",
            None,
            without_default,
            true,
            RefusalCode::InvalidArgument,
            "session_model",
        ),
        ("an unknown name", Some("qick"), configured(), true, RefusalCode::NotFound, "quick, alpha, beta"),
        ("an unknown provider", Some("gamma/x"), configured(), true, RefusalCode::NotFound, "PROVIDER/MODEL"),
        (
            "another model of the demonstration",
            Some("demonstration/x"),
            nothing(),
            true,
            RefusalCode::NotFound,
            "PROVIDER/MODEL",
        ),
    ];
    for (what, name, settings, demonstration, code, fix) in cases {
        let refusal = catalogue(settings, demonstration).resolve(name).await.expect_err(what);
        assert_eq!(refusal.code, code, "{what}: {refusal}");
        let said = refusal.fix.expect(what);
        assert!(said.contains(fix), "{what}: {said}");
    }
}

#[tokio::test]
async fn another_configuration_counts_from_the_next_call_on() {
    let models = Arc::new(Models::new());
    let catalogue = Catalogue::new(configured(), Arc::clone(&models), None);
    let large = catalogue.resolve(Some("beta/large")).await.expect("configured");
    let quick = catalogue.resolve(Some("quick")).await.expect("configured");
    let mut settings = configured();
    settings.aliases.remove("quick");
    let beta = settings.providers.get_mut("beta").expect("it is configured");
    beta.base_url = "http://127.0.0.1:2/v1".to_owned();
    beta.api_key = Some("k-new".to_owned().into());
    catalogue.apply(settings);
    let provider = models.provider(&large).expect("still configured");
    assert_eq!(provider.base_url, "http://127.0.0.1:2/v1");
    assert!(provider.keys.count() > 0, "with its new key");
    assert!(models.provider(&quick).is_err(), "what is not configured any more is not asked");
}

#[tokio::test]
async fn a_model_costs_what_its_alias_its_name_or_the_default_says() {
    let price = |input: u64| ob_core::model::Price {
        input: ob_core::MicroUsd(input),
        output: ob_core::MicroUsd(1),
        ..ob_core::model::Price::default()
    };
    let mut settings = configured();
    settings.must_have_price = true;
    settings.prices.insert("large".to_owned(), Prices::always(price(2)));
    settings.prices.insert("default".to_owned(), Prices::always(price(3)));
    let dear =
        ModelAlias { price: Some(price(1)), wires: Some(vec![Wire::Google]), ..alias("beta", "large") };
    settings.aliases.insert("dear".to_owned(), dear);
    let models = Arc::new(Models::new());
    let catalogue = Catalogue::new(settings, Arc::clone(&models), None);
    for (name, expected) in [("dear", 1), ("beta/large", 2), ("alpha/vendor/large", 2), ("alpha/other", 3)] {
        let model = catalogue.resolve(Some(name)).await.expect("configured");
        let provider = models.provider(&model).expect("it was resolved");
        let now = ob_core::Timestamp::from_micros(0);
        assert_eq!(provider.prices.at(now), Some(price(expected)), "{name}");
        assert!(provider.must_have_price);
        assert_eq!(provider.wires, [if name == "dear" { Wire::Google } else { Wire::Chat }], "{name}");
    }
}
