//! The agent's command line.

use std::borrow::Cow;
use std::ffi::OsString;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ob_core::agent::BUILTIN_TOOLS;
use serde_json::Value;

use super::tools;

const USAGE: &str = "usage: agent [--model-socket PATH | --model-url http://ADDRESS:PORT/v1] [--model NAME] \
[--model-idle-timeout-s N] [--model-patience-s N] [--model-retry-ms N] [--context-tokens N] [--tools NAME,NAME] \
[--reasoning LEVEL]";

/// How the agent was told to work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the model answers.
    pub(crate) endpoint: Endpoint,
    /// The model's name in requests; the gate puts in the real one.
    pub(crate) model: String,
    /// How long the model may say nothing.
    pub(crate) idle_timeout: Duration,
    /// How long an endpoint that takes no connections is waited for: the server may be restarting.
    pub(crate) patience: Duration,
    /// The wait before the first repetition of a failed model call; it doubles.
    pub(crate) retry_wait: Duration,
    /// How many tokens of conversation the model is given, estimated at four bytes each.
    pub(crate) context_tokens: usize,
    /// The only tools that it has; all if nothing.
    pub(crate) tools: Option<Vec<&'static str>>,
    /// How hard the model is asked to think, in the words of its wire.
    pub(crate) reasoning: Option<String>,
    /// Holds the sessions, in `.agent/sessions`.
    pub(crate) home: PathBuf,
}

/// Where the model answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A unix socket: the gate.
    Socket(PathBuf),
    /// A literal address and the path before `/chat/completions`. No names: a static program resolves none.
    Address(SocketAddr, String),
}

// === impl Options ===

impl Options {
    /// Reads the arguments after `agent`; `gate` is the gate's socket where there are no walls. Errors are for a person.
    pub(crate) fn parse(
        arguments: impl Iterator<Item = String>,
        home: Option<OsString>,
        gate: Option<OsString>,
    ) -> Result<Self, String> {
        let mut options = Self {
            endpoint: Endpoint::Socket(gate.unwrap_or_else(|| ob_core::link::GATE_SOCKET.into()).into()),
            model: "default".to_owned(),
            idle_timeout: Duration::from_secs(120),
            patience: Duration::from_secs(120),
            retry_wait: Duration::from_millis(500),
            context_tokens: 120_000,
            tools: None,
            reasoning: None,
            home: PathBuf::from(home.unwrap_or_else(|| OsString::from(ob_core::link::HOME_DIR))),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            if !name.starts_with("--") {
                return Err(format!("unexpected argument `{name}`; {USAGE}"));
            }
            let value = inline
                .or_else(|| arguments.next())
                .ok_or_else(|| format!("`{name}` needs a value; {USAGE}"))?;
            match name {
                "--model-socket" => options.endpoint = Endpoint::Socket(PathBuf::from(value)),
                "--model-url" => options.endpoint = Endpoint::from_url(&value)?,
                "--model" => options.model = value,
                "--model-idle-timeout-s" => options.idle_timeout = Duration::from_secs(number(name, &value)?),
                "--model-patience-s" => options.patience = Duration::from_secs(number(name, &value)?),
                "--model-retry-ms" => options.retry_wait = Duration::from_millis(number(name, &value)?),
                "--context-tokens" => {
                    options.context_tokens = usize::try_from(number(name, &value)?).unwrap_or(usize::MAX / 8);
                }
                "--tools" => options.tools = Some(tools_of(&value)?),
                "--reasoning" => options.reasoning = Some(value),
                _ => return Err(format!("unknown option `{name}`; {USAGE}")),
            }
        }
        Ok(options)
    }

    /// The tools as the model is told of them.
    pub(crate) fn schema(&self) -> Cow<'static, Value> {
        match &self.tools {
            None => Cow::Borrowed(tools::schema()),
            Some(names) => Cow::Owned(tools::schema_of(names)),
        }
    }

    /// Refuses a tool that it has not, for the model.
    pub(crate) fn permit(&self, tool: &str) -> Result<(), String> {
        match &self.tools {
            Some(names) if is_tool(tool) && !names.contains(&tool) => {
                Err(format!("`{tool}` may not be used in this session; the tools are {}", names.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn from_url(url: &str) -> Result<Self, String> {
        let refused =
            || format!("`{url}` is no model address; give one such as `http://127.0.0.1:8080/v1`; {USAGE}");
        let rest = url.strip_prefix("http://").ok_or_else(refused)?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let address = match authority.strip_prefix("localhost:") {
            Some(port) => {
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().map_err(|_bad| refused())?)
            }
            None => authority.parse().map_err(|_bad| refused())?,
        };
        Ok(Self::Address(address, path.trim_end_matches('/').to_owned()))
    }
}

fn is_tool(name: &str) -> bool {
    BUILTIN_TOOLS.iter().any(|(known, _)| *known == name)
}

fn tools_of(list: &str) -> Result<Vec<&'static str>, String> {
    let known = |name: &str| BUILTIN_TOOLS.iter().map(|(known, _)| *known).find(|known| *known == name);
    list.split(',')
        .map(|name| known(name).ok_or_else(|| format!("there is no tool `{name}`; {USAGE}")))
        .collect()
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{name}` needs a whole number above 0, not `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(|argument| (*argument).to_owned()), Some("/h".into()), None)
    }

    #[test]
    fn without_arguments_the_gate_is_the_model() {
        let options = parse(&[]).expect("no argument is needed");
        assert_eq!(options.endpoint, Endpoint::Socket("/run/gate/gate.sock".into()));
        assert_eq!(options.home, PathBuf::from("/h"));
    }

    #[test]
    fn without_walls_the_gate_is_where_the_variable_says() {
        let options = Options::parse(std::iter::empty(), None, Some("/tmp/2/gate.sock".into()));
        let expected = Endpoint::Socket("/tmp/2/gate.sock".into());
        assert_eq!(options.expect("no argument is needed").endpoint, expected);
    }

    #[test]
    fn an_address_may_be_given_either_way() {
        let expected = Endpoint::Address(SocketAddr::from(([127, 0, 0, 1], 81)), "/v1".to_owned());
        for arguments in
            [&["--model-url", "http://127.0.0.1:81/v1"][..], &["--model-url=http://localhost:81/v1/"][..]]
        {
            assert_eq!(parse(arguments).expect("it is an address").endpoint, expected);
        }
    }

    #[test]
    fn a_tool_that_is_not_among_its_own_is_refused_by_name() {
        let options = parse(&["--tools", "read,search"]).expect("they are tools");
        assert_eq!(options.schema().as_array().map(Vec::len), Some(2));
        let refused = options.permit("run").expect_err("it has none");
        assert_eq!(refused, "`run` may not be used in this session; the tools are read, search");
        assert_eq!(options.permit("read"), Ok(()));
        assert_eq!(parse(&[]).expect("no argument is needed").permit("run"), Ok(()));
    }

    #[test]
    fn bad_arguments_are_refused_by_name() {
        for (arguments, named) in [
            (&["--modle", "x"][..], "unknown option `--modle`"),
            (&["--model"][..], "`--model` needs a value"),
            (&["stray"][..], "unexpected argument `stray`"),
            (&["--context-tokens", "0"][..], "not `0`"),
            (&["--tools", "read,delete"][..], "there is no tool `delete`"),
            (&["--model-url", "https://models.example/v1"][..], "is no model address"),
            (&["--model-url", "http://models.example:80/v1"][..], "is no model address"),
        ] {
            let refusal = parse(arguments).expect_err("it is bad");
            assert!(refusal.contains(named), "{refusal}");
        }
    }
}
