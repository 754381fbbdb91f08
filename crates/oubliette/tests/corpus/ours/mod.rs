//! Attempts on the host's side: what guests, agents, repositories and strangers say to our own code.

mod acp;
mod api;
pub(crate) mod git;
pub(crate) mod in_place;
mod link;
pub(crate) mod patch;
pub(crate) mod terminal;

use crate::batch::Batch;
use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::harness::until;

/// What unpacks archives, in the crates that are known for it. Whoever uses one adds the attempts: `..`, absolute names,
/// links, devices, bombs. Packing is none.
const UNPACKERS: [&str; 7] =
    ["tar::Archive", "tar::Entry", "ZipArchive", "async_zip", "sevenz_rust2", "cpio::", "ar::Archive"];

/// All of them. The last ends everything in a session.
pub(crate) fn cases() -> Vec<Case> {
    let alone = vec![
        Case::part(
            "archives.unpacked",
            "find code of ours that unpacks archives (`..`, links, devices in them)",
            "an archive of an agent's writes elsewhere",
            "the same search for what packs one",
            |_| uses(&UNPACKERS),
            |_| uses(&["tar::Builder"]),
        ),
        Case::seen(
            "signals.everything",
            "kill every process that can be signalled",
            "the server, or a neighbour with the same uid, is killed",
            "the same in a process namespace of its own with a neighbour in it",
            |batch, _| kills_everything(batch),
            |_, _| everything_is_killed(),
        ),
    ];
    [
        link::cases(),
        acp::cases(),
        api::cases(),
        git::cases(),
        in_place::cases(),
        patch::cases(),
        terminal::cases(),
        alone,
    ]
    .concat()
}

/// Looks for words in the code of all crates, up to the tests of each file.
fn uses(words: &[&str]) -> Verdict {
    let crates = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<_> = std::fs::read_dir(crates)
        .expect("the crates")
        .flatten()
        .map(|entry| entry.path().join("src"))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                if let Some(word) = words.iter().find(|word| code.contains(*word)) {
                    return Got(format!("`{word}` is used in {}", path.display()));
                }
            }
        }
    }
    Held("none is used".to_owned())
}

fn kills_everything(batch: &Batch) -> Verdict {
    // Its own agent is among them: the session may fail of it, or get another one.
    let command = serde_json::json!({ "command": "setsid sh -c 'kill -9 -1'" });
    batch.model.push(ob_testkit::Answer::tool("run", command));
    batch.home.ok(["session", "message", &batch.attacker, "End it."]);
    until("the attacker to be through", || {
        matches!(batch.home.state(&batch.attacker).as_str(), "idle" | "failed" | "ended")
    });
    let is_alive =
        |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    if !is_alive(batch.inside.neighbour.pid) {
        return Got("the neighbour is gone".to_owned());
    }
    if batch.home.run(["status"]).status.success() {
        Held("both live".to_owned())
    } else {
        Got("the server is gone".to_owned())
    }
}

/// In a namespace of processes, so that it hits nobody: a neighbour, and one that kills everything.
fn everything_is_killed() -> Verdict {
    let script = "sleep 1000 & n=$!; trap '' TERM; sh -c 'kill -9 -1' ; wait $n; [ $? = 137 ] && echo killed";
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "sh", "-c", script])
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.contains("killed") {
        Got("the neighbour is gone".to_owned())
    } else {
        Held(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
