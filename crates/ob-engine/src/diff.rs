//! What a session changed, as a patch: made in a fresh sandbox, because a workspace is hostile once an agent was in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ob_core::Refusal;
use ob_core::link::ProcessSpec;
use ob_core::operation::SessionDiff;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceKind;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_sandbox::link::Guest;

use crate::shared::Shared;
use crate::workspace;

/// The sandbox dials within this.
const DIAL: Duration = Duration::from_secs(15);
/// A patch is made within this.
const WITHIN: Duration = Duration::from_secs(60);

/// True if a sandbox of this id makes a patch. No session's sandbox has a `-` in its id.
pub(crate) fn is_id(name: &str) -> bool {
    let numbers = name.strip_prefix('d').and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(epoch, number)| epoch.parse::<u64>().is_ok() && number.parse::<u64>().is_ok())
}

/// The patch of a session's workspace against its base.
pub(crate) async fn diff(shared: &Arc<Shared>, record: &SessionRecord) -> Result<SessionDiff, Refusal> {
    let project = shared.project(record.project).await?;
    let found = shared.store.workspace(record.workspace).await.map_err(|error| error.refusal())?;
    let found = found.ok_or_else(|| {
        Refusal::not_found("workspace", record.workspace).fix("it was deleted, and its changes with it")
    })?;
    let mut answer = SessionDiff {
        session_id: record.id.clone(),
        source: project.source.clone(),
        in_place: found.kind == WorkspaceKind::InPlace,
        patch: String::new(),
        files: Vec::new(),
    };
    // Nothing was copied yet, so nothing can have changed.
    let Some(base_commit) = found.base_commit.clone() else { return Ok(answer) };

    let turn = tokio::time::timeout(WITHIN, Arc::clone(&shared.patches).acquire_owned()).await;
    let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let backend = shared.backend()?;
    backend.check().await?;
    let number = shared.diffs.fetch_add(1, Ordering::Relaxed);
    let id = format!("d{}-{number}", shared.epoch.0);
    let runtime = shared.home.runtime().join("s").join(&id);
    let mut spec = shared.plain_spec(id, runtime, &project, &found);
    let base = shared.home.workspace_base(record.project, found.id);
    spec.read_only_at = vec![(base, workspace::BASE_DIR.to_owned())];
    let inside = backend.inside(&spec);
    let base_dir = inside.read_only_at.first().map_or(workspace::BASE_DIR, String::as_str).to_owned();
    let guest = Guest::new();
    let gate = shared.open_gate(&**backend, record, &spec, guest.clone()).await?;
    let work = async {
        guest.connected(DIAL).await.map_err(|error| no_sandbox(&error))?;
        let mut outputs = Vec::new();
        for (name, argv) in ["patch", "files"].into_iter().zip(workspace::diff_script(
            &base_commit,
            &base_dir,
            &inside.workspace,
        )) {
            let spec = ProcessSpec { argv, cwd: None, env: std::collections::BTreeMap::new(), stdin: false };
            let output =
                guest.run(name, &spec, workspace::PATCH_MAX).await.map_err(|error| no_sandbox(&error))?;
            if !output.exit.is_success() {
                let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect();
                return Err(Refusal::unavailable(format!(
                    "cannot make the patch: git ended with {}: {said}",
                    output.exit
                ))
                .fix("look at the workspace's files; they are as the agent left them"));
            }
            if output.truncated {
                return Err(Refusal::unavailable("the patch is larger than 64 MiB")
                    .fix("copy the files from the workspace by hand; `session get` names it"));
            }
            outputs.push(output.stdout);
        }
        Ok(outputs)
    };
    let work = async {
        backend.start(&spec).await.map_err(|error| no_sandbox(&error))?;
        reach(CrashPoint::PatchStarted);
        tokio::select! {
            outcome = work => outcome,
            end = backend.ended(&spec.id, &spec.runtime) => Err(no_sandbox(&end.reason)),
        }
    };
    let outcome = tokio::time::timeout(WITHIN, work).await;
    reach(CrashPoint::PatchMade);
    guest.close();
    drop(gate);
    if let Err(error) = backend.end(&spec.id, &spec.runtime, spec.epoch).await {
        tracing::error!(%error, "cannot end the sandbox of a patch");
    }
    let mut outputs = outcome
        .unwrap_or_else(|_| Err(Refusal::unavailable("the patch took too long").fix("try again")))?
        .into_iter();
    // Bytes that are not UTF-8 would be lost in JSON; git writes binary files as text, but text in other encodings as is.
    answer.patch = String::from_utf8(outputs.next().unwrap_or_default()).map_err(|_| {
        Refusal::unavailable("the patch holds text that is not UTF-8")
            .fix("copy the files from the workspace by hand; `session get` names it")
    })?;
    answer.files = outputs
        .next()
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    Ok(answer)
}

fn no_sandbox(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::unavailable(format!("cannot make the patch: {error}")).fix("see the log, and `oubliette doctor`")
}

fn busy() -> Refusal {
    Refusal::unavailable("too many patches are being made").fix("try again in a moment")
}
