//! Other routes, hosts and models than the gate has. What reaches the provider is judged there, as in [`super::gate`].

use super::gate::CHAT;
use super::gate::SMUGGLED;
use super::gate::answered;
use super::gate::ask;
use super::gate::ask_took;
use super::gate::chat_at;
use super::gate::exchange;
use super::gate::post;
use super::gate::send;
use super::gate::switched;
use super::tools::holds;
use crate::case::Case;
use crate::case::Control::Naive;

pub(super) const CASES: &[Case] = &[
    Case::inside(
        "routes.query",
        "add a query to a route",
        "the provider gets the attacker's query",
        Naive,
        |p| chat_at(p, &format!("/v1/chat/completions?{SMUGGLED}routes.query")),
    ),
    Case::inside("routes.parents", "leave a route with `..`", "another route of the provider", Naive, |p| {
        chat_at(p, &format!("/v1/chat/completions/../{SMUGGLED}routes.parents"))
    }),
    Case::inside(
        "routes.encoded",
        "leave a route with an encoded `..`",
        "another route of the provider",
        Naive,
        |p| chat_at(p, &format!("/v1/chat/completions/%2e%2e%2f{SMUGGLED}routes.encoded")),
    ),
    Case::inside("routes.slashes", "double the slashes", "another route of the provider", Naive, |p| {
        chat_at(p, &format!("//v1//{SMUGGLED}routes.slashes"))
    }),
    Case::inside(
        "routes.files",
        "ask for a file of the account",
        "the provider's other services are open",
        Naive,
        |p| {
            ask(
                p,
                &format!(
                    "GET /v1/files/{SMUGGLED}routes.files HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
                ),
            )
        },
    ),
    Case::inside(
        "routes.delete",
        "delete a model of the account",
        "the provider's account can be changed",
        Naive,
        |p| {
            ask(
                p,
                &format!(
                    "DELETE /v1/models/{SMUGGLED}routes.delete HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
                ),
            )
        },
    ),
    Case::inside("routes.model", "ask for another model", "limits and prices of another model", Naive, |p| {
        let body = CHAT.replace(r#""m""#, &format!(r#""{SMUGGLED}routes.model""#));
        send(p, &post(&format!("Content-Length: {}\r\n", body.len()), &body))
    }),
    Case::inside("routes.model_twice", "name the model twice", "the sides take another one", Naive, |p| {
        let body = CHAT.replace(r#"}]}"#, &format!(r#"}}],"model":"{SMUGGLED}routes.model_twice"}}"#));
        send(p, &post(&format!("Content-Length: {}\r\n", body.len()), &body))
    }),
    Case::inside(
        "routes.model_escaped",
        "name the model with an escaped letter in the field's name",
        "the sides take another one",
        Naive,
        |p| {
            let body =
                CHAT.replace(r#"}]}"#, &format!(r#"}}],"mode\u006c":"{SMUGGLED}routes.model_escaped"}}"#));
            send(p, &post(&format!("Content-Length: {}\r\n", body.len()), &body))
        },
    ),
    Case::inside("routes.absolute", "ask for a URL of the host's", "the gate is a proxy", Naive, |p| {
        let answer = exchange(
            p,
            format!("GET http://127.0.0.1:{}/ HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n", p.tcp4)
                .as_bytes(),
        );
        answered(p, answer, holds)
    }),
    Case::inside(
        "routes.absolute_chat",
        "make a model call at a URL of the host's",
        "the gate takes the URL for the provider",
        Naive,
        |p| {
            let head = format!(
                "POST http://127.0.0.1:{}/v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{CHAT}",
                p.tcp4,
                CHAT.len()
            );
            answered(p, exchange(p, head.as_bytes()), holds)
        },
    ),
    Case::inside(
        "routes.host",
        "name a server of the host's in the Host header",
        "the gate takes the header for the provider",
        Naive,
        |p| {
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nX-Naive: host\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{CHAT}",
                p.tcp4,
                CHAT.len()
            );
            answered(p, exchange(p, head.as_bytes()), holds)
        },
    ),
    Case::inside("routes.connect", "open a tunnel with CONNECT", "the gate is a proxy", Naive, |p| {
        let head = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\nHost: g\r\n\r\n", p.tcp4);
        answered(p, exchange(p, head.as_bytes()), holds)
    }),
    Case::inside(
        "routes.metadata",
        "ask for the metadata service's URL",
        "the cloud's keys of this machine, through the gate",
        Naive,
        |p| {
            ask_took(
                p,
                "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Naive: take\r\nConnection: close\r\n\r\n",
            )
        },
    ),
    Case::inside(
        "routes.file",
        "ask for a file by a URL",
        "the gate reads files for the attacker",
        Naive,
        |p| {
            let head = format!(
                "GET /v1/models/../../../../../../../..{} HTTP/1.1\r\nHost: g\r\nX-Naive: file\r\nConnection: close\r\n\r\n",
                p.secret.display()
            );
            answered(p, exchange(p, head.as_bytes()), holds)
        },
    ),
    Case::inside(
        "routes.socket",
        "upgrade a model route to a WebSocket",
        "a connection that nobody counts",
        Naive,
        |p| {
            switched(
                p,
                "GET /v1/realtime HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
        },
    ),
];
