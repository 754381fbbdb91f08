//! `oubliette agent`.

use ob_core::Refusal;
use ob_core::agent::AgentAbilities;
use ob_core::agent::AgentProtocol;
use ob_core::agent::AgentView;
use ob_core::operation::AgentTarget;
use ob_core::operation::Nothing;
use ob_core::operation::Operation;

use super::OK;
use super::UNHEALTHY;
use super::args::AgentCommand;
use super::hub::Hub;
use super::output::Output;
use super::table::Table;
use super::text;

/// Runs the command.
pub(crate) async fn command(command: AgentCommand, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    match command {
        AgentCommand::List => {
            let agents: Vec<AgentView> = hub.client.call(Operation::AgentList, &Nothing {}).await?;
            output.data(&agents, || {
                let table = Table::new("NAME")
                    .state("STATE", 0)
                    .column("VERSION", 1)
                    .column("TESTED", 3)
                    .text("TITLE", 2)
                    .text("PROGRAM", 4);
                output.table(&table.rows(agents.iter().map(row)))
            });
            Ok(OK)
        }
        AgentCommand::Check { name } => {
            let target = AgentTarget { agent: name };
            let agent: AgentView = hub.client.call(Operation::AgentCheck, &target).await?;
            output.data(&agent, || described(&agent));
            if agent.is_found {
                return Ok(OK);
            }
            if let Some(install) = &agent.install {
                output.hint(&format!("install it: {}", text::one_line(install)));
            }
            Ok(UNHEALTHY)
        }
    }
}

fn row(agent: &AgentView) -> Vec<String> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let state = match (agent.is_found, agent.is_default) {
        (true, true) => "default",
        (true, false) => "found",
        (false, _) => "missing",
    };
    vec![
        agent.name.clone(),
        state.to_owned(),
        or_none(&agent.version),
        or_none(&agent.tested),
        agent.title.clone(),
        or_none(&agent.program),
    ]
}

fn described(agent: &AgentView) -> String {
    let or = |text: &Option<String>, other: &str| text.clone().unwrap_or_else(|| other.to_owned());
    let protocol = match agent.protocol {
        AgentProtocol::Acp => "ACP over its standard input and output",
        AgentProtocol::Plain => "run for each message; what it prints is its answer",
    };
    let needs = if agent.needs.is_empty() { "nothing else".to_owned() } else { agent.needs.join(", ") };
    let lines = [
        ("name", agent.name.clone()),
        ("title", agent.title.clone()),
        ("usable", if agent.is_found { "yes".to_owned() } else { or(&agent.problem, "no") }),
        ("program", or(&agent.program, "-")),
        ("version", or(&agent.version, "not known")),
        ("tested", or(&agent.tested, "not by our tests")),
        ("spoken", protocol.to_owned()),
        ("needs", needs),
        ("install", or(&agent.install, "nothing to install")),
        ("can", abilities(&agent.can)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<8} {}\n", text::one_line(value))).collect()
}

/// Which options take effect on it.
fn abilities(can: &AgentAbilities) -> String {
    let levels: Vec<&str> = can.autonomy.iter().map(|level| level.as_str()).collect();
    let mut all = vec!["model".to_owned(), format!("autonomy {}", levels.join("|"))];
    for (can, what) in [
        (can.reasoning, "reasoning"),
        (can.tools_allowed, "allowed tools"),
        (can.tools_disallowed, "disallowed tools"),
    ] {
        all.extend(can.then(|| what.to_owned()));
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use ob_core::agent::Autonomy;

    use super::*;

    #[test]
    fn an_agent_is_described_with_what_is_missing() {
        let agent = AgentView {
            name: "codex".to_owned(),
            title: "Codex".to_owned(),
            is_default: false,
            protocol: AgentProtocol::Acp,
            is_found: false,
            program: None,
            version: None,
            tested: Some("2.6.0".to_owned()),
            needs: vec!["node".to_owned()],
            install: Some("npm install -g x".to_owned()),
            can: AgentAbilities {
                autonomy: vec![Autonomy::High],
                reasoning: true,
                ..AgentAbilities::default()
            },
            problem: Some("the agent `codex` cannot be used: its program\u{1b}[2J was not found".to_owned()),
        };
        insta::assert_snapshot!(described(&agent));
        assert_eq!(row(&agent)[1], "missing");
    }
}
