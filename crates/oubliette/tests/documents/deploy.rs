//! What deploys the program: the unit, the image, the configuration beside them.

use std::process::Command;

use crate::commands::lacks;
use crate::read;

/// Settings of a unit that make sandboxes impossible, or count inside of them; see the head of the unit.
const BREAKING: [&str; 8] = [
    "ProtectKernelTunables=",
    "ProtectKernelLogs=",
    "ProtectControlGroups=",
    "ProcSubset=",
    "RestrictNamespaces=",
    "MemoryDenyWriteExecute=",
    "SystemCallFilter=",
    "ProtectHostname=",
];

/// What is left of the unit's exposure is what sandboxes need: namespaces, system calls, control groups, the network.
const EXPOSURE_MAX: f64 = 5.0;

fn settings(unit: &str) -> Vec<&str> {
    unit.lines().filter(|line| !line.starts_with('#') && line.contains('=')).collect()
}

fn value<'a>(unit: &'a str, name: &str) -> &'a str {
    let found = settings(unit).into_iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_that_lets_sandboxes_be_made() {
    let unit = read("deploy/oubliette.service");
    for name in BREAKING {
        assert!(!settings(&unit).iter().any(|line| line.starts_with(name)), "{name}");
    }
    assert_eq!((value(&unit, "Delegate"), value(&unit, "Type")), ("yes", "notify"));
    // A server drains for at most 30 s, and closes its listeners for 5.
    assert!(value(&unit, "TimeoutStopSec").parse::<u32>().unwrap() > 35);
    for command in ["ExecStart", "ExecReload"] {
        let line = value(&unit, command).strip_prefix("/usr/local/bin/oubliette ").unwrap();
        let words =
            line.split(' ').map(|word| if word == "/var/lib/oubliette" { "/nonexistent" } else { word });
        let help = Command::new(env!("CARGO_BIN_EXE_oubliette")).args(words).arg("--help").output().unwrap();
        assert!(help.status.success(), "{line}");
    }
    if lacks("systemd-analyze") {
        assert!(std::env::var_os("CI").is_none(), "systemd-analyze is not installed");
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("oubliette.service");
    let verify = |unit: &str| {
        std::fs::write(&file, unit.replace("/usr/local/bin/oubliette", env!("CARGO_BIN_EXE_oubliette")))
            .unwrap();
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
        // Units of this machine have warnings of their own.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.lines().filter(|line| line.contains("oubliette.service")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(verify(&unit), Vec::<String>::new());
    assert_ne!(
        verify(&unit.replace("WatchdogSec=60", "WatchdogSec=sometimes")),
        Vec::<String>::new(),
        "the control"
    );

    // How much of the machine it leaves open, as systemd counts that: 0 is nothing, 10 everything.
    let exposure = |unit: &str| -> f64 {
        std::fs::write(&file, unit).unwrap();
        let words = ["security", "--offline=true", "--no-pager"];
        let output = Command::new("systemd-analyze").args(words).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = said.lines().find_map(|line| line.split_once("exposure level for oubliette.service: "));
        told.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{output:?}"))
    };
    assert!(exposure(&unit) <= EXPOSURE_MAX, "{}", exposure(&unit));
    let open = unit.replace("CapabilityBoundingSet=\n", "").replace("ProtectSystem=strict\n", "");
    assert!(exposure(&open) > EXPOSURE_MAX, "the control: {}", exposure(&open));
}

#[test]
fn the_image_and_its_configuration_name_only_what_there_is() {
    let image = read("deploy/Dockerfile");
    let variables =
        image.lines().filter_map(|line| line.strip_prefix("ENV ")).flat_map(|line| line.split(' '));
    for (name, _) in variables.filter_map(|pair| pair.split_once('=')) {
        assert!(ob_config::VARIABLES.iter().any(|variable| variable.name == name), "{name}");
    }
    let copied = image.lines().filter_map(|line| line.strip_prefix("COPY ")).collect::<Vec<_>>();
    assert_eq!(copied, ["oubliette /usr/local/bin/oubliette"], "what `make dist` puts beside it");

    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("config")).unwrap();
    std::fs::write(home.path().join("config/oubliette.jsonc"), read("deploy/oubliette.jsonc")).unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_oubliette"))
        .args(["config", "check", "--dir"])
        .arg(home.path())
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
    let unit = read("deploy/oubliette.service");
    assert!(
        read("deploy/oubliette.jsonc").contains(&format!("\"/run/{}\"", value(&unit, "RuntimeDirectory")))
    );
}
