//! The attack program: this very test program, run inside a sandbox or outside of one.
//!
//! `corpus attack run PLACE` makes all attempts for that place, each in a process of its own, since some are killed and
//! some hang, and prints a line of JSON for each. `corpus attack one PLACE ID` makes one. `corpus attack neighbour PLACE`
//! plays another session: it listens, and holds what nobody else may get.

mod devices;
mod files;
mod gate;
mod http;
mod identity;
mod kernel;
mod namespaces;
mod neighbour;
mod network;
mod routes;
mod sys;
mod tools;

use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::case::Case;
use crate::case::Control;
use crate::case::How;
use crate::case::Verdict;
use crate::place::Place;
use crate::without::Without;

pub(crate) use files::host_temporary;
pub(crate) use gate::SMUGGLED;
pub(crate) use neighbour::forget;
pub(crate) use neighbour::say_to_all;

/// An attempt that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many attempts are made at once: most wait for a process to start.
const AT_ONCE: usize = 4;

/// What the program says about one attempt.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) id: String,
    pub(crate) verdict: Verdict,
}

/// All cases of the attack program.
pub(crate) fn cases() -> Vec<Case> {
    [
        files::CASES,
        kernel::CASES,
        namespaces::CASES,
        network::CASES,
        devices::CASES,
        identity::CASES,
        neighbour::CASES,
        http::CASES,
        routes::CASES,
        gate::CASES,
    ]
    .concat()
}

/// Runs as the attack program; the arguments are those after `attack`.
pub(crate) fn main(arguments: &[String]) -> Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", place] => run(place, None),
        ["run", place, control] => run(place, Some(control)),
        ["one", place, id] => {
            let report = Report { id: (*id).to_owned(), verdict: one(place, id)? };
            say(&report)
        }
        ["neighbour", place, ..] => neighbour::main(&read(place)?),
        ["knock", socket, uid, request, from_inside] => {
            identity::knock(socket, uid, request, *from_inside == "true")
        }
        ["wait"] => wait_for_ever(),
        _ => Err(format!("no such attack: {words:?}")),
    }
}

fn read(place: &str) -> Result<Place, String> {
    let text = std::fs::read(place).map_err(|error| format!("{place}: {error}"))?;
    let mut place: Place = serde_json::from_slice(&text).map_err(|error| format!("{place}: {error}"))?;
    if !place.has_walls && !place.is_control {
        find_self(&mut place)?;
    }
    Ok(place)
}

fn say(report: &Report) -> Result<(), String> {
    let line = serde_json::to_string(report).map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{line}").map_err(|error| error.to_string())
}

/// All attempts of a place: those with this control, or all of them inside.
fn run(place: &str, control: Option<&str>) -> Result<(), String> {
    let has_walls = read(place)?.has_walls;
    let mut waiting: Vec<Case> = cases()
        .into_iter()
        .filter(|case| has_walls || control.is_some() || Without::of(case).is_tried())
        .filter(|case| match (case.how, control) {
            (How::Inside(..), None) => true,
            (How::Inside(_, of), Some(control)) => name(of) == control,
            _ => false,
        })
        .collect();
    waiting.reverse();
    // A flood would have the others turned away, which is not what they are to be stopped by.
    let floods: Vec<Case> = waiting.extract_if(.., |case| case.id.ends_with("flood")).collect();
    let waiting = std::sync::Mutex::new(waiting);
    let next = || waiting.lock().map(|mut cases| cases.pop()).ok().flatten();
    let try_it = |case: Case| {
        // Nobody reads: then nobody misses it.
        say(&Report { id: case.id.to_owned(), verdict: apart(place, case.id) }).ok();
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = next() {
                    try_it(case);
                }
            });
        }
    });
    floods.into_iter().for_each(try_it);
    Ok(())
}

/// The word for a control on the command line.
pub(crate) fn name(control: Control) -> &'static str {
    match control {
        Control::SameUser => "same-user",
        Control::Root => "root",
        Control::Network => "network",
        Control::Naive => "naive",
    }
}

/// One attempt in a process of its own.
fn apart(place: &str, id: &str) -> Verdict {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["attack", "one", place, id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Verdict::Missing(format!("cannot start the attempt: {error}")),
    };
    let (told, heard) = std::sync::mpsc::sync_channel(1);
    if let Some(mut output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).ok();
            told.send(text).ok();
        });
    }
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(1)),
            _ => {
                child.kill().ok();
                child.wait().ok();
                return Verdict::Held("it hung".to_owned());
            }
        }
    };
    if let Some(signal) = status.signal() {
        return Verdict::Held(format!("killed by signal {signal}"));
    }
    let text = heard.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    match serde_json::from_str::<Report>(text.lines().last().unwrap_or_default()) {
        Ok(report) => report.verdict,
        Err(_) => Verdict::Missing(format!("the attempt broke: {status}")),
    }
}

fn one(place: &str, id: &str) -> Result<Verdict, String> {
    let mut place = read(place)?;
    let case = cases().into_iter().find(|case| case.id == id).ok_or_else(|| format!("no case {id}"))?;
    let How::Inside(attempt, control) = case.how else { return Err(format!("{id} is not for this program")) };
    let mut child = None;
    if place.is_control {
        match control {
            Control::Root => namespaces::leave_the_hosts().map_err(|error| error.to_string())?,
            Control::Network => network::wire().map_err(|error| error.to_string())?,
            Control::SameUser | Control::Naive => {}
        }
        let started = Waiting::start(&place.canary).map_err(|error| error.to_string())?;
        place.target = started.0.id().cast_signed();
        child = Some(started);
    }
    let verdict = attempt(&place);
    drop(child);
    Ok(verdict)
}

/// Where an attempt's own things are that has no walls around it: its agent's environment names two of them, and its
/// guest is the process above that was started as one.
fn find_self(place: &mut Place) -> Result<(), String> {
    let variable = |name: &str| std::env::var_os(name).ok_or_else(|| format!("no {name} in the environment"));
    place.gate = variable(ob_core::link::OUTSIDE_SOCKET)?.into();
    place.scratch = variable(ob_core::link::OUTSIDE_WORKSPACE)?.into();
    let mut pid = std::process::id().cast_signed();
    while pid > 1 {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("init\0--outside") {
            place.target = pid;
            place.program = format!("/proc/{pid}/exe").into();
            return Ok(());
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| error.to_string())?;
        let above = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        pid = above.ok_or("a process without a parent")?;
    }
    Err("no guest is above this process".to_owned())
}

/// A child that waits, until it is not needed any more.
struct Waiting(std::process::Child);

// === impl Waiting ===

impl Waiting {
    /// Starts it with a secret in its environment. The kernel lets `spawn` return a moment before a program has its
    /// environment and its memory, so it is heard first.
    fn start(canary: &str) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["attack", "wait"])
            .env("CORPUS_CANARY", canary)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take();
        let started = Self(child);
        match output.map(|mut output| output.read_exact(&mut [0])) {
            Some(Ok(())) => Ok(started),
            _ => Err(std::io::Error::other("the child said nothing")),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Says that it is there, and stays until it is killed or its parent is gone.
fn wait_for_ever() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "here").map_err(|error| error.to_string())?;
    loop {
        std::thread::park();
    }
}

/// True if `path` is there at all.
fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}
