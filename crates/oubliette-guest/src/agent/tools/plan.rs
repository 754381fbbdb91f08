//! The plan: the steps of the work, shown to whoever looks. It changes nothing.

use agent_client_protocol_schema::v1::Plan;
use agent_client_protocol_schema::v1::PlanEntry;
use agent_client_protocol_schema::v1::PlanEntryPriority;
use agent_client_protocol_schema::v1::PlanEntryStatus;
use serde::Deserialize;

use crate::agent::text;

/// The most steps; a longer plan is no plan.
pub(super) const MAX_STEPS: usize = 50;
/// The most bytes of notes; they stay in the conversation for good.
pub(super) const MAX_NOTES: usize = 8000;
/// The most bytes of one step.
const MAX_CONTENT: usize = 1000;

/// The whole plan.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    steps: Vec<Step>,
    /// For the model itself, when it cannot see anymore how it came to know something.
    #[serde(default)]
    notes: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    content: String,
    status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    InProgress,
    Completed,
}

// === impl Arguments ===

impl Arguments {
    /// What the model is told.
    pub(super) fn noted(&self) -> Result<String, String> {
        if self.steps.len() > MAX_STEPS {
            return Err(format!("a plan has {MAX_STEPS} steps at most; put several into one"));
        }
        if self.notes.len() > MAX_NOTES {
            return Err(format!("notes have {MAX_NOTES} bytes at most; keep what matters"));
        }
        let done = self.steps.iter().filter(|step| step.status == Status::Completed).count();
        Ok(format!("shown: {done} of {} done", self.steps.len()))
    }

    /// What the client is shown; nothing if it is refused.
    pub(super) fn plan(&self) -> Option<Plan> {
        self.noted().ok()?;
        let entry = |step: &Step| {
            let status = match step.status {
                Status::Pending => PlanEntryStatus::Pending,
                Status::InProgress => PlanEntryStatus::InProgress,
                Status::Completed => PlanEntryStatus::Completed,
            };
            PlanEntry::new(text::cut(&step.content, MAX_CONTENT), PlanEntryPriority::Medium, status)
        };
        Some(Plan::new(self.steps.iter().map(entry).collect()))
    }
}
