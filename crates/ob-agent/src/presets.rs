//! The agents that are known by name: how to start each inside a sandbox, and what each can be told.
//!
//! Each preset is a row of [`PRESETS`]: data, and one pure function that writes the agent's own configuration. All are pointed
//! at the gate and nothing else; what they would look up elsewhere (updates, lists of models, plugins) is off, and so
//! is what they would report (telemetry, crash reports). The model is the session's, whatever name an agent asks for.
//!
//! **Invariant:** an option takes effect or is refused by name ([`refuse_what_it_cannot`]); none is taken and dropped.

mod claude;
mod codex;
mod google;
mod opencode;
mod others;

use std::collections::BTreeMap;

use ob_core::Refusal;
use ob_core::agent::AgentAbilities;
use ob_core::agent::AgentOptions;
use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::Autonomy;
use ob_core::agent::BUILTIN;
use ob_core::agent::BUILTIN_TOOLS;
use ob_core::agent::GATE_PLACE;
use ob_core::link::GUEST_PROGRAM;

use crate::bounds;
use crate::bounds::NAME_MAX;

/// The most tools that a session may name.
const TOOLS_MAX: usize = 100;
/// How much of a conversation agents are told that a model takes, in tokens: what most models of today take.
const CONTEXT: u32 = 128_000;
/// How much of an answer agents are told that a model writes, in tokens.
const OUTPUT: u32 = 8192;

/// Which options take effect on an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Can {
    /// Levels of autonomy.
    pub autonomy: &'static [Autonomy],
    /// A level of reasoning.
    pub reasoning: bool,
    /// Being held to some tools.
    pub tools_allowed: bool,
    /// Tools being taken away.
    pub tools_disallowed: bool,
}

/// An agent that others make.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name, as projects and sessions give it.
    pub name: &'static str,
    /// What it is called by those who make it.
    pub title: &'static str,
    /// Its program, by the names that it has had; the first that is found is used.
    pub programs: &'static [&'static str],
    /// How it is spoken to.
    pub protocol: AgentProtocol,
    /// A command that installs it.
    pub install: &'static str,
    /// What it needs besides its program.
    pub needs: &'static [&'static str],
    /// The version of the package that our tests drive; nothing if none does.
    pub tested: Option<&'static str>,
    /// Which options take effect.
    pub can: Can,
    /// ACP's mode that it is put into, if not its own default.
    pub mode: Option<&'static str>,
    start: fn(&Launch<'_>) -> AgentStart,
}

/// What a preset's start depends on.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The program inside.
    pub program: &'a str,
    /// The model's name, for agents that want one; the gate has its own.
    pub model: &'a str,
    /// What the session asks for.
    pub options: &'a AgentOptions,
}

/// All agents that others make and that are known, in the order of the documents.
pub const PRESETS: &[Preset] = &[
    opencode::PRESET,
    codex::PRESET,
    claude::PRESET,
    google::GEMINI,
    google::QWEN,
    others::GOOSE,
    others::DROID,
    others::PI,
];

/// What every level of autonomy takes effect on.
const ALL_LEVELS: &[Autonomy] = &Autonomy::ALL;

/// What the built-in agent can be told.
pub const BUILTIN_CAN: Can =
    Can { autonomy: ALL_LEVELS, reasoning: true, tools_allowed: true, tools_disallowed: true };
/// What an agent of the configuration that speaks ACP can be told: nothing but the answers to its questions.
pub const ACP_CAN: Can =
    Can { autonomy: ALL_LEVELS, reasoning: false, tools_allowed: false, tools_disallowed: false };
/// What a plain program can be told: nothing, since it asks nothing.
pub const PLAIN_CAN: Can =
    Can { autonomy: &[Autonomy::High], reasoning: false, tools_allowed: false, tools_disallowed: false };

// === impl Can ===

impl Can {
    /// As the doors show it.
    pub fn abilities(&self) -> AgentAbilities {
        AgentAbilities {
            autonomy: self.autonomy.to_vec(),
            reasoning: self.reasoning,
            tools_allowed: self.tools_allowed,
            tools_disallowed: self.tools_disallowed,
        }
    }
}

// === impl Preset ===

impl Preset {
    /// How to start it. The options are those that [`refuse_what_it_cannot`] let through.
    pub fn start(&self, launch: &Launch<'_>) -> AgentStart {
        let mut start = (self.start)(launch);
        for (name, value) in gate_variables() {
            start.env.entry(name).or_insert(value);
        }
        start
    }
}

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The variables by which the usual libraries find the gate. The keys are nobody's: the real ones are added outside, and
/// clients insist on having one.
pub fn gate_variables() -> BTreeMap<String, String> {
    let key = "local";
    [
        ("OPENAI_BASE_URL", format!("{GATE_PLACE}/v1")),
        ("OPENAI_API_KEY", key.to_owned()),
        ("ANTHROPIC_BASE_URL", GATE_PLACE.to_owned()),
        ("ANTHROPIC_API_KEY", key.to_owned()),
        ("GOOGLE_GEMINI_BASE_URL", GATE_PLACE.to_owned()),
        ("GEMINI_API_KEY", key.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The built-in agent's program and arguments, inside.
pub fn builtin_argv(options: &AgentOptions) -> Vec<String> {
    let mut argv = vec![GUEST_PROGRAM.to_owned(), "agent".to_owned()];
    let tools = builtin_tools(options);
    if tools.len() < BUILTIN_TOOLS.len() {
        argv.extend(["--tools".to_owned(), tools.join(",")]);
    }
    if let Some(reasoning) = options.reasoning {
        argv.extend(["--reasoning".to_owned(), reasoning.effort().to_owned()]);
    }
    argv
}

/// The tools that the built-in agent has: what its autonomy lets it do, of what it was allowed.
fn builtin_tools(options: &AgentOptions) -> Vec<&'static str> {
    let names = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    BUILTIN_TOOLS
        .iter()
        .filter(|(_, act)| options.autonomy.rule(*act).is_allowed)
        .map(|(name, _)| *name)
        .filter(|name| options.tools_allowed.is_empty() || names(&options.tools_allowed, name))
        .filter(|name| !names(&options.tools_disallowed, name))
        .collect()
}

/// Refuses options that would have no effect on this agent, and names that are none.
///
/// # Errors
/// `invalid_argument`, with the agent's name and what it can be told instead.
pub fn refuse_what_it_cannot(name: &str, can: &Can, options: &AgentOptions) -> Result<(), Refusal> {
    let cannot = |what: &str| Refusal::invalid(format!("the agent `{name}` cannot be told {what}"));
    if !can.autonomy.contains(&options.autonomy) {
        let levels: Vec<&str> = can.autonomy.iter().map(|level| level.as_str()).collect();
        return Err(cannot(&format!("autonomy `{}`: it does what it does without asking", options.autonomy))
            .fix(format!("use autonomy {}, or another agent (`oubliette agent list`)", levels.join(", "))));
    }
    if let Some(reasoning) = options.reasoning.filter(|_| !can.reasoning) {
        return Err(cannot(&format!("reasoning `{reasoning}`"))
            .fix("leave it out, or use another agent (`oubliette agent list`)"));
    }
    for (list, can, what) in [
        (&options.tools_allowed, can.tools_allowed, "which tools it may use"),
        (&options.tools_disallowed, can.tools_disallowed, "which tools it may not use"),
    ] {
        if list.is_empty() {
            continue;
        }
        if !can {
            return Err(cannot(what).fix("leave them out, or use another agent (`oubliette agent list`)"));
        }
        if list.len() > TOOLS_MAX || list.iter().any(|tool| !is_tool_name(tool)) {
            return Err(Refusal::invalid("a tool's name is empty, too long or has strange characters").fix(
                "use the agent's own names of its tools, of letters, digits and `_-.*:/()`, at most 100 of them",
            ));
        }
    }
    if name == BUILTIN {
        let known = |tool: &String| BUILTIN_TOOLS.iter().any(|(name, _)| name == tool);
        let all = options.tools_allowed.iter().chain(&options.tools_disallowed);
        if let Some(unknown) = all.into_iter().find(|tool| !known(tool)) {
            let names: Vec<&str> = BUILTIN_TOOLS.iter().map(|(name, _)| *name).collect();
            return Err(Refusal::invalid(format!("the agent `{name}` has no tool `{unknown}`"))
                .fix(format!("its tools are {}", names.join(", "))));
        }
        if builtin_tools(options).is_empty() {
            return Err(Refusal::invalid(format!("the agent `{name}` would have no tool left"))
                .fix("allow one that its autonomy lets it use"));
        }
    }
    Ok(())
}

/// Fit to stand in configuration files and lists of any agent.
fn is_tool_name(tool: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "_-.*:/()".contains(c);
    bounds::prefix(tool, NAME_MAX).len() == tool.len() && !tool.is_empty() && tool.chars().all(is_fit)
}

/// A start of this program with these arguments and variables.
fn start_of(program: &str, arguments: &[&str], env: &[(&str, &str)]) -> AgentStart {
    let argv = std::iter::once(program).chain(arguments.iter().copied()).map(str::to_owned).collect();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    AgentStart { argv, env, files: BTreeMap::new(), plain: None }
}

#[cfg(test)]
mod tests;
