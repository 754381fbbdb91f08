//! The context window: which part of a transcript the model is given.
//!
//! The whole transcript, until it outgrows the budget. Then, oldest first: results of tools give way, then the arguments
//! of calls, then what the model said in between; last, what is left of the results is shortened. Prompts always stay, and so
//! do the last plan and the last notes: the task, the open work and what was decided.
//!
//! The budget is in tokens, which only the provider can count. Each answer says how many the request was, so after the
//! first one the size of a token is measured.
//!
//! Invariants:
//! - Every call in the messages is followed by exactly one result, whatever the transcript lacks.
//! - What was left out once stays out, and more than needed goes at a time: the messages keep their beginning from one
//!   request to the next, which lets the provider reuse its work.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::HashMap;

use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::json;

use super::model::Message;
use super::model::MessageCall;
use super::text;
use super::transcript::Call;
use super::transcript::Item;

/// Bytes to 100 tokens, roughly, for text and code in most models. A count that says more is not believed: some providers
/// leave out of it what they had kept from the last request.
const BYTES_PER_100_TOKENS: usize = 400;
/// The least that is believed.
const LEAST_BYTES_PER_100_TOKENS: usize = 100;
/// What a message costs beside its text.
const OVERHEAD: usize = 48;
/// The last items are left alone as long as possible: the model is working with them.
const RECENT: usize = 8;
/// The least that results are shortened to, in bytes.
const SHORTEST: usize = 1024;
/// A result or argument under this size is not worth leaving out.
const SMALL: usize = 256;
/// What stands for a result that was never written down.
const INTERRUPTED: &str =
    "interrupted: the agent was stopped before this call ended; it may have done part of its work";

/// The tool whose last calls always stay.
const PLAN: &str = "plan";

/// What is left out at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The most tokens of a request.
    tokens: usize,
    /// The size of a token, as far as it is known.
    bytes_per_100_tokens: usize,
    /// The size of the last request in bytes.
    sent: usize,
    /// The items with the last plan and the last notes.
    pinned: [Option<usize>; 2],
    /// Results of items before this index are left out.
    results: usize,
    /// Arguments of calls before this index are left out.
    arguments: usize,
    /// Texts of the model before this index are left out.
    texts: usize,
    /// Results are shortened to this many bytes.
    longest: usize,
}

// === impl Window ===

impl Window {
    /// A window of this many tokens.
    pub(crate) fn new(tokens: usize) -> Self {
        Self {
            tokens,
            bytes_per_100_tokens: BYTES_PER_100_TOKENS,
            sent: 0,
            pinned: [None; 2],
            results: 0,
            arguments: 0,
            texts: 0,
            longest: usize::MAX,
        }
    }

    /// The messages for the model. `fixed` is the size in bytes of what goes along: system prompt and tools.
    pub(crate) fn messages(&mut self, items: &[Item], fixed: usize) -> Vec<Message> {
        self.pinned = pinned(items);
        self.narrow(items, fixed);
        self.sent = self.size(items) + fixed;
        let mut results = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if let Item::Tool { call_id, .. } = item {
                results.insert(call_id.as_str(), index);
            }
        }
        let mut messages = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Item::User { text } => messages.push(Message::User { content: text.clone() }),
                Item::Assistant { text, calls } => {
                    self.answer(&mut messages, index, text, calls, items, &results);
                }
                // Results stand with their calls.
                Item::Tool { .. } | Item::Session { .. } | Item::Unknown => {}
            }
        }
        messages
    }

    /// Takes note of how many tokens the last request was, by the provider's count.
    pub(crate) fn measured(&mut self, tokens: u64) {
        let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
        if let Some(measured) = self.sent.saturating_mul(100).checked_div(tokens) {
            self.bytes_per_100_tokens = measured.clamp(LEAST_BYTES_PER_100_TOKENS, BYTES_PER_100_TOKENS);
        }
    }

    /// Takes note that the last request was longer than the model takes.
    pub(crate) fn overflowed(&mut self) {
        self.tokens = self.tokens.min(self.sent.saturating_mul(100) / self.bytes_per_100_tokens) / 4 * 3;
    }

    /// The size of the last request in bytes.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    fn budget(&self) -> usize {
        self.tokens.saturating_mul(self.bytes_per_100_tokens) / 100
    }

    fn answer(
        &self,
        messages: &mut Vec<Message>,
        index: usize,
        text: &str,
        calls: &[Call],
        items: &[Item],
        results: &HashMap<&str, usize>,
    ) {
        let text = self.text(index, text);
        if text.is_empty() && calls.is_empty() {
            return;
        }
        messages.push(Message::Assistant {
            content: Some(text.into_owned()).filter(|text| !text.is_empty()),
            tool_calls: calls
                .iter()
                .map(|call| MessageCall::new(&call.id, &call.name, self.arguments(index, call).into_owned()))
                .collect(),
        });
        for call in calls {
            let content = match results.get(call.id.as_str()).map(|&at| (at, &items[at])) {
                Some((at, Item::Tool { text, .. })) => self.result(at, text).into_owned(),
                _ => INTERRUPTED.to_owned(),
            };
            messages.push(Message::Tool { tool_call_id: call.id.clone(), content });
        }
    }

    /// Leaves out more if it is too much, until it is well under the budget.
    fn narrow(&mut self, items: &[Item], fixed: usize) {
        let budget = self.budget();
        if self.size(items) + fixed <= budget {
            return;
        }
        let target = (budget / 4 * 3).saturating_sub(fixed);
        let old = items.len().saturating_sub(RECENT);
        let stages: [fn(&mut Self) -> &mut usize; 3] =
            [|window| &mut window.results, |window| &mut window.arguments, |window| &mut window.texts];
        let mut size = self.size(items);
        for stage in stages {
            while size > target && *stage(self) < old {
                let index = *stage(self);
                let before = self.item_size(index, &items[index]);
                *stage(self) += 1;
                size = size - before + self.item_size(index, &items[index]);
            }
        }
        while size > target && self.longest > SHORTEST {
            self.longest = (self.longest.min(target) / 2).max(SHORTEST);
            size = self.size(items);
        }
    }

    fn size(&self, items: &[Item]) -> usize {
        items.iter().enumerate().map(|(index, item)| self.item_size(index, item)).sum()
    }

    fn item_size(&self, index: usize, item: &Item) -> usize {
        match item {
            Item::User { text } => text.len() + OVERHEAD,
            Item::Assistant { text, calls } => {
                let calls = calls.iter().map(|call| {
                    call.id.len() + call.name.len() + self.arguments(index, call).len() + 2 * OVERHEAD
                });
                self.text(index, text).len() + OVERHEAD + calls.sum::<usize>()
            }
            Item::Tool { text, .. } => self.result(index, text).len() + OVERHEAD,
            Item::Session { .. } | Item::Unknown => 0,
        }
    }

    fn result<'a>(&self, index: usize, result: &'a str) -> Cow<'a, str> {
        if index < self.results && result.len() > SMALL {
            return format!(
                "[{} bytes left out to save room; make the call again if you need it]",
                result.len()
            )
            .into();
        }
        if result.len() > self.longest {
            return text::cut(result, self.longest).into();
        }
        Cow::Borrowed(result)
    }

    /// Always a JSON object: providers refuse a history with anything else.
    fn arguments<'a>(&self, index: usize, call: &'a Call) -> Cow<'a, str> {
        let is_pinned = call.name == PLAN && self.pinned.contains(&Some(index));
        let is_left_out = index < self.arguments && call.arguments.len() > SMALL && !is_pinned;
        if !is_left_out && is_object(&call.arguments) {
            return Cow::Borrowed(&call.arguments);
        }
        let Ok(Value::Object(arguments)) = serde_json::from_str(&call.arguments) else {
            return Cow::Borrowed("{}");
        };
        let short = arguments.into_iter().map(|(name, value)| match value {
            Value::String(text) if text.len() > SMALL => {
                (name, json!(format!("[{} bytes left out to save room]", text.len())))
            }
            other => (name, other),
        });
        Cow::Owned(Value::Object(short.collect()).to_string())
    }

    fn text<'a>(&self, index: usize, said: &'a str) -> Cow<'a, str> {
        if index < self.texts && said.len() > SMALL {
            text::cut(said, SMALL).into()
        } else {
            Cow::Borrowed(said)
        }
    }
}

/// The items with the last plan, and with the last plan that has notes.
fn pinned(items: &[Item]) -> [Option<usize>; 2] {
    let last = |is_it: fn(&Call) -> bool| {
        items
            .iter()
            .rposition(|item| matches!(item, Item::Assistant { calls, .. } if calls.iter().any(is_it)))
    };
    let has_notes = |call: &Call| {
        let arguments: Option<Value> = serde_json::from_str(&call.arguments).ok();
        call.name == PLAN
            && arguments.is_some_and(|plan| plan["notes"].as_str().is_some_and(|text| !text.is_empty()))
    };
    [last(|call| call.name == PLAN), last(has_notes)]
}

fn is_object(arguments: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, IgnoredAny>>(arguments).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turn(number: usize, result: usize) -> [Item; 3] {
        let id = format!("call_{number}");
        [
            Item::User { text: format!("task {number}") },
            Item::Assistant {
                text: format!("step {number}"),
                calls: vec![Call {
                    id: id.clone(),
                    name: "read".to_owned(),
                    arguments: format!("{{\"path\":\"{number}\"}}"),
                }],
            },
            Item::Tool { call_id: id, ok: true, text: "r".repeat(result) },
        ]
    }

    fn size(messages: &[Message]) -> usize {
        serde_json::to_string(messages).expect("messages are JSON").len()
    }

    #[test]
    fn within_the_budget_nothing_is_left_out() {
        let items: Vec<Item> = (0..10).flat_map(|number| turn(number, 1000)).collect();
        let messages = Window::new(120_000).messages(&items, 0);
        assert_eq!(messages.len(), 30);
        assert!(!serde_json::to_string(&messages).expect("messages are JSON").contains("left out"));
    }

    #[test]
    fn old_results_give_way_first_and_tasks_never() {
        let items: Vec<Item> = (0..40).flat_map(|number| turn(number, 4000)).collect();
        let mut window = Window::new(20_000);
        let messages = window.messages(&items, 0);
        assert!(size(&messages) < 80_000);
        let text = serde_json::to_string(&messages).expect("messages are JSON");
        for number in 0..40 {
            assert!(text.contains(&format!("task {number}")) && text.contains(&format!("step {number}")));
        }
        let Message::Tool { content: first, .. } = &messages[2] else { panic!("a result is third") };
        let Message::Tool { content: last, .. } = &messages[119] else { panic!("a result is last") };
        assert!(first.contains("4000 bytes left out"));
        assert_eq!(last.len(), 4000);
    }

    #[test]
    fn what_is_left_out_does_not_change_with_every_item() {
        let mut items: Vec<Item> = (0..40).flat_map(|number| turn(number, 4000)).collect();
        let mut window = Window::new(20_000);
        window.messages(&items, 0);
        let before = window.clone();
        items.extend(turn(40, 500));
        window.messages(&items, 0);
        assert_eq!(window, Window { sent: window.sent, ..before });
    }

    #[test]
    fn huge_recent_results_and_arguments_are_shortened_too() {
        let mut items: Vec<Item> = turn(0, 900_000).to_vec();
        let arguments = json!({"path": "x", "content": "c".repeat(300_000)}).to_string();
        items.push(Item::Assistant {
            text: String::new(),
            calls: vec![Call { id: "w".to_owned(), name: "write".to_owned(), arguments }],
        });
        items.extend((1..6).flat_map(|number| turn(number, 10)));
        let messages = Window::new(10_000).messages(&items, 0);
        assert!(size(&messages) < 40_000, "{}", size(&messages));
    }

    #[test]
    fn missing_results_are_made_up_and_broken_arguments_replaced() {
        let [user, _, _] = turn(0, 1);
        let broken = Call { id: "a".to_owned(), name: "read".to_owned(), arguments: "{\"pa".to_owned() };
        let items = [user, Item::Assistant { text: String::new(), calls: vec![broken] }];
        let messages = Window::new(1000).messages(&items, 0);
        let text = serde_json::to_string(&messages).expect("messages are JSON");
        assert!(text.contains("interrupted") && text.contains(r#""arguments":"{}""#), "{text}");
    }

    fn plan(number: usize, arguments: &Value) -> [Item; 2] {
        let id = format!("plan_{number}");
        let call = Call { id: id.clone(), name: PLAN.to_owned(), arguments: arguments.to_string() };
        [
            Item::Assistant { text: String::new(), calls: vec![call] },
            Item::Tool { call_id: id, ok: true, text: "shown".to_owned() },
        ]
    }

    #[test]
    fn the_task_the_open_work_and_the_decisions_stay_whatever_goes() {
        let step = |text: &str| json!([{"content": text, "status": "pending"}]);
        let decided = "the cache is keyed by tenant ".repeat(50);
        let mut items: Vec<Item> = Vec::new();
        items.extend(plan(0, &json!({"steps": step("first"), "notes": "older notes ".repeat(100)})));
        items.extend(plan(1, &json!({"steps": step("second"), "notes": &decided})));
        items.extend(plan(2, &json!({"steps": step(&"the open work ".repeat(30))})));
        items.extend((0..100).flat_map(|number| turn(number, 4000)));
        let messages = Window::new(6000).messages(&items, 0);
        let text = serde_json::to_string(&messages).expect("messages are JSON");
        assert!(text.len() < 45_000, "{}", text.len());
        assert!(text.contains(&decided) && text.contains(&"the open work ".repeat(30)));
        assert!(!text.contains(&"older notes ".repeat(100)), "the control: older notes do give way");
        for number in 0..100 {
            assert!(text.contains(&format!("task {number}\"")));
        }
    }

    #[test]
    fn the_size_of_a_token_is_measured_and_no_count_makes_it_larger_than_usual() {
        let items: Vec<Item> = (0..40).flat_map(|number| turn(number, 1000)).collect();
        let mut window = Window::new(20_000);
        let whole = size(&window.messages(&items, 0));
        // Two bytes to a token: what seemed half of the window is more than all of it.
        window.measured(window.sent() as u64 / 2);
        let narrowed = size(&window.messages(&items, 0));
        assert!(narrowed < whole && narrowed < 40_000, "{whole} {narrowed}");

        for tokens in [0, 1, u64::MAX] {
            let mut window = Window::new(20_000);
            window.messages(&items, 0);
            window.measured(tokens);
            assert!((20_000..=80_000).contains(&window.budget()), "{tokens}: {}", window.budget());
        }
    }

    #[test]
    fn a_model_that_takes_less_than_was_thought_is_given_less_each_time() {
        let items: Vec<Item> = (0..40).flat_map(|number| turn(number, 4000)).collect();
        let mut window = Window::new(1_000_000);
        let mut last = size(&window.messages(&items, 0));
        for _ in 0..4 {
            window.overflowed();
            let next = size(&window.messages(&items, 0));
            assert!(next < last, "{next} {last}");
            last = next;
        }
    }

    proptest! {
        #[test]
        fn every_call_has_exactly_one_result_and_every_prompt_stays(
            sizes in prop::collection::vec((0_usize..6000, any::<bool>()), 1..60),
            tokens in 100_usize..20_000,
        ) {
            let mut items = Vec::new();
            for (number, (size, has_result)) in sizes.iter().enumerate() {
                let [user, answer, result] = turn(number, *size);
                items.extend([user, answer]);
                if *has_result {
                    items.push(result);
                }
            }
            let messages = Window::new(tokens).messages(&items, 0);
            prop_assert_eq!(messages.len(), sizes.len() * 3);
            for (number, turn) in messages.chunks(3).enumerate() {
                let [Message::User { content }, Message::Assistant { tool_calls, .. }, Message::Tool { tool_call_id, .. }] =
                    turn else { panic!("not a turn: {turn:?}") };
                prop_assert_eq!(content, &format!("task {number}"));
                prop_assert_eq!(&tool_calls[0].id, tool_call_id);
            }
        }
    }
}
