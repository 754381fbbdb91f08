//! Paths and links: to what is not shown, and to what is shown and may not be changed.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use super::exists;
use super::sys;
use super::tools::done;
use super::tools::holds;
use super::tools::opens;
use super::tools::reads;
use super::tools::stopped;
use super::tools::text_of;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::place::Place;

/// The most entries that a search looks at.
const SEARCH_MAX: usize = 100_000;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "paths.absolute",
        "read a file of the host by its path",
        "files outside the workspace are readable",
        SameUser,
        |p| reads(p, &p.secret),
    ),
    Case::inside(
        "paths.parents",
        "walk up from the workspace with `..` and down to a file of the host",
        "the root can be left",
        SameUser,
        |p| reads(p, join(&p.scratch.join("../".repeat(40)), &p.secret)),
    ),
    Case::inside(
        "paths.root_of_self",
        "read it through `/proc/self/root`",
        "the root is another than it seems",
        SameUser,
        |p| reads(p, join(Path::new("/proc/self/root"), &p.secret)),
    ),
    Case::inside(
        "paths.root_of_init",
        "read it through the first process's root",
        "the first process sees more",
        SameUser,
        |p| reads(p, join(&PathBuf::from(format!("/proc/{}/root", p.target)), &p.secret)),
    ),
    Case::inside(
        "paths.folder_of_init",
        "read it from the first process's working folder upwards",
        "the first process stands outside",
        SameUser,
        |p| reads(p, join(&PathBuf::from(format!("/proc/{}/cwd/{}", p.target, "../".repeat(40))), &p.secret)),
    ),
    Case::inside(
        "paths.search",
        "search all folders for a file with the host's secret",
        "something of the host is mounted somewhere",
        SameUser,
        search,
    ),
    Case::inside(
        "paths.open_at_raw",
        "`openat2` with no restriction from the root",
        "a newer call sees another tree",
        SameUser,
        openat2,
    ),
    Case::inside(
        "paths.temporary",
        "read a file that the host keeps in `/tmp`",
        "`/tmp` is shared",
        SameUser,
        |p| reads(p, host_temporary(p)),
    ),
    Case::inside(
        "paths.programs",
        "open a program under `/usr` for writing",
        "a program of the host can be replaced",
        Root,
        |p| opens(p, "/usr/bin/id", true),
    ),
    Case::inside(
        "paths.accounts",
        "open `/etc/passwd` for writing",
        "accounts of the host can be made",
        Root,
        |p| opens(p, "/etc/passwd", true),
    ),
    Case::inside("paths.root", "make a file in `/`", "the root is writable", Root, |p| {
        let path = format!("/.corpus-{}", std::process::id());
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).ok();
        done(p, made)
    }),
    Case::inside(
        "paths.gate_folder",
        "make a file beside the gate's socket",
        "a socket can be put in the gate's place",
        SameUser,
        |p| {
            let path = p.gate.with_file_name("planted");
            let made = File::create(&path);
            std::fs::remove_file(&path).ok();
            done(p, made)
        },
    ),
    Case::inside(
        "paths.gate_socket",
        "remove the gate's socket",
        "the gate can be replaced",
        SameUser,
        |p| {
            // Outside it is a socket of the control's own.
            let path = if p.is_control { p.scratch.join("removable") } else { p.gate.clone() };
            if p.is_control && std::os::unix::net::UnixListener::bind(&path).is_err() {
                return Held("the control cannot make a socket".to_owned());
            }
            done(p, std::fs::remove_file(&path))
        },
    ),
    Case::inside(
        "links.symbolic",
        "read a file of the host through a link in the workspace",
        "links are followed outside",
        SameUser,
        |p| {
            let link = p.scratch.join(format!("link-{}", std::process::id()));
            done_then(p, symlink(&p.secret, &link), || reads(p, &link))
        },
    ),
    Case::inside(
        "links.symbolic_folder",
        "list the server's home through a link in the workspace",
        "links to folders are followed outside",
        Root,
        |p| {
            let link = p.scratch.join(format!("folder-{}", std::process::id()));
            done_then(p, symlink(&p.home, &link), || done(p, std::fs::read_dir(link.join("data"))))
        },
    ),
    Case::inside(
        "links.hard",
        "hard-link a file of the host into the workspace",
        "an inode of the host gets a second name inside",
        SameUser,
        |p| {
            let from = if p.is_control { p.scratch.join("own") } else { PathBuf::from("/etc/passwd") };
            if p.is_control && !exists(&from) && std::fs::write(&from, "own").is_err() {
                return Held("the control cannot write".to_owned());
            }
            done(p, std::fs::hard_link(from, p.scratch.join(format!("hard-{}", std::process::id()))))
        },
    ),
    Case::inside(
        "links.hard_magic",
        "hard-link an open read-only file by its descriptor",
        "a descriptor becomes a name",
        SameUser,
        |p| {
            let from = if p.is_control { p.scratch.join("own-too") } else { PathBuf::from("/usr/bin/id") };
            if p.is_control && std::fs::write(&from, "own").is_err() {
                return Held("the control cannot write".to_owned());
            }
            let linked = File::open(from).and_then(|file| {
                let name = format!("/proc/self/fd/{}", file.as_raw_fd());
                let to = p.scratch.join(format!("magic-{}", std::process::id()));
                let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
                Ok(rustix::fs::linkat(rustix::fs::CWD, name, rustix::fs::CWD, to, flags)?)
            });
            done(p, linked)
        },
    ),
    Case::inside(
        "links.reopen",
        "open a read-only mount's file again for writing through `/proc/self/fd`",
        "a mount's mode can be gone around",
        Root,
        |p| {
            let again = File::open("/usr/bin/id").and_then(|file| {
                OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            });
            done(p, again)
        },
    ),
    Case::inside(
        "links.next_program",
        "hold the program that starts sandboxes by a path descriptor, and write to it",
        "the next sandbox runs the attacker's program (CVE-2019-5736)",
        SameUser,
        |p| {
            let held = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&p.program);
            let again = held.and_then(|file| {
                OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
            });
            done(p, again)
        },
    ),
    Case::inside(
        "links.running_program",
        "open the first process's program through `/proc` and make it writable",
        "the program of a running process can be changed",
        SameUser,
        running_program,
    ),
    Case::inside(
        "links.file_handle",
        "open a file of the host by its handle",
        "files outside every mount can be opened by number",
        Root,
        by_handle,
    ),
    Case::inside(
        "links.descriptors",
        "look for a descriptor that leads out",
        "a folder of the host was left open",
        SameUser,
        descriptors,
    ),
    Case::inside(
        "links.rename_out",
        "move a read-only file into the workspace",
        "read-only mounts can be emptied",
        Root,
        |p| {
            let from = if p.is_control { p.scratch.join("own-three") } else { PathBuf::from("/etc/hosts") };
            if p.is_control && std::fs::write(&from, "own").is_err() {
                return Held("the control cannot write".to_owned());
            }
            done(p, std::fs::rename(from, p.scratch.join(format!("moved-{}", std::process::id()))))
        },
    ),
    Case::inside(
        "links.swapped_folder",
        "swap a folder for a link while it is opened below",
        "a race between check and use leads out",
        SameUser,
        race,
    ),
    Case::inside(
        "home.database",
        "read the server's database",
        "sessions of everyone are readable",
        Root,
        |p| done(p, File::open(p.home.join("data/oubliette.db"))),
    ),
    Case::inside("home.tokens", "read the file of the tokens", "tokens can be taken", Root, |p| {
        done(p, File::open(p.home.join("data/auth.db")))
    }),
    Case::inside("home.folder", "list the server's home", "the home is shown", Root, |p| {
        done(p, std::fs::read_dir(&p.home))
    }),
    Case::inside("home.logs", "read the server's log", "what others did is readable", Root, |p| {
        done(p, std::fs::read_dir(p.home.join("data/logs")))
    }),
    Case::inside("home.pid", "read the server's process number", "the server can be aimed at", Root, |p| {
        done(p, File::open(p.home.join("data/oubliette.pid")))
    }),
    Case::inside(
        "home.other_projects",
        "list the folders of all projects",
        "other projects are readable",
        Root,
        |p| done(p, std::fs::read_dir(p.home.join("data/projects"))),
    ),
];

/// `path` under another root.
fn join(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Where the host keeps a canary directly under `/tmp`.
pub(crate) fn host_temporary(place: &Place) -> PathBuf {
    PathBuf::from(format!("/tmp/{}.txt", place.canary))
}

fn done_then(place: &Place, first: io::Result<()>, then: impl FnOnce() -> Verdict) -> Verdict {
    match first {
        Ok(()) => then(),
        Err(error) => stopped(place, &error),
    }
}

/// The mode of a running program's file, changed through `/proc`. Outside it is a program of the attacker's own.
fn running_program(place: &Place) -> Verdict {
    let make_writable = |pid: i32| {
        File::open(format!("/proc/{pid}/exe"))
            .and_then(|file| file.set_permissions(std::fs::Permissions::from_mode(0o777)))
    };
    if !place.is_control {
        return done(place, make_writable(place.target));
    }
    let own = place.scratch.join("own-program");
    let started = std::fs::copy("/usr/bin/sleep", &own).and_then(|_| Command::new(&own).arg("100").spawn());
    match started {
        Ok(mut child) => {
            let verdict = done(place, make_writable(child.id().cast_signed()));
            child.kill().ok();
            child.wait().ok();
            verdict
        }
        Err(error) => stopped(place, &error),
    }
}

/// Looks at every file that is small, of every folder; outside only where the secret is.
fn search(place: &Place) -> Verdict {
    let root =
        if place.is_control { place.secret.parent().unwrap_or(Path::new("/")) } else { Path::new("/") };
    let mut folders = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        if ["/proc", "/sys", "/usr", "/dev"].iter().any(|skipped| folder.starts_with(skipped)) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            seen += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && seen < SEARCH_MAX {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() == "secret.txt" {
                let text = File::open(entry.path()).and_then(|file| text_of(file, 4096)).unwrap_or_default();
                if text.contains(&place.canary) {
                    return Got(entry.path().display().to_string());
                }
            }
        }
    }
    Held(format!("nothing in {seen} entries"))
}

fn openat2(place: &Place) -> Verdict {
    /// As the kernel wants it.
    #[repr(C)]
    struct How {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let path = format!("{}\0", place.secret.display());
    let how = How { flags: 0, mode: 0, resolve: 0 };
    let arguments =
        [libc::AT_FDCWD as usize, sys::address(path.as_bytes()), sys::address(&how), size_of::<How>()];
    match sys::call(libc::SYS_openat2, &arguments) {
        Ok(file) => reads(place, format!("/proc/self/fd/{file}")),
        Err(error) => stopped(place, &error),
    }
}

/// A handle is made outside for a folder that both sides see, and opened with the secret's number in it.
fn by_handle(place: &Place) -> Verdict {
    /// As the kernel wants it, with room for any file system.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0_i32;
    let seen = if place.is_control { &place.secret } else { &place.scratch };
    let path = format!("{}\0", seen.display());
    let named = sys::call(
        libc::SYS_name_to_handle_at,
        &[
            libc::AT_FDCWD as usize,
            sys::address(path.as_bytes()),
            sys::address_mut(&mut handle),
            sys::address_mut(&mut mount),
            0,
        ],
    );
    if let Err(error) = named {
        return stopped(place, &error);
    }
    let folder = match File::open(seen.parent().unwrap_or(Path::new("/"))) {
        Ok(folder) => folder,
        Err(error) => return stopped(place, &error),
    };
    let at = usize::try_from(folder.as_raw_fd()).unwrap_or_default();
    done(place, sys::call(libc::SYS_open_by_handle_at, &[at, sys::address(&handle), 0]))
}

/// Each descriptor that this process or the first one has, taken as a folder to walk up from.
fn descriptors(place: &Place) -> Verdict {
    if place.is_control {
        // A folder that somebody forgot, as the attempt would find it.
        let Ok(forgotten) = File::open("/") else {
            return Held("the control cannot open a folder".to_owned());
        };
        let found = look_at_descriptors(place, "/proc/self/fd");
        drop(forgotten);
        return found;
    }
    for of in ["/proc/self/fd".to_owned(), format!("/proc/{}/fd", place.target)] {
        if let Got(what) = look_at_descriptors(place, &of) {
            return Got(what);
        }
    }
    Held("none leads out".to_owned())
}

fn look_at_descriptors(place: &Place, folder: &str) -> Verdict {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Held(error.to_string()),
    };
    for entry in entries.flatten() {
        let leads = join(&entry.path().join("../".repeat(20)), &place.secret);
        if let Got(_) = reads(place, leads) {
            return Got(entry.path().display().to_string());
        }
    }
    Held("none leads out".to_owned())
}

/// One thread swaps a folder for a link to the secret's, another opens a file below.
fn race(place: &Place) -> Verdict {
    let (Some(aim), Some(name)) = (place.secret.parent(), place.secret.file_name()) else {
        return Held("no secret".to_owned());
    };
    let spot = place.scratch.join(format!("spot-{}", std::process::id()));
    let swap = || -> io::Result<()> {
        std::fs::create_dir(&spot)?;
        std::fs::write(spot.join(name), "harmless")?;
        std::fs::remove_dir_all(&spot)?;
        symlink(aim, &spot)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            for _ in 0..200 {
                if swap().is_err() {
                    return;
                }
                std::thread::yield_now();
                if std::fs::remove_file(&spot).is_err() {
                    return;
                }
            }
        });
        let mut verdict = Held("never".to_owned());
        while !swapper.is_finished() {
            let text = File::open(spot.join(name)).and_then(|file| text_of(file, 4096)).unwrap_or_default();
            if let Got(what) = holds(place, &text) {
                verdict = Got(what);
                break;
            }
        }
        verdict
    })
}

/// Runs a program that may not be there.
pub(super) fn run(place: &Place, program: &str, arguments: &[&str]) -> Verdict {
    match Command::new(program).args(arguments).output() {
        Ok(output) => holds(
            place,
            &format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        ),
        Err(error) => stopped(place, &error),
    }
}
