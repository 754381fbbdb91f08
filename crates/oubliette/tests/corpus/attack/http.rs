//! Requests that mean one thing to the gate and another to the provider behind it, judged as in [`super::gate`].

use super::gate::CHAT;
use super::gate::SMUGGLED;
use super::gate::hidden;
use super::gate::post;
use super::gate::send;
use crate::case::Case;
use crate::case::Control::Naive;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "http.length_and_chunks",
        "send a length and chunks at once, with a request behind the chunks",
        "the provider takes the rest for a request (CL.TE)",
        Naive,
        |p| {
            send(
                p,
                &post(
                    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
                    &format!("0\r\n\r\n{}", hidden("http.length_and_chunks")),
                ),
            )
        },
    ),
    Case::inside(
        "http.chunks_and_length",
        "send chunks and a length that ends within them",
        "the provider takes the rest for a request (TE.CL)",
        Naive,
        |p| {
            let rest = hidden("http.chunks_and_length");
            send(
                p,
                &post(
                    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                    &format!("{:x}\r\n{rest}\r\n0\r\n\r\n{rest}", rest.len()),
                ),
            )
        },
    ),
    Case::inside(
        "http.two_lengths",
        "send two lengths that differ",
        "each side takes another one",
        Naive,
        |p| {
            let body = format!("{CHAT}{}", hidden("http.two_lengths"));
            send(
                p,
                &post(
                    &format!("Content-Length: {}\r\nContent-Length: {}\r\n", CHAT.len(), body.len()),
                    &body,
                ),
            )
        },
    ),
    Case::inside(
        "http.list_of_lengths",
        "send a list of lengths",
        "each side takes another one",
        Naive,
        |p| {
            let body = format!("{CHAT}{}", hidden("http.list_of_lengths"));
            send(p, &post(&format!("Content-Length: {}, {}\r\n", CHAT.len(), body.len()), &body))
        },
    ),
    Case::inside(
        "http.strange_coding",
        "send a transfer coding that nobody knows",
        "one side takes it for chunks",
        Naive,
        |p| send(p, &post("Transfer-Encoding: xchunked\r\n", &hidden("http.strange_coding"))),
    ),
    Case::inside(
        "http.space_before_colon",
        "put a space before a header's colon",
        "one side does not see the header",
        Naive,
        |p| {
            send(
                p,
                &post(
                    "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n",
                    &format!("0\r\n\r\n{}", hidden("http.space_before_colon")),
                ),
            )
        },
    ),
    Case::inside(
        "http.folded_header",
        "fold a header over two lines",
        "one side takes the second line for a header",
        Naive,
        |p| {
            send(
                p,
                &post(
                    &format!(
                        "X-A: b\r\n X-Note: {SMUGGLED}http.folded_header\r\nContent-Length: {}\r\n",
                        CHAT.len()
                    ),
                    CHAT,
                ),
            )
        },
    ),
    Case::inside(
        "http.bare_newlines",
        "end lines with a newline alone",
        "the sides see other lines",
        Naive,
        |p| {
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\nHost: g\nX-Note: {SMUGGLED}http.bare_newlines\nContent-Length: {}\n\n{CHAT}",
                CHAT.len()
            );
            send(p, head.as_bytes())
        },
    ),
    Case::inside(
        "http.bare_return",
        "put a carriage return alone into a header",
        "one side sees a further header",
        Naive,
        |p| {
            send(
                p,
                &post(
                    &format!(
                        "X-A: b\rX-Note: {SMUGGLED}http.bare_return\r\nX-Path: {SMUGGLED}http.bare_return\r\nContent-Length: {}\r\n",
                        CHAT.len()
                    ),
                    CHAT,
                ),
            )
        },
    ),
    Case::inside(
        "http.header",
        "send headers for the provider along: an organisation, a key, a host",
        "the attacker chooses whose account it is",
        Naive,
        |p| {
            let more = format!(
                "OpenAI-Organization: {SMUGGLED}http.header\r\nAuthorization: Bearer {SMUGGLED}http.header\r\nContent-Length: {}\r\n",
                CHAT.len()
            );
            send(p, &post(&more, CHAT))
        },
    ),
    Case::inside(
        "http.hop_header",
        "name a header of the gate's as one of the connection's",
        "the key's header is taken away or kept",
        Naive,
        |p| {
            send(
                p,
                &post(
                    &format!(
                        "Connection: close, X-Note\r\nX-Note: {SMUGGLED}http.hop_header\r\nContent-Length: {}\r\n",
                        CHAT.len()
                    ),
                    CHAT,
                ),
            )
        },
    ),
    Case::inside(
        "http.trailer",
        "send a header behind the last chunk",
        "a trailer becomes a header",
        Naive,
        |p| {
            let body = format!(
                "{:x}\r\n{CHAT}\r\n0\r\nX-Note: {SMUGGLED}http.trailer\r\n\r\n{}",
                CHAT.len(),
                hidden("http.trailer")
            );
            send(p, &post("Transfer-Encoding: chunked\r\nTrailer: X-Note\r\n", &body))
        },
    ),
    Case::inside(
        "http.huge_chunk",
        "send a chunk whose size overflows",
        "the sides count differently",
        Naive,
        |p| {
            send(
                p,
                &post(
                    "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
                    &format!("10000000000000000\r\n{}", hidden("http.huge_chunk")),
                ),
            )
        },
    ),
    Case::inside(
        "http.chunk_extension",
        "hide a request in a chunk's extension",
        "one side reads the extension",
        Naive,
        |p| {
            send(
                p,
                &post(
                    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                    &format!("1;a\n\r\n{}", hidden("http.chunk_extension")),
                ),
            )
        },
    ),
    Case::inside(
        "http.pipelined",
        "send two requests at once, the second for another path",
        "only the first is looked at",
        Naive,
        |p| {
            send(
                p,
                &post(
                    &format!("Content-Length: {}\r\n", CHAT.len()),
                    &format!("{CHAT}{}", hidden("http.pipelined")),
                ),
            )
        },
    ),
];
