//! Models as the configuration names them and the ledger prices them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::ledger::Amount;
use crate::ledger::MicroUsd;

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
    /// The provider's name in the configuration, or `local`, or `demonstration`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// Where the provider came from.
    pub source: ModelSource,
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

// === impl Price ===

impl Price {
    /// What a call of so many tokens costs, rounded up to a millionth.
    pub fn cost(&self, input_tokens: u64, cached_tokens: u64, output_tokens: u64) -> MicroUsd {
        let cached_tokens = cached_tokens.min(input_tokens);
        let cached_price = self.cached_input.unwrap_or(self.input);
        let total = u128::from(input_tokens - cached_tokens) * u128::from(self.input.0)
            + u128::from(cached_tokens) * u128::from(cached_price.0)
            + u128::from(output_tokens) * u128::from(self.output.0);
        MicroUsd(u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// What to reserve for a call that may read and write so many tokens.
    pub fn reservation(&self, input_tokens: u64, output_tokens: u64) -> Amount {
        Amount::new(input_tokens.saturating_add(output_tokens), self.cost(input_tokens, 0, output_tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_rounds_up_and_counts_the_cache() {
        let price = Price {
            input: MicroUsd(3_000_000),
            output: MicroUsd(15_000_000),
            cached_input: Some(MicroUsd(300_000)),
        };
        assert_eq!(price.cost(1_000_000, 0, 0), MicroUsd(3_000_000));
        assert_eq!(price.cost(1_000_000, 1_000_000, 1_000_000), MicroUsd(15_300_000));
        assert_eq!(price.cost(1, 0, 0), MicroUsd(3));
        assert_eq!(price.cost(1, 1, 0), MicroUsd(1));
        assert_eq!(price.cost(0, 9, 0), MicroUsd(0));
    }
}
