//! The model: OpenAI chat completions, streamed, over one short connection per call.

mod client;
mod error;
mod stream;
mod wire;

pub(crate) use client::Client;
pub(crate) use error::ModelError;
pub(crate) use stream::Answer;
pub(crate) use stream::AnswerStream;
pub(crate) use stream::Finish;
pub(crate) use stream::Piece;
pub(crate) use wire::Message;
pub(crate) use wire::MessageCall;
pub(crate) use wire::Request;
pub(crate) use wire::StreamOptions;
