//! `docs/security-corpus.md`, written from the table, and the rules that the table keeps.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::case::Case;
use crate::case::How;
use crate::without;
use crate::without::Without;

/// The page, from the root of the repository.
const PAGE: &str = "docs/security-corpus.md";
/// Fewer than this is no corpus.
const LEAST: usize = 150;

const HEAD: &str = "\
# The escape corpus

<!-- Generated from the table in crates/oubliette/tests/corpus by `UPDATE_DOCS=1 cargo test -p oubliette --test corpus`. -->

Attempts to get out of a session, to get at another one, and to fool the host with what an agent or a repository says. Each is
made against the real program, and then once more where nothing stops it: if that *control* does not work, the case fails,
since then the attempt shows nothing. `cargo test -p oubliette --test corpus` runs all of it and prints a summary by class;
`cargo test -p oubliette --test corpus -- links.hard` runs one.

- *inside*: a program in the sandbox of a real session makes the attempt, with the agent's rights.
- *host*: the attempt is what an agent, a guest, a repository or a stranger says to the server or to the command line.

The backend `namespace` holds all of it. The backend `process` does not isolate, and is marked as unsafe wherever it is listed.
What it holds all the same stands in the last column, for a server that runs as root and so gives each project a uid of its own.
There an agent is a process of the machine: what the kernel lets a stranger's process do is *open*, and what the server itself
guards (gate, link, API, patches, repositories, terminals) *holds* as on every backend. A run tries that column too, and fails
if something that is listed as open is held by now. For an ordinary user's server all of *inside* but the gate is open on
`process`: the agent is that user.

Some controls need what not every machine has (a kernel with a certain socket family, root). Where it is missing, the run counts
the case as held without a control, and says how many there are.
";

/// What each class is about.
const CLASSES: &[(&str, &str)] = &[
    ("paths", "Files of the host by their paths, and files of the system for writing."),
    ("links", "Links, descriptors and handles that lead to another file than they seem to."),
    ("home", "The server's own files: sessions, tokens, logs."),
    ("proc", "What `/proc` and `/sys` show and let one change."),
    ("mounts", "Changing the view of files."),
    ("namespaces", "Namespaces of one's own, and those of others."),
    ("signals", "Signalling processes outside, and the guest."),
    ("trace", "Looking into other processes, and the guest."),
    ("kernel", "Parts of the kernel that no agent needs, and other tables of calls."),
    ("time", "The machine's clocks."),
    ("keys", "Key rings, which not all namespaces confine."),
    ("devices", "Device nodes and terminals."),
    ("setuid", "Becoming somebody else, or making a file that does."),
    ("environment", "What variables give away."),
    ("network", "Every network but the gate."),
    ("abstract", "Unix sockets without a path."),
    ("dns", "Name look-ups, which carry data out."),
    ("metadata", "The services that give a cloud machine its keys."),
    ("sessions", "Another session of the same project, which has the same uid on the host."),
    (
        "http",
        "Requests that mean one thing to the gate and another to the provider behind it. Judged at the provider.",
    ),
    ("routes", "Other routes, hosts and models than the gate has."),
    ("gate", "The gate spoken to by somebody who keeps to no rule."),
    ("link", "The guest link with a guest that wants to harm the host."),
    ("acp", "An agent that lies to the driver."),
    ("api", "The server's own doors, without a right to them."),
    ("git", "A repository that was made to harm whoever lets the server look at it."),
    ("in_place", "The user's own folder as a workspace: what could be left there for the user's next git."),
    ("patch", "What a session changed, on its way into the user's folder."),
    ("terminal", "Text of agents on an operator's terminal: obeyed by none, and kept exact in JSON."),
    ("archives", "Archives that write elsewhere when they are unpacked."),
    ("bombs", "What is too much; the limits themselves have tests of their own."),
];

/// A test of the table: what is wrong with it.
pub(crate) type Rule = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The tests of the table itself, by name.
pub(crate) fn rules(cases: Vec<Case>) -> Vec<(&'static str, Rule)> {
    let page = page(&cases);
    vec![
        ("the_page_is_the_table", Box::new(move || is_current(&page))),
        ("the_table_keeps_its_rules", Box::new(move || keeps_rules(&cases))),
    ]
}

fn keeps_rules(cases: &[Case]) -> Result<(), String> {
    let ids: BTreeSet<&str> = cases.iter().map(|case| case.id).collect();
    if ids.len() != cases.len() {
        return Err("an id is there twice".to_owned());
    }
    if cases.len() < LEAST {
        return Err(format!("{} cases are fewer than {LEAST}", cases.len()));
    }
    let strange = without::unknown(cases);
    if !strange.is_empty() {
        return Err(format!("listed as open, and no case: {strange:?}"));
    }
    let known: BTreeSet<&str> = CLASSES.iter().map(|(class, _)| *class).collect();
    let used: BTreeSet<&str> = cases.iter().map(Case::class).collect();
    if known != used {
        return Err(format!(
            "classes without cases or without words: {:?}",
            known.symmetric_difference(&used)
        ));
    }
    let tries: BTreeSet<(&str, &str)> = cases.iter().map(|case| (case.class(), case.tries)).collect();
    if tries.len() == cases.len() { Ok(()) } else { Err("two cases of a class try the same".to_owned()) }
}

fn page(cases: &[Case]) -> String {
    let mut page = HEAD.to_owned();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        *counts.entry(case.class()).or_default() += 1;
    }
    let inside = cases.iter().filter(|case| matches!(case.how, How::Inside(..))).count();
    let is_open = |case: &&Case| matches!(Without::of(case), Without::Open | Without::Untried(_));
    let open = cases.iter().filter(is_open).count();
    write!(
        page,
        "\n{} attempts in {} classes, {inside} of them inside; {open} are open on `process`.\n",
        cases.len(),
        counts.len()
    )
    .unwrap();
    for (class, about) in CLASSES {
        write!(
            page,
            "\n## {class}\n\n{about}\n\n| attempt | tries to | would show | where | control | on `process` |\n"
        )
        .unwrap();
        page.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for case in cases.iter().filter(|case| case.class() == *class) {
            let place = if matches!(case.how, How::Inside(..)) { "inside" } else { "host" };
            let needs = case.needs.map_or_else(String::new, |needs| format!("; needs {needs}"));
            let cells = [case.id, case.tries, case.shows, place].map(cell).join(" | ");
            let without = Without::of(case).words();
            writeln!(page, "| {cells} | {}{} | {without} |", cell(case.control), cell(&needs)).unwrap();
        }
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn is_current(generated: &str) -> Result<(), String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return std::fs::write(&path, generated).map_err(|error| error.to_string());
    }
    let is = std::fs::read_to_string(&path).map_err(|error| format!("{PAGE}: {error}"))?;
    if is == generated {
        return Ok(());
    }
    let differs = is.lines().zip(generated.lines()).position(|(is, should)| is != should);
    Err(format!(
        "{PAGE} is not what the table says, from line {} on; write it anew with \
         `UPDATE_DOCS=1 cargo test -p oubliette --test corpus`",
        differs.unwrap_or_else(|| is.lines().count().min(generated.lines().count())) + 1
    ))
}
