//! `oubliette project`.

use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_core::operation::ProjectCreate;
use ob_core::operation::ProjectList;
use ob_core::operation::ProjectTarget;
use ob_core::record::ProjectRecord;
use serde_json::Value;

use super::OK;
use super::args::ProjectCommand;
use super::failed;
use super::hub::Hub;
use super::output::Output;
use super::text;

/// Runs the command.
pub(crate) async fn command(command: ProjectCommand, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    match command {
        ProjectCommand::Create { name, source, description, model, max_cost_usd } => {
            let source = match source {
                Some(folder) => {
                    let folder = hub.context.cwd.join(folder);
                    let whole = folder.canonicalize();
                    Some(whole.map_err(|error| failed(&format!("open {}", folder.display()), &error))?)
                }
                None => None,
            };
            let params = ProjectCreate {
                name,
                description: description.unwrap_or_default(),
                source,
                max_cost_usd,
                model,
            };
            let record: ProjectRecord = hub.client.call(Operation::ProjectCreate, &params).await?;
            output.data(&record, || format!("{}\n", record.id));
        }
        ProjectCommand::List { name_contains, limit } => {
            let projects = list(hub, &ProjectList { name_contains, limit }).await?;
            output.data(&projects, || {
                let rows: Vec<_> = projects
                    .iter()
                    .map(|p| vec![p.id.to_string(), p.name.clone(), source(p), text::instant(p.created_at)])
                    .collect();
                output.table(&["ID", "NAME", "SOURCE", "CREATED"], &rows)
            });
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

/// Projects, as the server lists them.
pub(crate) async fn list(hub: &Hub, params: &ProjectList) -> Result<Vec<ProjectRecord>, Refusal> {
    Ok(hub.client.call(Operation::ProjectList, params).await?)
}

/// A project's id, as it was typed.
pub(crate) fn parse(id: &str) -> Result<ProjectId, Refusal> {
    id.parse::<ProjectId>()
        .map_err(|error| Refusal::from(error).fix("list them with `oubliette project list`"))
}

fn source(record: &ProjectRecord) -> String {
    record.source.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

fn described(record: &ProjectRecord) -> String {
    let lines = [
        ("id", record.id.to_string()),
        ("name", record.name.clone()),
        ("about", record.description.clone()),
        ("source", source(record)),
        ("model", record.model.clone().unwrap_or_else(|| "the server's default".to_owned())),
        ("limit", record.max_cost.map_or_else(|| "the server's default".to_owned(), |cost| cost.to_string())),
        ("created", text::instant(record.created_at)),
    ];
    lines.iter().map(|(name, value)| format!("{name:<8} {}\n", text::one_line(value))).collect()
}
