//! Properties of what a request brings, for any bytes; see the crate `ob-fuzz`. Not part of any shipped program.

use axum::extract::Query;
use http::HeaderMap;
use http::HeaderValue;
use http::Uri;
use ob_core::Refusal;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;

use crate::params::Parameters;
use crate::stream;

/// A request. First byte: the operation; then lines: the query, `Last-Event-ID`, and the rest is the body. Panics unless
/// what is taken is an object whose every field was given once, and what is refused is refused in few safe words.
pub fn request(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let operation = Operation::ALL[usize::from(*first) % Operation::ALL.len()];
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let (query, id, body) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    last_event_id(id);

    let Some(uri) = std::str::from_utf8(query).ok().and_then(|q| format!("/x?{q}").parse::<Uri>().ok())
    else {
        return;
    };
    let Ok(Query(query)) = Query::<Vec<(String, String)>>::try_from_uri(&uri) else { return };
    match Parameters::of(operation).merge(&[], &query, body) {
        Err(refusal) => is_short_and_safe(&refusal),
        Ok(value) => {
            let fields = value.as_object().expect("parameters are an object");
            for (name, _) in &query {
                assert!(fields.contains_key(name), "{name} was given and is not there");
                assert_eq!(query.iter().filter(|(other, _)| other == name).count(), 1, "{name} came twice");
            }
            if operation == Operation::SessionEvents
                && let Ok(params) = serde_json::from_value::<SessionEvents>(value)
            {
                let again = serde_json::to_value(&params).expect("JSON");
                let read: SessionEvents = serde_json::from_value(again).expect("what is written is read");
                assert_eq!(format!("{read:?}"), format!("{params:?}"));
            }
        }
    }
}

/// What a client of `/mcp` sends: a `Last-Event-ID` up to the first line's end, then a body. Panics unless what is taken is
/// what its operation takes, and what is refused is refused in few safe words.
pub fn mcp(data: &[u8]) {
    if let Some(refusal) = crate::mcp::properties::of(data) {
        is_short_and_safe(&refusal);
    }
}

/// A cursor that is taken is a number of an event, or what comes before the first.
fn last_event_id(id: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(id) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("last-event-id", value);
    match stream::last_event_id(&headers) {
        Ok(Some(number)) => assert!(number >= -1, "{number}"),
        Ok(None) => panic!("it was given"),
        Err(refusal) => is_short_and_safe(&refusal),
    }
}

/// A refusal repeats little of what was sent, and nothing that a terminal obeys.
fn is_short_and_safe(refusal: &Refusal) {
    let text = refusal.to_string();
    assert!(text.chars().count() < 1000, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
