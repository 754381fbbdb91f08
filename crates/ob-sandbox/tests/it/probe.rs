//! Looks at a sandbox from inside, with nothing but system calls: this test program itself is shown there and executed.

#![expect(unsafe_code, reason = "system calls as an attacker makes them")]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::world::World;

/// Where this program and its orders are inside.
const PROGRAM: &str = "/opt/probe";
const ORDERS: &str = "/home/agent/probe.json";
const ANSWERS: &str = "/home/agent/probe.out";
/// Set for the probe; tells it from a plain run of all tests.
const MARK: &str = "PROBE";

/// A system call to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) number: i64,
    pub(crate) arguments: [u64; 6],
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It returned something.
    Worked,
    /// It failed with this error number.
    Failed(i32),
    /// Its process was ended by this signal.
    Killed(i32),
}

impl World {
    /// Makes system calls in a sandbox without these protections, each in a process of its own.
    pub(crate) async fn probe(
        &self,
        left_out: &[ob_sandbox::namespace::protection::Protection],
        attempts: &[Attempt],
    ) -> Vec<Outcome> {
        let mut spec = self.spec("probe");
        spec.read_only_at = vec![(std::env::current_exe().expect("this program"), PROGRAM.to_owned())];
        spec.env = vec![(MARK.to_owned(), "1".to_owned())];
        fs::write(self.path("home/probe.json"), serde_json::to_vec(attempts).expect("plain"))
            .expect("orders");
        let script =
            format!("{PROGRAM} --exact probe::makes_the_calls_it_is_told --nocapture --test-threads 1");
        let said = self.inside_without(left_out, &spec, &script).await;
        let answers = fs::read(self.path("home/probe.out")).unwrap_or_else(|error| panic!("{error}: {said}"));
        fs::remove_file(self.path("home/probe.out")).expect("the next one writes it anew");
        serde_json::from_slice(&answers).expect("all answers")
    }
}

/// Not a test: what the others run inside.
#[test]
fn makes_the_calls_it_is_told() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    let orders = fs::read(PathBuf::from(ORDERS)).expect("orders");
    let attempts: Vec<Attempt> = serde_json::from_slice(&orders).expect("orders");
    let outcomes: Vec<Outcome> = attempts.iter().map(attempt).collect();
    let mut file = fs::File::create(ANSWERS).expect("a file");
    file.write_all(&serde_json::to_vec(&outcomes).expect("plain")).expect("written");
}

/// The number of the probe's own attempt that uses the 32-bit table instead.
pub(crate) const GETPID_32: i64 = -32;
/// The number of its attempt to mount something, which takes more than numbers.
pub(crate) const MOUNT: i64 = -33;

fn attempt(attempt: &Attempt) -> Outcome {
    // SAFETY: libtest runs this on the main thread (`--test-threads 1`), and the child only makes system calls.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = make(attempt);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(code) };
    }
    assert!(pid > 0, "a process for the attempt");
    let mut status = 0;
    // SAFETY: waits for the child just made, with a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        return Outcome::Killed(libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        0 => Outcome::Worked,
        errno => Outcome::Failed(errno),
    }
}

/// Makes the call; its error number, or 0.
fn make(attempt: &Attempt) -> i32 {
    if attempt.number == GETPID_32 {
        return old_getpid();
    }
    if attempt.number == MOUNT {
        return mount();
    }
    let [a, b, c, d, e, f] = attempt.arguments;
    // SAFETY: whatever it does, it does to this child, which ends now.
    let result = unsafe { libc::syscall(attempt.number, a, b, c, d, e, f) };
    match result {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(254),
        _ => 0,
    }
}

/// Mounts something in a mount namespace of its own: that of the sandbox belongs to an outer user namespace, in which
/// nobody inside has any capability.
fn mount() -> i32 {
    // SAFETY: affects this child only, which ends now.
    let mut result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    if result == 0 {
        let (source, target, kind) = (c"none".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr());
        // SAFETY: all strings are constants, and the data may be missing.
        result = unsafe { libc::mount(source, target, kind, 0, std::ptr::null()) };
    }
    if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(254) }
}

/// `getpid` by the table for 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn old_getpid() -> i32 {
    let result: i64;
    // SAFETY: takes nothing and returns a number; `int 0x80` keeps all registers that are not named.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if result > 0 { 0 } else { 254 }
}

#[cfg(not(target_arch = "x86_64"))]
fn old_getpid() -> i32 {
    254
}
