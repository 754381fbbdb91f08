//! Starting one process: pipes, session, environment, working directory.
#![expect(
    unsafe_code,
    reason = "a session is made between fork and exec; descriptors that were inherited have no owner"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use ob_core::link::ProcessSpec;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;

/// Files that the guest may have open: three pipes for each process, and the forwarder's connections.
const OPEN_FILES: u64 = 4096;

/// How much sooner than the guest its processes are killed if memory runs out, of 1000.
const EXPENDABLE: &[u8] = b"500";

/// Starts processes.
pub(super) struct Spawner {
    workspace: PathBuf,
    /// Variables that only the guest knows, for all processes.
    env: Vec<(String, String)>,
    /// What the guest was started with, and its processes shall have.
    open_files: Rlimit,
}

/// A process that was started, and the guest's ends of its pipes.
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("{0}")]
    Invalid(&'static str),
    #[error("cannot use the working directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot make pipes: {0}")]
    Pipes(io::Error),
    #[error("cannot start {program}: {source}")]
    Program { program: String, source: io::Error },
}

// === impl Spawner ===

impl Spawner {
    /// Also lets this process open as many files as it needs, and keeps those that it inherited to itself.
    pub(super) fn new(workspace: PathBuf) -> Self {
        // SAFETY: takes no pointers and closes nothing: it only marks descriptors to be closed by an exec.
        // A kernel before 5.11 cannot; whoever started the guest should not have left any open anyway.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        let open_files = rustix::process::getrlimit(Resource::Nofile);
        let wanted = open_files.maximum.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
        if open_files.current.is_some_and(|soft| soft < wanted) {
            // If it fails, fewer processes can be started, and each of those is told why.
            let raised = Rlimit { current: Some(wanted), maximum: open_files.maximum };
            rustix::process::setrlimit(Resource::Nofile, raised).ok();
        }
        Self { workspace, env: Vec::new(), open_files }
    }

    /// Sets a variable of all processes from now on.
    pub(super) fn set_variable(&mut self, name: &str, value: String) {
        self.env.push((name.to_owned(), value));
    }

    /// Starts a process in a session of its own. Returns when its program runs.
    pub(super) fn spawn(&self, spec: &ProcessSpec) -> Result<Spawned, SpawnError> {
        let program = spec.argv.first().filter(|program| !program.is_empty());
        let program = program.ok_or(SpawnError::Invalid("argv has no program"))?;
        let has_nul = |text: &String| text.contains('\0');
        if spec.argv.iter().chain(spec.env.values()).chain(&spec.cwd).any(has_nul) {
            return Err(SpawnError::Invalid("a zero byte in argv, env or cwd"));
        }
        if spec.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(SpawnError::Invalid("a name in env is empty or has an equals sign"));
        }
        let cwd = spec.cwd.as_ref().map_or_else(|| self.workspace.clone(), PathBuf::from);
        // Asked beforehand, since after the fork a missing folder looks like a missing program.
        match std::fs::metadata(&cwd) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(SpawnError::Directory { path: cwd, source: io::ErrorKind::NotADirectory.into() });
            }
            Err(source) => return Err(SpawnError::Directory { path: cwd, source }),
        }

        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| SpawnError::Pipes(e.into()));
        let (stdin_child, stdin) = match spec.stdin {
            true => pipe().map(|(read, write)| (Stdio::from(read), Some(write)))?,
            false => (Stdio::null(), None),
        };
        let (stdout, stdout_child) = pipe()?;
        let (stderr, stderr_child) = pipe()?;
        let open_files = self.open_files;
        let mut command = Command::new(program);
        command
            .args(&spec.argv[1..])
            .current_dir(&cwd)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .envs(&spec.env)
            .stdin(stdin_child)
            .stdout(stdout_child)
            .stderr(stderr_child);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. All are plain system calls, made
        // without allocation, locks or the runtime.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::process::setrlimit(Resource::Nofile, open_files)?;
                become_expendable();
                Ok(())
            });
        }
        let child = command
            .spawn()
            .map_err(|source| SpawnError::Program { program: program.chars().take(256).collect(), source })?;
        // The handle is only its pid: the reaper takes the status.
        let pid = Pid::from_child(&child);
        Ok(Spawned { pid, stdin, stdout, stderr })
    }
}

/// Has the kernel kill the calling process before the guest: without the guest, the whole sandbox is gone.
fn become_expendable() {
    use rustix::fs::Mode;
    use rustix::fs::OFlags;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    // Without it the largest one is killed, which is rarely the guest.
    if let Ok(file) = file {
        rustix::io::write(&file, EXPENDABLE).ok();
    }
}
