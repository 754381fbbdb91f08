//! What this machine has of what sandboxes need: one check for each capability, with what it costs not to have it and
//! the command that mends it.
//!
//! Looking changes nothing, needs no rights, and is done side by side by whoever asks; see `oubliette doctor`.

mod clock;
mod distribution;
mod groups;
mod sys;

use std::fs;
use std::path::Path;

use ob_core::check::Check;

use crate::namespace::check as bwrap;

pub use clock::clock;
pub use distribution::Distribution;
pub use groups::control_groups;

/// Without it no session starts.
const NO_SANDBOX: &str = "no sandbox can be made, so no session starts";

/// Machines that system call filters exist for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// The kernel's version.
pub fn kernel() -> Check {
    const NAME: &str = "kernel";
    let uname = rustix::system::uname();
    let (release, machine) = (uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    match bwrap::kernel(&release) {
        Ok(()) => Check::ok(NAME, format!("Linux {release} ({machine})")),
        Err(refusal) => Check::refused(NAME, &refusal, NO_SANDBOX)
            .mend("update the kernel and start the machine anew", [Distribution::this().upgrade()]),
    }
    .required()
}

/// bubblewrap, and its version.
pub async fn bubblewrap(configured: Option<&Path>) -> Check {
    const NAME: &str = "bubblewrap";
    let install = || Distribution::this().install("bubblewrap");
    let path = match bwrap::find_bubblewrap(configured) {
        Ok(path) => path,
        Err(refusal) => {
            let missing = Check::missing(NAME, refusal.message, NO_SANDBOX).required();
            return match configured {
                Some(path) if path.is_absolute() => {
                    missing.mend("correct `sandbox.bubblewrap`, or leave it out and install it", [install()])
                }
                _ => missing.mend("install it", [install()]),
            };
        }
    };
    match bwrap::found_version(&path).await {
        Ok(version) => Check::ok(NAME, format!("{version} ({})", path.display())),
        Err(refusal) => Check::failed(NAME, refusal.message, NO_SANDBOX).mend("install it anew", [install()]),
    }
    .required()
}

/// Whether a process of ours may have namespaces of its own. Makes a smallest sandbox.
pub async fn user_namespaces(configured: Option<&Path>) -> Check {
    const NAME: &str = "user_namespaces";
    let distribution = Distribution::this();
    let off: Vec<String> =
        bwrap::switched_off(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).ok())
            .map(|(key, _, good)| distribution.as_root(&format!("sysctl -w {key}={good}")))
            .collect();
    if !off.is_empty() {
        return Check::failed(NAME, "they are switched off on this machine", NO_SANDBOX)
            .mend("switch them on, and keep it in /etc/sysctl.d/", off)
            .required();
    }
    let Ok(path) = bwrap::find_bubblewrap(configured) else {
        return Check::failed(NAME, "cannot be tried without bubblewrap", NO_SANDBOX)
            .mend("install bubblewrap", [distribution.install("bubblewrap")])
            .required();
    };
    match bwrap::probe(&path).await {
        Ok(()) => Check::ok(NAME, "a smallest sandbox was made"),
        Err(refusal) => Check::refused(NAME, &refusal, NO_SANDBOX),
    }
    .required()
}

/// Filters of system calls.
pub fn seccomp() -> Check {
    let known = ARCHITECTURES.contains(&std::env::consts::ARCH);
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    seccomp_of(known, actions.ok().as_deref()).required()
}

fn seccomp_of(known: bool, actions: Option<&str>) -> Check {
    const NAME: &str = "seccomp";
    const WAYS: &str = "use a kernel with CONFIG_SECCOMP_FILTER, as every distribution's is";
    if !known {
        return Check::missing(NAME, "no filter exists for this kind of processor", NO_SANDBOX)
            .fix("use x86-64 or 64-bit ARM");
    }
    match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Check::ok(NAME, "system calls can be filtered")
        }
        Some(_) => Check::failed(NAME, "the kernel's filters cannot refuse a call", NO_SANDBOX).fix(WAYS),
        None => Check::missing(NAME, "the kernel has no filters of system calls", NO_SANDBOX).fix(WAYS),
    }
}

/// Landlock, and which version of it.
pub fn landlock() -> Check {
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").ok();
    landlock_of(sys::landlock_abi(), lsm.as_deref())
}

fn landlock_of(abi: Result<u32, rustix::io::Errno>, lsm: Option<&str>) -> Check {
    const NAME: &str = "landlock";
    const COST: &str = "a sandbox's view of files has one wall, its namespaces, and no second behind it";
    match abi {
        Ok(abi) => Check::ok(NAME, format!("version {abi} of its interface")),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let others = lsm.map(str::trim).filter(|lsm| !lsm.is_empty()).unwrap_or("capability");
            Check::missing(NAME, "the kernel has it and it is not switched on", COST).fix(format!(
                "add `lsm=landlock,{others}` to the kernel's command line and start the machine anew"
            ))
        }
        Err(_) => Check::missing(NAME, "the kernel does not have it", COST)
            .fix("use Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK"),
    }
}

#[cfg(test)]
mod tests {
    use ob_core::CheckState;
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_kernel_lacks_is_told_apart_from_what_is_switched_off() {
        assert_eq!(landlock_of(Ok(6), None).state, CheckState::Ok);
        let off = landlock_of(Err(Errno::OPNOTSUPP), Some("lockdown,capability,yama\n"));
        assert_eq!(off.state, CheckState::Missing);
        assert!(off.fix.is_some_and(|fix| fix.contains("`lsm=landlock,lockdown,capability,yama`")));
        let old = landlock_of(Err(Errno::NOSYS), None);
        assert!(old.fix.is_some_and(|fix| fix.contains("5.13")) && !old.required);

        assert_eq!(seccomp_of(true, Some("kill_process trap errno allow\n")).state, CheckState::Ok);
        assert_eq!(seccomp_of(true, Some("kill")).state, CheckState::Failed);
        for check in [seccomp_of(true, None), seccomp_of(false, Some("errno"))] {
            assert_eq!(check.state, CheckState::Missing);
            assert!(check.fix.is_some() && check.cost.is_some());
        }
    }

    #[tokio::test]
    async fn a_missing_bubblewrap_is_required_and_comes_with_its_package() {
        for check in [
            bubblewrap(Some(Path::new("/nonexistent/bwrap"))).await,
            user_namespaces(Some(Path::new("/nonexistent/bwrap"))).await,
        ] {
            assert!(!check.is_healthy() && check.required, "{check:?}");
            assert!(check.commands.iter().any(|command| command.contains("bubblewrap")), "{check:?}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_not_bubblewrap_fails() {
        let check = bubblewrap(Some(Path::new("/bin/echo"))).await;
        assert_eq!(check.state, CheckState::Failed, "{check:?}");
    }
}
