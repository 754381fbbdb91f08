//! Models: which one a session gets, and whether each provider answers and takes its key. A key is never shown.

use std::sync::Arc;

use futures_util::future::join_all;
use ob_config::Loaded;
use ob_config::ProviderSettings;
use ob_core::Check;
use ob_core::model::Wire;
use ob_engine::Catalogue;
use ob_engine::Demonstration;
use ob_engine::health::CHECK_MAX;
use ob_engine::health::in_time;
use ob_gate::discovery::Answer;
use ob_gate::discovery::Asked;
use ob_gate::models::Models;

use crate::server::demo_model;
use crate::server::own_program;

/// What is left of a check's time for the network, so that a provider that hangs is told by name.
const ASK_MAX: std::time::Duration = CHECK_MAX.saturating_sub(std::time::Duration::from_millis(200));

/// The model of sessions that name none, and each provider.
pub(super) async fn all(loaded: Arc<Loaded>) -> Vec<Check> {
    let models = &loaded.settings.models;
    let demonstration = demo_model::find(&own_program())
        .map(|program| Arc::new(demo_model::DemoModel::new(program)) as Arc<dyn Demonstration>);
    let catalogue = Catalogue::new(models.clone(), Arc::new(Models::new()), demonstration);
    let default = in_time("model", "sessions that name no model are refused", catalogue.check());
    let providers = join_all(models.providers.iter().map(|(name, settings)| provider(name, settings)));
    let (default, providers) = futures_util::future::join(default, providers).await;
    std::iter::once(default).chain(providers).collect()
}

/// Whether a provider answers, and takes the key that is configured for it.
async fn provider(name: &str, settings: &ProviderSettings) -> Check {
    let check = format!("provider:{name}");
    let cost = format!("sessions with a model of `{name}` fail at their first call");
    let key = settings.api_key.as_ref().or(settings.more_keys.first());
    let wire = settings.wires.first().copied().unwrap_or(Wire::Chat);
    let has = if key.is_some() { "a key is set" } else { "no key is set" };
    let Asked { host, answer, .. } = ob_gate::discovery::ask(&settings.base_url, wire, key, ASK_MAX).await;
    let set = format!(
        "set `credentials.providers.credentials.{name}.api_key`, or the provider's variable, to a valid key"
    );
    match answer {
        Answer::Lists => Check::ok(check, format!("{host} answers; {has}")),
        Answer::Refuses if key.is_some() => {
            Check::failed(check, format!("{host} refuses the key"), cost).fix(set)
        }
        Answer::Refuses => {
            Check::missing(check, format!("{host} wants a key and none is set"), cost).fix(set)
        }
        // Some lack a list of models and serve all the same.
        Answer::Other(status) if status < 500 => {
            Check::ok(check, format!("{host} answers, and lists no models ({status}); {has}"))
        }
        Answer::Other(status) => Check::failed(check, format!("{host} answers {status}; {has}"), cost)
            .fix("wait, or ask the provider's status page"),
        Answer::Unreachable => Check::failed(check, format!("no connection to {host}; {has}"), cost).mend(
            "check its `base_url`, that it runs, and the network",
            [format!("curl -sS -m 5 -o /dev/null {host}")],
        ),
        Answer::Late => {
            let found = format!("{host} did not answer within {} ms; {has}", ASK_MAX.as_millis());
            Check::failed(check, found, cost)
                .mend("check that it runs, and the network", [format!("curl -sS -m 5 -o /dev/null {host}")])
        }
        Answer::Malformed => {
            Check::failed(check, "its `base_url` is no URL".to_owned(), cost).fix("correct its `base_url`")
        }
    }
}
