//! The body of a request: of bounded size, in bounded time.

use std::error::Error as _;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::LengthLimitError;

/// Why a body was not read; each door has its own words for it.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It did not arrive in this time.
    Late(Duration),
    /// It has more bytes than this.
    TooLarge(usize),
    /// The client went away, or broke its encoding.
    Cut,
}

/// Reads a body.
pub(crate) async fn read(body: Body, max: usize, time: Duration) -> Result<Bytes, Unread> {
    match tokio::time::timeout(time, axum::body::to_bytes(body, max)).await {
        Err(_) => Err(Unread::Late(time)),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
            Err(Unread::TooLarge(max))
        }
        Ok(Err(_)) => Err(Unread::Cut),
    }
}
