//! Programs that we run: git, the guest, agents, and the toolchains that agents see.

use std::path::PathBuf;
use std::process::Stdio;

use ob_config::Loaded;
use ob_config::Settings;
use ob_core::Check;
use ob_engine::Agents;
use ob_engine::health::in_time;
use ob_sandbox::machine::Distribution;

use crate::cli::text;
use crate::guest;

/// git, and its version.
pub(super) async fn git(path: Option<PathBuf>) -> Check {
    const NAME: &str = "git";
    const COST: &str = "no workspace can be cloned, and no diff be made";
    let install = || [Distribution::this().install("git")];
    let Some(path) = path else {
        return Check::missing(NAME, "not on the PATH", COST).required().mend("install it", install());
    };
    let look = async {
        let mut command = tokio::process::Command::new(&path);
        let said = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true).output().await;
        let failed = |what: String| {
            Check::failed(NAME, format!("{} {what}", path.display()), COST).mend("install it anew", install())
        };
        match said {
            Ok(said) if said.status.success() => {
                let version =
                    String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().to_owned();
                Check::ok(NAME, format!("{} ({})", text::one_line(&version), path.display()))
            }
            Ok(said) => failed(format!("fails: {}", said.status)),
            Err(error) => failed(format!("does not run: {error}")),
        }
    };
    in_time(NAME, COST, look).await.required()
}

/// The program that runs inside sandboxes.
pub(super) fn guest() -> Check {
    match guest::GUEST {
        Some(bytes) => Check::ok("guest", format!("embedded, {} KiB", bytes.len() / 1024)),
        None => Check::missing("guest", "not in this build", "no sandbox can be made")
            .mend("build it with its guest", ["make build"]),
    }
    .required()
}

/// The agents that sessions can have.
pub(super) async fn agents(settings: Settings) -> Check {
    const NAME: &str = "agents";
    const COST: &str = "sessions have nobody to work in them";
    if guest::GUEST.is_none() {
        return Check::missing(NAME, "the built-in one is not in this build", "sessions have no agent")
            .mend("build it with its guest", ["make build"])
            .required();
    }
    let look = async {
        let agents = Agents::new(settings.agents).list(&settings.sandbox.read_only).await;
        let found: Vec<String> = agents
            .into_iter()
            .filter(|agent| agent.is_found)
            .map(|agent| {
                [Some(agent.name), agent.version].into_iter().flatten().collect::<Vec<_>>().join(" ")
            })
            .collect();
        Check::ok(NAME, text::one_line(&found.join(", ")))
    };
    in_time(NAME, COST, look).await.required()
}

/// The toolchains that sandboxes see.
pub(super) fn toolchains(loaded: &Loaded) -> Check {
    const NAME: &str = "toolchains";
    let folders = &loaded.settings.sandbox.read_only;
    if folders.is_empty() {
        return Check::ok(NAME, "sandboxes see those of /usr only; `sandbox.read_only` names others");
    }
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Check::ok(NAME, format!("/usr, {}; read-only in sandboxes", folders.join(", ")))
}

#[cfg(test)]
mod tests {
    use ob_core::CheckState;

    use super::*;

    #[tokio::test]
    async fn a_git_that_is_missing_or_does_not_run_comes_with_its_package() {
        for (path, state) in [
            (None, CheckState::Missing),
            (Some("/nonexistent/git"), CheckState::Failed),
            (Some("/bin/false"), CheckState::Failed),
            (Some("/bin/true"), CheckState::Ok),
        ] {
            let check = git(path.map(PathBuf::from)).await;
            assert_eq!((check.state, check.required), (state, true), "{check:?}");
            let installs = check.commands.iter().any(|command| command.ends_with(" git"));
            assert_eq!(installs, state != CheckState::Ok, "{check:?}");
        }
    }
}
