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

/// Crates that unpack archives. Whoever adds one adds the attempts: `..`, absolute names, links, devices, bombs.
const UNPACKERS: [&str; 8] =
    ["tar", "tokio-tar", "astral-tokio-tar", "zip", "async_zip", "sevenz-rust2", "cpio", "ar"];

/// All of them. The last ends everything in a session.
pub(crate) fn cases() -> Vec<Case> {
    let alone = vec![
        Case::part(
            "archives.unpacked",
            "find code of ours that unpacks archives (`..`, links, devices in them)",
            "an archive of an agent's writes elsewhere",
            "the same search for a crate that is used",
            |_| uses(&UNPACKERS),
            |_| uses(&["base64"]),
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

fn uses(names: &[&str]) -> Verdict {
    let lock = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    let text = std::fs::read_to_string(lock).expect("the lock file");
    match names.iter().find(|name| text.contains(&format!("name = \"{name}\"\n"))) {
        Some(name) => Got(format!("`{name}` is used")),
        None => Held("none is used".to_owned()),
    }
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
