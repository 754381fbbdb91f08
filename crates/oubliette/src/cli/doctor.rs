//! `oubliette doctor`: what this machine lacks, what that costs, and what mends it. Needs no server.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use ob_config::Loaded;
use ob_core::Refusal;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::OK;
use super::UNHEALTHY;
use super::args::Global;
use super::output::Output;
use super::text;
use crate::guest;
use crate::server;

/// Under this, events of a busy server fill the disk within hours.
const FREE_BYTES_LEAST: u64 = 1024 * 1024 * 1024;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    name: &'static str,
    found: bool,
    required: bool,
    detail: String,
    /// What it costs not to have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// Runs the command.
pub(crate) async fn command(context: &Context, global: &Global, output: &Output) -> Result<u8, Refusal> {
    let loaded = super::load(context, global)?;
    let findings = look(context, &loaded).await;
    let healthy = findings.iter().all(|f| f.found || !f.required);
    let value = json!({ "healthy": healthy, "home": loaded.home.root(), "checks": findings });
    output.data(&value, || shown(&findings, output));
    for warning in &loaded.warnings {
        output.hint(&format!("warning: {warning}"));
    }
    Ok(if healthy { OK } else { UNHEALTHY })
}

async fn look(context: &Context, loaded: &Loaded) -> Vec<Finding> {
    let bwrap = context.find_program("bwrap");
    let mut findings = vec![
        program(bwrap.as_deref(), "bubblewrap", "no sandbox can be made", "apt install bubblewrap"),
        user_namespaces(bwrap.as_deref()),
        program(
            context.find_program("git").as_deref(),
            "git",
            "no workspace can be cloned, no diff be made",
            "apt install git",
        ),
        embedded_guest(),
        home(loaded.home.root()),
        disk(loaded.home.root()),
    ];
    findings.push(toolchains(loaded));
    findings.push(addresses(loaded));
    findings.push(models(loaded).await);
    findings
}

fn found(name: &'static str, required: bool, detail: impl Into<String>) -> Finding {
    Finding { name, found: true, required, detail: detail.into(), cost: None, fix: None }
}

fn missing(
    name: &'static str,
    required: bool,
    detail: impl Into<String>,
    cost: &'static str,
    fix: impl Into<String>,
) -> Finding {
    Finding { name, found: false, required, detail: detail.into(), cost: Some(cost), fix: Some(fix.into()) }
}

fn program(path: Option<&Path>, name: &'static str, cost: &'static str, fix: &str) -> Finding {
    let Some(path) = path else { return missing(name, true, "not on the PATH", cost, fix) };
    let version = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(out) if out.status.success() => {
            let line = String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or_default().to_owned();
            found(name, true, format!("{} ({})", text::one_line(&line), path.display()))
        }
        Ok(out) => missing(name, true, format!("{} fails: {}", path.display(), out.status), cost, fix),
        Err(error) => missing(name, true, format!("{} does not run: {error}", path.display()), cost, fix),
    }
}

fn user_namespaces(bwrap: Option<&Path>) -> Finding {
    const NAME: &str = "user namespaces";
    const COST: &str = "no sandbox can be made";
    let Some(bwrap) = bwrap else {
        return missing(NAME, true, "cannot be tried without bubblewrap", COST, "apt install bubblewrap");
    };
    let tried = Command::new(bwrap)
        .args(["--unshare-user", "--unshare-net", "--ro-bind", "/", "/", "true"])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(out) if out.status.success() => found(NAME, true, "a process of its own was made"),
        Ok(out) => {
            let why = String::from_utf8_lossy(&out.stderr).into_owned();
            let fix = "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 \
                       kernel.apparmor_restrict_unprivileged_userns=0 (those that exist here)";
            missing(NAME, true, text::one_line(&why), COST, fix)
        }
        Err(error) => missing(NAME, true, error.to_string(), COST, "apt install bubblewrap"),
    }
}

fn embedded_guest() -> Finding {
    match guest::GUEST {
        Some(bytes) => found("guest", true, format!("embedded, {} KiB", bytes.len() / 1024)),
        None => missing("guest", true, "not in this build", "no sandbox can be made", "make build"),
    }
}

/// The nearest folder above that exists: a home that is not there yet is made in it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

fn home(root: &Path) -> Finding {
    let there = existing(root);
    match rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) if there == root => found("home", true, format!("{} is writable", root.display())),
        Ok(()) => found("home", true, format!("{} will be made", root.display())),
        Err(error) => missing(
            "home",
            true,
            format!("{} is not writable: {error}", there.display()),
            "the server cannot start",
            "name another with `--dir D`, or change its owner",
        ),
    }
}

fn disk(root: &Path) -> Finding {
    match rustix::fs::statvfs(existing(root)) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let detail = format!("{:.1} GiB free", free as f64 / f64::from(1u32 << 30));
            if free >= FREE_BYTES_LEAST {
                found("disk space", false, detail)
            } else {
                missing(
                    "disk space",
                    false,
                    detail,
                    "the store refuses work when the disk is full",
                    "free some space",
                )
            }
        }
        Err(error) => missing(
            "disk space",
            false,
            error.to_string(),
            "nobody knows when the disk will be full",
            "look at `df`",
        ),
    }
}

fn toolchains(loaded: &Loaded) -> Finding {
    let folders = &loaded.settings.sandbox.read_only;
    if folders.is_empty() {
        let mut finding = found("toolchains", false, "sandboxes see those of /usr only");
        finding.fix = Some(
            "if the agent shall build or test with others, name their folders in `sandbox.read_only`"
                .to_owned(),
        );
        return finding;
    }
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    found("toolchains", false, format!("/usr, {}; read-only in sandboxes", folders.join(", ")))
}

fn addresses(loaded: &Loaded) -> Finding {
    const NAME: &str = "address";
    const COST: &str = "the server cannot start";
    let address = &loaded.settings.server.address;
    if let Some(holder) = server::lock::holder(&loaded.home) {
        return found(NAME, true, format!("served by pid {} ({})", holder.pid, holder.addresses.join(", ")));
    }
    let wanted = match ob_config::bind_addresses(&loaded.settings.server) {
        Ok(wanted) => wanted,
        Err(mistake) => return missing(NAME, true, mistake.to_string(), COST, "mend `server.address`"),
    };
    for one in &wanted {
        match TcpListener::bind(one) {
            Ok(listener) => drop(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let refusal = server::listen::in_use(*one);
                return missing(NAME, true, refusal.message, COST, refusal.fix.unwrap_or_default());
            }
            // A machine without IPv6 has no `::1`; the other address will do.
            Err(_) if wanted.len() > 1 => {}
            Err(error) => {
                return missing(NAME, true, format!("{one}: {error}"), COST, "mend `server.address`");
            }
        }
    }
    found(NAME, true, format!("{address} is free"))
}

async fn models(loaded: &Loaded) -> Finding {
    const NAME: &str = "model";
    let models = &loaded.settings.models;
    if !models.providers.is_empty() {
        let names: Vec<&str> = models.providers.keys().map(String::as_str).collect();
        return found(NAME, false, format!("configured: {}", names.join(", ")));
    }
    if let Some((url, names)) = ob_gate::discovery::find_local(&models.discover_ports).await {
        let name = names.first().map(String::as_str).unwrap_or_default();
        return found(NAME, false, format!("{name}, found on this machine at {url}"));
    }
    let fix = "set OPENAI_API_KEY (and OPENAI_BASE_URL for another provider), or start a local server";
    if models.demonstration && server::demo_model::find(&server::own_program()).is_some() {
        let mut finding =
            found(NAME, false, "only the scripted demonstration, which is not a language model");
        finding.fix = Some(fix.to_owned());
        return finding;
    }
    missing(NAME, false, "none configured, none found", "sessions are refused", fix)
}

fn shown(findings: &[Finding], output: &Output) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|f| {
            let state = match (f.found, f.required) {
                (true, _) => "ok",
                (false, true) => "missing",
                (false, false) => "absent",
            };
            vec![state.to_owned(), f.name.to_owned(), f.detail.clone()]
        })
        .collect();
    let mut text = output.table(&["STATE", "CHECK", "DETAIL"], &rows);
    let fixes = findings.iter().filter_map(|finding| {
        let fix = finding.fix.as_ref()?;
        let cost = finding.cost.map(|cost| format!(" ({cost})")).unwrap_or_default();
        Some(format!("\n{}{cost}\n  fix: {fix}\n", finding.name))
    });
    text.extend(fixes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_cost_and_its_fix() {
        let findings = [
            found("git", true, "git version 2"),
            program(None, "bubblewrap", "no sandbox can be made", "apt install bubblewrap"),
            missing(
                "model",
                false,
                "none configured, none found",
                "sessions are refused",
                "set OPENAI_API_KEY",
            ),
        ];
        let output = Output::memory(false);
        insta::assert_snapshot!("doctor", shown(&findings, &output));
    }

    #[test]
    fn a_program_that_does_not_run_is_missing() {
        let finding = program(Some(Path::new("/nonexistent/bwrap")), "bubblewrap", "c", "f");
        assert!(!finding.found);
        assert!(program(Some(Path::new("/bin/false")), "x", "c", "f").detail.contains("fails"));
    }

    #[test]
    fn a_home_in_a_missing_folder_is_looked_for_above() {
        let folder = tempfile::tempdir().expect("a folder");
        let finding = home(&folder.path().join("a/b/c"));
        assert!(finding.found && finding.detail.contains("will be made"), "{finding:?}");
        assert!(home(folder.path()).detail.contains("is writable"));
    }
}
