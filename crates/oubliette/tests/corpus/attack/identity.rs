//! Who a process is: set-id bits, capabilities, and what the environment gives away.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::files;
use super::sys;
use super::tools::did;
use super::tools::done;
use super::tools::holds;
use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Root;
use crate::case::Control::SameUser;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::place::Place;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "setuid.chmod",
        "set the set-uid bit of a file",
        "somebody on the host runs it as its owner",
        SameUser,
        |p| with_bit(p, |path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o4755))),
    ),
    Case::inside(
        "setuid.group",
        "set the set-gid bit of a file",
        "somebody on the host runs it as its group",
        SameUser,
        |p| with_bit(p, |path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2755))),
    ),
    Case::inside(
        "setuid.create",
        "make a file with the bit at once",
        "the mode is not looked at when a file is made",
        SameUser,
        |p| {
            with_bit(p, |path| {
                std::fs::remove_file(path)?;
                // The mask takes away no set-id bit.
                OpenOptions::new().write(true).create_new(true).mode(0o4755).open(path).map(drop)
            })
        },
    ),
    Case::inside(
        "setuid.node",
        "make a file with the bit by `mknod`",
        "another call makes files",
        SameUser,
        |p| {
            with_bit(p, |path| {
                std::fs::remove_file(path)?;
                let text = format!("{}\0", path.display());
                let at = i64::from(libc::AT_FDCWD).cast_unsigned() as usize;
                sys::call(libc::SYS_mknodat, &[at, sys::address(text.as_bytes()), 0o104755, 0]).map(drop)
            })
        },
    ),
    Case::inside(
        "setuid.new_chmod",
        "set the bit with `fchmodat2`",
        "a newer call was forgotten",
        SameUser,
        |p| {
            with_bit(p, |path| {
                let text = format!("{}\0", path.display());
                let at = i64::from(libc::AT_FDCWD).cast_unsigned() as usize;
                sys::call(libc::SYS_fchmodat2, &[at, sys::address(text.as_bytes()), 0o4755, 0]).map(drop)
            })
        },
    )
    .needs("`fchmodat2`"),
    Case::inside("setuid.become_root", "become uid 0", "root inside", Root, |p| {
        done(p, sys::call(libc::SYS_setresuid, &[0, 0, 0]))
    }),
    Case::inside("setuid.groups", "join root's group", "root's files are readable", Root, |p| {
        let groups = [0_u32];
        done(p, sys::call(libc::SYS_setgroups, &[1, sys::address(&groups)]))
    }),
    Case::inside(
        "setuid.program",
        "gain root by a set-uid program of the system",
        "`/usr` brings root inside",
        SameUser,
        |p| {
            // `su` asks for a password; what counts is whether a set-id program starts as root.
            let known = ["/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"];
            let Some(program) =
                known.iter().find(|path| std::fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0))
            else {
                return if p.is_control {
                    Verdict::Missing("no set-id program".to_owned())
                } else {
                    Held("none is there".to_owned())
                };
            };
            started_as_root(p, program)
        },
    )
    .needs("a set-uid program of root's"),
    Case::inside("setuid.capabilities", "gain a capability", "a right of root's", Root, |p| {
        // Version 3, this process: one capability in effective and permitted.
        let header = [0x2008_0522_u32, 0];
        let data = [1_u32, 1, 0, 0, 0, 0];
        done(p, sys::call(libc::SYS_capset, &[sys::address(&header), sys::address(&data)]))
    }),
    Case::inside(
        "setuid.file_capabilities",
        "give a file a capability",
        "somebody on the host runs it with root's right",
        Root,
        |p| {
            let path = p.scratch.join(format!("capable-{}", std::process::id()));
            if let Err(error) = std::fs::write(&path, "x") {
                return stopped(p, &error);
            }
            let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            did(
                p,
                rustix::fs::setxattr(&path, "security.capability", &value, rustix::fs::XattrFlags::empty()),
            )
        },
    ),
    Case::inside("setuid.owner", "give a file to root", "a file of root's made by the attacker", Root, |p| {
        let path = p.scratch.join(format!("given-{}", std::process::id()));
        done(p, std::fs::write(&path, "x").and_then(|()| std::os::unix::fs::chown(&path, Some(0), Some(0))))
    }),
    Case::inside(
        "setuid.limits",
        "raise a limit that was set",
        "limits of the kernel can be lifted",
        Root,
        |p| {
            use rustix::process::Resource;
            let now = rustix::process::getrlimit(Resource::Nproc);
            let wanted = rustix::process::Rlimit {
                current: now.maximum.map(|most| most.saturating_add(1)),
                maximum: now.maximum.map(|most| most.saturating_add(1)),
            };
            if now.maximum.is_none() {
                return if p.is_control {
                    Verdict::Missing("it has no limit".to_owned())
                } else {
                    Held("there is none to raise".to_owned())
                };
            }
            match did(p, rustix::process::setrlimit(Resource::Nproc, wanted)) {
                // A container's root may not either.
                Held(why) if p.is_control => Verdict::Missing(why),
                verdict => verdict,
            }
        },
    )
    .needs("a limit of processes, and the right to raise it"),
    Case::inside(
        "environment.server",
        "look for the server's variables in one's own",
        "what the operator's shell holds is inside",
        SameUser,
        |p| {
            if p.is_control {
                // Outside, a child of the operator's shell has all of it.
                return files::run(p, "sh", &["-c", &format!("X={} env", p.canary)]);
            }
            let all: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
            holds(p, &all.join("\n"))
        },
    ),
    Case::inside(
        "environment.everyone",
        "read the environment of every process that is seen",
        "some process was given a secret",
        SameUser,
        |p| {
            let mut seen = 0;
            for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let bytes = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                seen += usize::from(!bytes.is_empty());
                if let Got(what) = holds(p, &String::from_utf8_lossy(&bytes)) {
                    return Got(format!("{what} in {}", entry.path().display()));
                }
            }
            Held(format!("not in {seen} environments"))
        },
    ),
    Case::inside(
        "environment.key",
        "find a model provider's key in one's own variables",
        "keys are inside",
        SameUser,
        |p| {
            // The control has what an agent without a gate is started with.
            let key = if p.is_control {
                Some(format!("sk-{}", p.canary))
            } else {
                std::env::var("OPENAI_API_KEY").ok()
            };
            match key {
                Some(key) if key.starts_with("sk-") => Got("a key".to_owned()),
                Some(other) => Held(format!("it says `{other}`")),
                None => Held("there is none".to_owned()),
            }
        },
    ),
    Case::inside(
        "environment.loader",
        "make the linker load a library into every program",
        "programs of the host's are changed",
        Root,
        |p| {
            done(
                p,
                OpenOptions::new().append(true).open("/etc/ld.so.cache").and_then(|mut file| file.flush()),
            )
        },
    ),
    Case::inside(
        "environment.agent_socket",
        "find an agent of keys (SSH, GPG)",
        "the operator's keys can be used",
        SameUser,
        |p| {
            let named = if p.is_control {
                Some(p.unix.display().to_string())
            } else {
                std::env::var("SSH_AUTH_SOCK").ok()
            };
            match named {
                Some(path) if std::os::unix::net::UnixStream::connect(&path).is_ok() => Got(path),
                other => Held(format!("{other:?}")),
            }
        },
    ),
];

/// Asks something at a socket as another uid, from the socket's own folder if need be, and prints the answer.
pub(super) fn knock(socket: &str, uid: &str, request: &str, from_inside: bool) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let uid: usize = uid.parse().map_err(|_| "no uid".to_owned())?;
    let mut path = PathBuf::from(socket);
    if from_inside {
        std::env::set_current_dir(path.parent().unwrap_or(&path)).map_err(words)?;
        path = path.file_name().map(PathBuf::from).unwrap_or_default();
    }
    sys::call(libc::SYS_setgroups, &[0, 0]).map_err(words)?;
    sys::call(libc::SYS_setresgid, &[uid, uid, uid]).map_err(words)?;
    sys::call(libc::SYS_setresuid, &[uid, uid, uid]).map_err(words)?;
    let mut stream = std::os::unix::net::UnixStream::connect(path).map_err(words)?;
    stream.set_read_timeout(Some(super::tools::DIAL)).map_err(words)?;
    write!(stream, "GET {request} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n").map_err(words)?;
    let mut answer = String::new();
    // A stranger is hung up on without a word.
    stream.read_to_string(&mut answer).ok();
    std::io::stdout().write_all(answer.as_bytes()).map_err(words)
}

/// Makes a file, does it, and looks whether the bit is set.
fn with_bit(place: &Place, act: impl FnOnce(&PathBuf) -> std::io::Result<()>) -> Verdict {
    let path = place.scratch.join(format!("bit-{}", std::process::id()));
    let done = std::fs::write(&path, "x").and_then(|()| act(&path));
    let mode = std::fs::metadata(&path).map(|metadata| metadata.mode()).unwrap_or_default();
    std::fs::remove_file(&path).ok();
    match done {
        Ok(()) if mode & 0o6000 != 0 => Got(format!("mode {mode:o}")),
        Ok(()) => Held(format!("mode {mode:o}")),
        Err(error) => stopped(place, &error),
    }
}

/// Starts a program with a pipe that it waits for, and looks which uid it has.
fn started_as_root(place: &Place, program: &str) -> Verdict {
    let started = std::process::Command::new(program)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return stopped(place, &error),
    };
    // The kernel lets `spawn` return a moment before the program gets its uid.
    let looks_until = std::time::Instant::now() + std::time::Duration::from_millis(500);
    let mut status = String::new();
    while std::time::Instant::now() < looks_until {
        let now = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let is_over = now.is_empty() || now.contains("State:\tZ");
        if !is_over {
            status = now;
        }
        if is_over || effective_uid(&status) == Some("0") {
            break;
        }
        std::thread::yield_now();
    }
    drop(child.stdin.take());
    child.kill().ok();
    child.wait().ok();
    match effective_uid(&status) {
        Some("0") => Got("it starts as root".to_owned()),
        Some(uid) => Held(format!("it starts as {uid}")),
        None => Held("it ended at once".to_owned()),
    }
}

/// In a process's `status` file.
fn effective_uid(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)
}
