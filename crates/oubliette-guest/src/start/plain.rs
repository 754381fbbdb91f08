//! A plain program as an ACP agent: it is run for each prompt, what it prints is the answer, its exit code says how it went.
//!
//! ```text
//! session/prompt -> program PROMPT (or PROMPT on its input) -> agent_message_chunk for what it prints
//!                     exit 0 -> end_turn    exit n -> error with the last of its error output
//! session/cancel -> its process group is killed -> cancelled
//! ```
//!
//! It remembers nothing from prompt to prompt, so no conversation can be loaded.

use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::ExitStatus;
use std::process::Stdio;
use std::rc::Rc;

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::AGENT_METHOD_NAMES;
use agent_client_protocol_schema::v1::CancelNotification;
use agent_client_protocol_schema::v1::ContentBlock;
use agent_client_protocol_schema::v1::ContentChunk;
use agent_client_protocol_schema::v1::Error;
use agent_client_protocol_schema::v1::ErrorCode;
use agent_client_protocol_schema::v1::Implementation;
use agent_client_protocol_schema::v1::InitializeResponse;
use agent_client_protocol_schema::v1::NewSessionRequest;
use agent_client_protocol_schema::v1::NewSessionResponse;
use agent_client_protocol_schema::v1::PromptRequest;
use agent_client_protocol_schema::v1::PromptResponse;
use agent_client_protocol_schema::v1::RequestId;
use agent_client_protocol_schema::v1::SessionId;
use agent_client_protocol_schema::v1::SessionUpdate;
use agent_client_protocol_schema::v1::StopReason;
use ob_core::agent::AgentStart;
use ob_core::agent::PROMPT_PLACE;
use ob_core::agent::PromptVia;
use ob_core::agent::START_VARIABLE;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::agent::own;
use crate::agent::rpc;
use crate::agent::rpc::Incoming;
use crate::agent::rpc::Line;
use crate::agent::rpc::Outbox;
use crate::agent::session::prompt_text;
use crate::group;
use crate::group::Group;

/// The one conversation.
const SESSION: &str = "plain";
/// The most bytes of a prompt as an argument: the kernel takes 128 KiB with the zero behind it.
const ARGUMENT_MAX: usize = 128 * 1024 - 1;
/// How much of the end of its error output is told when it fails.
const LAST_WORDS: usize = 2 * 1024;
/// What is read of its output at once.
const CHUNK: usize = 16 * 1024;

/// Serves one client with this program.
struct Plain {
    start: Rc<AgentStart>,
    via: PromptVia,
    out: Outbox,
    cwd: Option<std::path::PathBuf>,
    /// Stops the run that is under way.
    running: Option<CancellationToken>,
    runs: JoinSet<(RequestId, Result<StopReason, Error>)>,
}

/// Serves until the input ends.
pub(super) fn serve(start: &AgentStart, via: PromptVia) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(LocalSet::new().run_until(async {
        let (outbox, outgoing) = rpc::outbox();
        let (input, output) = (own(io::stdin().as_fd())?, own(io::stdout().as_fd())?);
        let writer = tokio::task::spawn_local(rpc::write(outgoing, output));
        let plain = Plain {
            start: Rc::new(start.clone()),
            via,
            out: outbox,
            cwd: None,
            running: None,
            runs: JoinSet::new(),
        };
        plain.run(input).await;
        match writer.await {
            Ok(written) => written,
            Err(_) => Ok(()),
        }
    }));
    // A thread may still sit in a read of standard input; it must not hold up the end.
    runtime.shutdown_background();
    served
}

// === impl Plain ===

impl Plain {
    async fn run(mut self, input: tokio::fs::File) {
        // A line is read whole or not at all, which a select would break.
        let (lines, mut incoming) = mpsc::channel(1);
        let reader = tokio::task::spawn_local(async move {
            let mut input = rpc::Lines::new(input);
            while let Ok(Some(line)) = input.next().await {
                if lines.send(line).await.is_err() {
                    return;
                }
            }
        });
        loop {
            tokio::select! {
                line = incoming.recv() => match line {
                    Some(line) => self.take(line).await,
                    None => break,
                },
                Some(Ok((id, result))) = self.runs.join_next() => {
                    self.running = None;
                    self.out.respond(id, result.and_then(|stop| answer(&PromptResponse::new(stop)))).await;
                }
            }
        }
        reader.abort();
        self.runs.shutdown().await;
    }

    async fn take(&mut self, line: Line) {
        let incoming = match line {
            Line::Whole(line) => rpc::parse(&line),
            Line::TooLong => Incoming::Malformed(RequestId::Null, Error::invalid_request()),
        };
        match incoming {
            Incoming::Request { id, method, params } if method == AGENT_METHOD_NAMES.session_prompt => {
                if let Err(error) = self.prompt(id.clone(), params) {
                    self.out.respond(id, Err(error)).await;
                }
            }
            Incoming::Request { id, method, params } => {
                let result = self.call(&method, params);
                self.out.respond(id, result).await;
            }
            Incoming::Notification { method, params } => {
                let is_cancel = method == AGENT_METHOD_NAMES.session_cancel
                    && serde_json::from_value::<CancelNotification>(params).is_ok();
                if let Some(running) = self.running.as_ref().filter(|_| is_cancel) {
                    running.cancel();
                }
            }
            Incoming::Malformed(id, error) => self.out.respond(id, Err(error)).await,
            Incoming::Nothing => {}
        }
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value, Error> {
        if method == AGENT_METHOD_NAMES.initialize {
            let about = Implementation::new("plain-program", env!("CARGO_PKG_VERSION"));
            answer(&InitializeResponse::new(ProtocolVersion::V1).agent_info(about))
        } else if method == AGENT_METHOD_NAMES.session_new {
            let request: NewSessionRequest = parse(params)?;
            if !request.cwd.is_absolute() || !request.cwd.is_dir() {
                return Err(invalid("`cwd` must be an existing folder with an absolute path"));
            }
            self.cwd = Some(request.cwd);
            answer(&NewSessionResponse::new(SESSION))
        } else {
            Err(Error::method_not_found().data(json!({ "method": method })))
        }
    }

    fn prompt(&mut self, id: RequestId, params: Value) -> Result<(), Error> {
        let request: PromptRequest = parse(params)?;
        let text = prompt_text(request.prompt).map_err(invalid)?;
        let cwd = self.cwd.clone().filter(|_| &*request.session_id.0 == SESSION);
        let cwd = cwd.ok_or_else(|| Error::session_not_found(request.session_id))?;
        if self.running.is_some() {
            return Err(invalid("the program runs already; wait for it or cancel it"));
        }
        let mut command = command(&self.start, self.via, &text).map_err(|why| invalid(&why))?;
        command.current_dir(cwd);
        let cancelled = CancellationToken::new();
        self.running = Some(cancelled.clone());
        let input = (self.via == PromptVia::Input).then_some(text);
        let out = self.out.clone();
        self.runs.spawn_local(async move {
            let result = tokio::select! {
                biased;
                // Its group is killed by the guard in what is dropped here.
                () = cancelled.cancelled() => Ok(StopReason::Cancelled),
                result = run(command, input, &out) => result,
            };
            (id, result)
        });
        Ok(())
    }
}

/// The program with the prompt where it wants it.
fn command(start: &AgentStart, via: PromptVia, prompt: &str) -> Result<Command, String> {
    let Some((program, arguments)) = start.argv.split_first() else {
        return Err("there is no program".to_owned());
    };
    let mut command = Command::new(program);
    match via {
        PromptVia::Input => {
            command.args(arguments);
        }
        PromptVia::Argument if prompt.len() > ARGUMENT_MAX || prompt.contains('\0') => {
            return Err(format!(
                "the prompt has {} bytes or a zero in it, and an argument takes {ARGUMENT_MAX} without; put the rest \
                 into a file of the project, or configure the agent with `prompt`: `input`",
                prompt.len()
            ));
        }
        PromptVia::Argument => {
            // What begins with a dash would be an option.
            let argument = if prompt.starts_with('-') { format!(" {prompt}") } else { prompt.to_owned() };
            let has_place = arguments.iter().any(|argument| argument.contains(PROMPT_PLACE));
            command.args(arguments.iter().map(|given| given.replace(PROMPT_PLACE, &argument)));
            if !has_place {
                command.arg(argument);
            }
        }
    }
    command.envs(&start.env).env_remove(START_VARIABLE).env("NO_COLOR", "1");
    Ok(command)
}

/// Runs it to its end.
async fn run(mut command: Command, input: Option<String>, out: &Outbox) -> Result<StopReason, Error> {
    let failed = |what: &str, error: io::Error| {
        Error::new(ErrorCode::InternalError.into(), format!("cannot {what} the program: {error}"))
    };
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    group::end_with_parent(&mut command);
    let mut child = command.spawn().map_err(|error| failed("start", error))?;
    let group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feeding = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // One that does not read its whole input is free to.
            stdin.write_all(input.as_bytes()).await.ok();
        }
    };
    let telling = async {
        if let Some(stdout) = stdout {
            tell(stdout, out).await;
        }
    };
    let hearing = async {
        match stderr {
            Some(stderr) => last_words(stderr).await,
            None => String::new(),
        }
    };
    // What it left in the background may hold its output open; its first process's end is its end.
    let (status, rest) = {
        let streams = async { tokio::join!(feeding, telling, hearing).2 };
        tokio::pin!(streams);
        tokio::select! {
            words = &mut streams => (child.wait().await, Some(words)),
            status = child.wait() => {
                drop(group);
                (status, Some(streams.await))
            }
        }
    };
    let status = status.map_err(|error| failed("wait for", error))?;
    ended(status, rest.as_deref().unwrap_or_default())
}

/// What it prints, as pieces of one message, never within a character.
async fn tell(mut stdout: impl tokio::io::AsyncRead + Unpin, out: &Outbox) {
    let session = SessionId::new(SESSION);
    let mut kept = Vec::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = stdout.read(&mut buffer).await.unwrap_or(0);
        kept.extend_from_slice(&buffer[..count]);
        let whole = if count == 0 { kept.len() } else { whole_characters(&kept) };
        if whole > 0 {
            let text = String::from_utf8_lossy(&kept[..whole]).into_owned();
            kept.drain(..whole);
            let chunk = ContentChunk::new(ContentBlock::from(text));
            out.update(&session, SessionUpdate::AgentMessageChunk(chunk)).await;
        }
        if count == 0 {
            return;
        }
    }
}

/// How many of these bytes end before a character that is not whole yet. What is no text at all counts as whole.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // A wrong byte in the middle: only a beginning at the very end may still become a character.
        Err(_) => (1..4.min(bytes.len() + 1))
            .map(|back| bytes.len() - back)
            .find(|at| bytes[*at] >= 0xC0)
            .filter(
                |at| matches!(std::str::from_utf8(&bytes[*at..]), Err(error) if error.error_len().is_none()),
            )
            .unwrap_or(bytes.len()),
        Ok(_) => bytes.len(),
    }
}

/// The end of what it says on its error output, which goes on to ours.
async fn last_words(mut stderr: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut words = Vec::new();
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        // Nobody may listen.
        io::stderr().write_all(&buffer[..count]).ok();
        words.extend_from_slice(&buffer[..count]);
        let excess = words.len().saturating_sub(LAST_WORDS);
        words.drain(..excess);
    }
    String::from_utf8_lossy(&words).trim().to_owned()
}

fn ended(status: ExitStatus, words: &str) -> Result<StopReason, Error> {
    use std::os::unix::process::ExitStatusExt as _;
    if status.success() {
        return Ok(StopReason::EndTurn);
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("the program exited with code {code}"),
        (None, Some(signal)) => format!("the program was killed by signal {signal}"),
        (None, None) => "the program ended in an unknown way".to_owned(),
    };
    let message = if words.is_empty() { how } else { format!("{how}: {words}") };
    let data = json!({ "code": "program_failed", "exit_code": status.code(), "fix": "read what it printed" });
    Err(Error::new(ErrorCode::InternalError.into(), message).data(data))
}

fn parse<T: serde::de::DeserializeOwned>(params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(|error| invalid(&error.to_string()))
}

fn answer(response: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(response).map_err(Error::into_internal_error)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams.into(), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(given: &[&str], via: PromptVia, prompt: &str) -> Result<Vec<String>, String> {
        let argv = std::iter::once("p").chain(given.iter().copied()).map(str::to_owned).collect();
        let start = AgentStart { argv, ..AgentStart::default() };
        let command = command(&start, via, prompt)?;
        Ok(command.as_std().get_args().map(|argument| argument.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn the_prompt_goes_where_the_program_wants_it() {
        let argument = PromptVia::Argument;
        for (given, via, prompt, expected) in [
            (&["-p"][..], argument, "mend it", &["-p", "mend it"][..]),
            (&["-p", "{prompt}", "-v"], argument, "mend it", &["-p", "mend it", "-v"]),
            (&["--task={prompt}"], argument, "a b", &["--task=a b"]),
            (&[], argument, "--yolo", &[" --yolo"]),
            (&["-"], PromptVia::Input, "mend it", &["-"]),
        ] {
            assert_eq!(arguments(given, via, prompt).expect("it fits"), expected);
        }
    }

    /// W25: a prompt over the bound of an argument was cut off by the system, with an error that was guessed at.
    #[test]
    fn a_prompt_that_no_argument_can_hold_is_refused_with_the_way_out() {
        let long = "x".repeat(ARGUMENT_MAX + 1);
        let refused = arguments(&[], PromptVia::Argument, &long).expect_err("too long");
        assert!(refused.contains("131072 bytes") && refused.contains("`input`"), "{refused}");
        assert!(arguments(&[], PromptVia::Argument, &long[1..]).is_ok());
        assert!(arguments(&[], PromptVia::Input, &long).is_ok());
    }

    #[test]
    fn characters_are_never_cut_and_nonsense_is_never_held_back() {
        let text = "aé€😀".as_bytes();
        for end in 0..=text.len() {
            let whole = whole_characters(&text[..end]);
            assert!(std::str::from_utf8(&text[..whole]).is_ok() && end - whole < 4, "{end}: {whole}");
        }
        assert_eq!(whole_characters(b"a\xff"), 2);
        assert_eq!(whole_characters(b"\xffb\xe2\x82"), 2, "a beginning behind nonsense waits");
        assert_eq!(whole_characters(b"\xffabc"), 4);
    }
}
