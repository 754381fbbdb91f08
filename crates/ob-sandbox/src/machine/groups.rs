//! Control groups: which limits of a sandbox this process could enforce.

use std::fs;
use std::path::Path;

use ob_core::check::Check;

use super::Distribution;
use crate::namespace::Hierarchy;

/// What limits need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Which controllers sandboxes of a server that is started here could have. Only looks; a server that starts also hands
/// controllers down to its own group.
pub fn control_groups() -> Check {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let hierarchy = Hierarchy::parse(&mounts, &own);
    let top = mounts
        .lines()
        .filter_map(|line| line.split_once(" - ").filter(|(_, after)| after.starts_with("cgroup2 ")))
        .filter_map(|(before, _)| before.split(' ').nth(4))
        .map(Path::new);
    let unified: Vec<String> = hierarchy
        .unified
        .iter()
        .map(|(own, _)| own.as_path())
        .chain(top)
        .filter(|folder| is_writable(folder))
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.controllers")).ok())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let legacy: Vec<String> = hierarchy
        .legacy
        .iter()
        .filter(|(_, folder)| is_writable(folder))
        .map(|(controller, _)| controller.clone())
        .collect();
    judge(&unified, &legacy, Distribution::this())
}

/// The check for what is usable in version 2 and in version 1.
fn judge(unified: &[String], legacy: &[String], distribution: Distribution) -> Check {
    const NAME: &str = "control_groups";
    let place = |controller: &str| {
        if unified.iter().any(|c| c == controller) {
            Some("v2")
        } else if legacy.iter().any(|c| c == controller) {
            Some("v1")
        } else {
            None
        }
    };
    let (found, missing): (Vec<_>, Vec<_>) = CONTROLLERS
        .into_iter()
        .map(|controller| (controller, place(controller)))
        .partition(|(_, p)| p.is_some());
    let found: Vec<String> =
        found.iter().filter_map(|(name, place)| place.map(|place| format!("{name} ({place})"))).collect();
    if missing.is_empty() {
        return Check::ok(NAME, found.join(", "));
    }
    let missing: Vec<&str> = missing.into_iter().map(|(name, _)| name).collect();
    let mut cost = format!(
        "no session is started while `sandbox.limits` is `strict`: no sandbox can be held to its limit of {}",
        missing.join(", ")
    );
    if missing.contains(&"pids") {
        cost.push_str(
            "; of processes a resource limit may still hold each sandbox, which then is not reported",
        );
    }
    let check = if found.is_empty() {
        Check::missing(NAME, "none may be used by this user", cost)
    } else {
        Check::warn(NAME, format!("only {}", found.join(", ")), cost)
    };
    let what = "accept it with `sandbox.limits` set to `best_effort`, or start the server in a group of its own that is handed \
                down to it (a unit needs `Delegate=yes`, a container `--cgroupns host -v /sys/fs/cgroup:/sys/fs/cgroup`)";
    let user = if distribution.is_root() { "" } else { "--user " };
    check.mend(what, [format!("systemd-run {user}--scope -p Delegate=yes oubliette --daemon")])
}

fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use ob_core::CheckState;

    use super::*;

    #[test]
    fn a_limit_without_a_controller_is_named_with_its_cost() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let judged = |unified, legacy, is_root| {
            judge(&words(unified), &words(legacy), Distribution::parse("", is_root))
        };
        let all = judged("cpu memory pids io", "", true);
        assert_eq!((all.state, all.found.as_str()), (CheckState::Ok, "memory (v2), pids (v2), cpu (v2)"));
        let mixed = judged("", "cpu memory pids", true);
        assert_eq!((mixed.state, mixed.found.as_str()), (CheckState::Ok, "memory (v1), pids (v1), cpu (v1)"));
        let some = judged("pids", "", false);
        assert_eq!(some.state, CheckState::Warn);
        assert!(
            some.cost.as_ref().is_some_and(|cost| cost.contains("memory, cpu") && cost.contains("`strict`")),
            "{some:?}"
        );
        assert!(some.commands[0].contains("--user"), "{some:?}");
        assert!(some.fix.as_ref().is_some_and(|fix| fix.contains("`best_effort`")), "{some:?}");
        let none = judged("", "", true);
        assert_eq!(none.state, CheckState::Missing);
        assert!(none.cost.as_ref().is_some_and(|cost| cost.contains("resource limit")), "{none:?}");
        assert!(
            !none.commands[0].contains("--user") && none.commands[0].contains("Delegate=yes"),
            "{none:?}"
        );
    }
}
