//! The gate spoken to by somebody who keeps to no rule.
//!
//! What reaches the provider is judged outside: no request there may have a path or a header that holds
//! [`SMUGGLED`], nor another model than the session's.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::tools::stopped;
use crate::case::Case;
use crate::case::Control::Naive;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::place::Place;

/// What no request at a provider may hold in its path, headers or model; behind it stands the case.
pub(crate) const SMUGGLED: &str = "smuggled-";
/// Silence after which an answer is taken to be whole.
const SILENCE: Duration = Duration::from_millis(500);
/// The most bytes of answers that are read.
const ANSWER_MAX: usize = 64 * 1024;
/// More connections than a gate has places for, links included.
const FLOOD: usize = 200;
/// All places of a gate.
const PLACES: usize = 64 + 8;

/// A small chat completion.
pub(super) const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "gate.later_version",
        "dial a link of another version",
        "the host speaks a version that it does not know",
        Naive,
        |p| {
            switched(
                p,
                "GET /link HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: guest-link/2\r\n\r\n",
            )
        },
    ),
    Case::inside(
        "gate.no_version",
        "dial a link without a protocol",
        "any upgrade becomes a link",
        Naive,
        |p| switched(p, "GET /link HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\n\r\n"),
    ),
    Case::inside(
        "gate.posted_link",
        "dial a link with another method",
        "any request becomes a link",
        Naive,
        |p| {
            switched(
                p,
                "POST /link HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: guest-link/1\r\nContent-Length: 0\r\n\r\n",
            )
        },
    ),
    Case::inside(
        "gate.link_of_another",
        "name another session in the link's path",
        "a link to another session's actor",
        Naive,
        |p| {
            switched(
                p,
                "GET /link/other HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: guest-link/1\r\nX-Session: other\r\n\r\n",
            )
        },
    ),
    Case::inside(
        "gate.operations",
        "call the server's operations at the gate",
        "an agent is an operator",
        Naive,
        |p| {
            ask_took(
                p,
                "GET /api/v1/sessions HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\nConnection: close\r\n\r\n",
            )
        },
    ),
    Case::inside(
        "gate.metrics",
        "read the server's metrics at the gate",
        "what others do is seen",
        Naive,
        |p| ask_took(p, "GET /metrics HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\nConnection: close\r\n\r\n"),
    ),
    Case::inside("gate.large_head", "send a head of a mebibyte", "memory without bound", Naive, |p| {
        let filler = "a".repeat(1 << 20);
        ask_took(
            p,
            &format!(
                "GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\nX-Filler: {filler}\r\nConnection: close\r\n\r\n"
            ),
        )
    }),
    Case::inside("gate.many_headers", "send a thousand headers", "memory without bound", Naive, |p| {
        let many: String = (0..1000).map(|n| format!("X-{n}: a\r\n")).collect();
        ask_took(
            p,
            &format!(
                "GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\n{many}Connection: close\r\n\r\n"
            ),
        )
    }),
    Case::inside(
        "gate.large_body",
        "announce a body of 100 GiB and wait to be let",
        "memory without bound",
        Naive,
        |p| {
            let answer = exchange(
                p,
                &post("X-Naive: take\r\nContent-Length: 107374182400\r\nExpect: 100-continue\r\n", ""),
            );
            answered(p, answer, |_, text| {
                let let_in = text.starts_with("HTTP/1.1 100") || text.starts_with("HTTP/1.1 200");
                if let_in { Got(first_line(text)) } else { Held(first_line(text)) }
            })
        },
    ),
    Case::inside(
        "gate.half_closed",
        "announce a body, send half of it, and close that half of the connection",
        "half a request is taken for a whole one",
        Naive,
        |p| {
            let bytes = post(&format!("X-Naive: take\r\nContent-Length: {}\r\n", CHAT.len() + 100), CHAT);
            let answer = exchange_closing(p, &bytes, true);
            answered(p, answer, took)
        },
    ),
    Case::inside("gate.first_version", "speak HTTP/0.9", "a request without headers is taken", Naive, |p| {
        let answer = exchange_closing(p, b"GET /v1/models\r\n", true);
        answered(p, answer, |_, text| {
            if text.contains("taken") || text.contains("\"data\"") {
                Got(first_line(text))
            } else {
                Held(first_line(text))
            }
        })
    }),
    Case::inside(
        "gate.second_version",
        "speak HTTP/2 at once",
        "another parser than the one that was hardened",
        Naive,
        |p| {
            let answer = exchange(p, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            answered(p, answer, |_, text| {
                // A settings frame of the other side's begins with its length and type.
                let spoken = text.as_bytes().get(3) == Some(&4);
                if spoken || text.contains("taken") {
                    Got("it answers in HTTP/2".to_owned())
                } else {
                    Held(first_line(text))
                }
            })
        },
    ),
    Case::inside("gate.garbage", "send bytes that are no request", "a parser breaks", Naive, |p| {
        let garbage: Vec<u8> = (0..=255).cycle().take(4096).collect();
        answered(p, exchange_closing(p, &garbage, true), took)
    }),
    Case::inside("gate.nul", "put a NUL into a header", "the sides see other ends", Naive, |p| {
        ask_took(
            p,
            "GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\nX-A: a\0b\r\nConnection: close\r\n\r\n",
        )
    }),
    Case::inside(
        "gate.flood",
        "open 200 connections and hold them",
        "one sandbox takes all that a server has",
        Naive,
        flood,
    ),
];

/// The head of a model call with these headers, and what follows.
pub(super) fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\n{headers}\r\n{body}").into_bytes()
}

/// A request that should never be seen as one.
pub(super) fn hidden(case: &str) -> String {
    format!("GET /v1/{SMUGGLED}{case} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
}

/// Sends it; what became of it is seen at the provider.
pub(super) fn send(place: &Place, bytes: &[u8]) -> Verdict {
    answered(place, exchange(place, bytes), |_, text| Held(first_line(text)))
}

pub(super) fn ask(place: &Place, text: &str) -> Verdict {
    send(place, text.as_bytes())
}

pub(super) fn chat_at(place: &Place, path: &str) -> Verdict {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{CHAT}",
        CHAT.len()
    );
    send(place, head.as_bytes())
}

/// Got if it is answered with success.
pub(super) fn ask_took(place: &Place, text: &str) -> Verdict {
    answered(place, exchange(place, text.as_bytes()), took)
}

fn took(_: &Place, text: &str) -> Verdict {
    if text.starts_with("HTTP/1.1 2") { Got(first_line(text)) } else { Held(first_line(text)) }
}

/// Got if the connection is switched to another protocol.
pub(super) fn switched(place: &Place, text: &str) -> Verdict {
    answered(place, exchange(place, text.as_bytes()), |_, text| {
        if text.starts_with("HTTP/1.1 101") { Got(first_line(text)) } else { Held(first_line(text)) }
    })
}

pub(super) fn answered(
    place: &Place,
    answer: io::Result<String>,
    judge: fn(&Place, &str) -> Verdict,
) -> Verdict {
    match answer {
        Ok(text) => judge(place, &text),
        Err(error) => stopped(place, &error),
    }
}

fn first_line(text: &str) -> String {
    match text.lines().next() {
        Some(line) => line.chars().take(80).collect(),
        None => "closed without a word".to_owned(),
    }
}

pub(super) fn exchange(place: &Place, bytes: &[u8]) -> io::Result<String> {
    exchange_closing(place, bytes, false)
}

/// Sends bytes on a connection of its own and reads what comes until it ends or falls silent.
fn exchange_closing(place: &Place, bytes: &[u8], half_close: bool) -> io::Result<String> {
    let mut stream = UnixStream::connect(&place.gate)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    // A gate that has seen enough hangs up while we still write; its answer counts.
    let written = stream.write_all(bytes);
    if half_close && written.is_ok() {
        stream.shutdown(Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.len() < ANSWER_MAX {
        match stream.read(&mut piece) {
            Ok(count @ 1..) => answer.extend_from_slice(&piece[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Got if more connections are answered than a gate has places.
fn flood(place: &Place) -> Verdict {
    let mut held = Vec::new();
    let mut answered = 0;
    for _ in 0..FLOOD {
        let Ok(mut stream) = UnixStream::connect(&place.gate) else { break };
        stream.set_read_timeout(Some(SILENCE)).ok();
        let asked = stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: g\r\nX-Naive: take\r\n\r\n");
        let mut first = [0; 12];
        if asked.is_ok() && stream.read_exact(&mut first).is_ok() && first.ends_with(b"200") {
            answered += 1;
        }
        held.push(stream);
    }
    if answered > PLACES {
        Got(format!("{answered} are served"))
    } else {
        Held(format!("{answered} are served"))
    }
}
