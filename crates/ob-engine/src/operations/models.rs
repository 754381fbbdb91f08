//! Models: which there are, and whether one works.

use std::time::Duration;

use ob_core::Refusal;
use ob_core::model::ModelChecked;
use ob_core::model::ModelView;
use ob_core::model::ToolCall;
use ob_core::operation::ModelTarget;

use crate::Engine;

/// How long a model on trial may take: one of this machine may have to be loaded first. Below what callers wait.
const TRIAL_MAX: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) async fn model_list(&self) -> Vec<ModelView> {
        self.shared.catalogue.list(self.shared.now()).await
    }

    pub(super) async fn model_check(&self, params: ModelTarget) -> Result<ModelChecked, Refusal> {
        let shared = &self.shared;
        let model = shared.catalogue.resolve(Some(&params.model)).await?;
        let viewing = shared.catalogue.view(&model, shared.now());
        let (mut view, trial) = tokio::join!(viewing, shared.gates.try_model(&model, TRIAL_MAX));
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        // What the trial found counts more than what was listed.
        view.is_reachable = trial.is_ok();
        let problem = match &trial {
            Ok(trial) => no_tool(trial.tool_call),
            Err(refusal) => Some((refusal.message.clone(), refusal.fix.clone())),
        };
        let works = problem.is_none();
        (view.problem, view.fix) = problem.map_or((None, None), |(what, fix)| (Some(what), fix));
        let trial = trial.ok();
        let trial = trial.as_ref();
        Ok(ModelChecked {
            model: view,
            works,
            first_byte_ms: trial.map(|trial| millis(trial.first_byte)),
            took_ms: trial.map(|trial| millis(trial.took)),
            tool_call: trial.map(|trial| trial.tool_call),
            tokens: trial.and_then(|trial| trial.tokens),
            cost: trial.and_then(|trial| trial.cost),
        })
    }
}

/// Why a model that answers is of no use to an agent.
fn no_tool(tool_call: ToolCall) -> Option<(String, Option<String>)> {
    let what = match tool_call {
        ToolCall::WellFormed => return None,
        ToolCall::Malformed => "it answers, and called the tool with something else than it was asked to",
        ToolCall::Missing => "it answers, and did not call the tool that it was asked to call",
    };
    let fix = "use a model that is made to call tools, and let its server read its calls (llama.cpp: `--jinja`; vLLM: \
               `--enable-auto-tool-choice --tool-call-parser`)";
    Some((what.to_owned(), Some(fix.to_owned())))
}
