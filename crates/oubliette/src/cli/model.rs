//! `oubliette model`.

use ob_core::Refusal;
use ob_core::model::ModelChecked;
use ob_core::model::ModelView;
use ob_core::model::Pricing;
use ob_core::model::ToolCall;
use ob_core::operation::ModelTarget;
use ob_core::operation::Nothing;
use ob_core::operation::Operation;

use super::OK;
use super::UNHEALTHY;
use super::args::ModelCommand;
use super::hub::Hub;
use super::output::Output;
use super::table::Table;
use super::text;

/// What stands where nothing is known.
const UNKNOWN: &str = "-";

/// Runs the command.
pub(crate) async fn command(command: ModelCommand, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    match command {
        ModelCommand::List => {
            let models: Vec<ModelView> = hub.client.call(Operation::ModelList, &Nothing {}).await?;
            output.data(&models, || {
                let table = Table::new("NAME")
                    .state("STATE", 0)
                    .column("CONTEXT", 2)
                    .column("PRICE", 3)
                    .column("WIRES", 4)
                    .text("WHERE", 1);
                output.table(&table.rows(models.iter().map(row)))
            });
            if models.is_empty() {
                output.hint("there is no model: set OPENAI_API_KEY, or start a local server such as Ollama");
            }
            for model in &models {
                if let (Some(problem), fix) = (&model.problem, &model.fix) {
                    let fix = fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
                    output.hint(&text::one_line(&format!("{}: {problem}{fix}", model.name)));
                }
            }
            Ok(OK)
        }
        ModelCommand::Check { name } => {
            let target = ModelTarget { model: name };
            let checked: ModelChecked = hub.client.call(Operation::ModelCheck, &target).await?;
            output.data(&checked, || described(&checked));
            if checked.works {
                return Ok(OK);
            }
            if let Some(fix) = &checked.model.fix {
                output.hint(&text::one_line(fix));
            }
            Ok(UNHEALTHY)
        }
    }
}

fn row(model: &ModelView) -> Vec<String> {
    let state = match (model.problem.is_none() && model.is_reachable, model.is_default) {
        (true, true) => "default",
        (true, false) => "ok",
        (false, _) => "unusable",
    };
    vec![
        model.name.clone(),
        state.to_owned(),
        model.context_window.map_or_else(|| UNKNOWN.to_owned(), |window| window.to_string()),
        price(model).to_owned(),
        wires(model),
        place(model),
    ]
}

const fn price(model: &ModelView) -> &'static str {
    match model.pricing {
        Pricing::Priced => "known",
        Pricing::Free => "free",
        Pricing::Unpriced => "unknown",
        Pricing::Refused => "refused",
    }
}

fn wires(model: &ModelView) -> String {
    let words: Vec<&str> = model.wires.iter().map(|wire| wire.as_str()).collect();
    if words.is_empty() { UNKNOWN.to_owned() } else { words.join(",") }
}

fn place(model: &ModelView) -> String {
    let url = model.base_url.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    match (&model.server, model.source) {
        (Some(server), _) => format!("{url} ({server})"),
        (None, ob_core::model::ModelSource::Demonstration) => "scripted, not a language model".to_owned(),
        (None, _) => url,
    }
}

fn described(checked: &ModelChecked) -> String {
    let model = &checked.model;
    let or_unknown = |known: Option<String>| known.unwrap_or_else(|| UNKNOWN.to_owned());
    let millis = |millis: Option<u64>| or_unknown(millis.map(|millis| format!("{millis} ms")));
    let tool_call = match checked.tool_call {
        Some(ToolCall::WellFormed) => "well-formed",
        Some(ToolCall::Malformed) => "malformed",
        Some(ToolCall::Missing) => "not made",
        None => UNKNOWN,
    };
    let price = match model.price {
        Some(price) => format!("{} read, {} written, for a million tokens", price.input, price.output),
        None => price(model).to_owned(),
    };
    let used =
        checked.tokens.map(|tokens| format!("{} tokens read, {} written", tokens.input, tokens.output));
    let lines = [
        ("name", model.name.clone()),
        ("model", or_unknown(model.model.clone())),
        ("where", place(model)),
        ("wires", wires(model)),
        ("key", if model.has_key { "set" } else { "none" }.to_owned()),
        ("context", or_unknown(model.context_window.map(|window| format!("{window} tokens")))),
        ("price", price),
        ("works", if checked.works { "yes".to_owned() } else { or_unknown(model.problem.clone()) }),
        ("first byte", millis(checked.first_byte_ms)),
        ("took", millis(checked.took_ms)),
        ("tool call", tool_call.to_owned()),
        ("used", or_unknown(used)),
        ("cost", or_unknown(checked.cost.map(|cost| cost.to_string()))),
    ];
    lines.iter().map(|(name, value)| format!("{name:<10}  {}\n", text::one_line(value))).collect()
}

#[cfg(test)]
mod tests {
    use ob_core::MicroUsd;
    use ob_core::model::ModelSource;
    use ob_core::model::Price;
    use ob_core::model::Tokens;
    use ob_core::model::Wire;

    use super::*;

    fn view() -> ModelView {
        ModelView {
            name: "quick".to_owned(),
            source: ModelSource::Configured,
            provider: "acme".to_owned(),
            model: Some("small-1".to_owned()),
            is_default: true,
            server: None,
            wires: vec![Wire::Responses, Wire::Chat],
            base_url: Some("https://acme.example/v1".to_owned()),
            has_key: true,
            context_window: Some(128_000),
            pricing: Pricing::Priced,
            price: Some(Price { input: MicroUsd(250_000), output: MicroUsd(2_000_000), ..Price::default() }),
            is_reachable: true,
            problem: None,
            fix: None,
        }
    }

    #[test]
    fn a_checked_model_is_described_with_what_was_measured_and_what_is_wrong() {
        let works = ModelChecked {
            model: view(),
            works: true,
            first_byte_ms: Some(210),
            took_ms: Some(480),
            tool_call: Some(ToolCall::WellFormed),
            tokens: Some(Tokens { input: 90, output: 20, ..Tokens::default() }),
            cost: Some(MicroUsd(63)),
        };
        let problem = Some("it answers\u{1b}[2J, and did not call the tool".to_owned());
        let local = ModelView {
            name: "llamacpp/small.gguf".to_owned(),
            source: ModelSource::Local,
            server: Some("llama.cpp".to_owned()),
            is_default: false,
            pricing: Pricing::Free,
            price: None,
            context_window: None,
            has_key: false,
            problem,
            ..view()
        };
        let idle = ModelChecked {
            model: local.clone(),
            works: false,
            first_byte_ms: None,
            took_ms: None,
            tool_call: None,
            tokens: None,
            cost: None,
        };
        insta::assert_snapshot!(described(&works) + "---\n" + &described(&idle));
        assert_eq!((row(&view())[1].as_str(), row(&local)[1].as_str()), ("default", "unusable"));
    }
}
