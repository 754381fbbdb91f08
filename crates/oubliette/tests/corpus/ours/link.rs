//! A guest that wants to harm its host: the host's end of the link is asked for something, and the guest answers with
//! what it likes. The control is a client that takes the same answer as it comes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use ob_core::link::MAX_JSON;
use ob_core::link::STREAM_END;
use ob_core::link::STREAM_WINDOW;
use ob_sandbox::link::Guest;
use ob_sandbox::link::Output;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;

use crate::case::Case;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;

const CONTROL: &str = "the same answer to a client that takes what comes";
/// Longer than an answer in memory takes; what hangs is stopped by the host's own patience, which has tests.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer that never ends gives at most this: the control stops here.
const ENDLESS: usize = 4 * 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the host asks.
#[derive(Clone, Copy)]
enum Ask {
    Status,
    Exit,
    Input,
    Output,
    Spawn,
}

/// What the guest answers.
#[derive(Clone)]
enum Say {
    /// A whole answer.
    Text(u16, String),
    /// Bytes, then a trailer that says where the stream ends.
    Ends(&'static [u8], &'static str),
    /// A header of this many bytes.
    Header(usize),
    /// So many bytes of output.
    Much(usize),
    /// Frames instead of an answer.
    Raw(&'static [u8]),
}

struct Row(&'static str, &'static str, &'static str, Ask, fn() -> Say);

const ROWS: &[Row] = &[
    Row(
        "link.negative",
        "say that less than nothing was taken",
        "an offset wraps around",
        Ask::Status,
        || status(r#""stdin_taken":-1"#, "x", ""),
    ),
    Row(
        "link.beyond_numbers",
        "say that a stream ends beyond all numbers",
        "an offset overflows",
        Ask::Status,
        || {
            Say::Text(
                200,
                r#"{"id":"x","stdin_taken":0,"stdout_end":9223372036854775808,"stderr_end":0}"#.to_owned(),
            )
        },
    ),
    Row(
        "link.other_process",
        "answer for another process",
        "one process's state is taken for another's",
        Ask::Status,
        || status(r#""stdin_taken":0"#, "y", ""),
    ),
    Row(
        "link.more_fields",
        "send fields that nobody knows",
        "a later meaning is smuggled in",
        Ask::Status,
        || status(r#""stdin_taken":0"#, "x", r#","more":1"#),
    ),
    Row(
        "link.impossible_exit",
        "say that a process ended in a way that none can",
        "a failure reads as a success",
        Ask::Exit,
        || Say::Text(200, r#"{"code":0,"signal":9}"#.to_owned()),
    ),
    Row("link.no_exit", "say that it ended, and not how", "a failure reads as a success", Ask::Exit, || {
        Say::Text(200, "{}".to_owned())
    }),
    Row("link.endless_answer", "answer without end", "memory without bound", Ask::Status, || {
        Say::Text(200, " ".repeat(ENDLESS))
    }),
    Row("link.deep_answer", "answer with a deep tree", "the stack is used up", Ask::Status, || {
        Say::Text(200, format!("{}{}", "[".repeat(100), "]".repeat(100)))
    }),
    Row(
        "link.too_much_taken",
        "say that more input was taken than was sent",
        "input is left out",
        Ask::Input,
        || Say::Text(200, r#"{"offset":5000}"#.to_owned()),
    ),
    Row(
        "link.too_little_taken",
        "say that less input was taken, as an older answer did",
        "input is given twice",
        Ask::Input,
        || Say::Text(200, r#"{"offset":0}"#.to_owned()),
    ),
    Row("link.early_end", "end a stream before its bytes do", "output is cut", Ask::Output, || {
        Say::Ends(b"abc", "1")
    }),
    Row("link.late_end", "end a stream after its bytes do", "output is missed", Ask::Output, || {
        Say::Ends(b"abc", "9")
    }),
    Row(
        "link.strange_end",
        "end a stream at what is no number",
        "an end that means nothing is an end",
        Ask::Output,
        || Say::Ends(b"abc", "soon"),
    ),
    Row(
        "link.too_much_output",
        "send more output than was ever let",
        "memory and events without bound",
        Ask::Output,
        || Say::Much(STREAM_WINDOW + 100_000),
    ),
    Row("link.large_header", "send a header of 64 KiB", "memory without bound", Ask::Spawn, || {
        Say::Header(64 * 1024)
    }),
    Row(
        "link.body_of_nothing",
        "send a body where there is none",
        "bytes are taken for the next answer",
        Ask::Spawn,
        || Say::Text(200, "surprise".to_owned()),
    ),
    Row(
        "link.unknown_refusal",
        "refuse for a reason that nobody knows",
        "the reason is shown and obeyed",
        Ask::Status,
        || Say::Text(400, r#"{"code":"drop tables","message":"m"}"#.to_owned()),
    ),
    Row(
        "link.painted_refusal",
        "refuse with escapes for a terminal",
        "the operator's terminal obeys a guest",
        Ask::Status,
        || Say::Text(400, r#"{"code":"invalid","message":"\u001b[2Jred"}"#.to_owned()),
    ),
    Row(
        "link.long_refusal",
        "refuse with a megabyte of words",
        "every log line holds a megabyte",
        Ask::Status,
        || Say::Text(400, format!(r#"{{"code":"invalid","message":"{}"}}"#, "x".repeat(200_000))),
    ),
    Row("link.redirect", "send the host elsewhere", "the host asks another server", Ask::Status, || {
        Say::Text(302, r#"{"code":"gone","message":"m"}"#.to_owned())
    }),
    Row(
        "link.first_version",
        "answer in HTTP/1",
        "another parser than the one that was hardened",
        Ask::Status,
        || Say::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    ),
    Row("link.garbage", "answer with bytes that are no frames", "a parser breaks", Ask::Status, || {
        Say::Raw(&[0xFF; 4096])
    }),
    Row("link.large_frame", "announce a frame of 16 MiB", "memory without bound", Ask::Status, || {
        Say::Raw(b"\xFF\xFF\xFF\x00\x00\x00\x00\x00\x01")
    }),
    Row(
        "link.foreign_stream",
        "answer on a stream that was never opened",
        "an answer without a question",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x07\x88"),
    ),
    Row(
        "link.foreign_data",
        "send output on a stream that was never opened",
        "output of nobody's",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x04\0\x01\0\0\0\x09evil"),
    ),
    Row(
        "link.push",
        "push an answer that nobody asked for",
        "an answer without a question",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x05\x04\0\0\0\x01\0\0\0\x02"),
    ),
    Row(
        "link.even_stream",
        "open a stream from the guest's side",
        "the guest asks and the host serves",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x02\x82"),
    ),
    Row(
        "link.window_overflow",
        "give more room than there are numbers",
        "a counter overflows",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\x7F\xFF\xFF\xFF"),
    ),
    Row(
        "link.half_frame",
        "stop in the middle of a frame, and hang up",
        "half an answer is taken for a whole one",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x40\x01\x04\0\0\0\x01\x88"),
    ),
    Row(
        "link.unfinished_headers",
        "begin headers, and go on with another frame",
        "frames of two answers are mixed",
        Ask::Status,
        || Say::Raw(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x88\0\0\x04\0\x01\0\0\0\x01evil"),
    ),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    ROWS.iter()
        .map(|Row(id, tries, shows, ..)| Case::part(id, tries, shows, CONTROL, hosted, believed))
        .collect()
}

fn status(taken: &str, id: &str, more: &str) -> Say {
    Say::Text(200, format!(r#"{{"id":"{id}",{taken},"stdout_end":0,"stderr_end":0{more}}}"#))
}

fn row(id: &str) -> &'static Row {
    ROWS.iter().find(|row| row.0 == id).expect("a row")
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// The host's end of the link.
fn hosted(id: &str) -> Verdict {
    let Row(_, _, _, ask, say) = row(id);
    run(async {
        let guest = Guest::new();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serving = tokio::spawn({
            let guest = guest.clone();
            async move { guest.serve(near).await }
        });
        let is_raw = matches!(say(), Say::Raw(_));
        let answering = tokio::spawn(answer(far, say()));
        let asked = tokio::time::timeout(PATIENCE, asked(&guest, *ask));
        // Frames that break the connection leave the host waiting for the next dial, which is right.
        let verdict = tokio::select! {
            verdict = asked => verdict.unwrap_or_else(|_| Held("the host gave up".to_owned())),
            _ = serving, if is_raw => Held("the connection was ended".to_owned()),
        };
        answering.abort();
        verdict
    })
}

async fn asked(guest: &Guest, ask: Ask) -> Verdict {
    let result = match ask {
        Ask::Status => guest.status("x").await.map(|status| format!("{status:?}")),
        Ask::Exit => guest.exit("x").await.map(|exit| exit.to_string()),
        Ask::Input => {
            guest.write_stdin("x", 0, Bytes::from_static(b"abc")).await.map(|offset| offset.to_string())
        }
        Ask::Spawn => {
            let spec = serde_json::from_value(serde_json::json!({ "argv": ["true"] })).expect("a process");
            guest.spawn("x", &spec).await.map(|()| "started".to_owned())
        }
        Ask::Output => {
            let mut stream = guest.output("x", Output::Stdout, 0);
            let mut count = 0;
            loop {
                match stream.next().await {
                    Some(Ok(bytes)) => count += bytes.len(),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(format!("{count} bytes")),
                }
            }
        }
    };
    match result {
        Ok(what) => Got(what),
        Err(error) => {
            let said = error.to_string();
            let is_harmless =
                said.len() < 1024 && !said.chars().any(char::is_control) && !said.contains("drop tables (");
            if is_harmless { Held(said) } else { Got(format!("it says {} bytes of the guest's", said.len())) }
        }
    }
}

/// Plays the guest on one connection.
async fn answer(mut far: DuplexStream, say: Say) {
    if let Say::Raw(bytes) = say {
        // The host's greeting is read, so that it is not the wire that holds anything up.
        far.read_exact(&mut [0; 24]).await.ok();
        far.write_all(bytes).await.ok();
        far.shutdown().await.ok();
        far.read_to_end(&mut Vec::new()).await.ok();
        return;
    }
    let service = service_fn(move |_: Request<Incoming>| {
        let say = say.clone();
        async move { Ok::<_, Infallible>(response(&say)) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // However it ends: the host decides.
    server.serve_connection(TokioIo::new(far), service).await.ok();
}

fn response(say: &Say) -> Response<Body> {
    let whole = |status: u16, text: Bytes| {
        let mut response = Response::new(Full::new(text).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response
    };
    match say {
        Say::Text(status, text) => whole(*status, text.clone().into()),
        Say::Header(bytes) => {
            let mut response = whole(204, Bytes::new());
            let value = HeaderValue::from_str(&"x".repeat(*bytes / 8)).expect("a value");
            for name in ["x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g", "x-h"] {
                response.headers_mut().insert(name, value.clone());
            }
            response
        }
        Say::Ends(bytes, end) => {
            let end = (http::HeaderName::from_static(STREAM_END), HeaderValue::from_static(end));
            let frames = [
                Ok(Frame::data(Bytes::from_static(bytes))),
                Ok(Frame::trailers(HeaderMap::from_iter([end]))),
            ];
            Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        }
        Say::Much(bytes) => {
            let end = (
                http::HeaderName::from_static(STREAM_END),
                HeaderValue::from_str(&bytes.to_string()).expect("a value"),
            );
            let frames = [
                Ok(Frame::data(Bytes::from(vec![7; *bytes]))),
                Ok(Frame::trailers(HeaderMap::from_iter([end]))),
            ];
            Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
        }
        Say::Raw(_) => unreachable!("frames are no answer"),
    }
}

/// A client that takes what comes: got if there is anything to take.
fn believed(id: &str) -> Verdict {
    let Row(_, _, _, _, say) = row(id);
    let say = say();
    run(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let is_raw = matches!(say, Say::Raw(_));
        let answering = tokio::spawn(answer(far, say));
        let verdict = if is_raw { took_frames(near).await } else { took_answer(near).await };
        answering.abort();
        verdict
    })
}

async fn took_answer(near: DuplexStream) -> Verdict {
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(1 << 20);
    let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(near)).await else {
        return Held("no connection".to_owned());
    };
    tokio::spawn(connection);
    let request = Request::builder().uri("http://guest/").body(Full::<Bytes>::default()).expect("a request");
    match sender.send_request(request).await {
        Ok(response) => {
            let headers: usize = response.headers().values().map(HeaderValue::len).sum();
            match response.into_body().collect().await {
                Ok(body) => Got(format!(
                    "{} bytes and {headers} of headers, believed",
                    body.to_bytes().len().min(MAX_JSON * 100)
                )),
                Err(error) => Held(error.to_string()),
            }
        }
        Err(error) => Held(error.to_string()),
    }
}

/// Reads whatever comes, as a parser without rules does.
async fn took_frames(mut near: DuplexStream) -> Verdict {
    near.write_all(b"hello").await.ok();
    near.shutdown().await.ok();
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).await.ok();
    if bytes.is_empty() {
        Held("nothing came".to_owned())
    } else {
        Got(format!("{} bytes, believed", bytes.len()))
    }
}
