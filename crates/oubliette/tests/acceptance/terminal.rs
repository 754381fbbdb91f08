//! A terminal of its own for a program, emulated: what a person would see on it, and keys that are typed on it.

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::Mutex;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::harness::until;

/// Rows: more than any test fills, so that nothing scrolls away.
const ROWS: u16 = 120;

/// A program on a terminal.
pub(crate) struct Terminal {
    main: OwnedFd,
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<std::thread::JoinHandle<Vec<u8>>>,
}

// === impl Terminal ===

impl Terminal {
    /// Starts the program with the terminal as its controlling one, so that keys are signals and a resize is told.
    pub(crate) fn run(program: &Command, columns: u16) -> Self {
        let (main, side) = open(columns).unwrap();
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program()).args(program.get_args()).env_clear();
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = program.get_current_dir() {
            command.current_dir(folder);
        }
        let [input, output] = [side.try_clone().unwrap(), side.try_clone().unwrap()];
        let child = command.stdin(input).stdout(output).stderr(side).spawn().unwrap();
        // Our own ends of the side were in the command: without them the reading ends with the program.
        drop(command);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, columns, 0)));
        let (shared, mut file) = (Arc::clone(&screen), File::from(main.try_clone().unwrap()));
        let reader = std::thread::spawn(move || {
            let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
            // A terminal whose other side is gone says so with an error.
            while let Ok(read @ 1..) = file.read(&mut bytes) {
                all.extend_from_slice(&bytes[..read]);
                shared.lock().unwrap().process(&bytes[..read]);
            }
            all
        });
        Self { main, child, screen, reader: Some(reader) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What stands on it, without the empty rows at its end.
    pub(crate) fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents().trim_end().to_owned()
    }

    /// Waits until it shows something.
    pub(crate) fn shows(&self, text: &str) {
        self.shows_what(&format!("{text:?}"), |shown| shown.contains(text));
    }

    /// Waits until what it shows is so.
    pub(crate) fn shows_what(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.text();
                is_so(&last)
            });
        }));
        assert!(seen.is_ok(), "it never showed {what}; in the end:\n{last}");
    }

    /// Types keys.
    pub(crate) fn keys(&self, keys: &str) {
        File::from(self.main.try_clone().unwrap()).write_all(keys.as_bytes()).unwrap();
    }

    /// Makes the window so wide.
    pub(crate) fn resize(&self, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(ROWS, columns);
        rustix::termios::tcsetwinsize(&self.main, size(columns)).unwrap();
    }

    /// Waits for the program's end: how it ended, and every byte that it wrote.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("the program on the terminal to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let bytes = self.reader.take().unwrap().join().unwrap();
        (status.unwrap(), String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failed test only: who expects an end waits for it.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn open(columns: u16) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let main = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&main)?;
    rustix::pty::unlockpt(&main)?;
    let name = rustix::pty::ptsname(&main, Vec::new())?;
    let side = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::termios::tcsetwinsize(&side, size(columns))?;
    Ok((main, side))
}

const fn size(columns: u16) -> Winsize {
    Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
