//! The server process: its lock, its listeners, its wiring, its signals, its end.
//!
//! ```text
//! lock -> listeners (probes answer, API 503) -> wire (store, recovery) -> ready -> draining -> let go of the lock
//! ```
//!
//! TERM and INT drain; a second one at least 2 s later hurries. HUP reads the configuration anew, USR1 reopens the log,
//! USR2 writes the status to the log. None kills by default.

pub(crate) mod attend;
pub(crate) mod demo_model;
mod descriptors;
pub(crate) mod listen;
pub(crate) mod lock;
mod notify;
pub(crate) mod reload;
mod signals;
pub(crate) mod wire;

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ob_config::Loaded;
use ob_config::RateLimitSettings;
use ob_config::Settings;
use ob_core::Home;
use ob_core::Refusal;
use ob_crash::CrashPoint;
use ob_crash::reach;
use ob_engine::Clock as _;
use ob_engine::Configuration;
use ob_engine::SystemClock;
use ob_server::Authentication;
use ob_server::Binding;
use ob_server::Inside;
use ob_server::Limits;
use ob_server::Listener;
use ob_server::Phase;
use ob_server::RateLimit;
use ob_server::RouteGroups;
use ob_server::ServerOptions;
use ob_telemetry::ServerStarted;
use ob_telemetry::ServerStopped;
use ob_telemetry::ServerStopping;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::cli::Context;
use crate::cli::args::Global;
use crate::names;
use crate::version::VERSION;
use attend::Attendance;
use attend::End;
use attend::drain;
use lock::Holder;
use lock::ServerLock;
use notify::Notifier;
use reload::Reloader;
use signals::Signals;

/// Worker threads: the store's writer and readers have their own, so these only move messages; each costs memory.
const WORKERS: usize = 2;

/// Threads for blocking calls, and how long one that is idle stays.
const BLOCKING_MAX: usize = 32;
const BLOCKING_IDLE: Duration = Duration::from_secs(5);

/// The file that this process runs, by a path that names it, so that its children are called as it is.
pub(crate) fn own_program() -> PathBuf {
    // After an upgrade in place the old file has no path any more, but it still runs.
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// Gives this process the name that every server has, by executing itself once more. Returns if it has it.
pub(crate) fn become_server(context: &Context) -> Result<(), Refusal> {
    let called = context.argv.first().map(|name| name.as_os_str()).unwrap_or_default();
    if names::of(called).name == names::SERVER_NAME {
        return Ok(());
    }
    let error = Command::new(own_program()).arg0(names::SERVER_NAME).args(context.argv.iter().skip(1)).exec();
    Err(cannot("execute itself as a server", &error))
}

/// Serves until told to stop. A `detached` server leaves its terminal, says one line when it is ready and then
/// nothing more.
pub(crate) fn run(context: &Context, global: &Global, detached: bool, takeover: bool) -> Result<u8, Refusal> {
    let loaded = cli::load(context, global)?;
    if detached {
        // Fails only for a leader of a group, which a fresh child is not; then it leads its session already.
        if let Err(error) = rustix::process::setsid() {
            tracing::debug!(%error, "already leads a group");
        }
        // So that no folder of the user's is kept busy.
        std::env::set_current_dir("/").map_err(|error| cannot("enter /", &error))?;
    }
    if cli::make_home(context, global, &loaded)? {
        tell(&format!("made a home at {}", loaded.home.root().display()));
    }
    ob_config::make_runtime(&loaded.home).map_err(|error| cannot("make the runtime folder", &error))?;
    for warning in &loaded.warnings {
        tell(&format!("warning: {warning}"));
    }
    if let Err(error) = ob_sandbox::turns::shorten() {
        tell(&format!("warning: the server may wait behind busy sandboxes: {error}"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_keep_alive(BLOCKING_IDLE)
        .thread_name("oubliette")
        .enable_all()
        .build()
        .map_err(|error| cannot("start threads", &error))?;
    runtime.block_on(serve(context, global, loaded, detached, takeover))
}

async fn serve(
    context: &Context,
    global: &Global,
    loaded: Loaded,
    detached: bool,
    takeover: bool,
) -> Result<u8, Refusal> {
    let began = Instant::now();
    let home = loaded.home.clone();
    let started_at = SystemClock.now();
    let mut holder = Holder {
        pid: std::process::id(),
        version: VERSION.to_owned(),
        addresses: Vec::new(),
        started_at,
        draining: false,
    };
    // First of all, so that no signal kills what has begun.
    let mut signals = Signals::listen().map_err(|error| cannot("listen to signals", &error))?;
    let notifier = Notifier::new(context, detached);
    notifier.starting("waiting for the home");
    let acquire = async {
        let told = takeover && cli::tell_to_drain(&home).await?;
        ServerLock::acquire(&home, &holder, told).await
    };
    let mut lock = tokio::select! {
        lock = acquire => lock?,
        // Whoever drains is waited for; whoever waits may be told to stop.
        () = signals.until_stop() => return Ok(cli::OK),
        never = notifier.ask_for_time() => match never {},
    };
    reach(CrashPoint::LockWritten);

    let telemetry = wire::telemetry(&loaded, !detached)?;
    let wanted = ob_config::bind_addresses(&loaded.settings.server)
        .map_err(|mistake| Refusal::invalid(mistake.to_string()).fix("mend `server.address`"))?;
    let tcp = listen::tcp(&wanted).await?;
    for listener in &tcp {
        let address = listener.local_addr().map_err(|error| cannot("read an address", &error))?;
        holder.addresses.push(address.to_string());
    }
    let control = listen::control(&home)?;
    lock.write(&holder).map_err(|error| cannot("write the lock", &error))?;
    fs::write(home.pid_file(), format!("{}\n", holder.pid))
        .map_err(|error| cannot("write the pid file", &error))?;
    reach(CrashPoint::Listening);

    let phase = watch::Sender::new(Phase::Starting { reason: "starting".into() });
    let shutdown = CancellationToken::new();
    let rate_limit = watch::Sender::new(rate_limit_of(&loaded.settings));
    let options = ServerOptions {
        phase: phase.subscribe(),
        metrics: Arc::clone(&telemetry.metrics),
        observe_request: Arc::clone(&telemetry.observe_request),
        allowed_hosts: Vec::new(),
        rate_limit: rate_limit.subscribe(),
        limits: Limits { connections: descriptors::connections(), ..Limits::default() },
    };
    let listener = |binding, authentication| Listener { binding, routes: RouteGroups::ALL, authentication };
    let mut listeners = vec![listener(Binding::Unix(control), Authentication::Operator)];
    listeners.extend(tcp.into_iter().map(|tcp| listener(Binding::Tcp(tcp), Authentication::Bearer)));
    let inside = Inside::new(&options, shutdown.clone());
    let mut serving = tokio::spawn(ob_server::serve(options, listeners, shutdown.clone()));

    let progress = |reason: &str| {
        notifier.starting(reason);
        phase.send_replace(Phase::Starting { reason: reason.to_owned() });
    };
    let built = tokio::select! {
        built = wire::build(context, &loaded, &holder, &telemetry, inside, &progress) => built.map(Some),
        // Nothing was started that would have to be parked: what the store holds is recovered by the next server.
        () = signals.until_stop() => Ok(None),
        never = notifier.ask_for_time() => match never {},
    };
    let result = match built {
        Ok(Some(engine)) => {
            let reloader = Arc::new(Reloader::new(context, global, &loaded, &telemetry, rate_limit));
            engine.set_configuration(Arc::clone(&reloader) as Arc<dyn Configuration>);
            phase.send_replace(Phase::Serving(Arc::new(Arc::clone(&engine))));
            engine.clean_regularly();
            reach(CrashPoint::Ready);
            say_ready(&holder, &home, detached)?;
            let started = ServerStarted {
                version: VERSION,
                home: home.root(),
                addresses: &holder.addresses,
                took: began.elapsed(),
            };
            started.emit(&telemetry.counted);
            notifier.ready(&holder.addresses);
            let end = Attendance {
                engine: &engine,
                telemetry: &telemetry,
                reloader: &reloader,
                notifier,
                addresses: &holder.addresses,
            }
            .attend(&mut signals, &mut serving)
            .await;
            notifier.stopping();
            holder.draining = true;
            if let Err(error) = lock.write(&holder) {
                tracing::warn!(%error, "cannot mark the lock as draining");
            }
            reach(CrashPoint::Draining);
            phase.send_replace(Phase::Draining);
            ServerStopping { reason: end.reason() }.emit(&telemetry.counted);
            drain(engine.shutdown(end.keeps_sandboxes()), async || signals.next().await).await;
            match end {
                End::Asked { .. } => Ok(crate::cli::OK),
                End::Superseded => Err(Refusal::conflict("a later server has taken this home over")
                    .fix("use that one; this one ended nothing that is its successor's")),
            }
        }
        Ok(None) => Ok(crate::cli::OK),
        Err(refusal) => Err(refusal),
    };
    shutdown.cancel();
    if !serving.is_finished()
        && let Err(error) = serving.await
    {
        tracing::error!(%error, "the listeners failed");
    }
    clean_up(&home, holder.pid);
    reach(CrashPoint::CleanedUp);
    lock.release().map_err(|error| cannot("let go of the lock", &error))?;
    ServerStopped.emit(&telemetry.counted);
    result
}

/// How often clients may ask, as the listeners take it.
fn rate_limit_of(settings: &Settings) -> RateLimit {
    let RateLimitSettings { per_1000_s, burst } = settings.rate_limit;
    RateLimit { per_1000_s, burst }
}

/// Says that the server is ready; a detached one then lets go of the pipes of whoever started it.
fn say_ready(holder: &Holder, home: &Home, detached: bool) -> Result<(), Refusal> {
    if !detached {
        tell(&format!(
            "ready: {} (home {}, pid {})",
            holder.addresses.join(", "),
            home.root().display(),
            holder.pid
        ));
        return Ok(());
    }
    let line = serde_json::to_string(holder).map_err(|error| Refusal::internal(error.to_string()))?;
    // Who started us may be gone; then nobody reads this and that is fine.
    if let Err(error) = writeln!(io::stdout().lock(), "{line}") {
        tracing::debug!(%error, "nobody waits for this server");
    }
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| cannot("open /dev/null", &error))?;
    rustix::stdio::dup2_stdout(&null)
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| cannot("leave the terminal", &error.into()))
}

/// Removes what says that a server is here, unless that is another one.
fn clean_up(home: &Home, pid: u32) {
    if fs::read_to_string(home.pid_file()).is_ok_and(|text| text.trim() != pid.to_string()) {
        return;
    }
    for file in [home.pid_file(), home.control_socket()] {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, file = %file.display(), "cannot remove a file");
        }
    }
}

/// Tells whoever started the server, on standard error.
fn tell(line: &str) {
    if writeln!(io::stderr().lock(), "{line}").is_err() {
        // Nobody is there to be told.
    }
}

fn cannot(what: &str, error: &io::Error) -> Refusal {
    Refusal::unavailable(format!("cannot {what}: {error}")).fix("see `oubliette doctor`")
}
