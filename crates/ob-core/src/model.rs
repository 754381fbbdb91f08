//! Models as the configuration names them and the ledger prices them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::ledger::Amount;
use crate::ledger::MicroUsd;
use crate::time::Timestamp;

/// Where a model's provider came from; shown wherever the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A provider with a key, from the configuration or the environment.
    Configured,
    /// An OpenAI-compatible server found on loopback.
    Local,
    /// The scripted demonstration model. Not a language model.
    Demonstration,
}

/// A model, as sessions and events name it. Never holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    /// The provider's name in the configuration; for servers found on this machine `ollama`, `llamacpp`, `vllm` or `local`;
    /// or `demonstration`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// Where the provider came from.
    pub source: ModelSource,
}

/// A form in which models are asked and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// OpenAI's chat completions, which nearly every server has.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    #[serde(rename = "anthropic")]
    Messages,
    /// Google's `generateContent`.
    Google,
}

/// Tokens of one call, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tokens {
    /// Read, those of the cache included.
    pub input: u64,
    /// Of those read, the ones that came from the provider's cache.
    pub cached: u64,
    /// Of those read, the ones that the provider put into its cache.
    pub cache_written: u64,
    /// Written, those of reasoning included.
    pub output: u64,
    /// Of those written, the ones of reasoning.
    pub reasoning: u64,
}

/// What a model costs, by the day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// From when on each price holds; the earliest first.
    dated: Vec<(Timestamp, Price)>,
}

/// Whether it is known what a model costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pricing {
    /// It has a price today.
    Priced,
    /// It is on this machine and costs nothing.
    Free,
    /// It has no price today: its tokens count, and its cost does not.
    Unpriced,
    /// It has no price today, and `models.unpriced` refuses it.
    Refused,
}

/// A model that sessions can name, as the doors show it. Never holds a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelView {
    /// What sessions call it: an alias, or `provider/model`; the provider alone if it has no default model.
    pub name: String,
    /// Where its provider came from.
    pub source: ModelSource,
    /// The provider's name.
    pub provider: String,
    /// The model's name at the provider; nothing for a provider without a default model.
    #[serde(default)]
    pub model: Option<String>,
    /// True for the model of sessions that name none.
    pub is_default: bool,
    /// The program that serves it, if it was found on this machine.
    #[serde(default)]
    pub server: Option<String>,
    /// The wires that its provider speaks.
    pub wires: Vec<Wire>,
    /// Where its provider is, without what may be a secret in a URL.
    #[serde(default)]
    pub base_url: Option<String>,
    /// True if a key is set for it.
    pub has_key: bool,
    /// The tokens that a conversation may have, if its provider says so.
    #[serde(default)]
    pub context_window: Option<u64>,
    /// Whether it is known what it costs.
    pub pricing: Pricing,
    /// What it costs today.
    #[serde(default)]
    pub price: Option<Price>,
    /// True if its provider answers and takes the key. No model was called to find out.
    pub is_reachable: bool,
    /// Why it cannot be used, if so.
    #[serde(default)]
    pub problem: Option<String>,
    /// What mends that.
    #[serde(default)]
    pub fix: Option<String>,
}

/// What became of the tool that a model on trial was to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolCall {
    /// It was called, with the arguments that its schema asks for.
    WellFormed,
    /// It was called with something else.
    Malformed,
    /// It was not called.
    Missing,
}

/// What `model check` found: one small request was sent the way that requests of agents go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelChecked {
    /// The model.
    pub model: ModelView,
    /// True if it answered and called the tool well: an agent can work with it.
    pub works: bool,
    /// Milliseconds until the first piece of its answer.
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    /// Milliseconds until the end of its answer.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// What became of the tool that it was to call; nothing if it did not answer.
    #[serde(default)]
    pub tool_call: Option<ToolCall>,
    /// What the answer used.
    #[serde(default)]
    pub tokens: Option<Tokens>,
    /// What that cost, in millionths of a US dollar, if it has a price.
    #[serde(default)]
    pub cost: Option<MicroUsd>,
}

/// Prices in millionths of a US dollar for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Price {
    /// For a million tokens read.
    pub input: MicroUsd,
    /// For a million tokens written.
    pub output: MicroUsd,
    /// For a million tokens read from the provider's cache; the input price if unset.
    #[serde(default)]
    pub cached_input: Option<MicroUsd>,
    /// For a million tokens put into the provider's cache; the input price if unset.
    #[serde(default)]
    pub cache_write: Option<MicroUsd>,
}

// === impl ModelRef ===

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source {
            ModelSource::Configured => write!(f, "{}/{}", self.provider, self.model),
            ModelSource::Local => write!(f, "{}/{} (found on this machine)", self.provider, self.model),
            ModelSource::Demonstration => {
                write!(f, "{} (scripted demonstration, not a language model)", self.model)
            }
        }
    }
}

// === impl Wire ===

impl Wire {
    /// Its word in the configuration and on the doors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "anthropic",
            Self::Google => "google",
        }
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chat => "OpenAI's chat completions",
            Self::Responses => "OpenAI's responses",
            Self::Messages => "Anthropic's messages",
            Self::Google => "Google's generateContent",
        })
    }
}

// === impl Tokens ===

impl Tokens {
    /// Read and written.
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// The same, with no part larger than its whole, whatever a provider says.
    #[must_use]
    pub fn plausible(mut self) -> Self {
        self.cached = self.cached.min(self.input);
        self.cache_written = self.cache_written.min(self.input - self.cached);
        self.reasoning = self.reasoning.min(self.output);
        self
    }
}

// === impl Prices ===

impl Prices {
    /// Prices that hold from these instants on.
    pub fn new(mut dated: Vec<(Timestamp, Price)>) -> Self {
        dated.sort_by_key(|(since, _)| *since);
        Self { dated }
    }

    /// A price that always holds.
    pub fn always(price: Price) -> Self {
        Self { dated: vec![(Timestamp::from_micros(i64::MIN), price)] }
    }

    /// The price that holds now. Before the first there is none.
    pub fn at(&self, now: Timestamp) -> Option<Price> {
        self.dated.iter().rev().find(|(since, _)| *since <= now).map(|(_, price)| *price)
    }

    /// True if no price is known.
    pub fn is_empty(&self) -> bool {
        self.dated.is_empty()
    }
}

// === impl Price ===

impl Price {
    /// What a call of so many tokens costs, rounded up to a millionth.
    pub fn cost(&self, tokens: Tokens) -> MicroUsd {
        let tokens = tokens.plausible();
        let plain = tokens.input - tokens.cached - tokens.cache_written;
        let total: u128 = [
            (plain, self.input),
            (tokens.cached, self.cached_input.unwrap_or(self.input)),
            (tokens.cache_written, self.cache_write.unwrap_or(self.input)),
            (tokens.output, self.output),
        ]
        .into_iter()
        .map(|(count, price)| u128::from(count) * u128::from(price.0))
        .sum();
        MicroUsd(u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// What to reserve for a call that may read and write so many tokens, each at its dearest.
    pub fn reservation(&self, input_tokens: u64, output_tokens: u64) -> Amount {
        let dearest = [Some(self.input), self.cached_input, self.cache_write].into_iter().flatten().max();
        let price = Self { input: dearest.unwrap_or(self.input), ..Self::default() };
        let price = Self { output: self.output, ..price };
        let tokens = Tokens { input: input_tokens, output: output_tokens, ..Tokens::default() };
        Amount::new(tokens.total(), price.cost(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, cached: u64, output: u64) -> Tokens {
        Tokens { input, cached, output, ..Tokens::default() }
    }

    fn price() -> Price {
        Price {
            input: MicroUsd(3_000_000),
            output: MicroUsd(15_000_000),
            cached_input: Some(MicroUsd(300_000)),
            cache_write: Some(MicroUsd(3_750_000)),
        }
    }

    #[test]
    fn cost_rounds_up_and_counts_the_cache() {
        let price = price();
        assert_eq!(price.cost(tokens(1_000_000, 0, 0)), MicroUsd(3_000_000));
        assert_eq!(price.cost(tokens(1_000_000, 1_000_000, 1_000_000)), MicroUsd(15_300_000));
        assert_eq!(price.cost(tokens(1, 0, 0)), MicroUsd(3));
        assert_eq!(price.cost(tokens(1, 1, 0)), MicroUsd(1));
        assert_eq!(price.cost(tokens(0, 9, 0)), MicroUsd(0));
        let written = Tokens { cache_written: 1_000_000, ..tokens(1_000_000, 0, 0) };
        assert_eq!(price.cost(written), MicroUsd(3_750_000));
        let all_of_it = Tokens { cache_written: u64::MAX, reasoning: 9, ..tokens(10, 9, 0) };
        assert_eq!(all_of_it.plausible(), Tokens { cache_written: 1, ..tokens(10, 9, 0) });
    }

    #[test]
    fn a_reservation_is_never_less_than_the_cost() {
        let reserved = price().reservation(1000, 10);
        for (cached, written) in [(0, 0), (1000, 0), (0, 1000), (400, 600)] {
            let tokens = Tokens { cache_written: written, ..tokens(1000, cached, 10) };
            assert!(price().cost(tokens) <= reserved.cost, "{tokens:?}");
        }
    }

    #[test]
    fn the_price_of_a_day_is_the_last_one_before_it() {
        let day = |day: i64| Timestamp::from_micros(day * 86_400_000_000);
        let dear = Price { input: MicroUsd(9), ..price() };
        let prices = Prices::new(vec![(day(20), dear), (day(10), price())]);
        assert_eq!(prices.at(day(9)), None);
        assert_eq!(prices.at(day(10)), Some(price()));
        assert_eq!(prices.at(day(20)), Some(dear));
        assert_eq!(Prices::always(dear).at(day(0)), Some(dear));
        assert!(Prices::default().is_empty());
    }
}
