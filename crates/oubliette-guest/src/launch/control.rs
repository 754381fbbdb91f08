//! The launcher's one loop: the control socket, the lease, and the end.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ob_core::Epoch;
use ob_core::launch::CONTROL_SOCKET;
use ob_core::launch::ControlAnswer;
use ob_core::launch::ControlRequest;
use ob_core::launch::LaunchPlan;
use ob_core::launch::MAX_LINE;
use ob_core::launch::Placeholders;
use ob_core::resource::LimitHit;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitOptions;
use rustix::process::WaitStatus;

use super::complain;
use super::group::Groups;
use super::spawn::Bubblewrap;
use super::watch::Watch;
use crate::idle::Code;

/// Connections at once: a server needs two; the rest is for people who look.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of what bubblewrap says that are kept, for the reason of an end.
const TAIL: usize = 2048;
/// The most characters of an untrusted line in a reason.
const MAX_QUOTE: usize = 200;

/// A started sandbox and those who ask about it.
pub(super) struct Control {
    runtime: PathBuf,
    placeholders: Option<Placeholders>,
    /// Tells other sandboxes of the workspace that its placeholders are needed.
    placeholder_lock: Option<std::fs::File>,
    lease: Duration,
    /// The latest server that made or held it.
    owner: Epoch,
    listener: UnixListener,
    child: Bubblewrap,
    groups: Groups,
    watch: Watch,
    connections: Vec<Connection>,
    tail: Vec<u8>,
    output_open: bool,
    code: Code,
}

struct Connection {
    stream: UnixStream,
    line: Vec<u8>,
    /// The server that is there, as it named itself.
    holds: Option<Epoch>,
    open: bool,
}

/// Listens in the runtime folder, for the launcher's own user only.
pub(super) fn listen(runtime: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(runtime.join(CONTROL_SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes the socket's name away: who dials later learns at once that nobody is there.
pub(super) fn unlink(runtime: &Path) {
    drop(std::fs::remove_file(runtime.join(CONTROL_SOCKET)));
}

// === impl Control ===

impl Control {
    pub(super) fn new(listener: UnixListener, child: Bubblewrap, groups: Groups, plan: &LaunchPlan) -> Self {
        Self {
            runtime: plan.runtime.clone(),
            placeholders: plan.placeholders.clone(),
            placeholder_lock: super::hold_placeholders(plan.placeholders.as_ref()),
            lease: Duration::from_millis(plan.lease_ms),
            owner: plan.epoch,
            listener,
            child,
            watch: Watch::new(&plan.watch, &groups),
            groups,
            connections: Vec::new(),
            tail: Vec::new(),
            output_open: true,
            code: Code::find(),
        }
    }

    /// Serves until the sandbox has ended, and leaves nothing of it but its end.
    pub(super) fn run(mut self) {
        let (reason, limit) = match self.serve() {
            Ending::Plain(reason) => (reason, None),
            Ending::Limit(hit) => (hit.message(), Some(hit)),
        };
        self.watch.look_last();
        self.tell_hits();
        self.kill_all();
        self.groups.remove();
        drop(self.placeholder_lock.take());
        super::remove_placeholders(self.placeholders.as_ref());
        super::record_end(&self.runtime, &reason, limit);
        unlink(&self.runtime);
        for connection in &mut self.connections {
            connection.answer(ControlAnswer::Ended);
        }
    }

    /// Waits for a reason to end.
    fn serve(&mut self) -> Ending {
        let mut alone_since = Some(Instant::now());
        loop {
            let left = alone_since.map(|since| self.lease.saturating_sub(since.elapsed()));
            if left == Some(Duration::ZERO) {
                return Ending::Plain("lease ran out".into());
            }
            if let Some(hit) = self.watch.look() {
                return Ending::Limit(hit);
            }
            self.tell_hits();
            let pause = self.watch.pause();
            let ready = match self.wait(left.map_or(pause, |left| left.min(pause))) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Ending::Plain(format!("its launcher failed: {error}")),
            };
            if ready.output {
                self.drain_output();
            }
            if ready.child {
                return Ending::Plain(self.exit_reason());
            }
            if ready.listener {
                self.accept();
            }
            for index in ready.connections {
                if self.hear(index) {
                    return Ending::Plain("ended by its server".into());
                }
            }
            self.connections.retain(|connection| connection.open);
            let is_held = self.connections.iter().any(|connection| connection.holds_for(self.owner));
            alone_since = if is_held { None } else { Some(alone_since.unwrap_or_else(Instant::now)) };
        }
    }

    /// Reads what came on a connection and does what is asked, unless it is a server that has a successor who asks. True
    /// if the sandbox is to end.
    fn hear(&mut self, index: usize) -> bool {
        let Some(connection) = self.connections.get_mut(index) else { return false };
        connection.read();
        while let Some(request) = connection.next_request() {
            let (ControlRequest::Hold { epoch } | ControlRequest::End { epoch }) = request;
            if epoch.is_late_for(self.owner) {
                connection.answer(ControlAnswer::Owned);
                continue;
            }
            self.owner = self.owner.max(epoch);
            match request {
                ControlRequest::End { .. } => return true,
                ControlRequest::Hold { .. } => {
                    connection.holds = Some(epoch);
                    connection.answer(ControlAnswer::Running);
                }
            }
        }
        false
    }

    /// Waits for something to happen, at most so long.
    fn wait(&self, most: Duration) -> rustix::io::Result<Ready> {
        let mut fds =
            vec![PollFd::new(&self.child.handle, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.connections.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)));
        if self.output_open {
            fds.push(PollFd::new(&self.child.output, PollFlags::IN));
        }
        let timeout = Timespec::try_from(most).ok();
        self.code.forget();
        rustix::event::poll(&mut fds, timeout.as_ref())?;
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let count = self.connections.len();
        Ok(Ready {
            child: is_ready[0],
            listener: is_ready[1],
            connections: (0..count).filter(|index| is_ready[2 + index]).collect(),
            output: self.output_open && is_ready[2 + count],
        })
    }

    /// Tells servers that are there of limits that were reached.
    fn tell_hits(&mut self) {
        let owner = self.owner;
        if !self.connections.iter().any(|connection| connection.holds_for(owner) && connection.open) {
            return;
        }
        for hit in self.watch.due() {
            for connection in self.connections.iter_mut().filter(|connection| connection.holds_for(owner)) {
                connection.answer(ControlAnswer::Limit(hit));
            }
            self.watch.told(&hit);
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        // The folder keeps strangers out already; this is the second lock.
        let is_same_user = rustix::net::sockopt::socket_peercred(&stream)
            .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
        if !is_same_user || stream.set_nonblocking(true).is_err() {
            complain("a stranger dialled the control socket");
            return;
        }
        if self.connections.len() == MAX_CONNECTIONS {
            // The oldest that does not hold makes room, a late server's among them.
            let Some(oldest) = self.connections.iter().position(|c| !c.holds_for(self.owner)) else { return };
            self.connections.remove(oldest);
        }
        self.connections.push(Connection { stream, line: Vec::new(), holds: None, open: true });
    }

    /// Reads what was said, keeping the end of it. Called when there is something, so that it does not block.
    fn drain_output(&mut self) {
        let mut bytes = [0; 4096];
        match rustix::io::read(&self.child.output, &mut bytes) {
            Ok(0) | Err(_) => self.output_open = false,
            Ok(count) => {
                self.tail.extend_from_slice(&bytes[..count]);
                let excess = self.tail.len().saturating_sub(TAIL);
                self.tail.drain(..excess);
            }
        }
    }

    /// Why bubblewrap ended by itself.
    fn exit_reason(&mut self) -> String {
        let status = rustix::process::waitpid(Some(self.child.pid), WaitOptions::empty());
        // What it said last may still be in the pipe; it is read without waiting for what others may hold open.
        while self.output_open && is_readable(self.child.output.as_fd()) {
            self.drain_output();
        }
        match status {
            Ok(Some((_, status))) => describe(status, &self.tail),
            Ok(None) | Err(_) => "first process ended".into(),
        }
    }

    /// Ends whatever is left, and returns when the kernel knows none of it any more.
    ///
    /// bubblewrap's death kills the first process, and with it the kernel kills all of its process namespace; the
    /// groups are the second net, and children that became ours the third.
    fn kill_all(&mut self) {
        let mut pause = Duration::from_micros(200);
        loop {
            rustix::process::pidfd_send_signal(&self.child.handle, Signal::KILL).ok();
            self.groups.kill();
            for pid in children() {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
            let has_children = loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if !has_children && self.groups.are_empty() {
                return;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Why it ends.
enum Ending {
    Plain(String),
    Limit(LimitHit),
}

struct Ready {
    child: bool,
    listener: bool,
    connections: Vec<usize>,
    output: bool,
}

// === impl Connection ===

impl Connection {
    /// True if the sandbox's owner is at the other end.
    fn holds_for(&self, owner: Epoch) -> bool {
        self.holds.is_some_and(|epoch| !epoch.is_late_for(owner))
    }

    /// Reads what came.
    fn read(&mut self) {
        let mut bytes = [0; 512];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.open = false,
            Ok(count) => self.line.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.open = false,
        }
        if self.line.len() > MAX_LINE {
            self.open = false;
        }
    }

    /// The next request among what was read: a whole line. One that is none ends the connection.
    fn next_request(&mut self) -> Option<ControlRequest> {
        let end = self.line.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.line.drain(..=end).collect();
        let request = serde_json::from_slice(&line).ok();
        self.open &= request.is_some();
        request
    }

    fn answer(&mut self, answer: ControlAnswer) {
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        if self.stream.write_all(&line).is_err() {
            self.open = false;
        }
    }
}

fn is_readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Children that are ours, orphans of bubblewrap included.
fn children() -> Vec<Pid> {
    std::fs::read_to_string("/proc/thread-self/children")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| Pid::from_raw(word.parse().ok()?))
        .collect()
}

fn describe(status: WaitStatus, tail: &[u8]) -> String {
    let mut reason = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("first process exited with code {code}"),
        (None, Some(signal)) => format!("first process was ended by signal {signal}"),
        (None, None) => "first process ended".into(),
    };
    if status.exit_status() != Some(0)
        && let Some(said) = last_line(tail)
    {
        reason.push_str(": ");
        reason.push_str(&said);
    }
    reason
}

/// The last line of untrusted text, fit to be shown.
fn last_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().filter(|c| !c.is_control()).take(MAX_QUOTE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_quotes_the_last_line_without_control_characters() {
        assert_eq!(last_line(b"one\n\x1b[31mtwo\x07\n\n").as_deref(), Some("[31mtwo"));
        assert_eq!(last_line(b" \n\n"), None);
        assert_eq!(last_line(&[b'x'; 5000]).map(|line| line.len()), Some(MAX_QUOTE));
    }
}
