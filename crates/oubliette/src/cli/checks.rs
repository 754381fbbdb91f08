//! Checks as people and scripts read them: `doctor` and `store check` print the same way.

use std::fmt::Write as _;
use std::path::Path;

use ob_core::Check;
use ob_core::CheckState;
use serde_json::json;

use super::OK;
use super::UNHEALTHY;
use super::output::Output;
use super::table::Table;
use super::text;

/// Prints checks, and says with which code to end.
pub(crate) fn print(home: Option<&Path>, checks: &[Check], output: &Output) -> u8 {
    let healthy = checks.iter().all(Check::is_healthy);
    let value = json!({ "healthy": healthy, "home": home, "checks": checks });
    output.data(&value, || shown(checks, output));
    if healthy { OK } else { UNHEALTHY }
}

/// Prints only the commands that mend what is not well, as a script that can be read before it is run.
pub(crate) fn print_commands(checks: &[Check], output: &Output) -> u8 {
    let mendable: Vec<&Check> =
        checks.iter().filter(|check| check.state != CheckState::Ok && !check.commands.is_empty()).collect();
    let value: Vec<_> =
        mendable.iter().map(|check| json!({ "name": check.name, "commands": check.commands })).collect();
    output.data(&value, || {
        let mut script = String::new();
        for check in &mendable {
            for line in std::iter::once(format!("# {}: {}", check.name, text::one_line(&check.found)))
                .chain(check.commands.iter().cloned())
            {
                script.extend([&line, "\n"]);
            }
        }
        script
    });
    if checks.iter().all(Check::is_healthy) { OK } else { UNHEALTHY }
}

fn shown(checks: &[Check], output: &Output) -> String {
    let rows = checks.iter().map(|check| {
        vec![check.state.to_string().replace('_', " "), check.name.clone(), check.found.clone()]
    });
    let mut text =
        output.table(&Table::new("STATE").state_first().column("CHECK", 0).text("FOUND", 0).rows(rows));
    let ill = |required: bool| {
        checks
            .iter()
            .filter(move |check| check.state != CheckState::Ok && check.is_healthy() != required)
            .collect::<Vec<_>>()
    };
    for (title, checks) in [
        ("Needed; nothing works without:", ill(true)),
        ("Worth mending; the rest works without:", ill(false)),
    ] {
        if !checks.is_empty() {
            text.extend(["\n", title, "\n"]);
        }
        for check in checks {
            let cost = check.cost.as_deref().unwrap_or("nobody asked for it");
            writeln!(text, "\n{}: {}", check.name, text::one_line(cost)).ok();
            if let Some(fix) = &check.fix {
                writeln!(text, "  fix: {}", text::one_line(fix)).ok();
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("git", "git version 2"),
            Check::missing("bubblewrap", "not on the PATH", "no sandbox can be made")
                .required()
                .mend("install it", ["apt-get install -y bubblewrap"]),
            Check::warn("clock", "nothing keeps it right", "times are off").mend("keep it", ["a", "b"]),
            Check::not_configured("model", "no provider is configured").fix("set OPENAI_API_KEY"),
        ]
    }

    #[test]
    fn what_is_missing_comes_with_its_cost_and_its_fix() {
        let output = Output::memory(false);
        assert_eq!(print(Some(Path::new("/h")), &checks(), &output), UNHEALTHY);
        insta::assert_snapshot!("checks", output.kept().0);
        let output = Output::memory(true);
        assert_eq!(print(Some(Path::new("/h")), &checks()[2..], &output), OK, "nothing required is missing");
        insta::assert_snapshot!("checks_json", output.kept().0);
    }

    #[test]
    fn the_commands_are_a_script_of_their_own() {
        let output = Output::memory(false);
        assert_eq!(print_commands(&checks(), &output), UNHEALTHY);
        let script = "# bubblewrap: not on the PATH\napt-get install -y bubblewrap\n# clock: nothing keeps it right\na\nb\n";
        assert_eq!(output.kept().0, script);
    }
}
