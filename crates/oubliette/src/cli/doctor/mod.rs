//! `oubliette doctor`: what this machine has and lacks, what that costs, and what mends it.
//!
//! Needs no server, no home and no rights, and makes none of them. All checks run side by side, each within
//! [`ob_engine::health::CHECK_MAX`], so a provider or a disk that hangs costs no more than that.

mod home;
mod models;
mod network;
mod programs;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::join_all;
use ob_config::Loaded;
use ob_core::Check;
use ob_core::Refusal;
use ob_engine::health;
use ob_engine::health::in_time;
use ob_sandbox::machine;

use super::Context;
use super::args::DoctorArgs;
use super::args::Global;
use super::checks;
use super::output::Output;
use crate::server;

pub(super) use home::places;

/// A check that is under way.
type Running = Pin<Box<dyn Future<Output = Vec<Check>>>>;

/// Runs the command.
pub(crate) async fn command(
    context: &Context,
    global: &Global,
    args: &DoctorArgs,
    output: &Output,
) -> Result<u8, Refusal> {
    let (root, all) = look(context, global).await;
    let root = root.as_deref();
    Ok(if args.fix_hints { checks::print_commands(&all, output) } else { checks::print(root, &all, output) })
}

/// The root of the home, if it was found, and every check.
pub(super) async fn look(context: &Context, global: &Global) -> (Option<PathBuf>, Vec<Check>) {
    let (loaded, refusal) = match super::load(context, global) {
        Ok(loaded) => (Some(Arc::new(loaded)), None),
        Err(refusal) => (None, Some(refusal)),
    };
    let configuration = match (&loaded, refusal) {
        (Some(loaded), _) => configuration(loaded),
        (None, refusal) => {
            let refusal = refusal.unwrap_or_else(|| Refusal::internal("the configuration was not read"));
            Check::refused("configuration", &refusal, "no command works; what follows is the machine alone")
        }
    };
    let mut running = machine(context, loaded.as_deref());
    if let Some(loaded) = &loaded {
        running.extend(of_the_home(loaded));
    }
    let mut all = vec![configuration.required()];
    all.extend(join_all(running).await.into_iter().flatten());
    (loaded.map(|loaded| loaded.home.root().to_owned()), all)
}

/// What the configuration says of itself.
fn configuration(loaded: &Loaded) -> Check {
    const NAME: &str = "configuration";
    let home = loaded.home.root().display();
    match loaded.warnings.as_slice() {
        [] => Check::ok(NAME, format!("no mistakes; the home is {home}")),
        warnings => Check::warn(NAME, warnings.join("; "), "something may be other than you mean")
            .fix("each warning says what to change"),
    }
}

/// What depends on the machine alone.
fn machine(context: &Context, loaded: Option<&Loaded>) -> Vec<Running> {
    let configured = loaded.and_then(|loaded| loaded.settings.sandbox.bubblewrap.clone());
    let bwrap = configured.or_else(|| server::wire::bubblewrap(context));
    let newest = loaded.and_then(|loaded| home::newest(&loaded.home));
    let (one, other) = (bwrap.clone(), bwrap);
    let settings = loaded.map(|loaded| loaded.settings.clone()).unwrap_or_default();
    vec![
        blocking("kernel", "no sandbox can be made", machine::kernel),
        ready(async move {
            in_time("bubblewrap", "no sandbox can be made", machine::bubblewrap(one.as_deref()))
                .await
                .required()
        }),
        ready(async move {
            let look = machine::user_namespaces(other.as_deref());
            in_time("user_namespaces", "no sandbox can be made", look).await.required()
        }),
        blocking("seccomp", "no sandbox can be made", machine::seccomp),
        blocking("landlock", "sandboxes have one wall less", machine::landlock),
        blocking("control_groups", "limits of sandboxes do not hold", machine::control_groups),
        blocking("clock", "times may be wrong", move || machine::clock(newest)),
        ready(programs::git(context.find_program("git"))),
        blocking("guest", "no sandbox can be made", programs::guest),
        ready(programs::agents(settings)),
    ]
}

/// What depends on the home and what it configures.
fn of_the_home(loaded: &Arc<Loaded>) -> Vec<Running> {
    let with = |name: &'static str, cost: &'static str, look: fn(&Loaded) -> Check| {
        let loaded = Arc::clone(loaded);
        blocking(name, cost, move || look(&loaded))
    };
    vec![
        with("home", "the server cannot start", |loaded| home::home(&loaded.home)),
        with("permissions", "others may read people's work", |loaded| home::permissions(&loaded.home)),
        with("filesystem", "the store may not be safe on it", |loaded| home::file_system(&loaded.home)),
        with("disk", "nobody knows when the disk will be full", |loaded| {
            health::disk(&loaded.home, &loaded.settings.cleanup)
        }),
        with("inodes", "nobody knows when the disk will be full", |loaded| health::inodes(&loaded.home)),
        ready(home::database(Arc::clone(loaded))),
        with("address", "the server cannot start", network::address),
        with("control_socket", "no command reaches the server", network::control_socket),
        with("toolchains", "agents can build and test with less", programs::toolchains),
        Box::pin(models::all(Arc::clone(loaded))),
    ]
}

/// A check that waits by itself.
fn ready(check: impl Future<Output = Check> + 'static) -> Running {
    Box::pin(async move { vec![check.await] })
}

/// A check that may block, on a thread of its own.
fn blocking(
    name: &'static str,
    cost: &'static str,
    look: impl FnOnce() -> Check + Send + 'static,
) -> Running {
    let looked = tokio::task::spawn_blocking(look);
    ready(async move {
        let look = async {
            looked.await.unwrap_or_else(|error| Check::failed(name, format!("it broke off: {error}"), cost))
        };
        in_time(name, cost, look).await
    })
}

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The mount point that a path is under, and its options.
fn mount_of(path: &std::path::Path) -> Option<(PathBuf, String)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(4);
            Some((PathBuf::from(fields.next()?), fields.next()?.to_owned()))
        })
        .filter(|(at, _)| path.starts_with(at))
        // Of several at one place, the last covers the others.
        .max_by_key(|(at, _)| at.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_and_quotes_is_one_word_of_a_shell() {
        for path in ["/a b/c", "/it's", "/plain", "/$HOME/`x`", ""] {
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(std::path::Path::new(path)))])
                .output()
                .expect("a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), path);
        }
    }

    #[test]
    fn the_mount_of_a_path_is_the_nearest() {
        assert_eq!(mount_of(std::path::Path::new("/proc/self")).expect("mounted").0, PathBuf::from("/proc"));
    }
}
