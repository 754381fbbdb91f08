//! The guest link, seen from the host: a guest that says anything, and one that cuts its streams anywhere.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::Response;
use http::StatusCode;
use ob_core::link::STREAM_END;
use ob_core::link::STREAM_WINDOW;
use ob_sandbox::link::Guest;
use ob_sandbox::link::LinkError;
use ob_sandbox::link::Output;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::Control;

/// Longer than any honest exchange takes. The clock is a paused one, so it costs no time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What one direction of the connection holds.
const PIPE: usize = 64 * 1024;

/// Connections that a guest makes; then it is closed.
const DIALS: usize = 6;

/// A guest that says any bytes. First byte: the size of pieces. Panics unless every request ends, and no stream brings
/// more than it may before it is acknowledged.
pub(crate) fn frames(data: &[u8]) {
    let mut control = Control::new(data);
    let piece = usize::from(control.byte()) % 64 + 1;
    let said = control.rest.to_vec();
    run(async move {
        let guest = Guest::new();
        let (host, mut inside) = tokio::io::duplex(PIPE);
        let speak = async move {
            let mut heard = vec![0; 4096];
            for bytes in said.chunks(piece) {
                if inside.write_all(bytes).await.is_err() {
                    break;
                }
                // Lets the host speak between pieces, and never waits for it.
                tokio::select! {
                    biased;
                    _ = inside.read(&mut heard) => {}
                    () = tokio::task::yield_now() => {}
                }
            }
            drop(inside);
        };
        let asks = async {
            let (status, output, exit) = tokio::join!(
                guest.status("p"),
                async {
                    let mut stream = guest.output("p", Output::Stdout, 0);
                    let mut length = 0;
                    while let Some(Ok(bytes)) = stream.next().await {
                        length += bytes.len();
                    }
                    length
                },
                guest.exit("p"),
            );
            if let Ok(status) = status {
                assert_eq!(status.id, "p", "a status is of what was asked");
            }
            assert!(output <= STREAM_WINDOW, "{output} bytes came unacknowledged");
            drop(exit);
        };
        let connection = async {
            tokio::join!(guest.serve(host), speak);
            guest.close();
        };
        tokio::join!(asks, connection);
    });
}

/// What a guest does with one request of a stream.
#[derive(Debug)]
struct Plan {
    /// Sizes of the pieces that it sends.
    pieces: Vec<usize>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything was sent: the trailer says so.
    Honest,
    /// The trailer says another end.
    Wrong,
    /// No trailer.
    Bare,
    /// The request is reset.
    Reset,
    /// The connection is cut.
    Cut,
    /// The guest refuses.
    Refused,
}

/// A guest that serves one stream over several connections. First byte: the stream's length; then, for each request, its
/// pieces and its end. Panics unless what is delivered is a prefix of what the process wrote, is all of it if the stream
/// ended well, and a stream ends well only if the guest said so truly.
pub(crate) fn streams(data: &[u8]) {
    let mut control = Control::new(data);
    let length = usize::from(control.byte()) * 37;
    let written: Bytes = (0..length).map(|n| (n % 251) as u8).collect();
    let mut plans = Vec::new();
    while !control.is_over() && plans.len() < 2 * DIALS {
        let pieces = (0..control.byte() % 8).map(|_| usize::from(control.byte()) * 5).collect();
        let end = match control.byte() % 8 {
            0..=2 => End::Cut,
            3 => End::Reset,
            4 => End::Bare,
            5 => End::Wrong,
            6 => End::Refused,
            _ => End::Honest,
        };
        plans.push(Plan { pieces, end });
    }
    plans.reverse();
    let plans = Arc::new(Mutex::new(plans));
    run(async move {
        let guest = Guest::new();
        let delivered = async {
            let mut stream = guest.output("p", Output::Stdout, 0);
            let mut bytes = Vec::new();
            loop {
                match stream.next().await {
                    Some(Ok(more)) => bytes.extend_from_slice(&more),
                    Some(Err(error)) => return (bytes, Err(error)),
                    None => return (bytes, Ok(())),
                }
            }
        };
        let dials = async {
            for _ in 0..DIALS {
                let (host, inside) = tokio::io::duplex(PIPE);
                tokio::join!(guest.serve(host), serve(inside, &written, &plans));
            }
            guest.close();
        };
        let dialled = async {
            tokio::pin!(delivered);
            tokio::select! {
                outcome = &mut delivered => outcome,
                () = dials => delivered.await,
            }
        };
        let (bytes, end) = dialled.await;
        assert!(written.starts_with(&bytes), "{} bytes came, and they are others", bytes.len());
        match end {
            Ok(()) => assert_eq!(bytes.len(), written.len(), "a stream that ended is whole"),
            Err(LinkError::Closed | LinkError::Protocol { .. } | LinkError::Refused { .. }) => {}
            Err(error @ LinkError::TimedOut(_)) => panic!("an output waits for as long as it takes: {error}"),
        }
    });
}

/// Serves one connection by the plans that are left. Returns when it is cut or nothing is left to do.
async fn serve(io: tokio::io::DuplexStream, written: &Bytes, plans: &Mutex<Vec<Plan>>) {
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let Some(plan) = plans.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
        let query = request.uri().query().unwrap_or_default();
        let offset = query.strip_prefix("offset=").and_then(|offset| offset.parse::<usize>().ok());
        let mut at = offset.expect("the host says where it is");
        assert!(at <= written.len(), "the host asks for what it cannot know of: {at}");
        if plan.end == End::Refused {
            let head = Response::builder().status(StatusCode::NOT_FOUND).body(()).expect("a head");
            if let Ok(mut body) = respond.send_response(head, false) {
                let said = br#"{"code":"not_found","message":"no such process"}"#;
                body.send_data(Bytes::from_static(said), true).ok();
            }
            continue;
        }
        let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
        for piece in plan.pieces {
            let end = (at + piece).min(written.len());
            body.send_data(written.slice(at..end), false).ok();
            at = end;
        }
        match plan.end {
            End::Honest => {
                body.send_data(written.slice(at..), false).ok();
                body.send_trailers(trailer(written.len())).ok();
            }
            End::Wrong => drop(body.send_trailers(trailer(written.len() + 1))),
            End::Bare => drop(body.send_data(Bytes::new(), true)),
            End::Reset => body.send_reset(h2::Reason::INTERNAL_ERROR),
            End::Cut => {
                // What was sent goes out, then the line is dead.
                tokio::select! {
                    _ = connection.accept() => {}
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
                return;
            }
            End::Refused => {}
        }
    }
}

fn trailer(end: usize) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(STREAM_END, end.into());
    trailers
}

/// Drives one exchange on a clock that runs as soon as nothing else does.
fn run(exchange: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, exchange).await.expect("every exchange ends");
    });
}
