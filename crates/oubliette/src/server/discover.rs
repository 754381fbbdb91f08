//! Looks for OpenAI-compatible servers on loopback.

use std::io::Read as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// A server on this machine answers within this time or is taken for something else.
const ANSWER_MAX: Duration = Duration::from_millis(300);

/// The most bytes of an answer that are read.
const BYTES_MAX: u64 = 256 * 1024;

/// The names of the models that the server on this loopback port offers; nothing if it does not speak OpenAI's API.
/// Blocks for at most about a second.
pub(crate) fn models_at(port: u16) -> Option<Vec<String>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX).ok()?;
    stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
    stream.set_write_timeout(Some(ANSWER_MAX)).ok()?;
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    write!(stream, "GET /v1/models HTTP/1.0\r\nHost: localhost:{port}\r\nAccept: application/json\r\n\r\n")
        .ok()?;
    let mut answer = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut answer).ok()?;
    names(&answer)
}

fn names(answer: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if head.split_whitespace().nth(1) != Some("200") {
        return None;
    }
    let body: Value = serde_json::from_str(body.trim()).ok()?;
    let names = body["data"].as_array()?.iter().filter_map(|model| model["id"].as_str());
    Some(names.map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_models_is_a_model_server() {
        let list = b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n{\"object\":\"list\",\"data\":[{\"id\":\"qwen\"},{\"id\":\"phi\"}]}";
        assert_eq!(names(list), Some(vec!["qwen".to_owned(), "phi".to_owned()]));
        for other in [
            &b""[..],
            b"SSH-2.0-OpenSSH",
            b"HTTP/1.1 404 Not Found\r\n\r\n{\"data\":[]}",
            b"HTTP/1.1 200 OK\r\n\r\n<html>",
            b"HTTP/1.1 200 OK\r\n\r\n{\"models\":[]}",
            b"HTTP/1.1 200 OK\r\n\r\n\xff",
        ] {
            assert_eq!(names(other), None);
        }
    }
}
