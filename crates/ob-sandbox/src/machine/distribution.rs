//! How this machine installs packages. Debian is what we test on; the others' commands are known.

use std::fs;

/// A family of distributions, by its package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
    Suse,
    Arch,
    Alpine,
    Unknown,
}

/// The distribution of this machine, and whether we are root on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distribution {
    family: Family,
    is_root: bool,
}

// === impl Distribution ===

impl Distribution {
    /// That of this machine.
    pub fn this() -> Self {
        let text = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        Self::parse(&text, rustix::process::geteuid().is_root())
    }

    /// From the text of `/etc/os-release`.
    pub fn parse(os_release: &str, is_root: bool) -> Self {
        let names: Vec<String> = os_release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace())
            .map(str::to_ascii_lowercase)
            .collect();
        let is = |known: &[&str]| names.iter().any(|name| known.contains(&name.as_str()));
        let family = if is(&["debian", "ubuntu"]) {
            Family::Debian
        } else if is(&["fedora", "rhel", "centos"]) {
            Family::Fedora
        } else if names.iter().any(|name| name.contains("suse")) {
            Family::Suse
        } else if is(&["arch"]) {
            Family::Arch
        } else if is(&["alpine"]) {
            Family::Alpine
        } else {
            Family::Unknown
        };
        Self { family, is_root }
    }

    /// The command that installs a package which has the same name everywhere.
    pub fn install(self, package: &str) -> String {
        let install = match self.family {
            Family::Debian | Family::Unknown => "apt-get install -y",
            Family::Fedora => "dnf install -y",
            Family::Suse => "zypper --non-interactive install",
            Family::Arch => "pacman -S --noconfirm",
            Family::Alpine => "apk add",
        };
        self.as_root(&format!("{install} {package}"))
    }

    /// The command that brings the whole system up to date.
    pub fn upgrade(self) -> String {
        self.as_root(match self.family {
            Family::Debian | Family::Unknown => "apt-get dist-upgrade",
            Family::Fedora => "dnf upgrade",
            Family::Suse => "zypper dist-upgrade",
            Family::Arch => "pacman -Syu",
            Family::Alpine => "apk upgrade",
        })
    }

    /// True if we are root.
    pub const fn is_root(self) -> bool {
        self.is_root
    }

    /// The command with what is needed to run it as root.
    pub fn as_root(self, command: &str) -> String {
        if self.is_root { command.to_owned() } else { format!("sudo {command}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_has_its_own_command() {
        for (os_release, command) in [
            ("ID=debian\n", "apt-get install -y git"),
            ("NAME=Mint\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install -y git"),
            ("ID=fedora", "dnf install -y git"),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"", "dnf install -y git"),
            ("ID=\"opensuse-leap\"", "zypper --non-interactive install git"),
            ("ID=arch", "pacman -S --noconfirm git"),
            ("ID=alpine", "apk add git"),
            ("", "apt-get install -y git"),
        ] {
            assert_eq!(Distribution::parse(os_release, true).install("git"), command, "{os_release}");
            assert_eq!(Distribution::parse(os_release, false).install("git"), format!("sudo {command}"));
        }
    }
}
