//! `oubliette support bundle`: one file with what helps to find a fault, and without secrets.
//!
//! ```text
//! home, machine, server -> parts (name, text) -> redaction of every text -> tar.gz, for its owner only
//! ```
//!
//! A part that cannot be had is named with the reason and hinders nobody: a bundle is wanted when things are broken.
//! What people work on stays out: tasks, events, patches, files of projects.

mod archive;
mod secrets;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ob_config::Loaded;
use ob_config::Mistakes;
use ob_core::Refusal;
use serde_json::Value;
use serde_json::json;

use super::Context;
use super::OK;
use super::args::Global;
use super::args::SupportCommand;
use super::client::Client;
use super::doctor;
use super::output::Output;
use super::text;
use crate::server;
use crate::version;

/// How much of the end of the log is taken: days of an ordinary server.
const LOG_MAX: u64 = 1 << 20;

/// How long the server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How many files of a folder are named.
const LISTED_MAX: usize = 200;

const README: &str = "\
What a person who looks for a fault needs to know about this server and its machine.

versions.json       the program, the kernel, the distribution
configuration.txt   every value in effect with its origin, and every mistake
environment.txt     names of variables that concern Oubliette; no values
doctor.json         what `oubliette doctor` finds
server.json         who serves the home, and how it is
metrics.txt         the server's metrics
log.txt             the end of the server's log
files.txt           names, sizes and modes of the home's files
missing.txt         what could not be had, and why; if anything

Keys, tokens and passwords were taken out of every file and read `[redacted]`. Tasks, events, patches and files of projects
are not in it. Paths, names of hosts and ids are. Look through it before you send it.
";

/// A file of the bundle.
#[derive(Debug)]
struct Part {
    name: &'static str,
    text: String,
}

/// What was gathered so far.
#[derive(Debug, Default)]
struct Gathered {
    parts: Vec<Part>,
    missing: Vec<(&'static str, String)>,
}

/// Runs the command.
pub(crate) async fn command(
    command: SupportCommand,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    let SupportCommand::Bundle { out } = command;
    let now = jiff::Timestamp::now();
    let name = format!("oubliette-support-{}", now.strftime("%Y%m%d-%H%M%S"));
    let file = context.cwd.join(out.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz"))));
    // Before anything is gathered: nobody waits for what cannot be written.
    let place = archive::Place::make(&file)?;
    let gathered = gather(context, global).await;
    let names: Vec<&str> = gathered.parts.iter().map(|part| part.name).collect();
    let size = place.pack(&name, now, gathered.parts.iter().map(|part| (part.name, part.text.as_str())))?;
    let missing: Vec<_> =
        gathered.missing.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
    let value = json!({ "file": file, "bytes": size, "parts": names, "missing": missing });
    output.data(&value, || format!("wrote {}\n", text::one_line(&file.display().to_string())));
    for (name, why) in &gathered.missing {
        output.hint(&format!("without {name}: {}", text::one_line(why)));
    }
    output.hint("look through it before you send it: `tar -xzf FILE`");
    Ok(OK)
}

/// Every part, without secrets.
async fn gather(context: &Context, global: &Global) -> Gathered {
    let mut gathered = Gathered::default();
    gathered.add("README.txt", README.to_owned());
    gathered.add("versions.json", pretty(&versions()));
    let loaded = ob_config::load_anyway(&super::options(context, global));
    gathered.add("configuration.txt", configuration(&loaded));
    gathered.add("environment.txt", environment(context));
    let (_, checks) = doctor::look(context, global).await;
    gathered.add("doctor.json", pretty(&json!({ "checks": checks })));
    let loaded = loaded.ok().map(|(loaded, _)| loaded);
    match &loaded {
        Some(loaded) => gathered.of_the_home(loaded).await,
        None => gathered.lack("server.json", "there is no home to look at; see configuration.txt"),
    }
    if !gathered.missing.is_empty() {
        let list: String = gathered.missing.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
        gathered.add("missing.txt", list);
    }
    let secrets = secrets::Secrets::of(context, loaded.as_ref());
    for part in &mut gathered.parts {
        part.text = secrets.taken_out(&part.text);
    }
    for (_, why) in &mut gathered.missing {
        *why = secrets.taken_out(why);
    }
    gathered
}

// === impl Gathered ===

impl Gathered {
    fn add(&mut self, name: &'static str, text: String) {
        self.parts.push(Part { name, text });
    }

    fn lack(&mut self, name: &'static str, why: impl ToString) {
        self.missing.push((name, why.to_string()));
    }

    async fn of_the_home(&mut self, loaded: &Loaded) {
        let home = &loaded.home;
        let client = Client::new(home.control_socket());
        let holder = server::lock::holder(home);
        let (health, metrics) = tokio::join!(asked(&client, "/health"), asked(&client, "/metrics"));
        let health = match health {
            Ok(page) => serde_json::from_str(&page).unwrap_or(Value::String(page)),
            Err(why) => Value::String(why),
        };
        let was_killed = holder.is_none() && server::lock::was_killed(home);
        self.add(
            "server.json",
            pretty(&json!({ "holder": holder, "last_one_was_killed": was_killed, "health": health })),
        );
        match metrics {
            Ok(page) => self.add("metrics.txt", page),
            Err(why) => self.lack("metrics.txt", why),
        }
        match tail(&home.log_file(), LOG_MAX) {
            Ok(log) => self.add("log.txt", log),
            Err(error) => self.lack("log.txt", format!("{}: {error}", home.log_file().display())),
        }
        let folders =
            [home.root().to_owned(), home.config(), home.data(), home.logs(), home.runtime().to_owned()];
        self.add("files.txt", listing(&folders));
    }
}

/// What the server answers, or why there is no answer. One that hangs is a reason for a bundle, and must not hold it up.
async fn asked(client: &Client, path: &str) -> Result<String, String> {
    match tokio::time::timeout(ANSWER_MAX, client.page(path)).await {
        Ok(Ok((200, page))) => Ok(page),
        Ok(Ok((status, page))) => Err(format!("the server answered {status}: {page}")),
        Ok(Err(error)) => Err(Refusal::from(error).message),
        Err(_) => Err(format!("the server did not answer within {} s", ANSWER_MAX.as_secs())),
    }
}

fn versions() -> Value {
    let uname = rustix::system::uname();
    let of = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "oubliette": version::FULL,
        "kernel": of(uname.release()),
        "kernel_build": of(uname.version()),
        "machine": of(uname.machine()),
        "distribution": distribution.map(|name| name.trim_matches('"')),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "uid": rustix::process::geteuid().as_raw(),
    })
}

fn configuration(loaded: &Result<(Loaded, Mistakes), Mistakes>) -> String {
    let (loaded, mistakes) = match loaded {
        Ok((loaded, mistakes)) => (Some(loaded), mistakes),
        Err(mistakes) => (None, mistakes),
    };
    let mut page = String::new();
    for mistake in &mistakes.0 {
        writeln!(page, "mistake: {mistake}").ok();
    }
    let Some(loaded) = loaded else { return page };
    for warning in &loaded.warnings {
        writeln!(page, "warning: {warning}").ok();
    }
    let file = loaded.file.as_ref().map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    writeln!(page, "home: {}, found by {:?}\nfile: {file}\n", loaded.home.root().display(), loaded.found_by)
        .ok();
    for value in &loaded.values {
        writeln!(page, "{} = {}  # {}", value.path, value.value, value.origin).ok();
    }
    page
}

/// Names only: whoever sets a variable may have set it to a secret, whatever it is called.
fn environment(context: &Context) -> String {
    let names: Vec<&str> = context.env.keys().filter_map(|name| name.to_str()).collect();
    let known = |name: &str| {
        name.starts_with("OUBLIETTE_") || ob_config::VARIABLES.iter().any(|variable| variable.name == name)
    };
    names.into_iter().filter(|name| known(name)).map(|name| format!("{name}\n")).collect()
}

/// The end of a file, from the start of a line on.
fn tail(path: &Path, most: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = if skipped == 0 { 0 } else { text.find('\n').map_or(text.len(), |at| at + 1) };
    Ok(text[cut..].to_owned())
}

/// What is in some folders, not below them: mode, size, age, name.
fn listing(folders: &[PathBuf]) -> String {
    let mut page = String::new();
    for folder in folders {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                writeln!(page, "{}: {error}\n", folder.display()).ok();
                continue;
            }
        };
        writeln!(page, "{}:", folder.display()).ok();
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries.iter().take(LISTED_MAX) {
            let Ok(found) = entry.metadata() else { continue };
            let age = found.modified().ok().and_then(|at| at.elapsed().ok()).map_or(0, |age| age.as_secs());
            let (mode, owner, size, name) = (found.mode(), found.uid(), found.len(), entry.file_name());
            writeln!(page, "  {mode:06o} {owner:>6} {size:>12} {age:>9} s ago  {}", name.display()).ok();
        }
        if entries.len() > LISTED_MAX {
            writeln!(page, "  and {} more", entries.len() - LISTED_MAX).ok();
        }
        page.push('\n');
    }
    page
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        fs::write(&log, "first line\nsecond line\nthird\n").expect("written");
        assert_eq!(tail(&log, 1000).expect("read"), "first line\nsecond line\nthird\n");
        assert_eq!(tail(&log, 10).expect("read"), "third\n");
        assert_eq!(tail(&log, 0).expect("read"), "");
        assert!(tail(&folder.path().join("none"), 10).is_err());
    }

    #[test]
    fn files_are_listed_with_their_modes_and_a_folder_that_is_missing_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("some file"), "12345").expect("written");
        let page = listing(&[folder.path().to_owned(), folder.path().join("gone")]);
        assert!(page.contains("some file") && page.contains(" 5 ") && page.contains("gone: "), "{page}");
    }
}
