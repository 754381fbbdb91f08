//! Where the server listens: is it free, or who has it.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;

use ob_config::Loaded;
use ob_core::Check;

use super::quoted;
use crate::server;

/// The most bytes of a unix socket's path.
const SOCKET_PATH_MAX: usize = 107;

/// The addresses of the API.
pub(super) fn address(loaded: &Loaded) -> Check {
    const NAME: &str = "address";
    const COST: &str = "the server cannot start";
    let address = &loaded.settings.server.address;
    if let Some(holder) = server::lock::holder(&loaded.home) {
        let found = format!("served by pid {} ({})", holder.pid, holder.addresses.join(", "));
        return Check::ok(NAME, found).required();
    }
    let wrong = |what: String| Check::failed(NAME, what, COST).required().fix("mend `server.address`");
    let wanted = match ob_config::bind_addresses(&loaded.settings.server) {
        Ok(wanted) => wanted,
        Err(mistake) => return wrong(mistake.to_string()),
    };
    for one in &wanted {
        match TcpListener::bind(one) {
            Ok(listener) => drop(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let refusal = server::listen::in_use(*one);
                let mut check = Check::refused(NAME, &refusal, COST).required();
                let other = one.port().checked_add(1).unwrap_or(8081);
                check.commands = vec![format!("SERVER_ADDR=localhost:{other} oubliette --daemon")];
                return check;
            }
            // A machine without IPv6 has no `::1`; the other address will do.
            Err(_) if wanted.len() > 1 => {}
            Err(error) => return wrong(format!("{one}: {error}")),
        }
    }
    Check::ok(NAME, format!("{address} is free")).required()
}

/// The folder of sockets, and the socket that commands talk to.
pub(super) fn control_socket(loaded: &Loaded) -> Check {
    const NAME: &str = "control_socket";
    const COST: &str = "the server cannot start, and no command reaches one";
    let (folder, socket) = (loaded.home.runtime(), loaded.home.control_socket());
    let failed = |what: String| Check::failed(NAME, what, COST).required();
    // The longest that is made: that of a sandbox's gate.
    let longest = folder.join("s/00000000/gate/gate.sock");
    if longest.as_os_str().len() > SOCKET_PATH_MAX {
        return failed(format!("{} is too long for a socket's path", longest.display()))
            .fix("set XDG_RUNTIME_DIR to a shorter folder");
    }
    let us = rustix::process::geteuid().as_raw();
    for folder in folder.ancestors().take(2) {
        let is_ours = folder == loaded.home.runtime() || is_named_so(folder);
        let Ok(found) = fs::symlink_metadata(folder) else { continue };
        if is_ours && (!found.is_dir() || found.uid() != us || found.mode() & 0o022 != 0) {
            let what = format!("{} is not a folder that only we can write", folder.display());
            return failed(what).mend("remove it; it is made anew", [format!("rm -rf {}", quoted(folder))]);
        }
    }
    match server::lock::holder(&loaded.home) {
        Some(holder) if socket.exists() => {
            Check::ok(NAME, format!("{}, served by pid {}", socket.display(), holder.pid)).required()
        }
        Some(holder) => failed(format!("pid {} serves this home, and its socket is gone", holder.pid))
            .mend("stop that server; the next command starts another", [format!("kill {}", holder.pid)]),
        None => Check::ok(NAME, "no server runs; the first command that needs one starts it").required(),
    }
}

fn is_named_so(folder: &std::path::Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("oubliette"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use ob_config::Settings;
    use ob_core::CheckState;
    use ob_core::Home;
    use ob_core::home::Layout;

    use super::*;

    fn loaded(folder: &std::path::Path) -> Loaded {
        let home = Home::new(folder.join("home"), Layout::V2, folder.join("oubliette"));
        Loaded {
            home,
            file: None,
            found_by: ob_config::FoundBy::Dir,
            settings: Settings::default(),
            origins: BTreeMap::new(),
            values: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_taken_port_is_told_with_its_holder_and_another_port() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut loaded = loaded(folder.path());
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("its address").port();
        loaded.settings.server.address = format!("127.0.0.1:{port}");
        let check = address(&loaded);
        assert!(!check.is_healthy(), "{check:?}");
        assert!(check.found.contains(&format!("pid {}", std::process::id())), "{check:?}");
        assert!(check.commands[0].starts_with("SERVER_ADDR=localhost:"), "{check:?}");
        loaded.settings.server.address = "127.0.0.1:0".to_owned();
        assert_eq!(address(&loaded).state, CheckState::Ok, "any free port will do");
        loaded.settings.server.address = "nowhere".to_owned();
        assert!(address(&loaded).fix.is_some_and(|fix| fix.contains("server.address")));
    }

    #[test]
    fn a_folder_of_sockets_that_others_can_write_is_refused_and_the_command_mends_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let loaded = loaded(folder.path());
        assert_eq!(control_socket(&loaded).state, CheckState::Ok);
        fs::create_dir(loaded.home.runtime()).expect("made");
        fs::set_permissions(loaded.home.runtime(), fs::Permissions::from_mode(0o777)).expect("loosened");
        let check = control_socket(&loaded);
        assert!(!check.is_healthy(), "{check:?}");
        let mended = std::process::Command::new("sh").args(["-c", &check.commands[0]]).status();
        assert!(mended.expect("a shell").success());
        assert_eq!(control_socket(&loaded).state, CheckState::Ok);

        let deep = folder.path().join("x".repeat(90));
        let long = Loaded { home: Home::new(deep.join("home"), Layout::V2, deep), ..loaded };
        assert!(control_socket(&long).found.contains("too long"));
    }
}
