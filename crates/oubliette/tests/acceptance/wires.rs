//! The built-in agent speaks OpenAI's chat completions; models that speak another wire serve it through the gate.

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use ob_testkit::model_server::Step;
use serde_json::Value;
use serde_json::json;

use crate::harness::Home;
use crate::harness::KEY;
use crate::harness::can_sandbox;
use crate::harness::until;

/// Providers, and the path and the header in which each is asked.
const PROVIDERS: [(&str, &str, &str); 3] = [
    ("anthropic", "/v1/messages", "x-api-key"),
    ("gemini", "/v1/models/m-1:streamGenerateContent?alt=sse", "x-goog-api-key"),
    ("other", "/v1/responses", "authorization"),
];

/// A stream of a provider's wire that calls `run`, and one that ends the turn.
fn streams(provider: &str) -> [Answer; 2] {
    let arguments = json!({ "command": "echo mended > a.txt" });
    let text = "All is done.";
    let events = |events: Vec<Value>| {
        let send = |data: Value| Step::Send(format!("data: {data}\n\n").into());
        Answer::stream(events.into_iter().map(send).collect())
    };
    match provider {
        "anthropic" => {
            let message = |block: Value, delta: Value, stop: &str| {
                events(vec![
                    json!({"type": "message_start", "message": {"usage": {"input_tokens": 11, "output_tokens": 1}}}),
                    json!({"type": "content_block_start", "index": 0, "content_block": block}),
                    json!({"type": "content_block_delta", "index": 0, "delta": delta}),
                    json!({"type": "content_block_stop", "index": 0}),
                    json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 7}}),
                    json!({"type": "message_stop"}),
                ])
            };
            let call = json!({"type": "tool_use", "id": "toolu_1", "name": "run", "input": {}});
            let arguments = json!({"type": "input_json_delta", "partial_json": arguments.to_string()});
            let said = json!({"type": "text_delta", "text": text});
            [
                message(call, arguments, "tool_use"),
                message(json!({"type": "text", "text": ""}), said, "end_turn"),
            ]
        }
        "gemini" => {
            let usage = json!({"promptTokenCount": 11, "candidatesTokenCount": 7});
            let answer = |part: Value| {
                let candidate =
                    json!({"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"});
                events(vec![json!({"candidates": [candidate], "usageMetadata": usage})])
            };
            let call = json!({"functionCall": {"name": "run", "args": arguments}, "thoughtSignature": "x"});
            [answer(call), answer(json!({"text": text}))]
        }
        _ => {
            let usage = json!({"input_tokens": 11, "output_tokens": 7});
            let completed =
                json!({"type": "response.completed", "response": {"status": "completed", "usage": usage}});
            let item = json!({"type": "function_call", "call_id": "call_1", "name": "run", "arguments": ""});
            let arguments = arguments.to_string();
            let call = vec![
                json!({"type": "response.output_item.added", "output_index": 0, "item": item}),
                json!({"type": "response.function_call_arguments.done", "output_index": 0, "arguments": arguments}),
                completed.clone(),
            ];
            [
                events(call),
                events(vec![json!({"type": "response.output_text.delta", "delta": text}), completed]),
            ]
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_works_with_models_of_every_wire() {
    if !can_sandbox() {
        return;
    }
    let model = ModelServer::start().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut home = Home::without_model();
        for (name, ..) in PROVIDERS {
            let variable = |key: &str| {
                format!("OUBLIETTE_CREDENTIALS__PROVIDERS__CREDENTIALS__{}__{key}", name.to_uppercase())
            };
            home.set(&variable("BASE_URL"), &model.base_url());
            home.set(&variable("API_KEY"), KEY);
        }
        home.set("OUBLIETTE_CREDENTIALS__PROVIDERS__CREDENTIALS__OTHER__WIRE", "responses");
        home.start();
        let source = home.repository("thing", &[("a.txt", "broken\n")]);
        for (name, path, header) in PROVIDERS {
            streams(name).into_iter().for_each(|answer| model.push(answer));
            let model_name = format!("{name}/m-1");
            let project = source.to_str().unwrap();
            let run = ["run", "Mend it.", "--project", project, "--model", &model_name, "--detach", "--keep"];
            let session = home.json(&run)["session_id"].as_str().unwrap().to_owned();
            until("the turn", || home.json(&["session", "get", &session])["last_stop"].is_string());

            let events = home.events(&session);
            let told = serde_json::to_string(&events).unwrap();
            assert!(told.contains("All is done."), "{name}: {told}");
            assert_eq!(home.json(&["session", "get", &session])["last_stop"], "end_turn", "{name}: {told}");
            let usages: Vec<&Value> =
                events.iter().map(|event| &event["usage"]).filter(|usage| usage.is_object()).collect();
            assert_eq!(usages.len(), 2, "{name}: {told}");
            assert_eq!(
                (&usages[0]["input_tokens"], &usages[0]["output_tokens"]),
                (&json!(11), &json!(7)),
                "{name}"
            );
            let asked = model.requests();
            let last = asked.last().unwrap();
            assert_eq!(last.path, path, "{name}");
            assert!(last.headers[header].to_str().unwrap().ends_with(KEY), "{name}");
            // What the tool said came back in the provider's wire.
            let result = if name == "gemini" { "functionResponse" } else { "_1" };
            assert!(last.body.to_string().contains(result), "{name}: {}", last.body);
        }
    })
    .await
    .unwrap();
}
