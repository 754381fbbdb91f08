//! Which agent a session gets: one by name, with what it is told; and where its program is on this machine.
//!
//! A program is shown to a sandbox where it is, read-only, with its package and what interprets it, and nothing else. What
//! cannot be shown without showing keys or files of this server is refused (`Hidden`). Nothing of it is ever run outside of
//! a sandbox, also not to ask for its version.

mod program;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ob_agent::presets;
use ob_agent::presets::Can;
use ob_agent::presets::Launch;
use ob_agent::presets::Preset;
use ob_config::AgentDefinition;
use ob_config::AgentSettings;
use ob_core::Refusal;
use ob_core::agent::AgentOptions;
use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentStart;
use ob_core::agent::AgentView;
use ob_core::agent::BUILTIN;
use ob_core::agent::START_VARIABLE;
use ob_core::link::GUEST_PROGRAM;
use ob_core::link::ProcessSpec;
use ob_core::operation::SessionSpawn;
use ob_core::record::ProjectAgent;
use ob_core::record::SessionRecord;
use ob_sandbox::SandboxSpec;

use crate::live::Live;

use program::Program;

/// The most bytes of a start: the kernel takes 128 KiB in one variable, with its name and the zero behind it.
const START_MAX: usize = 128 * 1024 - 64;
/// Where agents are listed.
const LIST: &str = "list them with `oubliette agent list`";

/// The agents of this server.
pub struct Agents {
    settings: Live<AgentSettings>,
}

/// What a name means.
#[derive(Clone, Debug)]
enum Known {
    /// The one that comes with us.
    Builtin,
    /// One that others make.
    Preset(&'static Preset),
    /// One of the configuration.
    Own(String, AgentDefinition),
}

/// An agent that can be started.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Its mode in ACP, if not its own default.
    pub(crate) mode: Option<String>,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    program: Option<Program>,
}

// === impl Agents ===

impl Agents {
    /// Agents as configured.
    pub fn new(settings: AgentSettings) -> Self {
        Self { settings: Live::new(settings) }
    }

    /// Agents as configured anew, for sandboxes that start from now on.
    pub(crate) fn apply(&self, settings: AgentSettings) {
        self.settings.set(settings);
    }

    /// The agent of a new session and what it is told: as the session says, else its project, else the configuration.
    ///
    /// # Errors
    /// `not_found` for a name that nobody has, `invalid_argument` for an option that would have no effect on it,
    /// `unavailable` if its program is not there or cannot be shown to a sandbox.
    pub(crate) async fn choose(
        &self,
        spawn: &SessionSpawn,
        project: &ProjectAgent,
        shown: &[PathBuf],
    ) -> Result<(String, AgentOptions), Refusal> {
        let settings = self.settings.get();
        let name = spawn.agent.clone().or_else(|| project.name.clone());
        let name = name.unwrap_or_else(|| settings.default.clone());
        let known = self.known(&name)?;
        let mut options = AgentOptions {
            autonomy: spawn.autonomy_level.or(project.autonomy).unwrap_or(settings.autonomy),
            reasoning: spawn.reasoning_level.or(project.reasoning).or(settings.reasoning),
            tools_allowed: spawn.tools_allowed.clone(),
            tools_disallowed: spawn.tools_disallowed.clone(),
        };
        for tool in &project.disabled_tools {
            if !options.tools_disallowed.contains(tool) {
                options.tools_disallowed.push(tool.clone());
            }
        }
        presets::refuse_what_it_cannot(&name, &known.can(), &options)?;
        self.program(&known, shown).await?;
        Ok((name, options))
    }

    /// What a project says of its agents, checked as far as it can be without a session.
    pub(crate) fn check_project(&self, agent: &ProjectAgent) -> Result<(), Refusal> {
        let settings = self.settings.get();
        let name = agent.name.as_deref().unwrap_or(&settings.default);
        let options = AgentOptions {
            autonomy: agent.autonomy.unwrap_or(settings.autonomy),
            reasoning: agent.reasoning,
            tools_allowed: Vec::new(),
            tools_disallowed: agent.disabled_tools.clone(),
        };
        presets::refuse_what_it_cannot(name, &self.known(name)?.can(), &options)
    }

    /// The agent of a session, ready to be started.
    ///
    /// # Errors
    /// As [`Agents::choose`]: programs and configurations may be gone since.
    pub(crate) async fn ready(&self, record: &SessionRecord, shown: &[PathBuf]) -> Result<Ready, Refusal> {
        let known = self.known(&record.agent)?;
        presets::refuse_what_it_cannot(&record.agent, &known.can(), &record.agent_options)?;
        let Some(program) = self.program(&known, shown).await? else {
            let argv = presets::builtin_argv(&record.agent_options);
            return Ok(Ready { mode: None, argv, env: BTreeMap::new(), program: None });
        };
        let path = program.path.to_string_lossy();
        let launch = Launch { program: &path, model: &record.model.model, options: &record.agent_options };
        let start = known.start(&launch);
        let start = serde_json::to_string(&start)
            .map_err(|error| Refusal::internal(format!("a start cannot be written: {error}")))?;
        if start.len() > START_MAX {
            return Err(Refusal::invalid(format!(
                "what the agent `{}` is told has {} bytes",
                record.agent,
                start.len()
            ))
            .fix("name fewer tools, or shorten its command and variables; at most 127 KiB"));
        }
        Ok(Ready {
            mode: known.mode().map(str::to_owned),
            argv: vec![GUEST_PROGRAM.to_owned(), "start".to_owned()],
            env: [(START_VARIABLE.to_owned(), start)].into(),
            program: Some(program),
        })
    }

    /// All agents: the built-in one, those of the configuration, those that are known.
    pub async fn list(&self, shown: &[PathBuf]) -> Vec<AgentView> {
        let settings = self.settings.get();
        let own = settings.agents.iter().map(|(name, own)| Known::Own(name.clone(), own.clone()));
        let presets = presets::PRESETS
            .iter()
            .filter(|preset| !settings.agents.contains_key(preset.name))
            .map(Known::Preset);
        let mut views = Vec::new();
        for known in std::iter::once(Known::Builtin).chain(own).chain(presets) {
            views.push(self.view(&known, shown).await);
        }
        views
    }

    /// One of them.
    ///
    /// # Errors
    /// `not_found`.
    pub(crate) async fn check(&self, name: &str, shown: &[PathBuf]) -> Result<AgentView, Refusal> {
        Ok(self.view(&self.known(name)?, shown).await)
    }

    fn known(&self, name: &str) -> Result<Known, Refusal> {
        let settings = self.settings.get();
        if name == BUILTIN {
            return Ok(Known::Builtin);
        }
        if let Some(own) = settings.agents.get(name) {
            return Ok(Known::Own(name.to_owned(), own.clone()));
        }
        presets::find(name).map(Known::Preset).ok_or_else(|| {
            let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
            Refusal::not_found("agent", name).fix(LIST)
        })
    }

    /// Its program, and what of this machine it needs inside; nothing for the built-in one.
    async fn program(&self, known: &Known, shown: &[PathBuf]) -> Result<Option<Program>, Refusal> {
        let names: Vec<String> = match known {
            Known::Builtin => return Ok(None),
            Known::Preset(preset) => preset.programs.iter().map(|name| (*name).to_owned()).collect(),
            Known::Own(_, own) => own.command.first().cloned().into_iter().collect(),
        };
        let (settings, shown) = (self.settings.get(), shown.to_vec());
        let (name, fix) = (known.name().to_owned(), known.fix());
        let found = tokio::task::spawn_blocking(move || program::find(&names, &settings, &shown)).await;
        let found = found.map_err(|error| {
            Refusal::internal(format!("looking for a program failed: {error}")).fix("see the log")
        })?;
        found.map(Some).map_err(|problem| {
            Refusal::unavailable(format!("the agent `{name}` cannot be used: {problem}")).fix(fix)
        })
    }

    async fn view(&self, known: &Known, shown: &[PathBuf]) -> AgentView {
        let program = self.program(known, shown).await;
        let (program, problem) = match program {
            Ok(program) => (program, None),
            Err(refusal) => (None, Some(refusal.message)),
        };
        let preset = match known {
            Known::Preset(preset) => Some(*preset),
            Known::Builtin | Known::Own(..) => None,
        };
        let is_builtin = matches!(known, Known::Builtin);
        let own_version = is_builtin.then(|| env!("CARGO_PKG_VERSION").to_owned());
        AgentView {
            name: known.name().to_owned(),
            title: preset.map_or_else(|| known.title(), |preset| preset.title.to_owned()),
            is_default: self.settings.get().default == known.name(),
            protocol: known.protocol(),
            is_found: problem.is_none(),
            version: program
                .as_ref()
                .and_then(|program| program.version.clone())
                .or_else(|| own_version.clone()),
            program: program.map(|program| program.path.to_string_lossy().into_owned()),
            tested: preset.and_then(|preset| preset.tested).map(str::to_owned).or(own_version),
            needs: preset
                .map(|preset| preset.needs.iter().map(|need| (*need).to_owned()).collect())
                .unwrap_or_default(),
            install: preset.map(|preset| preset.install.to_owned()),
            can: known.can().abilities(),
            problem,
        }
    }
}

// === impl Known ===

impl Known {
    fn name(&self) -> &str {
        match self {
            Self::Builtin => BUILTIN,
            Self::Preset(preset) => preset.name,
            Self::Own(name, _) => name,
        }
    }

    fn title(&self) -> String {
        match self {
            Self::Builtin => "Oubliette's own agent".to_owned(),
            Self::Preset(preset) => preset.title.to_owned(),
            Self::Own(name, _) => name.clone(),
        }
    }

    fn protocol(&self) -> AgentProtocol {
        match self {
            Self::Builtin => AgentProtocol::Acp,
            Self::Preset(preset) => preset.protocol,
            Self::Own(_, own) if own.plain.is_some() => AgentProtocol::Plain,
            Self::Own(..) => AgentProtocol::Acp,
        }
    }

    fn can(&self) -> Can {
        match self {
            Self::Builtin => presets::BUILTIN_CAN,
            Self::Preset(preset) => preset.can,
            Self::Own(_, own) if own.plain.is_some() => presets::PLAIN_CAN,
            Self::Own(..) => presets::ACP_CAN,
        }
    }

    fn mode(&self) -> Option<&'static str> {
        match self {
            Self::Preset(preset) => preset.mode,
            Self::Builtin | Self::Own(..) => None,
        }
    }

    /// What to do if its program is not there.
    fn fix(&self) -> String {
        match self {
            Self::Preset(preset) => {
                format!("install it with `{}`, or name its folder in `agents.path`", preset.install)
            }
            Self::Builtin | Self::Own(..) => {
                "correct its `command`, or name the folder of its program in `agents.path`".to_owned()
            }
        }
    }

    fn start(&self, launch: &Launch<'_>) -> AgentStart {
        match self {
            Self::Preset(preset) => preset.start(launch),
            Self::Builtin => AgentStart::default(),
            Self::Own(_, own) => {
                let mut env = presets::gate_variables();
                env.extend(own.env.clone());
                let rest = own.command.iter().skip(1).cloned();
                let argv = std::iter::once(launch.program.to_owned()).chain(rest).collect();
                AgentStart { argv, env, files: BTreeMap::new(), plain: own.plain }
            }
        }
    }
}

// === impl Ready ===

impl Ready {
    /// Shows its program to a sandbox.
    pub(crate) fn show(&self, spec: &mut SandboxSpec) {
        let Some(program) = &self.program else { return };
        for path in &program.read_only {
            if !spec.read_only.contains(path) {
                spec.read_only.push(path.clone());
            }
        }
        let front: String = program.folders.iter().map(|folder| format!("{}:", folder.display())).collect();
        if let Some((_, path)) = spec.env.iter_mut().find(|(name, _)| name == "PATH") {
            path.insert_str(0, &front);
        }
    }

    /// The process to start, with the guest program by this name.
    pub(crate) fn process(&self, guest: &str, cwd: &str) -> ProcessSpec {
        let mut argv = self.argv.clone();
        if argv.first().is_some_and(|program| program == GUEST_PROGRAM) {
            guest.clone_into(&mut argv[0]);
        }
        ProcessSpec { argv, cwd: Some(cwd.to_owned()), env: self.env.clone(), stdin: true }
    }
}
