//! Properties of what a client of `/mcp` brings, for any bytes; see the crate `ob-fuzz`.

use ob_core::Refusal;
use serde_json::Value;

use super::bare::Call;
use super::follows::Cursors;
use super::tools;
use super::tools::NoCall;
use super::wire::Envelope;

/// A `Last-Event-ID` up to the first line's end, then a body. A cursor that is taken is written as it was read; a call
/// that is taken has parameters of its operation and no others; gives back what is refused.
pub(crate) fn of(data: &[u8]) -> Option<Refusal> {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (id, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Ok(cursors) = String::from_utf8_lossy(id).parse::<Cursors>() {
        assert_eq!(cursors.to_string().parse(), Ok(cursors));
    }
    let envelope = Envelope::of(body).ok()?;
    let text = std::str::from_utf8(body).expect("a message and a bare call are text");
    assert!(text.trim_ascii_start().starts_with('{'), "and objects");
    if envelope.is_rpc {
        return None;
    }
    let call: Call = serde_json::from_slice(body).ok()?;
    match tools::call(&ob_core::Principal::Operator, &call.params.name, call.params.arguments) {
        Ok((operation, params)) => {
            let schema = (operation.spec().parameters)();
            let known = schema.get("properties").and_then(Value::as_object);
            for name in params.as_object().expect("parameters are an object").keys() {
                assert!(known.is_some_and(|known| known.contains_key(name)), "{operation:?} has no {name}");
            }
            None
        }
        Err(NoCall::UnknownTool(name)) => Some(Refusal::not_found("tool", name)),
        Err(NoCall::Refused(refusal)) => Some(refusal),
    }
}
