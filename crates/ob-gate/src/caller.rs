//! Who calls a model, and who pays for it.

use http::StatusCode;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::model::ModelRef;
use ob_core::model::Price;

use crate::Shared;
use crate::listen::Gate;
use crate::meter::Charge;
use crate::meter::Meter;
use crate::models::Provider;
use crate::refuse::GateRefusal;

/// Who calls a model.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) shared: &'a Shared,
    /// The model that answers.
    pub(crate) model: &'a ModelRef,
    /// The session whose agent calls; nothing if the server itself does.
    pub(crate) session: Option<&'a SessionId>,
    /// Who pays; nobody if the server itself calls.
    meter: Option<&'a Meter>,
}

// === impl Caller ===

impl<'a> Caller<'a> {
    /// The agent behind a gate, whose tree pays.
    pub(crate) fn behind(gate: &'a Gate) -> Self {
        let session = &gate.session;
        Self {
            shared: &gate.shared,
            model: &session.model,
            session: Some(&session.id),
            meter: Some(&gate.meter),
        }
    }

    /// The server itself.
    pub(crate) const fn server(shared: &'a Shared, model: &'a ModelRef) -> Self {
        Self { shared, model, session: None, meter: None }
    }

    /// What the model costs today.
    pub(crate) fn price(self, provider: &Provider) -> Result<Option<Price>, GateRefusal> {
        let price = provider.prices.at(self.shared.outside.now());
        if price.is_none() && provider.must_have_price {
            let model = self.model;
            let what =
                format!("the model {model} has no price today, and `models.unpriced` refuses such calls");
            let fix = format!("set `models.prices.{}`, or `models.unpriced` to `free`", model.model);
            let refusal = Refusal::new(RefusalCode::LimitExceeded, what).fix(fix);
            return Err(GateRefusal::new(StatusCode::FORBIDDEN, "model_unpriced", refusal));
        }
        Ok(price)
    }

    /// Reserves for a try that reads and writes at most so many tokens.
    pub(crate) async fn reserve(
        self,
        input: u64,
        output: u64,
        price: Option<Price>,
    ) -> Result<Charge, GateRefusal> {
        match self.meter {
            Some(meter) => meter.reserve(input, output, price).await,
            None => Ok(Charge::of_nobody()),
        }
    }
}
