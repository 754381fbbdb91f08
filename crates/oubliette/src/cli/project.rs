//! `oubliette project`.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_core::operation::ProjectCreate;
use ob_core::operation::ProjectList;
use ob_core::operation::ProjectTarget;
use ob_core::record::ProjectRecord;
use ob_core::resource::Resource;
use serde_json::Value;

use super::OK;
use super::args::ProjectCommand;
use super::failed;
use super::hub::Hub;
use super::output::Output;
use super::run;
use super::table::Table;
use super::text;

/// Projects of one page, the most that the server gives.
const PROJECTS_MAX: u32 = 1000;

/// Characters of a project's name, the most that the server takes.
const NAME_MAX: usize = 200;

/// Runs the command.
pub(crate) async fn command(command: ProjectCommand, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    match command {
        ProjectCommand::Create {
            name,
            source,
            description,
            model,
            max_cost_usd,
            agent,
            autonomy,
            reasoning,
            denied,
            limits,
        } => {
            let source = match source {
                Some(folder) => {
                    let folder = hub.context.cwd.join(folder);
                    let whole = folder.canonicalize();
                    Some(whole.map_err(|error| failed(&format!("open {}", folder.display()), &error))?)
                }
                None => None,
            };
            let mut params = ProjectCreate {
                name,
                description: description.unwrap_or_default(),
                source,
                max_cost_usd,
                model,
                max_recursion_depth: None,
                max_agents_per_session: None,
                max_live_agents: None,
                max_wall_s: None,
                limits: BTreeMap::new(),
                agent_runtime: agent,
                autonomy: run::level(autonomy.as_deref())?,
                reasoning: run::level(reasoning.as_deref())?,
                disabled_tools: denied,
            };
            for limit in &limits {
                set_limit(&mut params, limit)?;
            }
            let record: ProjectRecord = hub.client.call(Operation::ProjectCreate, &params).await?;
            output.data(&record, || format!("{}\n", record.id));
        }
        ProjectCommand::List { name_contains, limit } => {
            let projects = list(hub, &ProjectList { name_contains, limit }).await?;
            output.data(&projects, || {
                let rows = projects
                    .iter()
                    .map(|p| vec![p.id.to_string(), p.name.clone(), source(p), text::instant(p.created_at)]);
                output.table(
                    &Table::new("ID").text("NAME", 0).text("SOURCE", 1).column("CREATED", 2).rows(rows),
                )
            });
            if projects.is_empty() {
                output.hint("no project; `oubliette run` makes one for a folder, `oubliette project create` without a task");
            }
        }
        ProjectCommand::Get { id } => {
            let target = ProjectTarget { project_id: parse(&id)? };
            let record: ProjectRecord = hub.client.call(Operation::ProjectGet, &target).await?;
            output.data(&record, || described(&record));
        }
        ProjectCommand::Delete { id } => {
            let target = ProjectTarget { project_id: parse(&id)? };
            let answer: Value = hub.client.call(Operation::ProjectDelete, &target).await?;
            output.data(&answer, || format!("deleted {}\n", target.project_id));
        }
    }
    Ok(OK)
}

/// Sets a limit of the project's trees, by the name that `config_limits` has for it, or of its sandboxes.
fn set_limit(params: &mut ProjectCreate, text: &str) -> Result<(), Refusal> {
    fn number<T: FromStr>(text: &str, amount: &str) -> Result<Option<T>, Refusal> {
        amount.parse().map(Some).map_err(|_| no_limit(text))
    }
    match text.split_once('=') {
        Some(("depth", levels)) => params.max_recursion_depth = number(text, levels)?,
        Some(("agents", agents)) => params.max_agents_per_session = number(text, agents)?,
        Some(("live_agents", agents)) => params.max_live_agents = number(text, agents)?,
        Some(("time", seconds)) => params.max_wall_s = number(text, seconds)?,
        _ => {
            let (resource, amount) = parse_limit(text)?;
            params.limits.insert(resource, amount);
        }
    }
    Ok(())
}

fn no_limit(text: &str) -> Refusal {
    let names = Resource::ALL.map(Resource::as_str).join(", ");
    Refusal::invalid(format!("`{}` is no limit", text::one_line(text))).fix(format!(
        "write NAME=N, as in disk=40G or cpu=1.5; the names are depth, agents, live_agents and time of a tree of sessions, \
         and {names} of a sandbox"
    ))
}

/// A limit as people write it: `disk=40G`, `cpu=1.5`, `wall_time=3600` in seconds.
fn parse_limit(text: &str) -> Result<(Resource, u64), Refusal> {
    let wrong = || no_limit(text);
    let (name, amount) = text.split_once('=').ok_or_else(wrong)?;
    let resource = Resource::ALL.into_iter().find(|resource| resource.as_str() == name).ok_or_else(wrong)?;
    let amount = match resource {
        Resource::Memory | Resource::Disk | Resource::OutputRate => ob_config::parse_size(amount),
        Resource::Cpu => ob_config::parse_thousandths(amount).map(u64::from),
        Resource::WallTime => amount.parse::<u64>().ok().and_then(|seconds| seconds.checked_mul(1000)),
        Resource::Pids | Resource::OpenFiles | Resource::Inodes => amount.parse().ok(),
    };
    Ok((resource, amount.ok_or_else(wrong)?))
}

/// Projects, as the server lists them.
pub(crate) async fn list(hub: &Hub, params: &ProjectList) -> Result<Vec<ProjectRecord>, Refusal> {
    Ok(hub.client.call(Operation::ProjectList, params).await?)
}

/// The project whose source is this folder, which is whole and without links; nothing if there is none.
pub(crate) async fn of_folder(hub: &Hub, folder: &Path) -> Result<Option<ProjectRecord>, Refusal> {
    // By name first, which finds it among any number; then all, since it may have another name.
    for name_contains in [Some(name_of(folder)), None] {
        let found = list(hub, &ProjectList { name_contains, limit: Some(PROJECTS_MAX) }).await?;
        let ours = found.into_iter().find(|project| project.source.as_deref() == Some(folder));
        if ours.is_some() {
            return Ok(ours);
        }
    }
    Ok(None)
}

/// What a project of this folder is called if nobody says otherwise.
pub(crate) fn name_of(folder: &Path) -> String {
    let name =
        folder.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
    name.chars().take(NAME_MAX).collect()
}

/// A project's id, as it was typed.
pub(crate) fn parse(id: &str) -> Result<ProjectId, Refusal> {
    id.parse::<ProjectId>()
        .map_err(|error| Refusal::from(error).fix("list them with `oubliette project list`"))
}

fn source(record: &ProjectRecord) -> String {
    record.source.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

/// What its sandboxes may use.
fn limits(record: &ProjectRecord) -> String {
    let each: Vec<_> = record
        .limits
        .iter()
        .map(|(resource, amount)| format!("{resource} {}", resource.show(*amount)))
        .collect();
    if each.is_empty() { "the server's limits".to_owned() } else { each.join(", ") }
}

/// What its sessions ask of their agent.
fn agent(record: &ProjectRecord) -> String {
    let agent = &record.agent;
    let mut all: Vec<String> = agent.name.iter().cloned().collect();
    all.extend(agent.autonomy.map(|level| format!("autonomy {level}")));
    all.extend(agent.reasoning.map(|level| format!("reasoning {level}")));
    if !agent.disabled_tools.is_empty() {
        all.push(format!("without {}", agent.disabled_tools.join(", ")));
    }
    if all.is_empty() { "the server's default".to_owned() } else { all.join(", ") }
}

fn described(record: &ProjectRecord) -> String {
    let lines = [
        ("id", record.id.to_string()),
        ("name", record.name.clone()),
        ("about", record.description.clone()),
        ("source", source(record)),
        ("model", record.model.clone().unwrap_or_else(|| "the server's default".to_owned())),
        ("agent", agent(record)),
        ("limit", record.max_cost.map_or_else(|| "the server's default".to_owned(), |cost| cost.to_string())),
        ("created", text::instant(record.created_at)),
        ("sandbox", limits(record)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<8} {}\n", text::one_line(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        for (text, expected) in [
            ("disk=40G", Some((Resource::Disk, 40 << 30))),
            ("cpu=1.5", Some((Resource::Cpu, 1500))),
            ("wall_time=3600", Some((Resource::WallTime, 3_600_000))),
            ("pids=100", Some((Resource::Pids, 100))),
            ("pids=1.5", None),
            ("disk=", None),
            ("space=4G", None),
            ("disk", None),
        ] {
            assert_eq!(parse_limit(text).ok(), expected, "{text}");
        }
    }
}
