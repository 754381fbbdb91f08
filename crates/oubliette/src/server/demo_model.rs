//! The scripted demonstration model: a program beside ours, started when the first session needs it, started again if
//! it died, gone when we are.

use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use ob_core::Refusal;
use ob_engine::Demonstration;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// The name under which it answers, and that everything shows.
const MODEL: &str = "demo-repairer";

/// The program's name.
const PROGRAM: &str = "oubliette-demo-model";

/// How long it may take to say where it listens.
const START_MAX: Duration = Duration::from_secs(10);

/// Questions that wait while it starts: as many as sessions that start at once, and more wait outside.
const ASKS_MAX: usize = 64;

/// The program beside ours, if it is installed.
pub(crate) fn find(own: &Path) -> Option<PathBuf> {
    own.parent().map(|folder| folder.join(PROGRAM)).filter(|path| path.is_file())
}

/// The demonstration model. Dropping it ends the program.
#[derive(Clone, Debug)]
pub(crate) struct DemoModel {
    asks: mpsc::Sender<oneshot::Sender<Result<u16, Refusal>>>,
}

// === impl DemoModel ===

impl DemoModel {
    /// A model that is not started yet.
    pub(crate) fn new(program: PathBuf) -> Self {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        tokio::spawn(drive(program, asked));
        Self { asks }
    }

    /// The loopback port that it listens on; starts it if it does not run.
    pub(crate) async fn port(&self) -> Result<u16, Refusal> {
        let gone = || failed("it was stopped");
        let (ask, answer) = oneshot::channel();
        self.asks.send(ask).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl Demonstration for DemoModel {
    fn model(&self) -> &str {
        MODEL
    }

    async fn start(&self) -> Result<String, Refusal> {
        Ok(format!("http://127.0.0.1:{}/v1", self.port().await?))
    }
}

/// Owns the program.
async fn drive(program: PathBuf, mut asked: mpsc::Receiver<oneshot::Sender<Result<u16, Refusal>>>) {
    let mut running: Option<(Child, u16)> = None;
    while let Some(ask) = asked.recv().await {
        let alive = running.as_mut().is_some_and(|(child, _)| matches!(child.try_wait(), Ok(None)));
        if !alive {
            running = None;
        }
        let answer = match &running {
            Some((_, port)) => Ok(*port),
            None => match start(&program).await {
                Ok((child, port)) => {
                    running = Some((child, port));
                    Ok(port)
                }
                Err(refusal) => Err(refusal),
            },
        };
        if ask.send(answer).is_err() {
            tracing::debug!("who asked for the demonstration model is gone");
        }
    }
}

async fn start(program: &Path) -> Result<(Child, u16), Refusal> {
    #[derive(serde::Deserialize)]
    struct Listening {
        port: u16,
    }
    let mut child = Command::new(program)
        .args(["--port", "0", "--with-parent"])
        .env_clear()
        // Open as long as we live: the program ends when it closes.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error.to_string()))?;
    let stdout = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
    let mut line = String::new();
    let mut reader = BufReader::new(stdout);
    tokio::time::timeout(START_MAX, reader.read_line(&mut line))
        .await
        .map_err(|_| failed("it did not say where it listens"))?
        .map_err(|error| failed(&error.to_string()))?;
    let listening: Listening =
        serde_json::from_str(&line).map_err(|_| failed("it did not say where it listens"))?;
    Ok((child, listening.port))
}

fn failed(why: &str) -> Refusal {
    Refusal::unavailable(format!("the demonstration model does not run: {why}"))
        .fix("configure a model: set OPENAI_API_KEY, or see `oubliette doctor`")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program that counts its starts in a file and then behaves as `then` says.
    fn program(folder: &tempfile::TempDir, then: &str) -> PathBuf {
        let path = folder.path().join(PROGRAM);
        let starts = folder.path().join("starts");
        let text = format!("#!/bin/sh\necho x >> {}\n{then}\n", starts.display());
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    fn starts(folder: &tempfile::TempDir) -> usize {
        fs::read_to_string(folder.path().join("starts")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn it_starts_once_when_it_is_needed() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = DemoModel::new(program(&folder, "echo '{\"port\":4711}'; read wait"));
        assert_eq!(starts(&folder), 0);
        let (a, b) = tokio::join!(model.port(), model.port());
        assert_eq!((a, b), (Ok(4711), Ok(4711)));
        assert_eq!(starts(&folder), 1);
    }

    #[tokio::test]
    async fn it_is_started_again_if_it_died() {
        let folder = tempfile::tempdir().expect("a folder");
        let model = DemoModel::new(program(&folder, "echo '{\"port\":4711}'"));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while starts(&folder) < 2 {
            assert!(tokio::time::Instant::now() < deadline, "it was not started again");
            assert_eq!(model.port().await, Ok(4711));
        }
    }

    #[tokio::test]
    async fn one_that_does_not_run_is_a_refusal_with_its_fix() {
        let folder = tempfile::tempdir().expect("a folder");
        for program in [program(&folder, "echo nonsense"), folder.path().join("missing")] {
            let refusal = DemoModel::new(program).port().await.expect_err("it cannot start");
            assert!(refusal.fix.is_some_and(|fix| fix.contains("OPENAI_API_KEY")));
        }
        assert_eq!(find(&folder.path().join("oubliette")), Some(folder.path().join(PROGRAM)));
        assert_eq!(find(Path::new("/nonexistent/oubliette")), None);
    }
}
