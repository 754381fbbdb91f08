//! What the keys of agents mean together.

use ob_core::agent::Autonomy;
use ob_core::agent::BUILTIN;
use ob_core::agent::PromptVia;
use ob_core::agent::Reasoning;

use super::Resolver;
use crate::env;
use crate::read_only;
use crate::settings::AgentDefinition;
use crate::settings::Hidden;

const AGENTS: [&str; 2] = ["agents", "agents"];

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn agents(&mut self) {
        if let Some(name) = self.text(&["agents", "default"]) {
            self.out.settings.agents.default = name.value;
        }
        self.levels();
        self.search();
        for (name, place) in self.names(&AGENTS) {
            let path = format!("{}.{name}", AGENTS.join("."));
            let key = |last: &'static str| [&AGENTS[..], &[name.as_str(), last]].concat();
            let command = self.list(&key("command"));
            let protocol = self.text(&key("protocol"));
            let prompt = self.text(&key("prompt"));
            let env = self.texts(&key("env")).map(|env| env.value).unwrap_or_default();
            let is_plain = protocol.is_some_and(|protocol| protocol.value == "plain");
            if name == BUILTIN {
                self.mistake(&place, &path, "is the name of the built-in agent; take another");
                continue;
            }
            if let Some(prompt) = prompt.as_ref().filter(|_| !is_plain) {
                let what = "is for a plain program; set `protocol` to `plain`, or leave it out";
                self.mistake(&prompt.place, &format!("{path}.prompt"), what);
            }
            let Some(command) = command else {
                if !self.is_broken(&path) {
                    self.mistake(&place, &path, "needs `command`: the program and its arguments");
                }
                continue;
            };
            let via = match prompt {
                Some(prompt) if prompt.value == "input" => PromptVia::Input,
                _ => PromptVia::Argument,
            };
            let definition = AgentDefinition { command: command.value, plain: is_plain.then_some(via), env };
            self.out.settings.agents.agents.insert(name, definition);
        }
    }

    fn levels(&mut self) {
        let (now, other) = (
            self.text(&["defaults", "agent", "autonomy"]),
            self.text(&["models", "defaults", "autonomy_mode"]),
        );
        let autonomy = self.either(["defaults.agent.autonomy", "models.defaults.autonomy_mode"], now, other);
        let level =
            autonomy.and_then(|level| Autonomy::ALL.into_iter().find(|known| known.as_str() == level.value));
        if let Some(level) = level {
            self.out.settings.agents.autonomy = level;
        }
        let (now, other) = (
            self.text(&["defaults", "agent", "reasoning"]),
            self.text(&["models", "defaults", "reasoning_effort"]),
        );
        let reasoning =
            self.either(["defaults.agent.reasoning", "models.defaults.reasoning_effort"], now, other);
        self.out.settings.agents.reasoning = reasoning
            .and_then(|level| Reasoning::ALL.into_iter().find(|known| known.as_str() == level.value));
    }

    /// Where programs are looked for, and what of the machine is not shown for their sake.
    fn search(&mut self) {
        let root = self.home.root.clone();
        let mut search = Vec::new();
        if let Some(named) = self.list(&["agents", "path"]) {
            if named.in_file && !self.home.is_trusted {
                self.mistake(
                    &named.place,
                    "agents.path",
                    "a file that was found in the working directory may not show folders of this machine to sandboxes; \
                     name the home once with `--dir .`",
                );
            }
            for text in &named.value {
                match read_only::named(text, &root, self.env) {
                    Ok(path) => search.push(path),
                    Err(what) => self.mistake(&named.place, "agents.path", what),
                }
            }
        }
        search.extend(self.env.folders(env::PATH));
        let agents = &mut self.out.settings.agents;
        agents.search = search;
        agents.hidden = Hidden { home: Some(root), person: self.env.absolute(env::HOME) };
    }
}
