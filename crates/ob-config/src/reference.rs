//! The configuration as its document shows it: every key with its kind, its default and its effect.

use crate::schema::Kind;
use crate::schema::ROOT;
use crate::schema::Shape;
use crate::values;

/// A key that has an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReference {
    /// Its path, with dots; `<name>` stands for a name that the operator chooses.
    pub path: String,
    /// What may stand there, in words.
    pub kind: String,
    /// What is used if it is not set, as JSON; nothing if there is no such value.
    pub default: Option<&'static str>,
    /// What it does, one or two sentences.
    pub doc: &'static str,
    /// True if a running server takes a new value; else it needs a restart.
    pub live: bool,
}

/// Default and effect of each key, in the order of the schema. A test holds the defaults against the settings.
const DOCS: &[(&str, Option<&str>, &str)] = &[
    (
        "$schema",
        None,
        "Where an editor finds the schema of this file: what `oubliette config schema` prints.",
    ),
    (
        "server.address",
        Some("\"localhost:8080\""),
        "Where HTTP is served; port 0 takes a free one. The commands do not need it: they use a socket of the home.",
    ),
    (
        "credentials.providers.credentials.<name>.provider",
        None,
        "Which well-known provider this is, if the name does not say so; it gives the base URL.",
    ),
    ("credentials.providers.credentials.<name>.api_key", None, "The key. It never enters a sandbox."),
    (
        "credentials.providers.credentials.<name>.api_keys",
        None,
        "More keys. One that is refused, or whose rate is used up, is passed over for the next.",
    ),
    (
        "credentials.providers.credentials.<name>.wire",
        None,
        "What its server speaks: `chat` is OpenAI's chat completions, `responses` OpenAI's responses, `openai` both. A known \
         provider's own if unset, else `chat`. An agent that speaks another wire is translated.",
    ),
    (
        "credentials.providers.credentials.<name>.tools",
        None,
        "How its models call tools: `native`, in their wire's own form, if unset; `schema` for models too weak for that, whose every \
         answer the server holds to a JSON schema of the agent's tools (llama.cpp, vLLM, Ollama).",
    ),
    (
        "credentials.providers.credentials.<name>.base_url",
        None,
        "The base URL of its server, with the version: `/v1`.",
    ),
    (
        "credentials.providers.credentials.<name>.default_model",
        None,
        "The model to use if a session names only the provider, or nothing.",
    ),
    ("credentials.providers.credentials.<name>.description", None, "For people."),
    ("credentials.providers.default", None, "The provider to use if several are configured."),
    (
        "defaults.limits.max_cost_usd",
        Some("10.00"),
        "What one session and everything that it starts may spend. A call that could exceed it is refused before it is made.",
    ),
    (
        "defaults.limits.max_recursion_depth",
        Some("3"),
        "How deep sessions may start sessions: one that a person starts is at 0, its children at 1. The four limits here \
         are of a whole tree, which keeps those that it began with; `config_limits` shows what is left of them.",
    ),
    (
        "defaults.limits.max_agents_per_session",
        Some("50"),
        "How many sessions one tree may ever have, the one that a person started among them.",
    ),
    (
        "defaults.limits.max_live_agents",
        None,
        "How many of its sessions may be active, that is not over, at the same time; as many as it may ever have if unset.",
    ),
    (
        "defaults.limits.max_wall_s",
        None,
        "For how many seconds after its beginning a tree may start sessions and call models; no limit if unset.",
    ),
    ("defaults.agent.model", None, "As `models.defaults.session_model`, which goes before it."),
    (
        "defaults.agent.autonomy",
        Some("\"high\""),
        "What agents may do without asking: `off` to look, `low` to change files as well, `medium` to run commands as well, `high` \
         everything. The sandbox holds them in each case.",
    ),
    (
        "defaults.agent.reasoning",
        None,
        "How hard the models of agents shall think; as each agent has it if unset.",
    ),
    ("models.models.<name>.model", None, "The model's name at the provider; the alias's own name if unset."),
    ("models.models.<name>.displayName", None, "For people."),
    ("models.models.<name>.baseUrl", None, "Instead of the provider's base URL."),
    ("models.models.<name>.apiKey", None, "Instead of the provider's key."),
    ("models.models.<name>.maxOutputTokens", None, "The most tokens of one answer."),
    ("models.models.<name>.provider", None, "A configured provider; the default one if unset."),
    ("models.models.<name>.extraHeaders", None, "Added to each request."),
    ("models.models.<name>.wire", None, "Instead of the provider's wire."),
    ("models.models.<name>.tools", None, "Instead of the provider's `tools`."),
    (
        "models.models.<name>.price.input",
        None,
        "For a million tokens that the model reads. Without prices, use is counted in tokens and costs nothing.",
    ),
    ("models.models.<name>.price.output", None, "For a million tokens that the model writes."),
    (
        "models.models.<name>.price.cached_input",
        None,
        "For a million tokens that the provider had cached; the price of input if unset.",
    ),
    (
        "models.models.<name>.price.cache_write",
        None,
        "For a million tokens that the provider puts into its cache; the price of input if unset.",
    ),
    (
        "models.defaults.session_model",
        None,
        "The model of sessions that name none: an alias, or `provider/model`.",
    ),
    ("models.defaults.autonomy_mode", None, "Another name of `defaults.agent.autonomy`."),
    ("models.defaults.reasoning_effort", None, "Another name of `defaults.agent.reasoning`."),
    (
        "models.prices.<name>.<name>.input",
        None,
        "The price of the model of this name (at whichever provider; `default` for those that are not here) from a day on, as in \
         `\"small\": {\"2026-01-31\": {\"input\": 3, \"output\": 15}}`. An alias's own price goes before it.",
    ),
    ("models.prices.<name>.<name>.output", None, "For a million tokens that the model writes."),
    (
        "models.prices.<name>.<name>.cached_input",
        None,
        "For a million tokens that the provider had cached; the price of input if unset.",
    ),
    (
        "models.prices.<name>.<name>.cache_write",
        None,
        "For a million tokens that the provider puts into its cache; the price of input if unset.",
    ),
    (
        "models.unpriced",
        Some("\"free\""),
        "What becomes of a call of a configured model without a price: `free` counts its tokens and no cost, `refuse` refuses it.",
    ),
    (
        "models.retries",
        Some("2"),
        "How often a call is tried again that a provider refuses for now (429, 5xx) or cuts, as long as the agent got nothing of \
         the answer.",
    ),
    (
        "models.discover_ports",
        Some("[11434, 8000, 8080, 1234, 8081]"),
        "Ports of this machine on which model servers are looked for. One that is found serves sessions that name its models, and, if no \
         provider is configured, those that name none. The server's own port is left out.",
    ),
    (
        "models.demonstration",
        Some("true"),
        "Use the scripted demonstration, which is not a language model, if there is no other model and its program lies beside `oubliette`.",
    ),
    (
        "sandbox.backend",
        Some("\"auto\""),
        "How sandboxes are made; `auto` is `namespace`. `process` isolates **nothing**: agents run as plain processes of this \
         machine.",
    ),
    (
        "sandbox.read_only",
        Some("[]"),
        "More folders that sandboxes may read, at the same place inside. Folders that hold keys are refused.",
    ),
    (
        "sandbox.toolchains",
        Some("\"auto\""),
        "`auto` shows Rust's toolchains (`~/.rustup` and `~/.cargo/bin`, never cargo's credentials) to sandboxes.",
    ),
    (
        "sandbox.bubblewrap",
        None,
        "The bubblewrap program, if the system does not keep it where it should be.",
    ),
    ("sandbox.env", Some("{}"), "Variables of everything inside. Not for secrets: the agent reads them."),
    ("sandbox.memory", Some("\"4G\""), "Memory of one sandbox; at most what the machine has."),
    ("sandbox.cpus", Some("4"), "Processors of one sandbox; at most what the machine has."),
    ("sandbox.pids", Some("4096"), "Processes and threads of one sandbox."),
    ("sandbox.open_files", Some("16384"), "Open files of each process in a sandbox."),
    (
        "sandbox.disk",
        Some("\"20G\""),
        "What the workspace and the home of a sandbox may take on disk; of a folder in place, what is added to it. A sandbox that \
         passes it is ended.",
    ),
    (
        "sandbox.inodes",
        Some("2000000"),
        "Files and folders of the workspace and the home; as `sandbox.disk`.",
    ),
    (
        "sandbox.wall_s",
        Some("604800"),
        "Seconds that a sandbox may live. A session sleeps when it has nothing to do, and wakes with another sandbox.",
    ),
    ("sandbox.output_rate", Some("\"4M\""), "Output of an agent in a second; one that writes more waits."),
    (
        "sandbox.limits",
        Some("\"strict\""),
        "`strict` refuses to start a sandbox on a machine that cannot hold one of its limits; `best_effort` starts it and marks \
         which are not held.",
    ),
    (
        "sandbox.lease_s",
        Some("900"),
        "Seconds that a sandbox goes on without a server, after a crash or `stop --keep-sandboxes`; then it ends.",
    ),
    (
        "sandbox.idle_s",
        None,
        "Seconds that a session has nothing to do before it sleeps: its sandbox and what runs in it end; its files and its \
         conversation stay, and the next message wakes it. `cleanup.retention_minutes` if unset.",
    ),
    (
        "agents.default",
        Some("\"builtin\""),
        "The agent of sessions that name none: `builtin`, another that `oubliette agent list` shows, or one of `agents.agents`.",
    ),
    (
        "agents.path",
        Some("[]"),
        "Folders in which programs of agents are looked for, before those of the server's `PATH`. What a program needs of its \
         package is shown to sandboxes, read-only.",
    ),
    (
        "agents.agents.<name>.command",
        None,
        "Program and arguments of an agent of your own, inside. A program without a slash is looked for as the known ones are.",
    ),
    (
        "agents.agents.<name>.protocol",
        None,
        "`acp` for one that speaks the Agent Client Protocol, which is so if unset; `plain` for one that is run for each message: \
         what it prints is its answer, and its exit code says how it went.",
    ),
    (
        "agents.agents.<name>.prompt",
        None,
        "How a plain one gets the message: as an `argument` (in place of `{prompt}`, else as the last), which is so if unset, or on \
         its `input`.",
    ),
    (
        "agents.agents.<name>.env",
        None,
        "Its variables; `{gate}` in them and in the arguments stands for the address of the model's gate, `{home}` for its \
         home. Not for secrets: the agent reads them.",
    ),
    ("log.format", Some("\"text\""), "How the log file is written."),
    ("log.level", Some("\"info\""), "A level, or levels of parts: `info,ob_gate=debug`."),
    ("runtime.preference", None, "The old name of `sandbox.backend`."),
    ("runtime.memory", None, "The old name of `sandbox.memory`."),
    ("runtime.cpus", None, "The old name of `sandbox.cpus`."),
    ("recursion.max_cost_usd", None, "The old name of `defaults.limits.max_cost_usd`."),
    ("recursion.max_depth", None, "The old name of `defaults.limits.max_recursion_depth`."),
    ("recursion.max_agents", None, "The old name of `defaults.limits.max_agents_per_session`."),
    (
        "rate_limit.requests_per_second",
        Some("10.0"),
        "Requests of one token in a second, and of one address that shows no valid token; more are answered with 429 and \
         `Retry-After`. The commands are not counted: they use a socket of the home.",
    ),
    (
        "rate_limit.burst",
        Some("20"),
        "Requests at once, of a token or an address that was silent for a while.",
    ),
    (
        "cleanup.enabled",
        Some("true"),
        "Whether the server looks, when it starts and every so often, for what nobody needs any more, and at the disk. Each time it \
         writes a line into the log that begins with `🧹 Cleanup`. Sessions, their events and their workspaces are never removed by it.",
    ),
    ("cleanup.interval_minutes", Some("5"), "Minutes from one such look to the next."),
    (
        "cleanup.retention_minutes",
        Some("60"),
        "Minutes that files of deleted projects, workspaces and sessions stay which could not be removed with them, and that a \
         session has nothing to do before its sandbox and its memory are given back (`sandbox.idle_s`).",
    ),
    (
        "cleanup.disk_warn_percent",
        Some("80"),
        "A disk of the home that is so full is a warning in the log, in `/health` and in `doctor`.",
    ),
    ("cleanup.disk_error_percent", Some("90"), "One that is so full is an error there."),
    (
        "paths.projects",
        None,
        "The folder of projects, if not where the home's layout has it. A relative path is relative to the home.",
    ),
    ("paths.data", None, "The folder of databases, the lock and the pid file, if not `data`."),
    ("paths.logs", None, "The folder of the log file, if not where the home's layout has it."),
    (
        "paths.sockets",
        None,
        "The folder in which the home has a folder of sockets. One whose path is too long for a socket is not used.",
    ),
];

/// Every key that has an effect, in the order of the schema.
pub fn reference() -> Vec<KeyReference> {
    let mut leaves = Vec::new();
    walk(ROOT, String::new(), &mut leaves);
    let values = leaves.into_iter().filter_map(|(path, kind)| Some((path, kind?)));
    values
        .map(|(path, kind)| {
            // A test sees to it that each key has its row.
            let (default, doc) = (default(&path), doc(&path));
            let live = values::is_live(&path);
            KeyReference { path, kind: in_words(kind), default, doc, live }
        })
        .collect()
}

/// Keys that are known and have no effect in this version: setting one is a warning.
pub fn reference_later() -> Vec<String> {
    let mut leaves = Vec::new();
    walk(ROOT, String::new(), &mut leaves);
    leaves.into_iter().filter(|(_, kind)| kind.is_none()).map(|(path, _)| path).collect()
}

/// What a key does; nothing for a key that has no effect.
pub(crate) fn doc(path: &str) -> &'static str {
    DOCS.iter().find(|(known, ..)| *known == path).map_or("", |(.., doc)| doc)
}

/// What is used if a key is not set, as JSON.
pub(crate) fn default(path: &str) -> Option<&'static str> {
    DOCS.iter().find(|(known, ..)| *known == path).and_then(|(_, default, _)| *default)
}

fn walk(shape: Shape, path: String, leaves: &mut Vec<(String, Option<Kind>)>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match shape {
        Shape::Section(keys) => keys.iter().for_each(|key| walk(key.shape, below(key.name), leaves)),
        Shape::Named(each) => walk(*each, below("<name>"), leaves),
        Shape::Value(kind) => leaves.push((path, Some(kind))),
        Shape::Later => leaves.push((path, None)),
    }
}

fn in_words(kind: Kind) -> String {
    let plain = match kind {
        Kind::Text => "text",
        Kind::Secret => "secret text",
        Kind::Secrets => "a list of secret texts",
        Kind::Choice(choices) => {
            return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or ");
        }
        Kind::Flag => "`true` or `false`",
        Kind::Usd => "US dollars",
        Kind::Whole { least, most } => return format!("{least} to {most}"),
        Kind::Cpus => "processors, like `2` or `0.5`",
        Kind::PerSecond => "a number, like `10` or `0.5`",
        Kind::Size => "bytes, like `\"4G\"`",
        Kind::Rate => "bytes, like `\"4M\"`",
        Kind::Paths => "a list of folders",
        Kind::Words => "a list of texts",
        Kind::Ports => "a list of ports",
        Kind::Variables => "names to text",
        Kind::Headers => "names to text",
        Kind::Url => "URL",
        Kind::Address => "address",
        Kind::Filter => "log filter",
    };
    plain.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;
    use crate::LoadOptions;
    use crate::schema::BACKENDS;

    #[test]
    fn every_key_is_described_and_nothing_else_is() {
        let mut leaves = Vec::new();
        walk(ROOT, String::new(), &mut leaves);
        let keys: Vec<_> =
            leaves.into_iter().filter(|(_, kind)| kind.is_some()).map(|(path, _)| path).collect();
        let described: Vec<_> = DOCS.iter().map(|(path, ..)| *path).collect();
        assert_eq!(keys, described);
        assert_eq!(BACKENDS, ["auto", "namespace", "process"], "`sandbox.backend` says what `auto` is");
    }

    #[test]
    fn a_default_that_is_written_down_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = |variable: Option<(String, &str)>| {
            let env: BTreeMap<OsString, OsString> = variable
                .map(|(name, value)| (name.into(), value.into()))
                .into_iter()
                .chain([("HOME".into(), folder.path().into())])
                .collect();
            let options = LoadOptions {
                dir: Some(folder.path().join("home")),
                env,
                cwd: folder.path().to_owned(),
                ..LoadOptions::default()
            };
            format!("{:?}", crate::load(&options).expect("a configuration").settings)
        };
        let plain = settings(None);
        for key in reference() {
            let Some(default) = key.default else { continue };
            let variable = format!("OUBLIETTE_{}", key.path.to_uppercase().replace('.', "__"));
            assert_eq!(settings(Some((variable, default))), plain, "{}", key.path);
        }
        // The positive control: another value is seen.
        assert_ne!(settings(Some(("OUBLIETTE_SANDBOX__PIDS".to_owned(), "100"))), plain);
    }
}
