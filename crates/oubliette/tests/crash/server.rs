//! The server of a home as a child of the harness, so that its death is known with its cause.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use ob_crash::CrashPoint;

use crate::client::Client;
use crate::harness::Home;
use crate::harness::PATIENCE;

/// How often the server is looked at.
const LOOK: Duration = Duration::from_millis(3);

/// Where it is to die: at a point, the n-th time that it is reached.
pub(crate) type Plan = (CrashPoint, u32);

/// A server that was started, and perhaps has died.
pub(crate) struct Server {
    child: Child,
}

// === impl Server ===

impl Server {
    /// Starts the server of `home`, with its death planned or not. Its log goes to a file beside the home.
    pub(crate) fn start(home: &Home, plan: Option<Plan>) -> Self {
        let log = File::options().create(true).append(true).open(home.user("serve.log")).unwrap();
        let mut command = home.command(["serve"]);
        if let Some((point, count)) = plan {
            command.env("CRASH_POINT", format!("{}:{count}", point.name()));
        }
        command.stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap() }
    }

    /// True when it is ready; false if it died before.
    pub(crate) fn is_ready(&mut self, client: &Client) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.ended().is_some() {
                return false;
            }
            if client.is_ready() {
                return true;
            }
            assert!(Instant::now() < deadline, "the server is not ready within {PATIENCE:?}");
            std::thread::park_timeout(LOOK);
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => std::thread::park_timeout(LOOK),
                ended => return ended,
            }
        }
    }

    /// Kills it with -9. False if it was dead already.
    pub(crate) fn kill(&mut self) -> bool {
        if self.ended().is_some() {
            return false;
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// True if this is the end that an armed point makes.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}
