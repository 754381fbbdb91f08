//! What holds for every request and every answer, not only for the recorded ones.

use proptest::prelude::*;

use super::*;

prop_compose! {
    fn a_call()(name in "[a-z]{1,8}", key in "[a-z]{1,4}", value in "\\PC{0,12}") -> Call {
        Call { id: String::new(), name, arguments: json!({key: value}).to_string() }
    }
}

prop_compose! {
    /// What an agent has said and done by some turn.
    fn a_request()(
        system in proptest::collection::vec("\\PC{1,20}", 0..2),
        rounds in proptest::collection::vec(
            ("\\PC{1,30}", "\\PC{0,30}", proptest::collection::vec((a_call(), "\\PC{1,30}"), 0..3)), 1..4),
        last in "\\PC{1,30}",
        max_output in proptest::option::of(1u64..9000),
    ) -> Request {
        let mut request = Request { system, max_output, ..Request::default() };
        let mut number = 0;
        for (asked, answered, calls) in rounds {
            request.push(Turn::User(vec![Part::Text(asked)]));
            let mut said = if answered.is_empty() { Vec::new() } else { vec![Said::Text(answered)] };
            let mut results = Vec::new();
            for (call, result) in calls {
                number += 1;
                let id = format!("c{number}");
                results.push(CallResult { call: id.clone(), content: vec![Part::Text(result)], is_error: false });
                said.push(Said::Call(Call { id, ..call }));
            }
            if !said.is_empty() {
                request.push(Turn::Assistant(said));
            }
            results.into_iter().for_each(|result| request.push(Turn::Result(result)));
        }
        // What the user says twice in a row is one message in some wires.
        match request.turns.last() {
            Some(Turn::User(_)) => {}
            _ => request.push(Turn::User(vec![Part::Text(last)])),
        }
        request
    }
}

prop_compose! {
    fn an_answer()(
        pieces in proptest::collection::vec((0u8..3, "\\PC{1,12}", a_call()), 0..8),
    ) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for (number, (kind, text, call)) in pieces.into_iter().enumerate() {
            match kind {
                0 => deltas.push(Delta::Text(text)),
                1 => deltas.push(Delta::Reasoning(text)),
                _ => {
                    deltas.push(Delta::Call { id: format!("call_{number}"), name: call.name });
                    let at = (1..call.arguments.len()).find(|at| call.arguments.is_char_boundary(*at)).unwrap_or(1);
                    let (first, second) = call.arguments.split_at(at);
                    deltas.extend([Delta::Arguments(first.into()), Delta::Arguments(second.into())]);
                }
            }
        }
        deltas
    }
}

proptest! {
    #[test]
    fn a_request_there_and_back_is_the_same(request in a_request(), to in 0usize..4) {
        let written = write_request(WIRES[to], &request).expect("translatable");
        let back = read_request(WIRES[to], &written).expect("what we write, we read");
        let mut expected = normal(request);
        let mut back = normal(back);
        // Several instructions are one text in a wire that has room for one.
        let joined = |request: &Request| vec![request.system.join("\n\n")];
        (expected.system, back.system) = (joined(&expected), joined(&back));
        // A user's turns in a row are one message in one wire.
        prop_assert_eq!(merged(back), merged(expected));
    }

    #[test]
    fn a_stream_there_and_back_says_the_same(deltas in an_answer(), via in 0usize..4, to in 0usize..4) {
        let mut writer: Box<dyn Writer> = match WIRES[via] {
            Wire::Chat => Box::new(chat::Chunks::new(origin(), true)),
            Wire::Responses => Box::new(responses::Writing::new(origin())),
            Wire::Messages => Box::new(messages::Writing::new(origin())),
            Wire::Google => Box::new(google::Chunks::new(origin())),
        };
        let expected = with_calls(Reply::of(deltas.clone()));
        let mut out = BytesMut::new();
        writer.begin(&mut out);
        for delta in deltas {
            writer.delta(delta, &mut out);
        }
        writer.finish(expected.stop, Tokens::default(), &mut out);
        let said = said_by_stream(WIRES[via], &out);
        prop_assert_eq!(plain(&said), plain(&expected));
        let translated = translated(WIRES[via], WIRES[to], &out);
        prop_assert_eq!(plain(&said_by_stream(WIRES[to], &translated)), plain(&expected));
    }

    #[test]
    fn no_json_panics(text in r#"\{"(messages|input|contents|tools|system)":(\[(\{"(role|type|content|parts)":("user"|"x"|\[\{\}\]|\{\}|1),?\}|1),?\]|"x"|1|\{\}),?\}"#, from in 0usize..4, to in 0usize..4) {
        drop(super::super::request(WIRES[from], WIRES[to], text.as_bytes(), true, false));
    }
}

/// A user's turns in a row as one.
fn merged(mut request: Request) -> Request {
    let mut turns: Vec<Turn> = Vec::new();
    for turn in request.turns {
        match (turns.last_mut(), turn) {
            (Some(Turn::User(parts)), Turn::User(more)) => parts.extend(more),
            (_, turn) => turns.push(turn),
        }
    }
    request.turns = turns;
    request
}

/// What was said, with arguments in one spelling.
fn plain(reply: &Reply) -> (String, String, Vec<(String, String, Value)>, Stop) {
    let calls = reply.calls().map(|call| (call.id.clone(), call.name.clone(), call.input()));
    (reply.text(), reply.reasoning(), calls.collect(), reply.stop)
}
