//! The server's own doors, knocked at by those who have no key, and by pages of other sites.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::batch::Batch;
use crate::batch::is_root;
use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::case::Verdict::Missing;

const WITH_TOKEN: &str = "the same request with an operator's token";
/// Silence after which an answer is taken to be whole.
const SILENCE: Duration = Duration::from_secs(2);

/// A request: what stands between its first line and its end. `HOST` is the server's address, `TOKEN` a real token.
struct Row(&'static str, &'static str, &'static str, &'static str, &'static str);

const LIST: &str = "GET /api/v1/sessions HTTP/1.1\r\n";
const GOOD: &str = "Host: HOST\r\nAuthorization: Bearer TOKEN\r\n";

const ROWS: &[Row] = &[
    Row(
        "api.no_token",
        "list sessions without a token",
        "everyone on the machine is an operator",
        LIST,
        "Host: HOST\r\n",
    ),
    Row(
        "api.false_token",
        "list sessions with a token of the right form",
        "the form is all that is looked at",
        LIST,
        "Host: HOST\r\nAuthorization: Bearer oub_00000000000000000000000000000000000000000000000000000000000000\r\n",
    ),
    Row(
        "api.empty_token",
        "list sessions with an empty token",
        "nothing equals nothing",
        LIST,
        "Host: HOST\r\nAuthorization: Bearer \r\n",
    ),
    Row(
        "api.two_tokens",
        "send two tokens, one of them real",
        "the sides take another one",
        LIST,
        "Host: HOST\r\nAuthorization: Bearer x\r\nAuthorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.other_scheme",
        "send a real token by another scheme",
        "any scheme is taken",
        LIST,
        "Host: HOST\r\nAuthorization: Basic TOKEN\r\n",
    ),
    Row(
        "api.token_in_query",
        "send a real token in the query",
        "tokens stand in logs of proxies",
        "GET /api/v1/sessions?access_token=TOKEN&token=TOKEN HTTP/1.1\r\n",
        "Host: HOST\r\n",
    ),
    Row(
        "api.cookie",
        "send a real token as a cookie",
        "pages of other sites ask with it",
        LIST,
        "Host: HOST\r\nCookie: token=TOKEN; Authorization=TOKEN\r\n",
    ),
    Row(
        "api.rebinding",
        "name another host, as a page whose name points here does",
        "a page of another site reaches the server",
        LIST,
        "Host: evil.invalid\r\nAuthorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.two_hosts",
        "name two hosts",
        "the sides take another one",
        LIST,
        "Host: HOST\r\nHost: evil.invalid\r\nAuthorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.no_host",
        "name no host",
        "what is not there is not checked",
        LIST,
        "Authorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.origin",
        "ask from a page of another site",
        "a page of another site reaches the server",
        LIST,
        "Host: HOST\r\nOrigin: https://evil.invalid\r\nAuthorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.null_origin",
        "ask from a page without an origin",
        "a page in a frame reaches the server",
        LIST,
        "Host: HOST\r\nOrigin: null\r\nAuthorization: Bearer TOKEN\r\n",
    ),
    Row(
        "api.absolute",
        "ask for a URL of another host",
        "the server is a proxy, or believes the URL",
        "GET http://evil.invalid/api/v1/sessions HTTP/1.1\r\n",
        GOOD,
    ),
    Row(
        "api.forwarded",
        "say that it comes from this machine",
        "a header stands for a peer",
        LIST,
        "Host: HOST\r\nX-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n",
    ),
    Row(
        "api.principal",
        "say who one is",
        "a header stands for a token",
        LIST,
        "Host: HOST\r\nX-Principal: operator\r\nX-User: root\r\nX-Oubliette-Principal: operator\r\n",
    ),
    Row(
        "api.parents",
        "leave a route with `..`",
        "files of the host are served",
        "GET /api/v1/../../../../../../etc/passwd HTTP/1.1\r\n",
        GOOD,
    ),
    Row(
        "api.encoded_parents",
        "leave a session's route with encoded slashes",
        "another session's files are served",
        "GET /api/v1/sessions/..%2f..%2fetc%2fpasswd/events HTTP/1.1\r\n",
        GOOD,
    ),
    Row(
        "api.override",
        "ask for a deletion by a header",
        "a form of another site deletes",
        "POST /api/v1/sessions HTTP/1.1\r\n",
        "Host: HOST\r\nX-HTTP-Method-Override: GET\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 0\r\n",
    ),
    Row(
        "api.form",
        "send a form, as pages of other sites may without asking",
        "a form of another site starts a session",
        "POST /api/v1/sessions HTTP/1.1\r\n",
        "Host: HOST\r\nAuthorization: Bearer TOKEN\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n",
    ),
    Row(
        "api.length_and_chunks",
        "send a length and chunks at once",
        "two requests where a proxy saw one",
        "POST /api/v1/sessions HTTP/1.1\r\n",
        "Host: HOST\r\nAuthorization: Bearer TOKEN\r\nContent-Type: application/json\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    ),
    Row("api.large_head", "send a head of a megabyte", "memory without bound", LIST, "LARGE"),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let rows = ROWS
        .iter()
        .map(|Row(id, tries, shows, ..)| Case::seen(id, tries, shows, WITH_TOKEN, asked, with_token));
    let strangers = [
        Case::seen(
            "api.control_socket",
            "connect to the operator's socket as another uid",
            "everyone on the machine is an operator",
            "the same as the operator's uid",
            |b, _| knocks(b, 65_534, false),
            |b, _| knocks(b, 0, false),
        )
        .needs("root, to be somebody else"),
        Case::seen(
            "api.gate_socket",
            "connect to a session's gate as another uid",
            "models are used on another's account",
            "the same as the sandbox's uid, past the folder's mode",
            |b, _| knocks(b, 65_534, true),
            |b, _| knocks(b, b.uid, true),
        )
        .needs("root, to be somebody else"),
    ];
    rows.chain(strangers).collect()
}

fn asked(batch: &Batch, id: &str) -> Verdict {
    let row = ROWS.iter().find(|row| row.0 == id).expect("a row");
    send(batch, row.3, row.4)
}

fn with_token(batch: &Batch, _: &str) -> Verdict {
    send(batch, LIST, GOOD)
}

fn send(batch: &Batch, first: &str, headers: &str) -> Verdict {
    let address = format!("127.0.0.1:{}", batch.inside.api);
    let large = format!("{GOOD}X-Large: {}\r\n", "a".repeat(1 << 20));
    let headers = headers.replace("LARGE", &large).replace("TOKEN", &batch.token()).replace("HOST", &address);
    let request = format!("{}{headers}Connection: close\r\n\r\n", first.replace("TOKEN", &batch.token()));
    let mut stream = TcpStream::connect(&address).expect("the server listens");
    stream.set_read_timeout(Some(SILENCE)).expect("a socket");
    // A server that has seen enough hangs up while we write.
    stream.write_all(request.as_bytes()).ok();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let text = String::from_utf8_lossy(&bytes);
    let first = text.lines().next().unwrap_or("closed without a word").to_owned();
    if first.starts_with("HTTP/1.1 2") || text.contains("root:x:0") { Got(first) } else { Held(first) }
}

/// Connects to a socket as a uid: the operator's, or a gate, which is put where everyone passes.
fn knocks(batch: &Batch, uid: u32, at_gate: bool) -> Verdict {
    if !is_root() {
        return if uid == 65_534 {
            Held("not tried: the tests do not run as root".to_owned())
        } else {
            Missing("the tests do not run as root".to_owned())
        };
    }
    let socket = if at_gate {
        batch.inside.neighbour.gate.clone()
    } else {
        let gate = &batch.inside.neighbour.gate;
        // RUNTIME/s/SESSION/gate/gate.sock
        gate.ancestors().nth(4).expect("a runtime folder").join("control.sock")
    };
    let request = if at_gate { "/v1/models" } else { "/api/v1/sessions" };
    // A gate's folders let nobody pass; so it is connected to from inside them, as if it had been handed on.
    let arguments = [socket.display().to_string(), uid.to_string(), request.to_owned(), at_gate.to_string()];
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["attack", "knock"])
        .args(arguments)
        .output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.contains("HTTP/1.1 200") {
        Got(said)
    } else {
        Held(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}
