//! What names a place or a thing: ids, cursors, `Last-Event-ID`, and the parameters of a request.

use std::fmt::Display;
use std::str::FromStr;

use ob_core::ProjectId;
use ob_core::Scope;
use ob_core::SessionId;
use ob_core::TokenId;
use ob_core::TreeId;
use ob_core::WorkspaceId;
use ob_core::id::ChargeId;

pub(crate) const WORDS: &[&str] = &[
    "gogol_20261118_110640_deadbeef",
    "exp_20261118_110640_deadbeef",
    "tok_0123456789ab",
    "00000000-0000-4000-8000-000000000000",
    "session_id",
    "cursor",
    "limit",
    "wait_ms",
    "&",
    "=",
    "%00",
    "-1",
    "9223372036854775807",
    "project:",
    "admin:ro",
    "{",
    "\"message\":",
    "../",
];

/// Ids: a text is an id in one spelling only, and no message repeats much of what was wrong.
pub(crate) fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    one_spelling::<SessionId>(text);
    one_spelling::<TreeId>(text);
    one_spelling::<TokenId>(text);
    one_spelling::<ProjectId>(text);
    one_spelling::<WorkspaceId>(text);
    one_spelling::<ChargeId>(text);
    one_spelling::<Scope>(text);
}

fn one_spelling<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(id) => assert_eq!(id.to_string(), text, "an id has one spelling"),
        Err(error) => {
            let said = error.to_string();
            assert!(said.chars().count() < 400, "a message is short: {said}");
        }
    }
}

/// Requests: see [`ob_server::fuzzing::request`].
pub(crate) fn request(data: &[u8]) {
    ob_server::fuzzing::request(data);
}
