//! The provider of models: answers by the seed, in all the ways that providers fail.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::StatusCode;
use ob_core::SessionId;
use ob_gate::outside::NoAnswer;
use ob_store::Store as _;
use serde_json::Value;
use serde_json::json;

use crate::world::Life;

/// Longer than the gate waits for anything.
const SILENCE: Duration = Duration::from_secs(200);

/// One event of an answer, and how long it takes to come.
type Piece = (Duration, Result<Bytes, io::Error>);

/// Answers a request.
pub(crate) async fn answer(life: &Life, request: &reqwest::Request) -> Result<reqwest::Response, NoAnswer> {
    let (world, chance) = (&life.world, &life.world.chance);
    let asked: Value = request
        .body()
        .and_then(reqwest::Body::as_bytes)
        .and_then(|body| serde_json::from_slice(body).ok())
        .unwrap_or_default();
    check_reserved(life, asked["messages"][0]["content"].as_str().unwrap_or_default()).await;
    let bad = world.weather.is(&world.weather.bad_provider);
    let fault = if bad { chance.below(9) } else { u64::MAX };
    match fault {
        0 => return Err(NoAnswer::NoConnection),
        1 => return Err(NoAnswer::BrokenOff),
        2 => tokio::time::sleep(SILENCE).await,
        3 => return Ok(response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", vec![said(0, "no")])),
        _ => {}
    }
    let usage =
        json!({ "prompt_tokens": chance.between(5..=60), "completion_tokens": chance.between(1..=150) });
    if asked["stream"] != true {
        let mut body = json!({ "choices": [{ "message": { "content": "fine" }, "finish_reason": "stop" }] });
        if fault != 4 {
            body["usage"] = usage;
        }
        let text = if fault == 5 { "{\"choices\": [".to_owned() } else { body.to_string() };
        return Ok(response(StatusCode::OK, "application/json", vec![said(chance.between(0..=200), &text)]));
    }
    let delta = |text: &str| json!({ "choices": [{ "delta": { "content": text }, "finish_reason": null }] });
    let mut pieces: Vec<Piece> = Vec::new();
    for word in ["so", "it", "goes"] {
        pieces.push(said(chance.between(0..=150), &format!("data: {}\n\n", delta(word))));
    }
    match fault {
        4 => {}
        5 => pieces.push((Duration::ZERO, Err(io::ErrorKind::ConnectionReset.into()))),
        6 => pieces.push((SILENCE, Ok(Bytes::new()))),
        7 => pieces.push(said(0, "data: {\"error\": {\"message\": \"overloaded\"}}\n\n")),
        _ => {
            let last = json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }], "usage": usage });
            pieces.push(said(chance.between(0..=150), &format!("data: {last}\n\n")));
            pieces.push(said(0, "data: [DONE]\n\n"));
        }
    }
    Ok(response(StatusCode::OK, "text/event-stream", pieces))
}

/// Limits hold: nothing is asked before its reservation is durable.
async fn check_reserved(life: &Life, session: &str) {
    let open = life.world.disk.open_charges().await.unwrap_or_default();
    let Ok(id) = session.parse::<SessionId>() else { return };
    // A later owner has booked what an earlier one reserved.
    let is_ours = life.world.disk.owner(&id).is_some_and(|owner| owner.0 == life.epoch());
    if is_ours && !open.iter().any(|open| open.session.as_str() == session) {
        life.world.wrong(&format!("limits_hold: a model was asked for {session} without a reservation"));
    }
}

fn said(millis: u64, text: &str) -> Piece {
    (Duration::from_millis(millis), Ok(Bytes::copy_from_slice(text.as_bytes())))
}

fn response(status: StatusCode, content_type: &str, pieces: Vec<Piece>) -> reqwest::Response {
    let body = stream::iter(pieces).then(|(pause, piece)| async move {
        tokio::time::sleep(pause).await;
        piece
    });
    let response = http::Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(reqwest::Body::wrap_stream(body))
        .expect("a status and one header");
    response.into()
}
