//! Dials the gate, for ever: the server may be restarting, and a sandbox outlives it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header::CONNECTION;
use http::header::HOST;
use http::header::UPGRADE;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use ob_core::link::MAX_PROCESSES;
use ob_core::link::UPGRADE as PROTOCOL;
use ob_core::link::UPGRADE_PATH;
use tokio::net::UnixStream;

use super::process::Processes;
use super::rest::Rest;
use super::serve;

/// How long to wait before the next dial: at first, and at most after many that led to no request.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(5)..=Duration::from_millis(500);
/// A server that accepts but says nothing for this long is dialled anew.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Input of one stream that is not yet in its process's pipe.
const STREAM_CREDIT: u32 = 64 * 1024;
/// Requests at once: two outputs, an input and an exit for each process, and some room for short ones.
const REQUESTS: u32 = 4 * MAX_PROCESSES as u32 + 256;
/// Processes that do not read their input must not stop the others' input: credit for all of them.
const CONNECTION_CREDIT: u32 = 2 * MAX_PROCESSES as u32 * STREAM_CREDIT;
/// The most that the host's headers may take.
const HEADERS: u32 = 16 * 1024;

/// Why a connection ended or never was.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot dial the gate: {0}")]
    Connect(#[from] io::Error),
    #[error("the gate did not answer")]
    Silent,
    #[error("the gate answered {0}")]
    Refused(StatusCode),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
}

/// Keeps one connection to the gate. Never returns.
pub(super) async fn run(socket: &Path, processes: &Arc<Processes>, rest: &Arc<Rest>) {
    let mut delay = *RETRY.start();
    loop {
        let was_used = Arc::new(AtomicBool::new(false));
        // Why it ended makes no difference, and there is nobody here to tell.
        drop(connection(socket, processes, rest, &was_used).await);
        if was_used.load(Ordering::Relaxed) {
            delay = *RETRY.start();
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(*RETRY.end());
    }
}

/// Dials, offers the link, and answers requests until the connection ends.
async fn connection(
    socket: &Path,
    processes: &Arc<Processes>,
    rest: &Arc<Rest>,
    was_used: &Arc<AtomicBool>,
) -> Result<(), DialError> {
    let upgraded =
        tokio::time::timeout(HANDSHAKE, upgrade(socket)).await.map_err(|_| DialError::Silent)??;
    let processes = Arc::clone(processes);
    let rest = Arc::clone(rest);
    let was_used = Arc::clone(was_used);
    let service = service_fn(move |request| {
        was_used.store(true, Ordering::Relaxed);
        rest.disturb();
        serve::answer(Arc::clone(&processes), request)
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(REQUESTS)
        .max_header_list_size(HEADERS)
        .initial_stream_window_size(STREAM_CREDIT)
        .initial_connection_window_size(CONNECTION_CREDIT)
        .max_send_buf_size(STREAM_CREDIT as usize)
        // The host is trusted: one that gives up many requests at once is no attack.
        .max_pending_accept_reset_streams(REQUESTS as usize);
    server.serve_connection(upgraded, service).await?;
    Ok(())
}

async fn upgrade(socket: &Path) -> Result<hyper::upgrade::Upgraded, DialError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(UPGRADE_PATH);
    let headers = request.headers_mut();
    headers.insert(HOST, http::HeaderValue::from_static("gate"));
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
    let asked = async {
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Ok(hyper::upgrade::on(response).await?),
            status => Err(DialError::Refused(status)),
        }
    };
    // The connection is driven beside the request and ends with it, however that ends.
    let mut connection = std::pin::pin!(connection.with_upgrades());
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        upgraded = &mut asked => upgraded,
        ended = &mut connection => {
            ended?;
            asked.await
        }
    }
}
