//! Clients: ask servers for things, and hold them to what they say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use ob_core::Event;
use ob_core::Principal;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::operation::EventPage;
use ob_core::operation::Operation;
use ob_core::operation::SessionEvents;
use ob_core::question::Asked;
use ob_core::session::SessionState;
use ob_store::Store as _;
use serde_json::Value;
use serde_json::json;

use crate::agent;
use crate::servers::Server;
use crate::servers::Servers;
use crate::told;
use crate::told::Fate;
use crate::world::World;

/// A client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(150);
/// A follower that is told nothing for so long has a look.
const QUIET: Duration = Duration::from_secs(30);
/// The most sessions of one simulation.
const SESSIONS: usize = 9;

/// What became of a request.
pub(crate) enum Outcome {
    Answer(Value),
    Refused(Refusal),
    /// The server died, or took too long.
    Unknown,
}

/// Asks a server.
pub(crate) async fn ask(world: &World, server: &Server, operation: Operation, params: Value) -> Outcome {
    ask_as(world, server, &Principal::Operator, operation, params).await
}

/// The same as somebody else.
async fn ask_as(
    world: &World,
    server: &Server,
    principal: &Principal,
    operation: Operation,
    params: Value,
) -> Outcome {
    let call = server.engine.call(principal, operation, params);
    let answer = tokio::select! {
        biased;
        () = server.life.died() => return Outcome::Unknown,
        answer = tokio::time::timeout(PATIENCE, call) => answer,
    };
    match answer {
        Ok(Ok(answer)) => Outcome::Answer(answer),
        Ok(Err(refusal)) => {
            if refusal.code == ob_core::RefusalCode::Internal {
                world.wrong(&format!("{operation:?} failed inside: {refusal}"));
            }
            Outcome::Refused(refusal)
        }
        Err(_) => {
            if server.life.free_for() > PATIENCE {
                world.wrong(&format!("{operation:?} was not answered in {PATIENCE:?}"));
            }
            Outcome::Unknown
        }
    }
}

/// One client: asks for so many things, one after the other.
pub(crate) async fn run(world: Arc<World>, servers: Arc<Servers>, projects: Vec<ProjectId>, requests: u64) {
    for _ in 0..requests {
        let pause = if world.chance.one_in(3) { 4000 } else { 300 };
        tokio::time::sleep(world.chance.millis(0..=pause)).await;
        let server = servers.any().await;
        let sessions: Vec<SessionId> = world.disk.session_ids();
        let project = *world.chance.pick(&projects);
        if sessions.is_empty() || (sessions.len() < SESSIONS && world.chance.one_in(4)) {
            spawn(&world, &server, project).await;
            continue;
        }
        let session = world.chance.pick(&sessions).clone();
        match world.chance.below(20) {
            0..=6 => message(&world, &server, &session).await,
            7..=9 => interrupt(&world, &server, &session).await,
            10 => end(&world, &server, &session).await,
            11..=13 => get(&world, &server, &session).await,
            14 => list(&world, &server).await,
            15..=16 => events(&world, &server, &session).await,
            17 => diff(&world, &server, &session).await,
            18 => delete_workspace(&world, &server, &session).await,
            _ => delete_project(&world, &server, project).await,
        }
    }
}

pub(crate) async fn spawn(world: &World, server: &Server, project: ProjectId) {
    let task = world.told.new_task(world, None);
    let params = json!({
        "project_id": project,
        "message": told::text_of(task),
        "end_when_idle": world.chance.one_in(5),
    });
    match ask(world, server, Operation::SessionSpawn, params).await {
        Outcome::Answer(answer) => {
            let session: SessionId = serde_json::from_value(answer["session_id"].clone()).expect("an id");
            world.note(&format!("told {} spawned {session} task {task}", server.life.number));
            world.told.new_session(&session, project);
            world.told.fate(task, Fate::Accepted, Some(&session));
            check_accepted(world, &session, task, -1).await;
        }
        Outcome::Refused(refusal) => refused(world, server, task, &refusal),
        Outcome::Unknown => {}
    }
}

async fn message(world: &World, server: &Server, session: &SessionId) {
    let task = world.told.new_task(world, Some(session));
    let params = json!({ "session_id": session, "message": told::text_of(task) });
    match ask(world, server, Operation::SessionMessage, params).await {
        Outcome::Answer(answer) => {
            world.note(&format!("told {} message {session} task {task}", server.life.number));
            world.told.fate(task, Fate::Accepted, Some(session));
            let before = answer["last_index"].as_i64().unwrap_or(i64::MIN);
            check_accepted(world, session, task, before).await;
        }
        Outcome::Refused(refusal) => refused(world, server, task, &refusal),
        Outcome::Unknown => {}
    }
}

/// Agents that ask people, and people who answer, one after the other. What a late answer makes of its question is a task.
pub(crate) async fn questions(world: Arc<World>, servers: Arc<Servers>, requests: u64) {
    for _ in 0..requests {
        tokio::time::sleep(world.chance.millis(0..=1500)).await;
        let server = servers.any().await;
        let sessions = world.disk.session_ids();
        if sessions.is_empty() {
            continue;
        }
        let session = world.chance.pick(&sessions).clone();
        let Ok(Some(record)) = world.disk.session(&session).await else { continue };
        if world.chance.one_in(2) {
            let agent = Principal::Session { id: session.clone(), project: record.project };
            // Sometimes the same again, as after a call that was cut.
            let again = record.questions.first().and_then(|question| match &question.asked {
                Asked::Person { text, .. } => Some(text.clone()),
                Asked::CallerTool { .. } => None,
            });
            let again = again.filter(|_| world.chance.one_in(2));
            let text = again.unwrap_or_else(|| told::text_of(world.told.new_task(&world, Some(&session))));
            let params = json!({
                "question": text,
                "timeout_s": world.chance.pick(&[10, 60, 86_400]),
                "wait_ms": world.chance.pick(&[0, 500, 20_000]),
            });
            if let Outcome::Answer(answer) =
                ask_as(&world, &server, &agent, Operation::SessionAsk, params).await
            {
                world.note(&format!("told {} asked {session} {}", server.life.number, answer["question_id"]));
            }
        } else {
            let Some(question) = record.open_questions().next().map(|open| open.question_id) else {
                continue;
            };
            let answer = format!("answer {}", world.number());
            let params = json!({ "session_id": session, "question_id": question, "answer": answer });
            if let Outcome::Answer(_) = ask(&world, &server, Operation::SessionAnswer, params).await {
                world.note(&format!("told {} answered {session} {question}", server.life.number));
                world.told.answered(&session, question, &answer);
            }
        }
    }
}

fn refused(world: &World, server: &Server, task: u64, refusal: &Refusal) {
    world.note(&format!("told {} refused task {task}: {refusal}", server.life.number));
    world.told.fate(task, Fate::Refused, None);
}

/// Acknowledged means kept: the message is durable, where its sender was told it would be.
async fn check_accepted(world: &World, session: &SessionId, task: u64, before: i64) {
    let text = told::text_of(task);
    let log = world.disk.log(session);
    if world.disk.session(session).await.ok().flatten().is_none() {
        // It may be deleted by now, but only with all that it was.
        if !log.is_empty() {
            world.wrong(&format!("{session} is gone and its log is not"));
        }
        return;
    }
    let found: Vec<&Event> = log.iter().filter(|event| event.body.text.as_deref() == Some(&text)).collect();
    let follows =
        found.first().is_some_and(|event| i64::try_from(event.index).is_ok_and(|index| index > before));
    if found.len() != 1 || !follows {
        world.wrong(&format!(
            "{session} accepted task {task} and has it {} times behind {before}",
            found.len()
        ));
    }
    if told::turn_of(world, session, task).await.is_none() {
        world.wrong(&format!("{session} accepted task {task} and has no turn for it"));
    }
}

async fn interrupt(world: &World, server: &Server, session: &SessionId) {
    let before = told::active_task(world, session).await;
    let outcome = ask(world, server, Operation::SessionInterrupt, json!({ "session_id": session })).await;
    if let Outcome::Answer(_) = outcome {
        world.note(&format!("told {} interrupted {session}", server.life.number));
        // If it is another one by now, the first one had stopped already.
        let after = told::active_task(world, session).await;
        if let Some(task) = after.filter(|_| before == after) {
            world.told.interrupted(task);
        }
    }
}

async fn end(world: &World, server: &Server, session: &SessionId) {
    let outcome = ask(world, server, Operation::SessionEnd, json!({ "session_id": session })).await;
    if let Outcome::Answer(_) = outcome {
        world.note(&format!("told {} ended {session}", server.life.number));
        world.told.ended(session);
        check_ended(world, session).await;
    }
}

async fn check_ended(world: &World, session: &SessionId) {
    let Ok(Some(record)) = world.disk.session(session).await else { return };
    let state = record.core.state;
    if !state.is_over() && state != SessionState::Ending {
        world.wrong(&format!("{session} was told to be ended and is {}", state.as_str()));
    }
}

async fn get(world: &World, server: &Server, session: &SessionId) {
    let before = world.disk.log(session).len();
    let outcome = ask(world, server, Operation::SessionGet, json!({ "session_id": session })).await;
    if let Outcome::Answer(answer) = outcome {
        let after = world.disk.log(session).len();
        let length = answer["last_index"].as_u64().map_or(0, |last| last + 1);
        // One that is deleted meanwhile has no log.
        if after >= before && !(before as u64..=after as u64).contains(&length) {
            world.wrong(&format!("{session} has {before} to {after} events and says {length}"));
        }
    }
}

async fn list(world: &World, server: &Server) {
    let known = world.told.sessions();
    let outcome = ask(world, server, Operation::SessionList, json!({ "limit": 1000 })).await;
    let Outcome::Answer(answer) = outcome else { return };
    let listed: Vec<&str> = answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|session| session["session_id"].as_str())
        .collect();
    let still_known = world.told.sessions();
    for session in known.keys().filter(|session| still_known.contains_key(*session)) {
        let is_there = world.disk.session(session).await.ok().flatten().is_some();
        if is_there && !listed.contains(&session.as_str()) {
            world.wrong(&format!("{session} is not in the list"));
        }
    }
}

async fn events(world: &World, server: &Server, session: &SessionId) {
    let cursor = i64::try_from(world.chance.below(20)).unwrap_or(0) - 1;
    let params = json!({ "session_id": session, "cursor": cursor, "wait_ms": world.chance.pick(&[0, 0, 500, 20_000]) });
    let Outcome::Answer(answer) = ask(world, server, Operation::SessionEvents, params).await else { return };
    let page: EventPage = serde_json::from_value(answer).expect("a page");
    for (event, expected) in page.events.into_iter().zip(cursor + 1..) {
        if i64::try_from(event.index).ok() != Some(expected) {
            world.wrong(&format!("a page of {session} has {} instead of {expected}", event.index));
        }
        world.told.saw(world, session, &Event { index: event.index, at: event.at, body: event.body });
    }
}

async fn diff(world: &World, server: &Server, session: &SessionId) {
    let outcome = ask(world, server, Operation::SessionDiff, json!({ "session_id": session })).await;
    if let Outcome::Answer(answer) = outcome {
        let patch = answer["patch"].as_str().unwrap_or_default();
        world.note(&format!("told {} diff {session} {}", server.life.number, patch.len()));
        if !patch.is_empty() && (patch != agent::patch("patch") || answer["files"] != json!(["one", "two"])) {
            world.wrong(&format!("the patch of {session} has {} bytes", patch.len()));
        }
    }
}

async fn delete_workspace(world: &World, server: &Server, session: &SessionId) {
    let Ok(Some(record)) = world.disk.session(session).await else { return };
    let params = json!({ "project_id": record.project, "workspace_id": record.workspace });
    let outcome = ask(world, server, Operation::WorkspaceDelete, params).await;
    if let Outcome::Answer(_) = outcome {
        world.note(&format!("told {} deleted the workspace of {session}", server.life.number));
        if world.disk.workspace(record.workspace).await.ok().flatten().is_some() {
            world.wrong(&format!("the workspace of {session} is deleted and there"));
        }
    }
}

async fn delete_project(world: &World, server: &Server, project: ProjectId) {
    let outcome = ask(world, server, Operation::ProjectDelete, json!({ "project_id": project })).await;
    if let Outcome::Answer(_) = outcome {
        world.note(&format!("told {} deleted project {project}", server.life.number));
        world.told.deleted(project);
        if world.disk.project(project).await.ok().flatten().is_some() {
            world.wrong(&format!("project {project} is deleted and there"));
        }
    }
}

/// One reader of a session's log, across servers, from a cursor to the session's end.
pub(crate) async fn follow(world: Arc<World>, servers: Arc<Servers>, session: SessionId) {
    let length = world.disk.log(&session).len() as u64;
    let mut cursor = i64::try_from(world.chance.below(length + 1)).unwrap_or(0) - 1;
    loop {
        let server = servers.any().await;
        let params = SessionEvents { session_id: session.clone(), cursor, limit: None, wait_ms: None };
        let opening = server.engine.follow(&Principal::Operator, params);
        let opened = tokio::select! {
            biased;
            () = server.life.died() => continue,
            opened = opening => opened,
        };
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(refusal) if refusal.code == ob_core::RefusalCode::NotFound => return,
            Err(_) => {
                tokio::time::sleep(world.chance.millis(50..=1000)).await;
                continue;
            }
        };
        loop {
            let unread = unread(&world, &session, cursor);
            let next = tokio::select! {
                biased;
                () = server.life.died() => break,
                next = tokio::time::timeout(QUIET, stream.next()) => next,
            };
            match next {
                Ok(Some(Ok(event))) => {
                    if i64::try_from(event.index).ok() != Some(cursor + 1) {
                        world.wrong(&format!(
                            "{session} was read up to {cursor} and went on with {}",
                            event.index
                        ));
                    }
                    cursor = i64::try_from(event.index).unwrap_or(i64::MAX);
                    world.told.saw(
                        &world,
                        &session,
                        &Event { index: event.index, at: event.at, body: event.body },
                    );
                    world.hesitate().await;
                }
                Ok(Some(Err(_))) => break,
                Ok(None) => {
                    if is_read_to_its_end(&world, &server, &session, cursor).await {
                        return;
                    }
                    break;
                }
                // A lost wake-up: there was something to read all the time.
                Err(_) if unread && server.life.free_for() > QUIET => {
                    world.wrong(&format!("a reader of {session} at {cursor} was not woken"));
                    break;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(world.chance.millis(0..=300)).await;
    }
}

fn unread(world: &World, session: &SessionId, cursor: i64) -> bool {
    i64::try_from(world.disk.log(session).len()).is_ok_and(|length| length > cursor + 1)
}

/// A log that ends is read to its end, unless its server stops.
async fn is_read_to_its_end(world: &World, server: &Server, session: &SessionId, cursor: i64) -> bool {
    let Ok(Some(record)) = world.disk.session(session).await else { return true };
    let read_all = record.core.state.is_over() && !unread(world, session, cursor);
    if !read_all && server.engine.ready().is_ok() && !server.life.is_dead() {
        world.wrong(&format!("the log of {session} ended for a reader at {cursor}"));
    }
    read_all
}
