//! Every key that a configuration may hold: one table, read by the checks, by the environment and by the tests.

/// What may stand behind a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Fixed names.
    Section(&'static [Key]),
    /// Names that the operator chooses, each of the same shape.
    Named(&'static Shape),
    /// A value.
    Value(Kind),
    /// Known, of any shape, and without effect in this version.
    Later,
}

/// A name and what may stand behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
}

/// A kind of value. How each is read stands in `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string that is not empty.
    Text,
    /// A string that is never shown.
    Secret,
    /// A list of them.
    Secrets,
    /// One of these.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
    /// US dollars.
    Usd,
    /// A whole number within bounds.
    Whole {
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
    /// Processors.
    Cpus,
    /// How often in a second.
    PerSecond,
    /// Bytes.
    Size,
    /// Bytes a second.
    Rate,
    /// A list of folders.
    Paths,
    /// A program and its arguments.
    Words,
    /// A list of ports.
    Ports,
    /// Variables of an environment: names to strings.
    Variables,
    /// HTTP headers: names to strings.
    Headers,
    /// An HTTP base URL.
    Url,
    /// A listen address.
    Address,
    /// A log filter.
    Filter,
}

const fn section(name: &'static str, keys: &'static [Key]) -> Key {
    Key { name, shape: Shape::Section(keys) }
}

const fn value(name: &'static str, kind: Kind) -> Key {
    Key { name, shape: Shape::Value(kind) }
}

const fn named(name: &'static str, each: &'static Shape) -> Key {
    Key { name, shape: Shape::Named(each) }
}

const fn later(name: &'static str) -> Key {
    Key { name, shape: Shape::Later }
}

/// The backends that can be asked for.
pub(crate) const BACKENDS: &[&str] = &["auto", "namespace", "process"];

/// The wires that a provider can be said to speak.
pub(crate) const WIRES: &[&str] = &["chat", "responses", "openai", "anthropic", "google"];

/// How a model can be made to call tools.
pub(crate) const TOOLS: &[&str] = &["native", "schema"];

const PROVIDER: Shape = Shape::Section(&[
    value("provider", Kind::Text),
    value("api_key", Kind::Secret),
    value("api_keys", Kind::Secrets),
    value("wire", Kind::Choice(WIRES)),
    value("tools", Kind::Choice(TOOLS)),
    value("base_url", Kind::Url),
    value("default_model", Kind::Text),
    value("description", Kind::Text),
]);

const MODEL: Shape = Shape::Section(&[
    value("model", Kind::Text),
    value("displayName", Kind::Text),
    value("baseUrl", Kind::Url),
    value("apiKey", Kind::Secret),
    value("maxOutputTokens", Kind::Whole { least: 1, most: 10_000_000 }),
    value("provider", Kind::Text),
    value("extraHeaders", Kind::Headers),
    value("wire", Kind::Choice(WIRES)),
    value("tools", Kind::Choice(TOOLS)),
    section("price", PRICE),
]);

const PRICE: &[Key] = &[
    value("input", Kind::Usd),
    value("output", Kind::Usd),
    value("cached_input", Kind::Usd),
    value("cache_write", Kind::Usd),
];

/// Prices of a model, each by the day from which on it holds.
const DATED: Shape = Shape::Named(&Shape::Section(PRICE));

/// Levels of autonomy and of reasoning.
pub(crate) const LEVELS: &[&str] = &["off", "low", "medium", "high"];

const AGENT: Shape = Shape::Section(&[
    value("command", Kind::Words),
    value("protocol", Kind::Choice(&["acp", "plain"])),
    value("prompt", Kind::Choice(&["argument", "input"])),
    value("env", Kind::Variables),
]);

/// The whole file.
pub(crate) const ROOT: Shape = Shape::Section(&[
    value("$schema", Kind::Text),
    section("server", &[value("address", Kind::Address)]),
    section(
        "credentials",
        &[
            section("providers", &[named("credentials", &PROVIDER), value("default", Kind::Text)]),
            later("github"),
        ],
    ),
    section(
        "defaults",
        &[
            section(
                "limits",
                &[
                    value("max_cost_usd", Kind::Usd),
                    value("max_recursion_depth", Kind::Whole { least: 0, most: 100 }),
                    value("max_agents_per_session", Kind::Whole { least: 1, most: 1_000_000 }),
                    value("max_live_agents", Kind::Whole { least: 1, most: 1_000_000 }),
                    value("max_wall_s", Kind::Whole { least: 1, most: 31_536_000 }),
                ],
            ),
            section(
                "agent",
                &[
                    value("model", Kind::Text),
                    value("autonomy", Kind::Choice(LEVELS)),
                    value("reasoning", Kind::Choice(LEVELS)),
                    later("mcp_servers"),
                ],
            ),
            later("container"),
            later("backup"),
        ],
    ),
    section(
        "models",
        &[
            named("models", &MODEL),
            section(
                "defaults",
                &[
                    value("session_model", Kind::Text),
                    later("included_models"),
                    value("autonomy_mode", Kind::Choice(LEVELS)),
                    value("reasoning_effort", Kind::Choice(LEVELS)),
                ],
            ),
            named("prices", &DATED),
            value("unpriced", Kind::Choice(&["free", "refuse"])),
            value("retries", Kind::Whole { least: 0, most: 10 }),
            value("discover_ports", Kind::Ports),
            value("demonstration", Kind::Flag),
        ],
    ),
    section(
        "sandbox",
        &[
            value("backend", Kind::Choice(BACKENDS)),
            value("read_only", Kind::Paths),
            value("toolchains", Kind::Choice(&["auto", "off"])),
            value("bubblewrap", Kind::Text),
            value("env", Kind::Variables),
            value("memory", Kind::Size),
            value("cpus", Kind::Cpus),
            value("pids", Kind::Whole { least: 16, most: 4_194_304 }),
            value("open_files", Kind::Whole { least: 256, most: 1_048_576 }),
            value("disk", Kind::Size),
            value("inodes", Kind::Whole { least: 1000, most: 4_000_000_000 }),
            value("wall_s", Kind::Whole { least: 1, most: 31_536_000 }),
            value("output_rate", Kind::Rate),
            value("limits", Kind::Choice(&["strict", "best_effort"])),
            value("lease_s", Kind::Whole { least: 10, most: 604_800 }),
            value("idle_s", Kind::Whole { least: 1, most: 31_536_000 }),
        ],
    ),
    section("agents", &[value("default", Kind::Text), value("path", Kind::Paths), named("agents", &AGENT)]),
    section("log", &[value("format", Kind::Choice(&["text", "json"])), value("level", Kind::Filter)]),
    // The sections of the first version's file, which may stand here too.
    section(
        "runtime",
        &[
            value("preference", Kind::Choice(BACKENDS)),
            value("memory", Kind::Size),
            value("cpus", Kind::Cpus),
        ],
    ),
    section(
        "recursion",
        &[
            value("max_cost_usd", Kind::Usd),
            value("max_depth", Kind::Whole { least: 0, most: 100 }),
            value("max_agents", Kind::Whole { least: 1, most: 1_000_000 }),
        ],
    ),
    later("auth"),
    section(
        "rate_limit",
        &[
            value("requests_per_second", Kind::PerSecond),
            value("burst", Kind::Whole { least: 1, most: 1_000_000 }),
        ],
    ),
    section(
        "cleanup",
        &[
            value("enabled", Kind::Flag),
            value("interval_minutes", Kind::Whole { least: 1, most: 10_080 }),
            value("retention_minutes", Kind::Whole { least: 1, most: 525_600 }),
            value("disk_warn_percent", Kind::Whole { least: 1, most: 100 }),
            value("disk_error_percent", Kind::Whole { least: 1, most: 100 }),
        ],
    ),
    later("backup"),
    section(
        "paths",
        &[
            value("projects", Kind::Text),
            value("data", Kind::Text),
            value("logs", Kind::Text),
            value("sockets", Kind::Text),
        ],
    ),
    later("containers"),
]);

/// Names of the first version and what they are called now.
pub(crate) const OLD_NAMES: [(&str, &str); 8] = [
    ("runtime.preference", "sandbox.backend"),
    ("runtime.memory", "sandbox.memory"),
    ("runtime.cpus", "sandbox.cpus"),
    ("recursion.max_depth", "defaults.limits.max_recursion_depth"),
    ("recursion.max_agents", "defaults.limits.max_agents_per_session"),
    ("recursion.max_cost_usd", "defaults.limits.max_cost_usd"),
    ("models.defaults.autonomy_mode", "defaults.agent.autonomy"),
    ("models.defaults.reasoning_effort", "defaults.agent.reasoning"),
];

/// What a key is called now.
pub(crate) fn new_name(path: &str) -> &str {
    OLD_NAMES.iter().find(|(old, _)| *old == path).map_or(path, |(_, new)| new)
}

// === impl Shape ===

impl Shape {
    /// What it is, for messages.
    pub(crate) const fn wants(self) -> &'static str {
        match self {
            Self::Section(_) | Self::Named(_) => "an object",
            Self::Value(_) | Self::Later => "a value",
        }
    }
}

/// The known name that was probably meant, if one is near enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = fold(name);
    // A third of the name may be wrong, and never more than three characters.
    let most = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `baseUrl`, `base_url` and `BASE_URL` alike.
pub(crate) fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["address", "baseUrl", "api_key", "cpus"];
        for (name, expected) in [
            ("adress", Some("address")),
            ("base_url", Some("baseUrl")),
            ("apiKey", Some("api_key")),
            ("cpu", Some("cpus")),
            ("dress", None),
            ("memory", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
