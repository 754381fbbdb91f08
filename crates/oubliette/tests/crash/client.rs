//! A client of the control socket that knows whether it was answered: calls and streams of events.

use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// A server that lives answers within this.
const ANSWER: Duration = Duration::from_secs(60);

/// Talks to one home's server, whichever that is.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody listened, so nothing was asked.
    NotAsked,
    /// It was asked and not answered: done or not, nobody knows.
    NotAnswered,
    /// The server said no.
    Refused(Value),
}

// === impl Client ===

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.call("POST", path, Some(body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.call("DELETE", path, None)
    }

    /// True if a server answers that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let Ok(mut stream) = self.ask("1.1", "GET", "/ready", "", None) else { return false };
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let path = format!("/api/v1{path}");
        let mut stream = self.ask("1.1", method, &path, "", body).map_err(|_| Failure::NotAsked)?;
        let (status, body) = answer(&mut stream).map_err(|_| Failure::NotAnswered)?;
        if (200..300).contains(&status) { Ok(body) } else { Err(Failure::Refused(body)) }
    }

    /// Each event of a session after `cursor` that was received whole, until the stream ends or `event` says stop.
    pub(crate) fn follow(&self, session: &str, cursor: i64, mut event: impl FnMut(Value) -> bool) {
        let path = format!("/api/v1/sessions/{session}/events?cursor={cursor}");
        // The old version has no chunks, so the lines are as they were sent.
        let Ok(stream) = self.ask("1.0", "GET", &path, "Accept: text/event-stream\r\n", None) else { return };
        let mut data = None;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(text) = line.strip_prefix("data: ") {
                data = Some(text.to_owned());
            } else if ["event: end", "event: closing", "event: refused"]
                .iter()
                .any(|last| line.starts_with(last))
            {
                return;
            } else if line.is_empty()
                && let Some(text) = data.take()
                && !event(serde_json::from_str(&text).unwrap())
            {
                return;
            }
        }
    }

    fn ask(
        &self,
        version: &str,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&Value>,
    ) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut request =
            format!("{method} {path} HTTP/{version}\r\nHost: localhost\r\nConnection: close\r\n{headers}");
        if body.is_some() {
            request += "Content-Type: application/json\r\n";
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request += &["Content-Length: ", &body.len().to_string(), "\r\n\r\n", &body].concat();
        // A server that dies meanwhile may have read it all the same.
        stream.write_all(request.as_bytes()).ok();
        Ok(stream)
    }
}

/// A whole answer: its status and its JSON.
fn answer(stream: &mut UnixStream) -> io::Result<(u16, Value)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    if length != Some(body.len()) {
        return Err(cut());
    }
    Ok((status, serde_json::from_str(body)?))
}
