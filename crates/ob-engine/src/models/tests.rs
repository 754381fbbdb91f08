//! Which model a session gets, and from where.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use ob_config::ModelAlias;
use ob_core::RefusalCode;
use ob_core::model::Pricing;
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
        holds_calls: false,
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
        holds_calls: None,
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

/// A server that lists these models as this program does.
async fn served(owner: &str, models: &[&str]) -> ModelServer {
    let server = ModelServer::start().await.expect("a loopback port");
    let entries: Vec<_> = models
        .iter()
        .map(|id| serde_json::json!({ "id": id, "owned_by": owner, "max_model_len": 4096 }))
        .collect();
    server.otherwise(Answer::status(200, serde_json::json!({ "data": entries }).to_string()));
    server
}

fn with_ports(mut settings: ModelSettings, servers: &[&ModelServer]) -> ModelSettings {
    settings.discover_ports = servers.iter().map(|server| server.address().port()).collect();
    settings
}

/// What a name means once all servers answer: on a busy machine they may be late.
async fn named(catalogue: &Catalogue, name: &str) -> String {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match catalogue.resolve(Some(name)).await {
            Ok(model) => return model.to_string(),
            Err(refusal) if refusal.code != RefusalCode::Unavailable => return refusal.to_string(),
            Err(refusal) if tokio::time::Instant::now() > deadline => panic!("{name}: {refusal}"),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn a_model_of_this_machine_is_named_by_its_program_and_never_replaced_by_another() {
    let vllm = served("vllm", &["large"]).await;
    let ollama = served("library", &["small:latest", "other:7b"]).await;
    let mut settings = with_ports(configured(), &[&vllm, &ollama]);
    settings.aliases.insert("mine".to_owned(), alias("ollama", "other:7b"));
    let models = Arc::new(Models::new());
    let catalogue = Catalogue::new(settings, Arc::clone(&models), None);
    for (name, expected, server) in [
        ("vllm/large", "vllm/large (found on this machine)", &vllm),
        ("vllm", "vllm/large (found on this machine)", &vllm),
        ("ollama/small", "ollama/small:latest (found on this machine)", &ollama),
        ("local/other:7b", "local/other:7b (found on this machine)", &ollama),
        // An alias needs no provider in the configuration if its server is found.
        ("mine", "ollama/other:7b (found on this machine)", &ollama),
    ] {
        assert_eq!(named(&catalogue, name).await, expected);
        let model = catalogue.resolve(Some(name)).await.expect("it was found");
        assert_eq!(models.provider(&model).expect("resolved").base_url, server.base_url(), "{name}");
    }
    let unknown = named(&catalogue, "vllm/small").await;
    assert!(unknown.contains("`vllm/small` not found") && unknown.contains("serves: large"), "{unknown}");
    let missing = catalogue.resolve(Some("llamacpp/large")).await.expect_err("it does not run");
    assert_eq!(missing.code, RefusalCode::Unavailable);
    assert!(missing.fix.is_some_and(|fix| fix.contains("llama-server")));
    // A session whose server went away, or serves something else now, waits for its own.
    let gone = reference("vllm", "small".to_owned(), ModelSource::Local);
    let refused = catalogue.ensure(&gone).await.expect_err("nobody serves it");
    assert_eq!(refused.code, RefusalCode::Unavailable, "{refused}");
    for wrong in ["", &"x".repeat(MAX_NAME + 1)] {
        let refused = catalogue.resolve(Some(wrong)).await.expect_err("no name");
        assert_eq!(refused.code, RefusalCode::InvalidArgument);
    }
}

#[tokio::test]
async fn the_list_has_what_can_be_named_and_says_what_is_wrong_with_the_rest() {
    let hosted = served("acme", &["large"]).await;
    let refusing = ModelServer::start().await.expect("a loopback port");
    refusing.otherwise(Answer::status(401, "{}"));
    let vllm = served("vllm", &["found"]).await;
    let mut settings = with_ports(configured(), &[&vllm, &hosted]);
    settings.must_have_price = true;
    settings.prices.insert("large".to_owned(), Prices::always(ob_core::model::Price::default()));
    let key = SecretString::from("sk-never-shown-0123456789".to_owned());
    let at = |server: &ModelServer| format!("http://user:pass@127.0.0.1:{}/v1", server.address().port());
    settings.providers.insert(
        "beta".to_owned(),
        ProviderSettings { base_url: at(&hosted), api_key: Some(key.clone()), ..provider(Some("large")) },
    );
    settings.providers.insert(
        "gamma".to_owned(),
        ProviderSettings { base_url: refusing.base_url(), api_key: Some(key), ..provider(Some("x")) },
    );
    settings.aliases.insert("mine".to_owned(), alias("vllm", "found"));
    settings.aliases.insert("lost".to_owned(), alias("ollama", "found"));
    let catalogue = catalogue(settings, true);
    let now = ob_core::Timestamp::from_micros(0);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let views = loop {
        let views = catalogue.list(now).await;
        if views.iter().any(|view| view.name == "vllm/found") || tokio::time::Instant::now() > deadline {
            break views;
        }
    };
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    let expected =
        ["quick", "alpha", "beta/large", "gamma/x", "lost", "mine", "vllm/found", "demonstration/demo-model"];
    assert_eq!(names, expected);
    let view = |name: &str| views.iter().find(|view| view.name == name).expect("it is listed");

    let large = view("beta/large");
    assert!(large.is_reachable && large.has_key && large.is_default && large.problem.is_none(), "{large:?}");
    assert_eq!(large.context_window, Some(4096));
    assert_eq!((large.pricing, large.price.is_some()), (Pricing::Priced, true));
    assert_eq!(large.base_url, Some(hosted.base_url()), "without who asks");
    // The alias is one of a server of this machine, which lists what it has.
    let quick = view("quick");
    assert!(quick.problem.as_ref().is_some_and(|problem| problem.contains("no such model")), "{quick:?}");
    assert_eq!(quick.pricing, Pricing::Refused);
    for (name, problem) in [
        ("alpha", "no connection to http://127.0.0.1:1"),
        ("gamma/x", "refuses the key"),
        ("lost", "no Ollama of this machine serves it"),
    ] {
        let view = view(name);
        assert!(!view.is_reachable && view.fix.is_some(), "{view:?}");
        assert!(view.problem.as_ref().is_some_and(|said| said.contains(problem)), "{view:?}");
    }
    for name in ["mine", "vllm/found"] {
        let view = view(name);
        assert_eq!((view.pricing, view.server.as_deref()), (Pricing::Free, Some("vLLM")));
        assert!(view.is_reachable && view.context_window == Some(4096), "{view:?}");
    }
    let told = serde_json::to_string(&views).expect("JSON");
    assert!(!told.contains("never-shown") && !told.contains("pass"), "{told}");

    // A model that is not listed has the row of its provider.
    let other = reference("beta", "other".to_owned(), ModelSource::Configured);
    let other = catalogue.view(&other, now).await;
    assert_eq!((other.name.as_str(), other.model.as_deref()), ("beta/other", Some("other")));
    assert_eq!((other.pricing, other.has_key, other.is_default), (Pricing::Refused, true, false));
}
