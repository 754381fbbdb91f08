//! A guest that wants to harm its host: every answer is a typed error, in bounded memory, and nothing hangs.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
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
use hyper_util::rt::TokioTimer;
use ob_core::link::Ack;
use ob_core::link::MAX_JSON;
use ob_core::link::STREAM_END;
use ob_core::link::STREAM_WINDOW;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;

use super::harness::in_time;
use super::harness::sh;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A wire to a host that serves it.
fn wire(guest: &Guest) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let guest = guest.clone();
    (far, tokio::spawn(async move { guest.serve(near).await }))
}

/// A fake guest that answers each request with `answer`, on as many connections as it takes.
fn fake<A>(answer: impl Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static) -> Guest
where
    A: Future<Output = Result<Response<Body>, io::Error>> + Send + 'static,
{
    let guest = Guest::new();
    let host = guest.clone();
    tokio::spawn(async move {
        loop {
            let (far, served) = wire(&host);
            let answer = answer.clone();
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(far), service_fn(answer));
            // However it ends, the next dial follows.
            server.await.ok();
            served.await.expect("serving does not panic");
        }
    });
    guest
}

/// A fake guest that answers everything with one body.
fn saying(status: u16, body: impl Into<Bytes>) -> Guest {
    let body = body.into();
    fake(move |_| {
        let body = body.clone();
        async move { Ok(response(status, Full::new(body).map_err(no_error).boxed_unsync())) }
    })
}

/// A fake guest that answers everything with a stream of frames.
fn streaming(frames: Vec<Frame<Bytes>>) -> Guest {
    let frames: Vec<(Bytes, Option<HeaderMap>)> = frames
        .into_iter()
        .map(|frame| match frame.into_data() {
            Ok(bytes) => (bytes, None),
            Err(frame) => (Bytes::new(), frame.into_trailers().ok()),
        })
        .collect();
    fake(move |_| {
        let frames = frames.clone();
        async move {
            let frames = frames
                .into_iter()
                .map(|(bytes, trailers)| Ok(trailers.map_or_else(|| Frame::data(bytes), Frame::trailers)));
            Ok(response(200, StreamBody::new(stream::iter(frames)).boxed_unsync()))
        }
    })
}

fn response(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn no_error(never: Infallible) -> io::Error {
    match never {}
}

fn end(value: &str) -> Frame<Bytes> {
    let value = HeaderValue::from_str(value).expect("a header");
    Frame::trailers(HeaderMap::from_iter([(http::HeaderName::from_static(STREAM_END), value)]))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

/// An endless body, which counts the bytes that the host made it give.
fn endless(piece: &'static [u8], given: Arc<AtomicUsize>) -> Body {
    let pieces = stream::repeat_with(move || {
        given.fetch_add(piece.len(), Ordering::Relaxed);
        Ok(Frame::data(Bytes::from_static(piece)))
    });
    StreamBody::new(pieces).boxed_unsync()
}

#[track_caller]
fn assert_protocol<T: std::fmt::Debug>(result: Result<T, LinkError>, words: &str) {
    match result {
        Err(LinkError::Protocol { what }) => {
            assert!(what.contains(words), "{words:?} is not in {what:?}");
            assert!(what.len() < 1000, "it is bounded");
        }
        other => panic!("not a breach of the protocol ({words}): {other:?}"),
    }
}

#[tokio::test]
async fn a_status_of_the_wrong_form_is_a_breach() {
    let good = r#"{"id":"x","stdin_taken":1,"stdout_end":2,"stderr_end":3,"exit":null}"#;
    assert_eq!(in_time(saying(200, good).status("x")).await.expect("the positive control").stdout_end, 2);
    let cases = [
        ("", "wrong form"),
        ("{}", "wrong form"),
        ("[1,2", "wrong form"),
        ("\u{0}\u{1}", "wrong form"),
        (r#"{"id":"x","stdin_taken":-1,"stdout_end":0,"stderr_end":0}"#, "wrong form"),
        (r#"{"id":"x","stdin_taken":"1","stdout_end":0,"stderr_end":0}"#, "wrong form"),
        (r#"{"id":"x","stdin_taken":0,"stdout_end":0,"stderr_end":0,"more":1}"#, "wrong form"),
        (r#"{"id":"y","stdin_taken":0,"stdout_end":0,"stderr_end":0}"#, "another process"),
        (r#"{"id":"x","stdin_taken":0,"stdout_end":9223372036854775808,"stderr_end":0}"#, "too large"),
        (r#"{"id":"x","stdin_taken":0,"stdout_end":0,"stderr_end":0,"exit":{}}"#, "impossible"),
        (r#"{"id":"x","stdin_taken":0,"stdout_end":0,"stderr_end":0,"exit":{"code":-1}}"#, "impossible"),
    ];
    for (body, words) in cases {
        assert_protocol(in_time(saying(200, body).status("x")).await, words);
    }
    // Deep nesting does not exhaust the stack.
    assert_protocol(in_time(saying(200, "[".repeat(MAX_JSON)).status("x")).await, "wrong form");
}

#[tokio::test]
async fn an_impossible_exit_status_is_a_breach() {
    assert_eq!(in_time(saying(200, r#"{"code":255}"#).exit("x")).await.expect("possible").code, Some(255));
    for body in [r#"{"code":256}"#, r#"{"signal":0}"#, r#"{"signal":65}"#, r#"{"code":0,"signal":9}"#, "{}"] {
        assert_protocol(in_time(saying(200, body).exit("x")).await, "impossible");
    }
}

#[tokio::test]
async fn an_endless_answer_is_a_breach_and_is_not_kept() {
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let guest = fake(move |_| {
        let body = endless(&[b' '; 4096], Arc::clone(&counter));
        async move { Ok(response(200, body)) }
    });
    assert_protocol(in_time(guest.status("x")).await, "more than");
    assert!(given.load(Ordering::Relaxed) < MAX_JSON + (1 << 20), "far more was read than is allowed");
}

#[tokio::test]
async fn a_refusal_is_bounded_and_of_a_known_kind() {
    let long = format!(r#"{{"code":"invalid","message":"\u001b[31mred{}"}}"#, "x".repeat(100_000));
    let Err(LinkError::Refused { code, message }) = in_time(saying(400, long).status("x")).await else {
        panic!("not a refusal");
    };
    assert_eq!(code, "invalid");
    assert!(message.len() <= 512 && !message.contains('\u{1b}'), "{message}");
    let unknown = r#"{"code":"drop tables","message":"m"}"#;
    assert_protocol(in_time(saying(400, unknown).status("x")).await, "without a reason");
    let known = r#"{"code":"gone","message":"m"}"#;
    for (status, body) in [(400, ""), (500, known), (302, known), (404, "[]")] {
        assert_protocol(in_time(saying(status, body).status("x")).await, "without a reason");
    }
    assert_protocol(in_time(saying(200, "{}").spawn("x", &sh("true"))).await, "nothing is to be told");
}

#[tokio::test]
async fn headers_and_trailers_that_are_too_large_are_a_breach() {
    let guest = fake(|_| async {
        let mut response = response(204, Full::new(Bytes::new()).map_err(no_error).boxed_unsync());
        for n in 0..20 {
            let name = http::HeaderName::from_bytes(format!("x-{n}").as_bytes()).map_err(io::Error::other)?;
            response.headers_mut().insert(name, HeaderValue::from_static(LARGE));
        }
        Ok(response)
    });
    assert_protocol(in_time(guest.spawn("x", &sh("true"))).await, "HTTP/2");
    let mut stream = streaming(vec![data("a"), end(LARGE), end("1")]).output("x", Output::Stdout, 0);
    assert_eq!(in_time(stream.next()).await, Some(Ok(Bytes::from_static(b"a"))));
    assert_protocol(in_time(stream.next()).await.expect("an item"), "");
}

/// Of which a few are more than the host takes.
const LARGE: &str = match std::str::from_utf8(&[b'x'; 9000]) {
    Ok(text) => text,
    Err(_) => "",
};

#[tokio::test]
async fn input_that_was_taken_beyond_what_was_sent_is_a_breach() {
    let guest = saying(200, r#"{"offset":5}"#);
    assert_eq!(in_time(guest.write_stdin("x", 2, "abc".into())).await, Ok(5), "the positive control");
    assert_protocol(in_time(guest.write_stdin("x", 1, "abc".into())).await, "but 4 was asked");
    assert_protocol(in_time(guest.write_stdin("x", 3, "abc".into())).await, "but 6 was asked");
    assert_protocol(in_time(guest.close_stdin("x", 4)).await, "but 4 was asked");
}

#[tokio::test]
async fn a_stream_ends_only_where_its_trailer_says() {
    let read = async |frames| {
        let items: Vec<_> = in_time(streaming(frames).output("x", Output::Stdout, 10).collect()).await;
        items
    };
    let good = read(vec![data("ab"), data("c"), end("13")]).await;
    assert_eq!(good.iter().flatten().map(Bytes::len).sum::<usize>(), 3, "the positive control");
    assert!(good.iter().all(Result::is_ok));
    for wrong in ["12", "14", "", "x", "-1", "99999999999999999999"] {
        let items = read(vec![data("abc"), end(wrong)]).await;
        assert_protocol(items.last().expect("an item").clone(), "not where its bytes end");
    }
    let items = read(vec![end("0")]).await;
    assert_protocol(items.last().expect("an item").clone(), "not where its bytes end");
    // Ends without a trailer are cuts, and those do not go on for ever without progress.
    let items = read(vec![]).await;
    assert_protocol(items.last().expect("an item").clone(), "resets every try");
}

#[tokio::test]
async fn a_stream_may_not_be_longer_than_what_is_unacknowledged() {
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let guest = fake(move |request| {
        let is_ack = request.uri().path().ends_with("/ack");
        let body = endless(&[7; 1000], Arc::clone(&counter));
        async move {
            match is_ack {
                true => Ok(response(204, Full::new(Bytes::new()).map_err(no_error).boxed_unsync())),
                false => Ok(response(200, body)),
            }
        }
    });
    let read = async |from| {
        let mut stream = guest.output("x", Output::Stderr, from);
        let mut count = 0;
        loop {
            match in_time(stream.next()).await.expect("not the end") {
                Ok(bytes) => count += bytes.len(),
                Err(error) => break (count, error),
            }
        }
    };
    let (count, error) = read(0).await;
    assert_protocol::<()>(Err(error), "more output");
    assert!(count <= STREAM_WINDOW && count > STREAM_WINDOW - 20_000, "{count}");
    let (count, _) = read(1 << 40).await;
    assert!(count <= STREAM_WINDOW, "{count}");
    in_time(guest.ack("x", Ack { stdout: 0, stderr: 100_000 })).await.expect("taken");
    let (count, _) = read(0).await;
    assert!(count > STREAM_WINDOW && count <= STREAM_WINDOW + 100_000, "{count}");
    // An offset at the end of numbers does not wrap.
    let (count, error) = read(u64::MAX - 10).await;
    assert_eq!(count, 0);
    assert_protocol::<()>(Err(error), "more output");
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_not_filled() {
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let guest = fake(move |request| {
        let is_output = request.uri().path().ends_with("/stdout");
        let body = endless(&[7; 1000], Arc::clone(&counter));
        async move {
            match is_output {
                true => Ok(response(200, body)),
                false => Ok(response(204, Full::new(Bytes::new()).map_err(no_error).boxed_unsync())),
            }
        }
    });
    let mut streams: Vec<_> = (0..20).map(|_| guest.output("x", Output::Stdout, 0)).collect();
    for stream in &mut streams {
        in_time(stream.next()).await.expect("an item").expect("bytes");
    }
    // Others are served meanwhile, many times.
    for _ in 0..100 {
        in_time(guest.spawn("x", &sh("true"))).await.expect("served");
    }
    // What the flow control lets through, and what the fake itself buffers before it.
    let most = 20 * (64 * 1024 + 512 * 1024);
    assert!(given.load(Ordering::Relaxed) < most, "{}", given.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_given_up() {
    let guest = fake(|_| std::future::pending());
    let patience = LinkError::TimedOut(Duration::from_secs(30));
    assert_eq!(guest.status("x").await, Err(patience.clone()));
    assert_eq!(guest.spawn("x", &sh("true")).await, Err(patience.clone()));
    assert_eq!(guest.output("x", Output::Stdout, 0).next().await, Some(Err(patience.clone())));
    // One that begins to answer and stops.
    let guest = fake(|_| async {
        let body = stream::once(async { Ok(Frame::data(Bytes::from_static(b"{"))) }).chain(stream::pending());
        Ok(response(200, StreamBody::new(body).boxed_unsync()))
    });
    assert_eq!(guest.status("x").await, Err(patience.clone()));
    assert_eq!(guest.exit("x").await, Err(patience));
    assert!(guest.is_connected(), "it answers pings, so the link stays up");
}

#[tokio::test(start_paused = true)]
async fn a_dead_wire_is_found_and_left() {
    let guest = Guest::new();
    let (mut far, served) = wire(&guest);
    guest.connected(Duration::from_secs(1)).await.expect("it is up");
    let waiting = {
        let guest = guest.clone();
        tokio::spawn(async move { guest.exit("x").await })
    };
    // It is read from, but says nothing; not even to a ping.
    tokio::spawn(async move { tokio::io::copy(&mut far, &mut tokio::io::sink()).await });
    served.await.expect("serving ends by itself");
    assert!(!guest.is_connected());
    guest.close();
    assert_eq!(waiting.await.expect("no panic"), Err(LinkError::Closed));
}

#[tokio::test]
async fn a_guest_that_resets_every_request_is_a_breach() {
    let guest = fake(|_| async { Err(io::Error::other("no")) });
    assert_protocol(in_time(guest.status("x")).await, "resets every try");
    assert_protocol(in_time(guest.write_stdin("x", 0, "abc".into())).await, "resets every try");
    let output = in_time(guest.output("x", Output::Stdout, 0).next()).await;
    assert_protocol(output.expect("an item"), "resets every try");
}

#[tokio::test]
async fn what_is_not_http_ends_the_connection_and_nothing_else() {
    let guest = Guest::new();
    let frames: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\n\r\n",
        &[0xFF; 4096],
        // A frame of 16 MiB.
        &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1],
        // A push promise, out of nowhere.
        &[0, 0, 4, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2],
        // Settings, then headers of a stream that nobody opened.
        &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 0, 0, 0, 7, 0x88],
    ];
    for bytes in frames {
        let (mut far, served) = wire(&guest);
        far.write_all(bytes).await.expect("a wire");
        // Read, so that it is not the wire that holds it up.
        in_time(async {
            let mut sink = Vec::new();
            far.read_to_end(&mut sink).await.expect("a wire");
        })
        .await;
        in_time(served).await.expect("serving does not panic");
        assert!(!guest.is_connected());
    }
}

#[tokio::test]
async fn the_newest_connection_is_used_and_the_older_one_closed() {
    let guest = Guest::new();
    let connect = |answered: &Arc<AtomicUsize>| {
        let (far, served) = wire(&guest);
        let answered = Arc::clone(answered);
        let service = service_fn(move |_| {
            answered.fetch_add(1, Ordering::Relaxed);
            async {
                Ok::<_, io::Error>(response(204, Full::new(Bytes::new()).map_err(no_error).boxed_unsync()))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        (tokio::spawn(server.serve_connection(TokioIo::new(far), service)), served)
    };
    let (first, second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (older, older_served) = connect(&first);
    in_time(guest.spawn("x", &sh("true"))).await.expect("served by the first");
    let (newer, newer_served) = connect(&second);
    in_time(older_served).await.expect("serving ends by itself");
    in_time(older).await.expect("no panic").ok();
    in_time(guest.spawn("x", &sh("true"))).await.expect("served by the second");
    assert_eq!((first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)), (1, 1));
    assert!(guest.is_connected() && !newer_served.is_finished() && !newer.is_finished());
    // One whose task is dropped is out of use at once.
    newer_served.abort();
    in_time(newer).await.expect("no panic").ok();
    assert!(!guest.is_connected());
}

#[tokio::test]
async fn connections_that_break_at_every_request_are_followed_by_the_next() {
    let guest = Guest::new();
    let host = guest.clone();
    tokio::spawn(async move {
        for _ in 0..12 {
            let (mut far, served) = wire(&host);
            // Until the request is there: preface, settings, headers.
            let mut bytes = [0; 100];
            far.read_exact(&mut bytes).await.expect("a wire");
            drop(far);
            served.await.expect("serving does not panic");
        }
        let (far, _served) = wire(&host);
        let service = service_fn(|_| async {
            Ok::<_, io::Error>(response(204, Full::new(Bytes::new()).map_err(no_error).boxed_unsync()))
        });
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(far), service)
            .await
    });
    in_time(guest.spawn("x", &sh("true"))).await.expect("the thirteenth try");
}
