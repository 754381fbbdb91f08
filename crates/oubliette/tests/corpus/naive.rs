//! What the gate would be without its checks: a server that believes what it is told. For controls only.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Silence after which the other end is taken to have said all.
const SILENCE: Duration = Duration::from_millis(400);

/// Listens at `path` and relays to the provider at `provider` (`host:port`), each connection on a thread, for ever.
pub(crate) fn listen(path: &Path, provider: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let provider = provider.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let provider = provider.clone();
            std::thread::spawn(move || {
                // A client that goes away is none of a naive server's business.
                serve(stream, &provider).ok();
            });
        }
    });
    Ok(())
}

fn serve(mut stream: UnixStream, provider: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let asked = all(&mut stream);
    let text = String::from_utf8_lossy(&asked).into_owned();
    let mut words = text.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let naive = header(&text, "X-Naive");
    let upgrades = text.to_ascii_lowercase().contains("connection: upgrade");
    let answer = if method == "CONNECT" {
        said_by(target, b"")?
    } else if upgrades {
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()
    } else if naive.as_deref() == Some("take") || !text.contains("HTTP/1.1") {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken".to_vec()
    } else if naive.as_deref() == Some("file") {
        let path = target.trim_start_matches("/v1/models").replace("/..", "");
        let content = std::fs::read(path)?;
        [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), content].concat()
    } else if naive.as_deref() == Some("host") {
        said_by(&header(&text, "Host").unwrap_or_default(), &asked)?
    } else if let Some(rest) = target.strip_prefix("http://") {
        said_by(rest.split('/').next().unwrap_or_default(), &asked)?
    } else {
        relayed(provider, &asked)?
    };
    stream.write_all(&answer)?;
    if naive.as_deref() == Some("take")
        && text.contains("GET /v1/models")
        && answer.starts_with(b"HTTP/1.1 200")
    {
        // A connection that is held is kept for as long as the client likes.
        stream.set_read_timeout(None)?;
        stream.read_exact(&mut [0; 1])?;
    }
    Ok(())
}

/// What stands in a header, if it is there.
fn header(text: &str, name: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with(&format!("{}:", name.to_ascii_lowercase())))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// As a relay that reads what it can and passes on what it read: the ends of requests are the provider's to find. Line
/// ends are mended, and lengths and codings that say nothing are left out, as lenient parsers do.
fn relayed(provider: &str, asked: &[u8]) -> io::Result<Vec<u8>> {
    let text = String::from_utf8_lossy(asked).replace("\r\n", "\n").replace('\r', "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let lines: Vec<&str> = head.lines().map(str::trim_start).collect();
    let is_length = |line: &str| {
        let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        matches!(name.as_str(), "content-length" | "transfer-encoding")
    };
    let (lengths, others): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| is_length(line));
    // A plain length is believed. Of two ways to find the end this one takes the shorter: what follows is a request.
    let is_plain = matches!(lengths.as_slice(), [one] if one.to_ascii_lowercase().starts_with("content-length") && !one.contains(','));
    let hidden = body.find("GET /v1/").map_or("", |at| &body[at..]).replace('\n', "\r\n");
    let sent = if is_plain || lengths.is_empty() {
        let own = if hidden.is_empty() { body } else { body.split("GET /v1/").next().unwrap_or_default() };
        format!("{}\r\n\r\n{own}{hidden}", lines.join("\r\n"))
    } else {
        format!("{}\r\nContent-Length: 0\r\n\r\n{hidden}", others.join("\r\n"))
    };
    said_by(provider, sent.as_bytes())
}

/// Sends bytes to an address; what it says.
fn said_by(address: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(bytes)?;
    Ok(all(&mut stream))
}

fn all(stream: &mut impl io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while bytes.len() < 2 << 20 {
        match stream.read(&mut piece) {
            Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
            _ => break,
        }
        if bytes.ends_with(b"X-Naive: take\r\n\r\n") {
            break;
        }
    }
    bytes
}
