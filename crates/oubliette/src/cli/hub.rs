//! The server of a home, as commands see it: find it, start it, wait for it, stop it.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use ob_config::FoundBy;
use ob_config::Loaded;
use ob_core::Refusal;
use ob_core::operation::Nothing;
use ob_core::operation::Operation;
use ob_core::operation::ServerStatus;
use ob_core::operation::ServerStop;
use ob_core::resource::marked_backend;
use ob_engine::Clock as _;
use ob_engine::SystemClock;
use serde_json::json;
use tokio::time::Instant;

use super::Context;
use super::OK;
use super::UNHEALTHY;
use super::args::Global;
use super::client::CallError;
use super::client::Client;
use super::failed;
use super::output::Output;
use super::text;
use crate::names::SERVER_NAME;
use crate::server;
use crate::server::lock::Holder;

/// How long a server may take to be ready before a command gives up on it. Recovery of many sessions takes a while.
const READY_MAX: Duration = Duration::from_secs(60);

/// How often to look again for what tells nobody: a socket that is not there yet, a process that has not ended yet.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The server of a home.
pub(crate) struct Hub {
    /// The home and its settings.
    pub(crate) loaded: Loaded,
    /// Talks to the server.
    pub(crate) client: Client,
    /// What this command was started with.
    pub(crate) context: Context,
    config: Option<std::path::PathBuf>,
}

// === impl Hub ===

impl Hub {
    /// The server of the home that the options name.
    pub(crate) fn load(context: &Context, global: &Global) -> Result<Self, Refusal> {
        let loaded = super::load(context, global)?;
        let client = Client::new(loaded.home.control_socket());
        let config = global.config.as_ref().map(|file| context.cwd.join(file));
        Ok(Self { loaded, client, context: context.clone(), config })
    }

    /// The same for who only talks to a server that runs: mistakes that were made since it started are told and hinder
    /// nobody from stopping it.
    pub(crate) fn load_anyway(context: &Context, global: &Global, output: &Output) -> Result<Self, Refusal> {
        let (loaded, mistakes) = ob_config::load_anyway(&super::options(context, global))
            .map_err(|mistakes| super::has_mistakes(&mistakes))?;
        if !mistakes.0.is_empty() {
            output.warn("the configuration has mistakes; see `oubliette config check`");
        }
        let client = Client::new(loaded.home.control_socket());
        let config = global.config.as_ref().map(|file| context.cwd.join(file));
        Ok(Self { loaded, client, context: context.clone(), config })
    }

    /// The server of a home that a test made.
    #[cfg(test)]
    pub(crate) fn of(loaded: Loaded, cwd: std::path::PathBuf) -> Self {
        let context = Context { argv: vec!["oubliette".into()], env: std::collections::BTreeMap::new(), cwd };
        let client = Client::new(loaded.home.control_socket());
        Self { loaded, client, context, config: None }
    }

    /// `oubliette --daemon`.
    pub(crate) fn start_command(&self, takeover: bool, output: &Output) -> Result<u8, Refusal> {
        let (started, holder) = self.start(takeover)?;
        let what = if started { "started" } else { "already running" };
        let value = json!({
            "state": what, "pid": holder.pid, "home": self.loaded.home.root(), "addresses": holder.addresses,
        });
        output.data(&value, || {
            format!(
                "{what}: pid {}, home {}, {}\n",
                holder.pid,
                self.loaded.home.root().display(),
                listens(&holder)
            )
        });
        Ok(OK)
    }

    /// Makes sure that a server is ready: starts one if none runs. Returns true if it started one.
    ///
    /// A server that was killed is there for a moment longer: its socket may still take a connection, and its lock may
    /// still be held. So what was found is looked at again until a server is ready.
    pub(crate) async fn ensure(&self, output: &Output) -> Result<bool, Refusal> {
        let deadline = Instant::now() + READY_MAX;
        let (mut said, mut started) = (false, false);
        loop {
            match self.client.ready().await {
                Ok(()) => return Ok(started),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(CallError::Absent) => {
                    if !std::mem::replace(&mut said, true) {
                        let home = self.loaded.home.root().display();
                        output.hint(&format!("no server runs on {home}: starting one"));
                    }
                    if self.start(false)?.0 {
                        // It said that it is ready.
                        started = true;
                        continue;
                    }
                }
                Err(error) if error.may_pass() => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts a server in the background and waits until it is ready; also fine if one runs already (`false`), unless
    /// it shall take that one's place.
    pub(crate) fn start(&self, takeover: bool) -> Result<(bool, Holder), Refusal> {
        if let Some(holder) = server::lock::holder(&self.loaded.home)
            && !holder.draining
            && !takeover
        {
            return Ok((false, holder));
        }
        let mut command = std::process::Command::new(server::own_program());
        command.arg0(SERVER_NAME).arg("serve").arg("--detached").current_dir(&self.context.cwd);
        // A home that was only found is not named by us in the person's stead: the server finds it as we did.
        if self.loaded.found_by != FoundBy::WorkingDirectory {
            command.arg("--dir").arg(self.loaded.home.root());
        }
        if takeover {
            command.arg("--takeover");
        }
        if let Some(file) = &self.config {
            command.arg("--config").arg(file);
        }
        // Whose token this is serves the client that started us, and nobody else.
        command.env_remove(super::mcp::TOKEN);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Err(error) = crate::inherit::nothing() {
            tracing::debug!(%error, "the server inherits what this command inherited");
        }
        let mut child = command.spawn().map_err(|error| failed("start the server", &error))?;
        // The server writes one line when it is ready and then lets go of both pipes; if it fails, it says why on
        // standard error and ends. So waiting is reading.
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(|error| failed("read what the server says", &error))?;
        }
        if let Ok(holder) = serde_json::from_str::<Holder>(&line) {
            return Ok((true, holder));
        }
        let mut why = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut why).map_err(|error| failed("read what the server says", &error))?;
        }
        let status = child.wait().map_err(|error| failed("wait for the server", &error))?;
        // Another command may have been faster.
        if let Some(holder) = server::lock::holder(&self.loaded.home)
            && !holder.draining
        {
            return Ok((false, holder));
        }
        Err(start_failure(&why, status.code(), &self.loaded.home.log_file()))
    }

    /// `oubliette status`.
    pub(crate) async fn status(&self, output: &Output) -> Result<u8, Refusal> {
        let home = &self.loaded.home;
        match self.client.call::<ServerStatus>(Operation::ServerStatus, &Nothing {}).await {
            Ok(status) => {
                output.data(&status, || described(&status));
                Ok(if status.state == "ready" { OK } else { UNHEALTHY })
            }
            Err(CallError::Absent) => {
                output.data(&json!({ "state": "stopped", "home": home.root() }), || {
                    format!("no server runs on {}\n", home.root().display())
                });
                output.hint("start one with `oubliette --daemon`");
                Ok(UNHEALTHY)
            }
            Err(CallError::Refused(refusal)) if refusal.code == ob_core::RefusalCode::Unavailable => {
                let holder = server::lock::holder(home);
                let value = json!({
                    "state": "not ready", "home": home.root(), "reason": refusal.message,
                    "pid": holder.as_ref().map(|h| h.pid),
                });
                output.data(&value, || format!("{}\n", refusal.message));
                Ok(UNHEALTHY)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `oubliette stop`: asks, and waits until the server has let go of its home.
    pub(crate) async fn stop(&self, keep_sandboxes: bool, output: &Output) -> Result<u8, Refusal> {
        let home = &self.loaded.home;
        let Some(holder) = server::lock::holder(home) else {
            output.data(&json!({ "state": "stopped", "was_running": false }), || {
                format!("no server runs on {}\n", home.root().display())
            });
            return Ok(OK);
        };
        match self
            .client
            .call::<serde_json::Value>(Operation::ServerStop, &ServerStop { keep_sandboxes })
            .await
        {
            // The connection may break before the answer is read: the lock tells whether it stopped.
            Ok(_) | Err(CallError::Absent | CallError::Lost(_)) => {}
            Err(CallError::Refused(refusal)) if holder.draining => drop(refusal),
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + server::attend::DRAIN_MAX + Duration::from_secs(5);
        while server::lock::holder(home).is_some_and(|now| now.pid == holder.pid) {
            if Instant::now() > deadline {
                return Err(Refusal::unavailable(format!("the server (pid {}) still stops", holder.pid))
                    .fix(format!(
                        "look at {}; `kill {}` hurries it",
                        home.log_file().display(),
                        holder.pid
                    )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        output.data(&json!({ "state": "stopped", "was_running": true, "pid": holder.pid }), || {
            format!("stopped: pid {}\n", holder.pid)
        });
        Ok(OK)
    }
}

/// What a server said before it ended is its refusal; the exit code says of which kind.
fn start_failure(why: &str, code: Option<i32>, log: &std::path::Path) -> Refusal {
    use ob_core::RefusalCode as Code;
    let code = match code {
        Some(2) => Code::InvalidArgument,
        Some(3) => Code::NotFound,
        Some(5) => Code::Conflict,
        Some(6) => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut message = String::new();
    let mut fix = None;
    // It may have been told to speak in colours.
    let why = &text::sanitise(why);
    // What stands before the refusal are hints, like that a home was made.
    let lines = why.lines().skip_while(|line| why.contains("error: ") && !line.starts_with("error: "));
    for line in lines {
        if let Some(text) = line.strip_prefix("  fix: ") {
            fix = Some(text.to_owned());
        } else {
            message.push_str(if message.is_empty() { "" } else { "\n" });
            message.push_str(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    if message.is_empty() {
        "the server ended before it was ready and did not say why".clone_into(&mut message);
    }
    Refusal::new(code, message).fix(fix.unwrap_or_else(|| format!("look at {}", log.display())))
}

fn listens(holder: &Holder) -> String {
    if holder.addresses.is_empty() {
        "the control socket only".to_owned()
    } else {
        holder.addresses.iter().map(|a| format!("http://{a}")).collect::<Vec<_>>().join(", ")
    }
}

fn described(status: &ServerStatus) -> String {
    let now = SystemClock.now();
    let model = match (&status.model, &status.model_missing) {
        (Some(model), _) => model.to_string(),
        (None, Some(why)) => format!("none ({why})"),
        (None, None) => "none".to_owned(),
    };
    let lines = [
        ("state", status.state.clone()),
        ("pid", status.pid.to_string()),
        ("version", status.version.clone()),
        ("home", status.home.display().to_string()),
        ("addresses", status.addresses.join(", ")),
        ("up", text::duration(now.since(status.started_at).as_secs())),
        ("sessions", format!("{} active", status.active_sessions)),
        ("sandboxes", status.sandboxes.to_string()),
        ("backend", marked_backend(&status.backend)),
        ("model", model),
    ];
    lines.iter().map(|(name, value)| format!("{name:<10} {}\n", text::one_line(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_did_not_start_says_why_in_its_own_words() {
        let log = std::path::Path::new("/h/log");
        let refusal = start_failure("error: address in use\n  fix: stop pid 7\n", Some(6), log);
        assert_eq!(refusal, Refusal::unavailable("address in use").fix("stop pid 7"));
        let hinted = "made a home at /h\nerror: address in use\nby pid 7\n";
        assert_eq!(start_failure(hinted, Some(6), log).message, "address in use\nby pid 7");
        let refusal = start_failure("", None, log);
        assert_eq!(refusal.code.exit_code(), 1);
        assert!(refusal.fix.is_some_and(|fix| fix.contains("/h/log")));
    }
}
