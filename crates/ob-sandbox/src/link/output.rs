//! Reading an output stream across cuts.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use futures_util::stream::BoxStream;
use futures_util::stream::StreamExt as _;
use http::HeaderMap;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ob_core::link::STREAM_END;

use super::ANSWER;
use super::LinkError;
use super::Output;
use super::connection::Link;
use super::connection::Retry;
use super::connection::Shared;
use super::request::Ask;
use super::request::Broken;
use super::request::Failure;
use super::request::protocol;

/// See [`Guest::output`](super::Guest::output).
pub(super) fn read(
    shared: Arc<Shared>,
    id: &str,
    output: Output,
    offset: u64,
) -> BoxStream<'static, Result<Bytes, LinkError>> {
    let reader = Reader {
        shared,
        id: id.to_owned(),
        output,
        start: offset,
        at: offset,
        body: None,
        retry: Retry::default(),
    };
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Reader {
    shared: Arc<Shared>,
    id: String,
    output: Output,
    /// Where it began.
    start: u64,
    /// The next byte.
    at: u64,
    /// The answer that is being read, and the connection that it is on.
    body: Option<(Link, Incoming)>,
    retry: Retry,
}

/// What comes next in an answer.
enum Part {
    Bytes(Bytes),
    End(HeaderMap),
}

// === impl Reader ===

impl Reader {
    /// The next bytes; none at the end of the stream.
    async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        loop {
            let (link, mut body) = match self.body.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let part = tokio::select! {
                part = next_part(&mut body) => part,
                () = self.shared.closed() => return Err(LinkError::Closed),
            };
            match part {
                Ok(Part::Bytes(bytes)) => {
                    let end = self.at.checked_add(bytes.len() as u64);
                    let end = end.filter(|end| self.shared.allows(&self.id, self.output, self.start, *end));
                    self.at = end
                        .ok_or_else(|| protocol("more output than it may send before it is acknowledged"))?;
                    self.body = Some((link, body));
                    if !bytes.is_empty() {
                        self.retry.progress();
                        return Ok(Some(bytes));
                    }
                }
                Ok(Part::End(trailers)) => {
                    let end = trailers.get(STREAM_END).and_then(|end| end.to_str().ok()?.parse::<u64>().ok());
                    return match end {
                        Some(end) if self.at == end => Ok(None),
                        _ => Err(protocol("the end of a stream is not where its bytes end")),
                    };
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(broken)) => self.shared.broke(&mut self.retry, &link, broken).await?,
            }
        }
    }

    /// Asks for the stream from the next byte on.
    async fn open(&mut self) -> Result<(Link, Incoming), LinkError> {
        let part = format!("/{}?offset={}", self.output.name(), self.at);
        let ask = Ask::empty(Method::GET, &self.id, &part)?;
        loop {
            let link = self.shared.link(self.retry.after()).await?;
            match link.clone().ask(&ask, Some(ANSWER)).await {
                Ok(answer) => return Ok((link, answer.into_body())),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(broken)) => self.shared.broke(&mut self.retry, &link, broken).await?,
            }
        }
    }
}

async fn next_part(body: &mut Incoming) -> Result<Part, Failure> {
    loop {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => return Ok(Part::Bytes(bytes)),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return Ok(Part::End(trailers));
                    }
                }
            },
            Some(Err(error)) => return Err(Failure::from(&error)),
            // An end without its trailer is none.
            None => return Err(Failure::Broken(Broken::Reset)),
        }
    }
}
