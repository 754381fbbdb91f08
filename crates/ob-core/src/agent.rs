//! Agents: what a session asks of the one that it gets, what that one may do, and what a server says of those it knows.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// The name of the agent that comes with Oubliette.
pub const BUILTIN: &str = "builtin";

/// The tools of the built-in agent, and what each does.
pub const BUILTIN_TOOLS: [(&str, Act); 8] = [
    ("read", Act::Look),
    ("write", Act::Change),
    ("edit", Act::Change),
    ("patch", Act::Change),
    ("list", Act::Look),
    ("search", Act::Look),
    ("run", Act::Run),
    ("plan", Act::Look),
];

/// The variable that holds an [`AgentStart`] as JSON, for the guest that carries it out.
pub const START_VARIABLE: &str = "AGENT_START";
/// Stands in an [`AgentStart`] for the gate's address inside, without a path: `http://127.0.0.1:4000`.
pub const GATE_PLACE: &str = "{gate}";
/// Stands in an [`AgentStart`] for the agent's home inside.
pub const HOME_PLACE: &str = "{home}";
/// Stands in a plain program's arguments for the prompt; without it, the prompt is the last argument.
pub const PROMPT_PLACE: &str = "{prompt}";

/// How much an agent may do without asking anyone. The sandbox is the wall in each case; this is about what inside it
/// happens unattended.
///
/// | what an agent asks for | `off` | `low` | `medium` | `high` |
/// | --- | --- | --- | --- | --- |
/// | to look: read, search, think | yes | yes | yes | yes |
/// | to change files: edit, move, delete | no | yes | yes | yes |
/// | to run commands | no | no | yes | yes |
/// | to reach out, or anything else | no | no | no | yes |
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Autonomy {
    /// It may look.
    Off,
    /// It may change files as well.
    Low,
    /// It may run commands as well.
    Medium,
    /// It may do everything.
    #[default]
    High,
}

/// How hard a model shall think before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reasoning {
    /// Not at all, or as little as it can.
    Off,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// What an agent asks leave for, by what it could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Changes nothing.
    Look,
    /// Changes files.
    Change,
    /// Runs a command.
    Run,
    /// Reaches out of the sandbox.
    Reach,
    /// Something else, or it did not say.
    Other,
}

/// An answer to a question for leave, with the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// True if it may.
    pub is_allowed: bool,
    /// The rule, in words.
    pub rule: String,
}

/// What a session asks of its agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentOptions {
    /// What it may do without asking.
    #[serde(default)]
    pub autonomy: Autonomy,
    /// How hard its model shall think; as the agent has it if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Reasoning>,
    /// The only tools that it may use, by the agent's own names; all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools_allowed: Vec<String>,
    /// Tools that it may not use, by the agent's own names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools_disallowed: Vec<String>,
}

/// How a plain program is given its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptVia {
    /// As an argument: in place of [`PROMPT_PLACE`], else as the last one.
    Argument,
    /// On its standard input, which then ends.
    Input,
}

/// How a known agent is started inside. The guest writes the files and becomes the program, or serves it if it is a plain
/// one, so nothing of this is on a command line and no file of the agent's home is written from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentStart {
    /// Program and arguments. Not empty.
    pub argv: Vec<String>,
    /// Added to the environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files to write before, by their path under the home.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Set for a program that does not speak ACP.
    #[serde(default)]
    pub plain: Option<PromptVia>,
}

/// How an agent is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentProtocol {
    /// The Agent Client Protocol over its standard input and output.
    Acp,
    /// Started anew for each message, with the message; what it prints is its answer.
    Plain,
}

/// What an agent can be told. What it cannot be told is refused when a session asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentAbilities {
    /// The levels of autonomy that take effect.
    pub autonomy: Vec<Autonomy>,
    /// True if a level of reasoning takes effect.
    pub reasoning: bool,
    /// True if it can be held to some tools.
    pub tools_allowed: bool,
    /// True if tools can be taken from it.
    pub tools_disallowed: bool,
}

/// An agent as the doors show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    /// The name that sessions give.
    pub name: String,
    /// What it is called by those who make it.
    pub title: String,
    /// True for the agent of sessions that name none.
    pub is_default: bool,
    /// How it is spoken to.
    pub protocol: AgentProtocol,
    /// True if its program is there and a sandbox can have it.
    pub is_found: bool,
    /// Its program on the server's machine; nothing for the built-in one, or if it was not found.
    #[serde(default)]
    pub program: Option<String>,
    /// Its version, as its package says.
    #[serde(default)]
    pub version: Option<String>,
    /// The version that our tests drive; nothing if none does.
    #[serde(default)]
    pub tested: Option<String>,
    /// What it needs besides its program.
    #[serde(default)]
    pub needs: Vec<String>,
    /// How to install it.
    #[serde(default)]
    pub install: Option<String>,
    /// What it can be told.
    pub can: AgentAbilities,
    /// Why it cannot be used, if so.
    #[serde(default)]
    pub problem: Option<String>,
}

// === impl Autonomy ===

impl Autonomy {
    /// All, from the least.
    pub const ALL: [Self; 4] = [Self::Off, Self::Low, Self::Medium, Self::High];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// Whether an agent may do this.
    pub fn rule(self, act: Act) -> Ruling {
        let least = match act {
            Act::Look => Self::Off,
            Act::Change => Self::Low,
            Act::Run => Self::Medium,
            Act::Reach | Act::Other => Self::High,
        };
        let is_allowed = self >= least;
        let rule = if is_allowed {
            format!("autonomy {self}: {act} is allowed")
        } else {
            format!("autonomy {self}: {act} needs {least}")
        };
        Ruling { is_allowed, rule }
    }
}

impl fmt::Display for Autonomy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Reasoning ===

impl Reasoning {
    /// All, from the least.
    pub const ALL: [Self; 4] = [Self::Off, Self::Low, Self::Medium, Self::High];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// What OpenAI's wires call it.
    pub const fn effort(self) -> &'static str {
        match self {
            Self::Off => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl fmt::Display for Reasoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Act ===

impl Act {
    /// What a tool of this kind does, by ACP's names.
    pub fn of_kind(kind: &str) -> Self {
        match kind {
            "read" | "search" | "think" => Self::Look,
            "edit" | "delete" | "move" => Self::Change,
            "execute" => Self::Run,
            "fetch" => Self::Reach,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "looking",
            Self::Change => "changing files",
            Self::Run => "running commands",
            Self::Reach => "reaching out",
            Self::Other => "what is not known to be less",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_autonomy() {
        let (yes, no) = (true, false);
        for (act, allowed) in [
            (Act::Look, [yes, yes, yes, yes]),
            (Act::Change, [no, yes, yes, yes]),
            (Act::Run, [no, no, yes, yes]),
            (Act::Reach, [no, no, no, yes]),
            (Act::Other, [no, no, no, yes]),
        ] {
            assert_eq!(Autonomy::ALL.map(|level| level.rule(act).is_allowed), allowed, "{act}");
        }
        assert_eq!(Autonomy::Low.rule(Act::Run).rule, "autonomy low: running commands needs medium");
        assert_eq!(Autonomy::High.rule(Act::Run).rule, "autonomy high: running commands is allowed");
    }

    #[test]
    fn a_kind_that_is_not_known_needs_the_most() {
        for kind in ["", "switch_mode", "other", "Execute", "read "] {
            assert_eq!(Act::of_kind(kind), Act::Other, "{kind}");
        }
    }

    #[test]
    fn a_record_without_options_means_what_it_always_meant() {
        let options: AgentOptions = serde_json::from_str("{}").expect("all is optional");
        assert_eq!((options.autonomy, options.reasoning), (Autonomy::High, None));
    }
}
