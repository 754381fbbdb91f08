//! A whole session as it reads: what each side says, and what comes out.

use super::*;

/// The session on paper.
struct Page {
    script: Script,
    lines: Vec<String>,
}

impl Page {
    fn step(&mut self, what: &str, step: impl FnOnce(&mut Script) -> Vec<Output>) {
        self.lines.push(what.to_owned());
        for output in step(&mut self.script) {
            self.lines.push(match output {
                Output::Event(body) => format!("    event {}", serde_json::to_string(&body).expect("JSON")),
                other => format!("    {other:?}"),
            });
        }
        self.lines.extend(self.script.heard().iter().map(|said| format!("  > {said}")));
    }

    fn says(&mut self, line: &str) {
        self.step(&format!("  < {line}"), |script| script.says(line));
    }

    fn updates(&mut self, update: &Value) {
        self.says(&update_line(update));
    }
}

#[test]
fn a_whole_session_reads_like_this() {
    let mut page = Page { script: Script::new(None), lines: Vec::new() };
    page.step("start", |_| Vec::new());
    page.says(HELLO);
    page.says(OPENED);
    page.step("prompt", |script| script.driver.prompt(T1, "make it 2"));
    page.says("(node:1) Warning: something");
    page.updates(&json!({ "sessionUpdate": "plan", "entries": [
        { "content": "edit", "priority": "high", "status": "pending" }] }));
    page.updates(&thought("one is wrong"));
    page.updates(&message("I will edit "));
    page.updates(&message("`a.rs`."));
    page.updates(
        &json!({ "sessionUpdate": "tool_call", "toolCallId": "t1", "title": "Edit a.rs", "kind": "edit",
        "status": "pending", "rawInput": { "path": "a.rs", "old": "1", "new": "2" } }),
    );
    page.says(
        &json!({ "jsonrpc": "2.0", "id": 0, "method": "session/request_permission", "params": {
            "sessionId": "s1", "toolCall": { "toolCallId": "t1", "title": "Edit a.rs" },
            "options": [{ "optionId": "allow", "name": "Allow", "kind": "allow_once" }] } })
        .to_string(),
    );
    page.updates(
        &json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "in_progress" }),
    );
    page.updates(&json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t1", "status": "completed",
        "content": [{ "type": "diff", "path": "/workspace/a.rs", "oldText": "1", "newText": "2" }] }));
    page.updates(&json!({ "sessionUpdate": "usage_update", "used": 900, "size": 8000 }));
    page.updates(&message("Done."));
    page.says(END);
    page.step("prompt", |script| script.driver.prompt(T2, "make it 3"));
    page.step("cancel", |script| script.driver.cancel());
    page.says(r#"{"jsonrpc":"2.0","id":4,"result":{"stopReason":"cancelled"}}"#);
    page.step("exit", |script| script.driver.exited(ExitStatus { code: Some(0), signal: None }));
    let version = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
    let text = page.lines.join("\n").replace(version, "\"VERSION\"");
    insta::assert_snapshot!(text);
}
