//! `oubliette run`: a task, a folder, an agent, a diff.

use std::path::Path;
use std::path::PathBuf;

use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_core::operation::ProjectCreate;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionDiff;
use ob_core::operation::SessionSpawn;
use ob_core::operation::SessionTarget;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionView;
use ob_core::session::SessionStatus;
use ob_core::session::TurnStop;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::FAILED;
use super::INTERRUPTED;
use super::OK;
use super::args::RunArgs;
use super::failed;
use super::hub::Hub;
use super::output::Output;
use super::patch;
use super::project;
use super::text;
use super::watch;
use super::watch::OnInterrupt;
use super::watch::Until;
use super::watch::Watch;
use super::watch::Watched;

/// Runs the command.
pub(crate) async fn command(run: RunArgs, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    let folder = folder(&hub.context.cwd, &run.project)?;
    hub.ensure(output).await?;
    let project = project_of(hub, &folder, output).await?;
    let spawn = SessionSpawn {
        project_id: project,
        message: run.task.clone(),
        workspace_id: None,
        create_workspace: true,
        new_session: true,
        in_place: run.in_place,
        model: run.model.clone(),
        end_when_idle: !run.keep,
        agent: run.agent.clone(),
        autonomy_level: level(run.told.autonomy.as_deref())?,
        reasoning_level: level(run.told.reasoning.as_deref())?,
        tools_allowed: run.told.allowed.clone(),
        tools_disallowed: run.told.denied.clone(),
        wait_ms: None,
        caller_id: None,
        caller_tools: Vec::new(),
    };
    let accepted: SessionAccepted = hub.client.call(Operation::SessionSpawn, &spawn).await?;
    announce(&accepted, run.detach, output);
    if run.detach {
        output.hint(&format!("watch it with `oubliette session events {} --follow`", accepted.session_id));
        return Ok(OK);
    }
    let watch = Watch {
        hub,
        output,
        session: accepted.session_id.clone(),
        cursor: accepted.last_index,
        until: if run.keep { Until::Turn(accepted.turn) } else { Until::Over },
        on_interrupt: OnInterrupt::Ask,
    };
    match watch.run().await? {
        Watched::Done { interrupted } => finish(&run, hub, &accepted, &folder, interrupted, output).await,
        Watched::Detached { cursor } => {
            watch::tell_way_back(&accepted.session_id, cursor, output);
            Ok(INTERRUPTED)
        }
    }
}

/// A level, as it was typed; the arguments let no other words through.
pub(crate) fn level<T: DeserializeOwned>(word: Option<&str>) -> Result<Option<T>, Refusal> {
    let parsed = word.map(|word| serde_json::from_value(word.into())).transpose();
    parsed.map_err(|error| Refusal::invalid(format!("there is no such level: {error}")))
}

/// The project's folder, whole and without links, so that one folder is one project.
fn folder(cwd: &Path, typed: &Path) -> Result<PathBuf, Refusal> {
    let path = cwd.join(typed);
    let folder = path.canonicalize().map_err(|error| {
        let refusal = match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::not_found("folder", path.display()),
            _ => failed(&format!("open {}", path.display()), &error),
        };
        refusal.fix("name a folder that exists with `--project DIR`")
    })?;
    if folder.is_dir() {
        Ok(folder)
    } else {
        Err(Refusal::invalid(format!("{} is not a folder", folder.display()))
            .fix("name a folder with `--project DIR`"))
    }
}

/// The project whose source is this folder; made if there is none.
async fn project_of(hub: &Hub, folder: &Path, output: &Output) -> Result<ProjectId, Refusal> {
    if let Some(project) = project::of_folder(hub, folder).await? {
        return Ok(project.id);
    }
    let params = ProjectCreate {
        name: project::name_of(folder),
        description: String::new(),
        source: Some(folder.to_path_buf()),
        max_cost_usd: None,
        model: None,
        max_recursion_depth: None,
        max_agents_per_session: None,
        max_live_agents: None,
        max_wall_s: None,
        limits: Default::default(),
        agent_runtime: None,
        autonomy: None,
        reasoning: None,
        disabled_tools: Vec::new(),
    };
    let made: ProjectRecord = hub.client.call(Operation::ProjectCreate, &params).await?;
    output.hint(&format!("made project {} ({})", text::one_line(&made.name), made.id));
    Ok(made.id)
}

/// Names the session and its model. A detached run has this as its whole data.
fn announce(accepted: &SessionAccepted, detached: bool, output: &Output) {
    let label = text::one_line(&accepted.model.to_string());
    if !output.json {
        // Who watches is told the model by the session's own events.
        let model = if detached { format!("model: {label}\n") } else { String::new() };
        output.text(&format!("session: {}\n{model}", accepted.session_id));
        return;
    }
    let mut value = json!(accepted);
    value["model_label"] = label.into();
    if !detached {
        value["type"] = "start".into();
    }
    output.json_line(&value);
}

/// How it ended, what it changed, and what to do with that.
async fn finish(
    run: &RunArgs,
    hub: &Hub,
    accepted: &SessionAccepted,
    folder: &Path,
    interrupted: bool,
    output: &Output,
) -> Result<u8, Refusal> {
    let target = SessionTarget { session_id: accepted.session_id.clone() };
    let view: SessionView = hub.client.call(Operation::SessionGet, &target).await?;
    let code = exit_code(&view, interrupted);
    let diff = match hub.client.call::<SessionDiff>(Operation::SessionDiff, &target).await {
        Ok(diff) => diff,
        Err(error) => {
            // How the work ended is told first: it is done and kept, whatever became of its diff.
            output.hint(&outcome(&view, code));
            let refusal = Refusal::from(error);
            if code == OK {
                return Err(refusal);
            }
            output.refused(&refusal);
            return Ok(code);
        }
    };
    // A patch of a turn that failed may be half done: it is shown, and applied only by hand.
    let apply = run.apply && code == OK && !diff.patch.is_empty();
    if apply {
        patch::apply(&diff, folder, false)?;
    }
    if output.json {
        output.json_line(&json!({
            "type": "end", "exit_code": code, "session": view, "model_label": view.model.to_string(),
            "files": diff.files, "patch": diff.patch, "applied": apply,
        }));
        return Ok(code);
    }
    if !diff.in_place {
        patch::show_short(&diff, output);
    }
    output.hint(&outcome(&view, code));
    output.hint(&advice(&diff, apply));
    if view.status == SessionStatus::Active {
        output.hint(&format!(
            "the session is kept: go on with `oubliette session message {0} TASK`, end it with `oubliette session end {0}`",
            view.session_id
        ));
    }
    Ok(code)
}

/// 0 if the turn completed, 130 if the user stopped it, else 1.
fn exit_code(view: &SessionView, interrupted: bool) -> u8 {
    match (view.status, view.last_stop) {
        (_, Some(TurnStop::Cancelled)) if interrupted => INTERRUPTED,
        (SessionStatus::Failed, _) => FAILED,
        (_, Some(TurnStop::EndTurn)) => OK,
        _ if interrupted => INTERRUPTED,
        _ => FAILED,
    }
}

fn outcome(view: &SessionView, code: u8) -> String {
    let how = match code {
        OK => "completed",
        INTERRUPTED => "interrupted by you",
        _ => "failed",
    };
    // A session that is over has a reason of its own, which tells nothing of a turn that failed in it.
    let reason = match (view.status, code, view.last_stop) {
        (SessionStatus::Failed, ..) => view.reason.as_deref().map(text::one_line).unwrap_or_default(),
        (_, FAILED, Some(TurnStop::Error)) => "the agent's turn ended with an error".to_owned(),
        (_, FAILED, Some(stop)) => format!("the agent's turn ended with {}", wire_name(stop)),
        _ => String::new(),
    };
    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
    format!("{how}{reason}; model: {}", text::one_line(&view.model.to_string()))
}

/// How it is called in events.
fn wire_name(stop: TurnStop) -> String {
    serde_json::to_value(stop).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn advice(diff: &SessionDiff, applied: bool) -> String {
    let files = text::plural(diff.files.len(), "file");
    if diff.in_place {
        "it worked in the folder itself; see `git diff`".to_owned()
    } else if diff.patch.is_empty() {
        "nothing changed".to_owned()
    } else if applied {
        format!("applied: {files} changed")
    } else {
        format!("{files} changed; apply with `oubliette session apply {}`", diff.session_id)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A session as a server shows it.
    pub(in crate::cli) fn view(status: &str, stop: Option<&str>) -> SessionView {
        let id = "00000000-0000-0000-0000-000000000001";
        serde_json::from_value(json!({
            "session_id": "gogol_20261118_110640_deadbeef", "project_id": id, "workspace_id": id,
            "tree_id": "exp_20261118_110640_deadbeef", "state": "ended", "status": status, "title": "t",
            "agent": "builtin", "backend": "namespace", "turns": 1, "last_stop": stop, "last_index": 3,
            "model": { "provider": "demonstration", "model": "demo-repairer", "source": "demonstration" },
            "ledger": ob_core::ledger::Ledger::default(), "reason": null,
            "created_at": "2026-11-18T11:06:40.000000Z", "updated_at": "2026-11-18T11:06:40.000000Z",
        }))
        .expect("a session")
    }

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        for (status, stop, interrupted, code) in [
            ("completed", Some("end_turn"), false, OK),
            ("completed", Some("end_turn"), true, OK),
            ("active", Some("end_turn"), false, OK),
            ("completed", Some("cancelled"), true, INTERRUPTED),
            ("completed", Some("cancelled"), false, FAILED),
            ("completed", None, true, INTERRUPTED),
            ("completed", None, false, FAILED),
            ("completed", Some("max_tokens"), false, FAILED),
            ("completed", Some("error"), false, FAILED),
            ("failed", Some("end_turn"), false, FAILED),
        ] {
            assert_eq!(exit_code(&view(status, stop), interrupted), code, "{status} {stop:?} {interrupted}");
        }
    }

    #[test]
    fn a_demonstration_is_called_so() {
        let told = outcome(&view("completed", Some("end_turn")), OK);
        assert_eq!(told, "completed; model: demo-repairer (scripted demonstration, not a language model)");
    }

    #[test]
    fn a_folder_must_be_one() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        assert!(super::folder(folder.path(), Path::new(".")).is_ok());
        for wrong in ["file", "missing"] {
            assert!(
                super::folder(folder.path(), Path::new(wrong)).is_err_and(|r| r.fix.is_some()),
                "{wrong}"
            );
        }
    }
}
