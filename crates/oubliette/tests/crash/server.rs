//! The server of a home as a child of the harness, so that its death is known with its cause.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use ob_config::LoadOptions;
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
    is_killed_by_us: bool,
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
        Self { child: command.spawn().unwrap(), is_killed_by_us: false }
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

    /// Waits for its end, and no longer than until then.
    pub(crate) fn ended_until(&mut self, deadline: Instant) {
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::park_timeout(LOOK);
        }
    }

    /// Kills it with -9, if it is not dead.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
            self.is_killed_by_us = true;
        }
    }

    /// True if it died of `kill -9`, by whomever.
    pub(crate) fn was_killed(&mut self) -> bool {
        self.ended().is_some_and(|status| status.signal() == Some(9))
    }

    /// True if it was killed by the harness and not by an armed point.
    pub(crate) const fn is_killed_by_us(&self) -> bool {
        self.is_killed_by_us
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the files of a home are.
pub(crate) fn place(home: &Home) -> ob_core::Home {
    let options = LoadOptions {
        dir: Some(home.root()),
        config_file: None,
        env: BTreeMap::from([("HOME".into(), home.root().into())]),
        cwd: "/".into(),
        uid: rustix::process::geteuid().as_raw(),
    };
    ob_config::load(&options).unwrap().home
}
