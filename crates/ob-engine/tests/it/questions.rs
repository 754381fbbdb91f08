//! Questions of agents to people: the session waits, an answer always arrives, and nobody answers who may not.

use std::sync::Arc;
use std::time::Duration;

use ob_core::Event;
use ob_core::EventKind;
use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::authorize::Scope;
use ob_core::id::TokenId;
use ob_core::operation::Operation;
use ob_engine::Engine;
use ob_sandbox::Backend;
use ob_store::Commit;
use ob_store::Store as _;
use ob_store::Write;
use ob_testkit::Answer;
use ob_testkit::memory_store::StoreFault;
use ob_testkit::model_server::Latch;
use ob_testkit::model_server::Step;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinHandle;

use super::children::Held;
use super::children::agent;
use super::children::child;
use super::children::view;
use super::world::World;
use super::world::ask;
use super::world::has_text;
use super::world::project;
use super::world::refused;
use super::world::refused_to;
use super::world::spawn;
use super::world::states;
use super::world::texts;

/// A session that asks.
struct Asker {
    engine: Arc<Engine>,
    session: SessionId,
    project: ProjectId,
}

// === impl Asker ===

impl Asker {
    /// One that never gets as far as to work.
    async fn held(engine: &Arc<Engine>, more: Value) -> Self {
        let project = project(engine, json!({})).await;
        let session = spawn(engine, project, more).await;
        Self { engine: Arc::clone(engine), session, project }
    }

    /// One whose model says nothing before the latch is open: so long, its first turn goes on.
    async fn at_work(world: &World, engine: &Arc<Engine>, more: Value) -> (Self, Latch) {
        let latch = Latch::new();
        world.model.push(Answer::text("done").before_head(Step::Wait(latch.clone())));
        let before = world.model.requests().len();
        let asker = Self::held(engine, more).await;
        world.state(&asker.session, "running", 1).await;
        // So that no other session gets this answer.
        world.model.requests_reached(before + 1).await;
        (asker, latch)
    }

    fn agent(&self) -> Principal {
        agent(&self.session, self.project)
    }

    async fn try_ask(&self, params: Value) -> Result<Value, Refusal> {
        self.engine.call(&self.agent(), Operation::SessionAsk, params).await
    }

    /// What is answered at once.
    async fn asks(&self, question: &str) -> Value {
        self.try_ask(json!({ "question": question, "wait_ms": 0 })).await.expect("it is asked")
    }

    /// A call that waits for as long as it may.
    fn waits(&self, params: Value) -> JoinHandle<Result<Value, Refusal>> {
        let (engine, asker) = (Arc::clone(&self.engine), self.agent());
        let mut params = params;
        params["wait_ms"] = 60_000.into();
        tokio::spawn(async move { engine.call(&asker, Operation::SessionAsk, params).await })
    }

    async fn answer(&self, params: Value) -> Value {
        let mut params = params;
        params["session_id"] = json!(self.session);
        ask(&self.engine, Operation::SessionAnswer, params).await
    }

    async fn refused_answer(&self, params: Value) -> RefusalCode {
        let mut params = params;
        params["session_id"] = json!(self.session);
        refused(&self.engine, Operation::SessionAnswer, params).await.code
    }

    async fn open(&self) -> Vec<String> {
        let view = view(&self.engine, &self.session).await;
        let questions = view["questions"].as_array().cloned().unwrap_or_default();
        questions.iter().map(|question| question["question_id"].as_str().expect("an id").to_owned()).collect()
    }
}

/// The states of a question, as the log tells them.
fn told(log: &[Event], question: &str) -> Vec<String> {
    let data = log.iter().filter_map(|event| event.body.data.as_ref());
    let of_it = data.filter(|data| data["question_id"] == question);
    of_it.map(|data| data["state"].as_str().expect("a state").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_waits_for_its_answer_and_the_call_that_asked_gets_it() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let (asker, latch) = Asker::at_work(&world, &engine, json!({})).await;
    let waiting = asker.waits(json!({ "question": "Which colour?", "choices": ["blue", "red"] }));
    world.state(&asker.session, "waiting_answer", 1).await;
    let shown = view(&engine, &asker.session).await;
    let question = &shown["questions"][0];
    assert_eq!((&shown["state"], &question["question_id"]), (&json!("waiting_answer"), &json!("q1")));
    let asked = json!({ "kind": "person", "text": "Which colour?", "choices": ["blue", "red"] });
    assert_eq!(question["asked"], asked);
    assert_eq!(asker.refused_answer(json!({ "answer": "green" })).await, RefusalCode::InvalidArgument);
    let answered = asker.answer(json!({ "answer": "blue" })).await;
    assert_eq!(answered["outcome"], json!({ "state": "answered", "answer": "blue", "by": "operator" }));
    assert_eq!(waiting.await.expect("no panic").expect("an answer"), answered, "the agent is told the same");
    let log = world.state(&asker.session, "running", 2).await;
    assert_eq!(told(&log, "q1"), ["open", "answered"]);
    assert!(has_text(&log, "Which colour?") && has_text(&log, "blue"), "{:?}", texts(&log));
    assert_eq!(asker.open().await, Vec::<String>::new());
    latch.open();
    let log = world.state(&asker.session, "idle", 1).await;
    assert!(!has_text(&log, "You asked"), "it is told once: {:?}", texts(&log));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_the_same_again_waits_on_and_is_told_once() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let (asker, latch) = Asker::at_work(&world, &engine, json!({})).await;
    assert_eq!(asker.asks("Which?").await["question_id"], "q1");
    assert_eq!(asker.asks("Which?").await["question_id"], "q1", "it is open");
    assert_eq!(asker.asks("And when?").await["question_id"], "q2");
    asker.answer(json!({ "question_id": "q1", "answer": "this" })).await;
    let again = asker.answer(json!({ "question_id": "q1", "answer": "this" })).await;
    assert_eq!(again["outcome"]["answer"], "this", "who did not hear that it was taken says it again");
    let other = asker.refused_answer(json!({ "question_id": "q1", "answer": "that" })).await;
    assert_eq!(other, RefusalCode::Conflict, "an answer is not changed");
    assert_eq!(view(&engine, &asker.session).await["state"], "waiting_answer", "of the other");
    assert_eq!(
        asker.asks("Which?").await["outcome"]["answer"],
        "this",
        "the call that was to get it was cut"
    );
    let anew = asker.asks("Which?").await;
    assert_eq!(
        (&anew["question_id"], &anew["outcome"]),
        (&json!("q3"), &Value::Null),
        "it was told: a new one"
    );
    // A call that is given up takes no answer along.
    let given_up = asker.waits(json!({ "question": "And when?" }));
    world.until(&asker.session, "nothing", |_| true).await;
    given_up.abort();
    assert!(given_up.await.is_err_and(|error| error.is_cancelled()));
    asker.answer(json!({ "question_id": "q2", "answer": "at noon" })).await;
    asker.answer(json!({ "answer": "that" })).await;
    latch.open();
    let late = |log: &[Event]| texts(log).iter().filter(|text| text.starts_with("You asked")).count();
    let log = world.until(&asker.session, "both answers", |log| late(log) == 2).await;
    assert!(!has_text(&log, "The answer: this"), "it was told to a call: {:?}", texts(&log));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_call_waits_for_is_the_next_message() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let (asker, latch) = Asker::at_work(&world, &engine, json!({ "end_when_idle": true })).await;
    // Answered while its turn goes on.
    asker.asks("Which?").await;
    asker.answer(json!({ "answer": "this" })).await;
    asker.asks("And when?").await;
    latch.open();
    let log = world.state(&asker.session, "idle", 1).await;
    assert!(has_text(&log, "You asked: Which?\n\nThe answer: this"), "{:?}", texts(&log));
    assert_eq!(asker.open().await, ["q2"]);
    assert!(
        !states(&log).contains(&"ending".to_owned()),
        "it does not end before its answer: {:?}",
        states(&log)
    );
    // Answered when it is over.
    asker.answer(json!({ "answer": "at noon" })).await;
    let log = world.state(&asker.session, "ended", 1).await;
    assert!(has_text(&log, "You asked: And when?\n\nThe answer: at noon"), "{:?}", texts(&log));
    let last = world.model.requests().last().expect("a request").body.to_string();
    assert!(last.contains("The answer: this") && last.contains("The answer: at noon"), "{last}");
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_wakes_a_session_that_sleeps() {
    let mut world = World::new().await;
    world.idle = Duration::from_millis(50);
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let (asker, latch) = Asker::at_work(&world, &engine, json!({})).await;
    asker.asks("Which?").await;
    latch.open();
    world.state(&asker.session, "asleep", 1).await;
    asker.answer(json!({ "answer": "this" })).await;
    let log = world.state(&asker.session, "asleep", 2).await;
    assert!(has_text(&log, "The answer: this"), "{:?}", texts(&log));
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_and_an_end_withdraw_what_is_asked() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    for (operation, state) in [(Operation::SessionInterrupt, "idle"), (Operation::SessionEnd, "ended")] {
        let (asker, _latch) = Asker::at_work(&world, &engine, json!({})).await;
        let waiting = asker.waits(json!({ "question": "Which?" }));
        world.state(&asker.session, "waiting_answer", 1).await;
        // One that nobody has been told of yet is of no interest any more, either.
        asker.asks("And when?").await;
        asker.answer(json!({ "question_id": "q2", "answer": "at noon" })).await;
        ask(&engine, operation, json!({ "session_id": asker.session })).await;
        let told_agent = waiting.await.expect("no panic").expect("told");
        assert_eq!(told_agent["outcome"]["state"], "withdrawn", "{operation:?}");
        let log = world.state(&asker.session, state, 1).await;
        assert_eq!(told(&log, "q1"), ["open", "withdrawn"], "{operation:?}");
        assert!(!has_text(&log, "You asked"), "{operation:?}: {:?}", texts(&log));
        assert_eq!(asker.refused_answer(json!({ "answer": "late" })).await, RefusalCode::Conflict);
    }
    // One that only its question keeps from its end.
    let (asker, latch) = Asker::at_work(&world, &engine, json!({ "end_when_idle": true })).await;
    asker.asks("Which?").await;
    latch.open();
    world.state(&asker.session, "idle", 1).await;
    ask(&engine, Operation::SessionInterrupt, json!({ "session_id": asker.session })).await;
    world.state(&asker.session, "ended", 1).await;
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_give_it_messages_may_answer_and_nobody_asks_for_another() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let parent = Asker::held(&engine, json!({})).await;
    let own = parent.project;
    let session = child(&engine, &parent.session, own, json!({})).await;
    let asker = Asker { engine: Arc::clone(&engine), session, project: own };
    let below = child(&engine, &asker.session, own, json!({})).await;
    let sibling = child(&engine, &parent.session, own, json!({})).await;
    asker.asks("Which?").await;
    let token = |scope| Principal::Token { id: TokenId::new(1), scope };
    let other = project(&engine, json!({})).await;
    let answer = json!({ "session_id": asker.session, "answer": "this" });
    for (who, code) in [
        (asker.agent(), RefusalCode::Forbidden),
        (agent(&below, own), RefusalCode::NotFound),
        (agent(&sibling, own), RefusalCode::NotFound),
        (token(Scope::ProjectReadOnly(own)), RefusalCode::Forbidden),
        (token(Scope::AdminReadOnly), RefusalCode::Forbidden),
        (token(Scope::Project(other)), RefusalCode::NotFound),
    ] {
        let refusal = refused_to(&engine, &who, Operation::SessionAnswer, answer.clone()).await;
        assert_eq!(refusal.code, code, "{who}: {refusal}");
    }
    for who in [Principal::Operator, token(Scope::Admin), token(Scope::Project(own))] {
        let refusal = refused_to(&engine, &who, Operation::SessionAsk, json!({ "question": "Which?" })).await;
        assert_eq!(refusal.code, RefusalCode::Forbidden, "{who} has nobody to ask: {refusal}");
    }
    assert_eq!(asker.open().await, ["q1"], "nothing of that answered it");
    // The positive control: whoever may give it messages. Each answer is to a question of its own.
    for who in
        [token(Scope::Project(own)), token(Scope::Admin), agent(&parent.session, own), Principal::Operator]
    {
        let answered = engine.call(&who, Operation::SessionAnswer, answer.clone()).await.expect("it may");
        assert_eq!(answered["outcome"]["by"], who.to_string());
        asker.asks("Which?").await;
    }
    held.let_go();
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_bounds_or_one_too_many_is_refused() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let asker = Asker::held(&engine, json!({})).await;
    for wrong in [
        json!({}),
        json!({ "question": "" }),
        json!({ "question": "x".repeat(16 * 1024 + 1) }),
        json!({ "question": "?", "choices": [""] }),
        json!({ "question": "?", "timeout_s": 9 }),
        json!({ "question": "?", "timeout_s": 604_801 }),
        json!({ "question": "?", "wait_ms": 60_001 }),
        json!({ "question": "?", "session_id": asker.session }),
    ] {
        let refusal = asker.try_ask(wrong.clone()).await.expect_err("out of bounds");
        assert_eq!((refusal.code, refusal.fix.is_some()), (RefusalCode::InvalidArgument, true), "{wrong}");
    }
    assert_eq!(asker.refused_answer(json!({ "answer": "this" })).await, RefusalCode::Conflict, "to nothing");
    for number in 0..8 {
        asker.asks(&format!("Number {number}?")).await;
    }
    let refusal = asker.try_ask(json!({ "question": "One more?" })).await.expect_err("one too many");
    assert_eq!(refusal.code, RefusalCode::LimitExceeded, "{refusal}");
    asker.asks("Number 0?").await;
    assert_eq!(asker.refused_answer(json!({ "answer": "?" })).await, RefusalCode::Conflict, "which of them?");
    let unknown = json!({ "question_id": "q9", "answer": "this" });
    assert_eq!(asker.refused_answer(unknown).await, RefusalCode::NotFound);
    let malformed = json!({ "question_id": "nine", "answer": "this" });
    assert_eq!(asker.refused_answer(malformed).await, RefusalCode::InvalidArgument);
    let endless = json!({ "question_id": "q1", "answer": "x".repeat(64 * 1024 + 1) });
    assert_eq!(asker.refused_answer(endless).await, RefusalCode::InvalidArgument);
    asker.answer(json!({ "question_id": "q1", "answer": "this" })).await;
    assert_eq!(asker.asks("One more?").await["question_id"], "q9", "there is room again");
    held.let_go();
    engine.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_write_takes_neither_question_nor_answer() {
    let world = World::new().await;
    let held = Held::new();
    let engine = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let asker = Asker::held(&engine, json!({})).await;
    world.state(&asker.session, "starting", 1).await;
    world.store.fail_next(1, StoreFault::Full);
    let refusal = asker.try_ask(json!({ "question": "Which?" })).await.expect_err("nothing can be written");
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert_eq!(asker.open().await, Vec::<String>::new());
    assert_eq!(asker.asks("Which?").await["question_id"], "q1", "as if it had not been asked before");
    world.store.fail_next(1, StoreFault::Full);
    assert_eq!(asker.refused_answer(json!({ "answer": "this" })).await, RefusalCode::Unavailable);
    assert_eq!(asker.open().await, ["q1"]);
    asker.answer(json!({ "answer": "that" })).await;
    let log = world.until(&asker.session, "the answer", |log| has_text(log, "The answer: that")).await;
    assert_eq!(told(&log, "q1"), ["open", "answered"], "the one that was refused is nowhere");
    held.let_go();
    engine.shutdown(false).await;
}

/// As after a crash: the next server has what the store has, and no call waits any more.
#[tokio::test(flavor = "multi_thread")]
async fn questions_outlive_the_server_and_come_to_their_time_under_the_next() {
    let world = World::new().await;
    let held = Held::new();
    let before = world.engine(Arc::clone(&held) as Arc<dyn Backend>).await;
    let asker = Asker::held(&before, json!({})).await;
    world.state(&asker.session, "starting", 1).await;
    asker.asks("Which?").await;
    asker.asks("And when?").await;
    let mut record = world.store.session(&asker.session).await.expect("read").expect("there");
    record.questions[0].expires_at = Timestamp::default();
    let fence = world.store.owner(&asker.session);
    let late = Commit { writes: vec![Write::PutSession(Box::new(record))], fence };
    world.store.commit(late).await.expect("as if it had been asked long ago");

    let after_held = Held::new();
    let after = world.engine(Arc::clone(&after_held) as Arc<dyn Backend>).await;
    let asker = Asker { engine: Arc::clone(&after), ..asker };
    let log = world.until(&asker.session, "the time-out", |log| told(log, "q1").len() == 2).await;
    assert_eq!(told(&log, "q1"), ["open", "timed_out"]);
    assert!(has_text(&log, "You asked: Which?\n\nNobody answered in time"), "{:?}", texts(&log));
    assert_eq!(asker.open().await, ["q2"]);
    asker.answer(json!({ "answer": "at noon" })).await;
    let log = world.store.log(&asker.session);
    assert!(has_text(&log, "The answer: at noon"), "{:?}", texts(&log));
    held.let_go();
    after_held.let_go();
    after.shutdown(false).await;
    before.shutdown(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_the_caller_is_called_and_what_it_answers_arrives_in_time_or_late() {
    let world = World::new().await;
    let Some(backend) = world.sandboxes() else { return };
    let engine = world.engine(backend).await;
    let tools = json!({ "caller_id": "crm", "caller_tools": [{ "name": "look_up", "timeout_s": 600 }] });
    let (asker, latch) = Asker::at_work(&world, &engine, tools).await;
    let caller = asker.agent();
    let call = |params: Value| engine.call(&caller, Operation::CallerToolCall, params);
    let waiting = {
        let (engine, asker) = (Arc::clone(&engine), asker.agent());
        let params = json!({ "tool": "crm_look_up", "arguments": { "id": 7 }, "wait_ms": 60_000 });
        tokio::spawn(async move { engine.call(&asker, Operation::CallerToolCall, params).await })
    };
    let log = world.state(&asker.session, "waiting_caller_tool", 1).await;
    let requests: Vec<_> = log
        .iter()
        .filter(|event| event.body.kind == EventKind::CallerToolRequest)
        .map(|event| &event.body)
        .collect();
    let [request] = requests[..] else { panic!("one request: {requests:?}") };
    assert_eq!(request.tool_name.as_deref(), Some("crm_look_up"));
    assert_eq!(request.arguments, Some(json!({ "id": 7 })));
    assert_eq!(request.data.as_ref().expect("details")["request_id"], "q1");
    // A person's answer is none to it, and does not go to it by mistake.
    assert_eq!(asker.refused_answer(json!({ "answer": "Ada" })).await, RefusalCode::Conflict);
    let named = json!({ "question_id": "q1", "answer": "Ada" });
    assert_eq!(asker.refused_answer(named).await, RefusalCode::InvalidArgument);
    let respond = |request: &str, what: Value| {
        let mut params = json!({ "session_id": asker.session, "request_id": request });
        params.as_object_mut().expect("an object").extend(what.as_object().expect("an object").clone());
        engine.call(&Principal::Operator, Operation::CallerToolResponse, params)
    };
    let both = respond("q1", json!({ "result": 1, "error": "no" })).await.expect_err("one of them");
    assert_eq!(both.code, RefusalCode::InvalidArgument);
    let unknown = respond("q7", json!({ "result": 1 })).await.expect_err("nobody asked");
    assert_eq!(unknown.code, RefusalCode::NotFound);
    let own = json!({ "session_id": asker.session, "request_id": "q1", "result": "mine" });
    let itself = refused_to(&engine, &asker.agent(), Operation::CallerToolResponse, own).await;
    assert_eq!(itself.code, RefusalCode::Forbidden);
    respond("q1", json!({ "result": { "name": "Ada" } })).await.expect("answered");
    let answered = waiting.await.expect("no panic").expect("a result");
    assert_eq!(answered["outcome"]["answer"], json!({ "name": "Ada" }));
    world.state(&asker.session, "running", 2).await;

    let stranger = call(json!({ "tool": "crm_delete" })).await.expect_err("not declared");
    assert_eq!(stranger.code, RefusalCode::NotFound);
    call(json!({ "tool": "crm_look_up", "arguments": { "id": 8 }, "wait_ms": 0 })).await.expect("asked");
    respond("q2", json!({ "error": "no such customer" })).await.expect("answered");
    let person = asker.asks("Which?").await["question_id"].clone();
    let refusal =
        respond(person.as_str().expect("an id"), json!({ "result": 1 })).await.expect_err("no call");
    assert_eq!(refusal.code, RefusalCode::NotFound);
    // What it may call is its own: a child has nobody who would do it.
    let made = child(&engine, &asker.session, asker.project, json!({})).await;
    assert_eq!(view(&engine, &made).await["callers"], Value::Null);
    let lent = json!({
        "session_id": made, "message": "x", "caller_id": "me", "caller_tools": [{ "name": "do" }],
    });
    let refusal = refused_to(&engine, &asker.agent(), Operation::SessionMessage, lent).await;
    assert_eq!(refusal.code, RefusalCode::Forbidden, "{refusal}");
    latch.open();
    let log = world
        .until(&asker.session, "the failure", |log| has_text(log, "That failed: no such customer"))
        .await;
    assert!(!has_text(&log, "The answer: {"), "the first was told: {:?}", texts(&log));
    let more = json!({ "session_id": asker.session, "message": "more", "caller_id": "crm", "caller_tools": [{ "name": "delete" }] });
    ask(&engine, Operation::SessionMessage, more).await;
    let declared = view(&engine, &asker.session).await["callers"].clone();
    assert_eq!(
        declared[0]["tools"][0]["name"], "delete",
        "in the place of what was declared before: {declared}"
    );
    let listed = ask(&engine, Operation::SessionList, json!({})).await;
    assert!(listed.as_array().expect("a list").iter().all(|session| session["callers"].is_null()));
    engine.shutdown(false).await;
}
