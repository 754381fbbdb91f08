//! The launcher: starts bubblewrap, stays as its parent, ends it when told.
//!
//! ```text
//! plan -> set up -> started -----------------> ending -> gone
//!            |        |  bubblewrap exited -----^         end.json written, groups removed, `ended` answered
//!            v        |  `end` on the socket ---^
//!            v        |  a limit it watches ----^
//!          error      |  no server for a lease -^
//! ```
//!
//! It is small on purpose: no threads, no runtime, a dozen system calls. It outlives the server that started it and
//! shares nothing with it but its runtime folder. If it is killed, bubblewrap and everything inside die with it.

mod background;
mod bound;
mod control;
mod disk;
mod group;
mod spawn;
mod stage;
mod sys;
mod watch;

use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use ob_core::launch::ENFORCEMENT_FILE;
use ob_core::launch::EndRecord;
use ob_core::launch::LaunchAnswer;
use ob_core::launch::LaunchPlan;
use ob_core::launch::MAX_LINE;
use ob_core::launch::MAX_PLAN;
use ob_core::launch::Placeholders;
use ob_core::resource::Enforcement;
use ob_core::resource::LimitHit;
use ob_core::resource::Means;

use self::control::Control;
use self::group::Groups;

/// How long a process of a sandbox runs before others get a turn who want one. The kernel's own 1.4 ms and more are for
/// throughput; with this a neighbour's short command waits for a tenth of that behind a sandbox that never sleeps.
const SLICE: Duration = Duration::from_micros(300);

pub(crate) fn main() -> ExitCode {
    match start() {
        Ok((control, enforcement)) => {
            answer(&LaunchAnswer::Ok { enforcement });
            control.run();
            ExitCode::SUCCESS
        }
        Err(what) => {
            let cut = what.chars().take(MAX_LINE / 8).collect();
            answer(&LaunchAnswer::Error(cut));
            ExitCode::FAILURE
        }
    }
}

/// Reads the plan and brings bubblewrap up. On an error nothing is left over.
fn start() -> Result<(Control, Enforcement), String> {
    let mut text = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_PLAN as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| format!("cannot read the plan: {e}"))?;
    if text.len() > MAX_PLAN {
        return Err(format!("the plan is over {MAX_PLAN} bytes"));
    }
    let plan: LaunchPlan = serde_json::from_slice(&text).map_err(|e| format!("cannot read the plan: {e}"))?;
    if plan.user == Some(0) {
        return Err("a sandbox never runs as the host's root".into());
    }
    if plan.user.is_none() && rustix::process::geteuid().is_root() {
        return Err("started as root without an unprivileged uid for the sandbox".into());
    }
    detach().map_err(|e| format!("cannot detach: {e}"))?;
    if let Err(error) = sys::set_slice(SLICE) {
        complain(&format!("cannot shorten its turns on the processors: {error}"));
    }

    let listener = control::listen(&plan.runtime).map_err(|e| format!("cannot listen: {e}"))?;
    let groups = Groups::make(&plan.groups, &plan.runtime).map_err(|e| format!("control groups: {e}"))?;
    match spawn::bubblewrap(&plan, &groups) {
        Ok(child) => {
            let mut enforcement = plan.enforcement.clone();
            groups.unenforced().iter().for_each(|resource| enforcement.set(*resource, Means::None));
            let text = serde_json::to_vec(&enforcement).unwrap_or_default();
            if let Err(error) = write_whole(&plan.runtime, ENFORCEMENT_FILE, &text) {
                complain(&format!("cannot note how limits are held: {error}"));
            }
            Ok((Control::new(listener, child, groups, &plan), enforcement))
        }
        Err(what) => {
            groups.kill();
            groups.remove();
            control::unlink(&plan.runtime);
            remove_placeholders(plan.placeholders.as_ref());
            Err(what)
        }
    }
}

/// Leaves the server's session and descriptors, and adopts what bubblewrap leaves behind.
fn detach() -> rustix::io::Result<()> {
    sys::close_all_above_stderr()?;
    // The leader of a process group cannot; then it is not in the server's session's foreground either.
    if let Err(error) = rustix::process::setsid()
        && error != rustix::io::Errno::PERM
    {
        return Err(error);
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::chdir("/")
}

/// Writes the answer and hangs up, so that the server need not know where it ends. A server that is gone does not
/// matter: the lease runs.
fn answer(answer: &LaunchAnswer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    let sent = std::io::stdout().lock().write_all(&line);
    drop(sent);
    sys::stdout_to_null();
}

/// Leaves how it ended, whole or not at all.
fn record_end(runtime: &Path, reason: &str, limit: Option<LimitHit>) {
    let at_micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
    let text =
        serde_json::to_vec(&EndRecord { reason: reason.to_owned(), at_micros, limit }).unwrap_or_default();
    if let Err(error) = write_whole(runtime, ob_core::launch::END_FILE, &text) {
        complain(&format!("cannot record the end ({reason}): {error}"));
    }
}

/// Writes a file of the runtime folder so that a reader sees all of it or none.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = folder.join(format!(".{name}"));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, folder.join(name))
}

/// Keeps the placeholders of a workspace for as long as the file is open.
fn hold_placeholders(placeholders: Option<&Placeholders>) -> Option<std::fs::File> {
    let folder = std::fs::File::open(&placeholders?.lock).ok()?;
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockShared).ok()?;
    Some(folder)
}

/// Takes placeholders away if no other sandbox relies on them: a mount on a file goes when the file does.
fn remove_placeholders(placeholders: Option<&Placeholders>) {
    let Some(placeholders) = placeholders else { return };
    let Ok(folder) = std::fs::File::open(&placeholders.lock) else { return };
    if rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    for (path, content) in &placeholders.files {
        let is_ours = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
            && std::fs::read(path).is_ok_and(|found| found == content.as_bytes());
        if is_ours && let Err(error) = std::fs::remove_file(path) {
            complain(&format!("cannot remove {}: {error}", path.display()));
        }
    }
    for path in &placeholders.folders {
        // One that somebody filled meanwhile stays.
        drop(std::fs::remove_dir(path));
    }
}

/// A line in the launcher's log, its standard error.
fn complain(what: &str) {
    drop(writeln!(std::io::stderr().lock(), "{what}"));
}
