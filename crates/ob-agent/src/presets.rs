//! The agents that are known by name, and how to start them inside a sandbox.

use std::collections::BTreeMap;

use ob_core::Refusal;
use ob_core::link::GUEST_PROGRAM;
use ob_core::link::ProcessSpec;

/// The name of the agent that comes with Oubliette.
pub const BUILTIN: &str = "builtin";

/// How to start an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPreset {
    /// Its name, as projects and sessions give it.
    pub name: &'static str,
    /// Program and arguments, inside the sandbox. Not empty.
    pub argv: Vec<String>,
    /// Added to the sandbox's own environment.
    pub env: BTreeMap<String, String>,
}

// === impl AgentPreset ===

impl AgentPreset {
    /// The process to start for it, in the working directory `cwd`.
    pub fn process(&self, cwd: &str) -> ProcessSpec {
        ProcessSpec { argv: self.argv.clone(), cwd: Some(cwd.to_owned()), env: self.env.clone(), stdin: true }
    }
}

/// All known agents.
pub fn all() -> Vec<AgentPreset> {
    vec![AgentPreset {
        name: BUILTIN,
        argv: vec![GUEST_PROGRAM.to_owned(), "agent".to_owned()],
        env: BTreeMap::new(),
    }]
}

/// The agent of this name.
///
/// # Errors
/// `not_found`, with the names that are known.
pub fn find(name: &str) -> Result<AgentPreset, Refusal> {
    let known = all();
    let names: Vec<String> = known.iter().map(|preset| format!("`{}`", preset.name)).collect();
    known.into_iter().find(|preset| preset.name == name).ok_or_else(|| {
        Refusal::not_found("agent", crate::bounds::cut(name, 80))
            .fix(format!("use one of the known agents: {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_that_comes_with_us_is_the_guest_program() {
        let preset = find(BUILTIN).expect("it is known");
        let process = preset.process("/workspace");
        assert_eq!(process.argv, [GUEST_PROGRAM, "agent"]);
        assert_eq!(process.cwd.as_deref(), Some("/workspace"));
        assert!(process.stdin, "an agent is spoken to over its input");
    }

    #[test]
    fn an_unknown_agent_is_refused_with_the_known_ones() {
        let refusal = find("gpt").expect_err("it is unknown");
        assert_eq!(refusal.to_string(), "agent `gpt` not found; use one of the known agents: `builtin`");
    }
}
