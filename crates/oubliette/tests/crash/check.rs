//! The checker: what clients saw against what the server and its store hold.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;

use ob_core::Home as Place;
use ob_core::ProjectId;
use ob_core::SessionId;
use ob_store::SharedStore;
use ob_store::sqlite::SqliteOptions;
use serde_json::Value;
use serde_json::json;
use tokio::runtime::Handle;

use crate::client::Client;
use crate::harness::until;
use crate::load::Clients;
use crate::load::Done;
use crate::load::Known;
use crate::load::MARKS;
use crate::load::lock;
use crate::load::tag_of;

/// Faults that were found, in words.
#[derive(Default)]
pub(crate) struct Faults(pub(crate) Vec<String>);

// === impl Faults ===

impl Faults {
    pub(crate) fn expect(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.0.push(what());
        }
    }
}

/// On a server that runs: every session takes another task and does it, and ends; what was seen is what is kept.
pub(crate) fn check_running(clients: &Clients, place: &Place, faults: &mut Faults) {
    let client = &clients.client;
    clients.find_perhaps_spawned();
    let listed = client.get(&format!("/sessions?project_id={}&limit=1000", clients.project)).unwrap();
    let listed: BTreeMap<&str, &Value> =
        listed.as_array().unwrap().iter().map(|view| (view["session_id"].as_str().unwrap(), view)).collect();
    let sessions = clients.sessions();
    for session in &sessions {
        faults.expect(listed.contains_key(session.id.as_str()), || format!("{}: it is gone", session.id));
    }
    for id in listed.keys() {
        let is_known = sessions.iter().any(|session| session.id == *id);
        faults.expect(is_known, || format!("{id}: nobody asked for it"));
    }
    for session in &sessions {
        finish(client, &session.id, &session.known(), faults);
        let view = client.get(&format!("/sessions/{}", session.id)).unwrap();
        let marks = marks(place, &view);
        check_log(&view, &session.known(), &log(client, &session.id), marks.as_deref(), faults);
    }
    check_tokens(clients, faults);
    check_deleted(clients, place, faults);
}

/// Every session that was not ended goes on, and is ended then.
fn finish(client: &Client, id: &str, known: &Known, faults: &mut Faults) {
    let path = format!("/sessions/{id}");
    let state = || client.get(&path).unwrap()["state"].as_str().unwrap().to_owned();
    let is_over = |state: &str| matches!(state, "ended" | "failed");
    if known.ended == Some(Done::Surely) {
        until("a session that was ended to be over", || is_over(&state()));
        return;
    }
    until("a session to come to rest", || {
        let state = state();
        // A stop, or a sandbox that is lost, puts an idle session to sleep.
        matches!(&*state, "idle" | "asleep") || is_over(&state)
    });
    if is_over(&state()) {
        faults.expect(state() == "ended", || format!("{id}: it failed"));
        return;
    }
    let asked = json!({ "message": "#last work 1 " });
    let Ok(accepted) = client.post(&format!("{path}/message"), &asked) else {
        return faults.expect(false, || format!("{id}: it takes no task"));
    };
    let turn = &accepted["turn"];
    until("the last task to be done", || {
        log(client, id).iter().any(|event| event["type"] == "completion" && event["turn"] == *turn)
    });
    until("the session to rest", || state() == "idle");
    client.post(&format!("{path}/end"), &json!({})).unwrap();
    until("the session to be over", || is_over(&state()));
}

/// The whole log of a session.
fn log(client: &Client, id: &str) -> Vec<Value> {
    let mut log = Vec::new();
    loop {
        let cursor = i64::try_from(log.len()).unwrap() - 1;
        let mut page = client.get(&format!("/sessions/{id}/events?cursor={cursor}&limit=10000")).unwrap();
        let Value::Array(events) = page["events"].take() else { panic!("no events: {page}") };
        if events.is_empty() {
            return log;
        }
        log.extend(events);
    }
}

/// One session: numbers, what was seen, tasks, tool calls, effects, books.
fn check_log(view: &Value, known: &Known, log: &[Value], marks: Option<&[String]>, faults: &mut Faults) {
    let id = view["session_id"].as_str().unwrap();
    faults.expect(known.events.len() <= log.len(), || {
        format!("{id}: {} events were seen and {} are kept", known.events.len(), log.len())
    });
    for (number, (seen, kept)) in known.events.iter().zip(log).enumerate() {
        faults.expect(seen == kept, || {
            format!("{id}: event {number} was seen as {seen} and is kept as {kept}")
        });
    }
    let (mut tasks, mut once, mut spent) = (BTreeMap::<String, Vec<&Value>>::new(), BTreeSet::new(), (0, 0));
    let (mut is_over, mut state) = (false, "");
    for (number, event) in log.iter().enumerate() {
        faults
            .expect(event["index"] == number, || format!("{id}: event {number} has another number: {event}"));
        let call = event["tool_call_id"].as_str().unwrap_or_default();
        let thing = match event["type"].as_str().unwrap() {
            "message" if event["role"] == "user" => {
                let tag = event["text"].as_str().and_then(tag_of).unwrap_or_default();
                tasks.entry(tag).or_default().push(&event["turn"]);
                None
            }
            "tool_call" => Some(format!("tool call {call}")),
            "tool_result" if event["data"]["status"] == "completed" => {
                let text = event.to_string();
                for mark in marks_in(&text) {
                    let Some(marks) = marks else { break };
                    let times = marks.iter().filter(|other| **other == mark).count();
                    faults.expect(times == 1, || format!("{id}: {mark} was told and written {times} times"));
                }
                Some(format!("result of {call}"))
            }
            "completion" => Some(format!("completion of turn {}", event["turn"])),
            "usage" => {
                let usage = &event["usage"];
                spent.0 += usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
                spent.1 += usage["cost"].as_u64().unwrap_or_default();
                Some(format!("charge {}", event["data"]["charge"]))
            }
            // Sandboxes outlive servers; only one that was being started or ended when its server died may be lost.
            "system" if event["text"].as_str().is_some_and(is_loss) => {
                let may_be = matches!(state, "starting" | "interrupted");
                faults.expect(may_be, || {
                    format!("{id}: the sandbox of a session that was {state} was lost: {event}")
                });
                None
            }
            "status" => {
                state = event["text"].as_str().unwrap();
                faults.expect(!is_over, || format!("{id}: a state after its end: {event}"));
                is_over = matches!(event["text"].as_str(), Some("ended" | "failed"));
                None
            }
            _ => None,
        };
        if let Some(thing) = thing {
            faults.expect(once.insert(thing.clone()), || format!("{id}: {thing} is there twice"));
        }
    }
    faults.expect(is_over, || format!("{id}: its log does not say that it is over"));
    check_tasks(id, known, tasks, faults);
    let ledger = &view["ledger"];
    let told = (ledger["used"]["tokens"].as_u64(), ledger["used"]["cost"].as_u64());
    faults.expect(told == (Some(spent.0), Some(spent.1)), || {
        format!("{id}: its log says that {spent:?} was spent, and its ledger {ledger}")
    });
    faults.expect(ledger["reserved"]["tokens"] == 0, || format!("{id}: something stays reserved: {ledger}"));
    let marks = marks.unwrap_or_default();
    let unique: BTreeSet<&String> = marks.iter().collect();
    faults.expect(unique.len() == marks.len(), || format!("{id}: a command ran twice: {marks:?}"));
}

/// True if this tells that a sandbox is gone, and not that a busy machine was slow to find it.
fn is_loss(text: &str) -> bool {
    text.starts_with("the sandbox is gone") && !text.contains("did not answer within")
}

/// Each task that was answered became the turn that was told, once; one that was not answered, at most once.
fn check_tasks(id: &str, known: &Known, mut kept: BTreeMap<String, Vec<&Value>>, faults: &mut Faults) {
    for (tag, turn) in &known.tasks {
        let turns = kept.remove(tag).unwrap_or_default();
        let is_right = match turn {
            Some(turn) => turns.len() == 1 && *turns[0] == json!(turn),
            None => turns.len() <= 1,
        };
        faults.expect(is_right, || format!("{id}: task {tag} was told to be turn {turn:?} and is {turns:?}"));
    }
    kept.remove("#last");
    faults.expect(kept.is_empty(), || format!("{id}: tasks that nobody gave: {:?}", kept.keys()));
}

fn check_tokens(clients: &Clients, faults: &mut Faults) {
    let listed = clients.client.get("/tokens").unwrap();
    let mut kept: BTreeMap<&str, bool> = BTreeMap::new();
    for token in listed.as_array().unwrap() {
        let name = token["name"].as_str().unwrap();
        let twice = kept.insert(name, !token["revoked_at"].is_null());
        faults.expect(twice.is_none(), || format!("token {name} is there twice"));
    }
    for (name, (made, revoked)) in lock(&clients.tokens).iter() {
        let is_right = match (kept.remove(name.as_str()), made, revoked) {
            (None, made, _) => *made == Done::Perhaps,
            (Some(true), _, revoked) => revoked.is_some(),
            (Some(false), _, revoked) => *revoked != Some(Done::Surely),
        };
        faults.expect(is_right, || {
            format!("token {name} was {made:?} made, revoked {revoked:?}, and is not so")
        });
    }
    faults.expect(kept.is_empty(), || format!("tokens that nobody made: {kept:?}"));
}

/// What was deleted is gone with its files, and nothing else is.
fn check_deleted(clients: &Clients, place: &Place, faults: &mut Faults) {
    let listed = clients.client.get(&format!("/projects/{}/workspaces", clients.project)).unwrap();
    let kept: BTreeSet<&str> =
        listed.as_array().unwrap().iter().map(|workspace| workspace["id"].as_str().unwrap()).collect();
    for session in clients.sessions() {
        let view = clients.client.get(&format!("/sessions/{}", session.id)).unwrap();
        let workspace = view["workspace_id"].as_str().unwrap();
        let is_there = kept.contains(workspace);
        let is_right = match lock(&clients.deleted).get(&session.id) {
            None => is_there,
            Some(Done::Surely) => !is_there,
            Some(Done::Perhaps) => true,
        };
        faults.expect(is_right, || format!("workspace {workspace}: there: {is_there}"));
        if !is_there {
            let path = workspace_path(place, &view);
            until("the files of a deleted workspace to be gone", || !path.exists());
        }
    }
}

/// On a home whose server has stopped: nothing is open, and every turn has come to its end.
pub(crate) fn check_stopped(clients: &Clients, place: &Place, runtime: &Handle, faults: &mut Faults) {
    let options = SqliteOptions { database: place.database(), blobs: place.blobs() };
    runtime.block_on(async {
        let store: SharedStore = ob_store::sqlite::open(options).await.unwrap();
        faults.expect(store.open_charges().await.unwrap().is_empty(), || "charges are open".to_owned());
        faults.expect(store.active_sessions().await.unwrap() == 0, || "sessions are active".to_owned());
        for session in clients.sessions() {
            let id: SessionId = session.id.parse().unwrap();
            for turn in store.turns(&id).await.unwrap() {
                faults.expect(turn.state.is_over(), || {
                    format!("{id}: turn {} is {:?}", turn.number, turn.state)
                });
            }
        }
        store.close().await.unwrap();
    });
    let sandboxes: Vec<PathBuf> = std::fs::read_dir(place.runtime().join("s"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    faults.expect(sandboxes.is_empty(), || format!("sandboxes without an owner: {sandboxes:?}"));
}

fn workspace_path(place: &Place, view: &Value) -> PathBuf {
    let project: ProjectId = serde_json::from_value(view["project_id"].clone()).unwrap();
    place.workspace(project, serde_json::from_value(view["workspace_id"].clone()).unwrap())
}

/// The marks that commands left in the workspace; none if it was deleted.
fn marks(place: &Place, view: &Value) -> Option<Vec<String>> {
    let workspace = workspace_path(place, view);
    let text = std::fs::read_to_string(workspace.join(MARKS)).unwrap_or_default();
    workspace.exists().then(|| marks_in(&text))
}

fn marks_in(text: &str) -> Vec<String> {
    let numbers = text.split("mark-").skip(1).filter_map(|rest| rest.split_once('-'));
    numbers
        .filter(|(number, _)| number.parse::<u64>().is_ok())
        .map(|(number, _)| format!("mark-{number}"))
        .collect()
}
