//! What does not fit: long outputs, and conversations that outgrow the model.

use serde_json::json;

use crate::harness::Bench;
use crate::harness::Model;
use crate::harness::Reply;
use crate::harness::assert_valid_history;
use crate::harness::calls;
use crate::harness::contents;
use crate::harness::delta;
use crate::harness::end;
use crate::harness::said;
use crate::harness::status;

#[test]
fn huge_and_strange_output_reaches_the_model_bounded_and_clean() {
    let model = Model::new([
        calls(&[(
            "run",
            json!({"command": "printf '\\377\\033[31mred\\n'; yes 0123456789 | head -c 30000000"}),
        )]),
        said("ok"),
    ]);
    let (mut agent, session) = Bench::new(&model).session_kept();
    agent.turn(&session, "go");
    let text = contents(&model.requests()[1], "tool").remove(0);
    assert!(text.starts_with("\u{fffd}red\n0123456789\n"), "{}", &text[..40]);
    assert!(
        text.contains("bytes left out ...]")
            && text.contains("\nexit code: 0\n[the first 8388608 bytes of 30000")
    );
    assert!(text.len() < 70_000);
}

#[test]
fn the_model_can_read_on_in_an_output_that_was_too_long() {
    let model = Model::following(|request| {
        let results = contents(request, "tool");
        match results.last() {
            None => calls(&[("run", json!({"command": "seq 1 40000"}))]),
            Some(last) if results.len() == 1 => {
                let at = last.find("are in ").expect("it is told where the rest is") + "are in ".len();
                let path = last[at..].split(';').next().expect("a path");
                calls(&[
                    ("search", json!({"pattern": "^20000$", "path": path})),
                    ("read", json!({"path": path, "offset": 20_000, "limit": 2})),
                ])
            }
            Some(_) => said("ok"),
        }
    });
    let bench = Bench::new(&model);
    let (mut agent, session) = bench.session();
    assert_eq!(agent.turn(&session, "count")["result"]["stopReason"], "end_turn");
    let results = agent.results();
    assert!(!results[0].1.contains("\n20000\n"), "the control: the middle was not shown");
    assert!(results[1].1.contains(":20000: 20000"), "{}", results[1].1);
    assert!(results[2].1.starts_with(" 20000\t20000\n 20001\t20001\n"), "{}", results[2].1);
    let left: Vec<_> = std::fs::read_dir(bench.workspace()).expect("it is readable").collect();
    assert!(left.is_empty(), "nothing is left in the workspace: {left:?}");
}

#[test]
fn a_flood_that_is_repeated_is_a_circle_although_its_file_is_another() {
    let model = Model::new((0..20).map(|_| calls(&[("run", json!({"command": "yes | head -c 100000"}))])));
    let (mut agent, session) = Bench::new(&model).session_kept();
    assert_eq!(agent.turn(&session, "go")["error"]["data"]["code"], "model_repeats");
    assert!(agent.results()[7].1.contains("/8.txt"), "{}", agent.results()[7].1);
}

#[test]
fn a_long_conversation_is_kept_within_the_context() {
    let text = "x".repeat(20_000);
    let reads = (0..20).map(|number| calls(&[("read", json!({"path": format!("f{number}")}))]));
    let model = Model::new(reads.chain([said("ok")]));
    let bench = Bench::new(&model).with("--context-tokens=20000");
    for number in 0..20 {
        bench.write(&format!("f{number}"), format!("{number} {}", text.replace("xxxxxxxxxx", "xxxxxxxxx\n")));
    }
    let (mut agent, session) = bench.session();
    assert_eq!(agent.turn(&session, "read them all")["result"]["stopReason"], "end_turn");
    for request in model.requests() {
        assert_valid_history(&request);
        assert_eq!(contents(&request, "user"), ["read them all"]);
        assert!(request.to_string().len() < 110_000, "{}", request.to_string().len());
    }
    let last = contents(&model.requests()[20], "tool");
    assert!(last[0].contains("bytes left out to save room") && last[19].contains("xxxx"));
}

/// A bench with as many files as this, of 20,000 bytes each.
fn shelf(model: &Model, files: usize) -> Bench {
    let bench = Bench::new(model);
    for number in 0..files {
        bench.write(&format!("f{number}"), "a line of text\n".repeat(20_000 / 15));
    }
    bench
}

#[test]
fn the_size_of_tokens_is_what_the_provider_counts() {
    // One byte to a token: four times as many as is supposed before anything is known.
    let counted = |number: usize, bytes: usize| {
        let call = json!({"index": 0, "id": format!("c{number}"), "function":
            {"name": "read", "arguments": json!({"path": format!("f{number}")}).to_string()}});
        Reply::Stream(vec![
            delta(json!({"tool_calls": [call]})),
            end("tool_calls"),
            json!({"choices": [], "usage": {"prompt_tokens": bytes, "completion_tokens": 5}}),
        ])
    };
    let mut number = 0;
    let model = Model::following(move |request| {
        assert_eq!(request["stream_options"]["include_usage"], true);
        number += 1;
        if number > 12 { said("ok") } else { counted(number - 1, request.to_string().len()) }
    });
    let bench = shelf(&model, 12).with("--context-tokens=100000");
    let (mut agent, session) = bench.session();
    assert_eq!(agent.turn(&session, "read them all")["result"]["stopReason"], "end_turn");
    let sizes: Vec<usize> = model.requests().iter().map(|request| request.to_string().len()).collect();
    assert!(sizes.iter().max().is_some_and(|most| (60_000..=110_000).contains(most)), "{sizes:?}");
}

#[test]
fn a_model_that_takes_less_than_was_said_is_given_less() {
    let mut number = 0;
    let model = Model::following(move |request| {
        let too_long = r#"{"error":{"code":"context_length_exceeded","message":"at most 20000 tokens"}}"#;
        if request.to_string().len() > 80_000 {
            return status("400 Bad Request", "", too_long);
        }
        number += 1;
        if number > 12 { said("ok") } else { calls(&[("read", json!({"path": format!("f{}", number - 1)}))]) }
    });
    let (mut agent, session) = shelf(&model, 12).session_kept();
    let response = agent.turn(&session, "read them all");
    assert_eq!(response["result"]["stopReason"], "end_turn", "{response}");
    assert!(agent.text("agent_thought_chunk").contains("asking again with less of the conversation"));
    model.requests().iter().for_each(assert_valid_history);
}

#[test]
fn a_prompt_that_no_shortening_helps_is_an_error_in_the_end() {
    let too_long = || status("400 Bad Request", "", r#"{"error":{"message":"prompt is too long"}}"#);
    let model = Model::new((0..3).map(|_| too_long()).chain([said("ok")]));
    let (mut agent, session) = Bench::new(&model).session_kept();
    let response = agent.turn(&session, &"x".repeat(10_000));
    assert!(
        response["error"]["message"].as_str().is_some_and(|text| text.contains("too long")),
        "{response}"
    );
    assert_eq!(model.requests().len(), 2, "once more, and then it is seen that it does not get shorter");
}
