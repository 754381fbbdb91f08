//! One seed from beginning to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use ob_core::ProjectId;
use ob_core::SessionId;
use ob_core::operation::Operation;
use ob_store::Store as _;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::check;
use crate::clients;
use crate::clients::Outcome as Asked;
use crate::faults;
use crate::os;
use crate::servers::Servers;
use crate::world::World;
use crate::world::show;

/// Followers of logs at once.
const FOLLOWERS: usize = 6;

/// The line of a story that holds its outcome begins so.
pub(crate) const OUTCOME: &str = "outcome: ";

/// What became of a seed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What was not as it must be.
    pub(crate) faults: Vec<String>,
    /// One number for everything that happened.
    pub(crate) hash: u64,
    /// How much happened.
    pub(crate) lines: u64,
    /// How often each kind of thing happened.
    pub(crate) kinds: BTreeMap<String, u64>,
}

thread_local! {
    /// Panics of this thread's simulation. Those in tasks would not be heard of otherwise.
    static PANICS: Mutex<Vec<String>> = const { Mutex::new(Vec::new()) };
}

/// Tells the story of a seed line by line, and what became of it. Once in a process.
pub(crate) fn tell(seed: u64) {
    hear_panics();
    // Its own thread has its own randomness.
    let outcome = std::thread::spawn(move || simulate(seed)).join().expect("panics are caught inside");
    show(&format!("{OUTCOME}{}", serde_json::to_string(&outcome).expect("plain fields")));
    assert!(outcome.faults.is_empty(), "seed {seed} found: {:#?}", outcome.faults);
}

fn hear_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if os::is_simulated() {
                PANICS.with(|panics| panics.lock().expect("no one panics with it").push(panic.to_string()));
            } else {
                usual(panic);
            }
        }));
    });
}

fn simulate(seed: u64) -> Outcome {
    os::simulate(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let world = runtime.block_on(async { World::new(seed) });
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(&world))));
    if played.is_err() {
        world.wrong("the simulation itself panicked");
    }
    let panics = PANICS.with(|panics| std::mem::take(&mut *panics.lock().expect("no one panics with it")));
    for panic in panics {
        world.wrong(&format!("a panic: {panic}"));
    }
    let (hash, lines) = world.trace.sum();
    Outcome { faults: world.trace.faults(), hash, lines, kinds: world.trace.kinds() }
}

async fn play(world: &Arc<World>) {
    let servers = Arc::new(Servers::new(world));
    servers.start().await;
    let projects = make_projects(world, &servers).await;
    let length = world.chance.millis(8_000..=60_000);
    let mut clients = JoinSet::new();
    for _ in 0..world.chance.between(1..=4) {
        let requests = world.chance.between(5..=30);
        clients.spawn(clients::run(Arc::clone(world), Arc::clone(&servers), projects.clone(), requests));
    }
    // Only in some, so that the seeds that found a fault tell the stories that they told then.
    if world.seed % 4 == 3 {
        clients.spawn(clients::questions(Arc::clone(world), Arc::clone(&servers), 40));
    }
    let faults = tokio::spawn(faults::run(Arc::clone(world), Arc::clone(&servers), length));
    let mut followers = JoinSet::new();
    while !(faults.is_finished() && clients.is_empty()) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        while clients.try_join_next().is_some() {}
        while followers.try_join_next().is_some() {}
        let sessions = world.disk.session_ids();
        if followers.len() < FOLLOWERS && !sessions.is_empty() {
            let session = world.chance.pick(&sessions).clone();
            followers.spawn(clients::follow(Arc::clone(world), Arc::clone(&servers), session));
        }
    }
    calm_down(world, &servers).await;
    check::rest(world).await;
    end_all(world, &servers).await;
    give_back(world, &servers).await;
    if tokio::time::timeout(Duration::from_secs(120), followers.join_all()).await.is_err() {
        world.wrong("readers did not come to the ends of their logs");
    }
    close_books(world, &servers).await;
    cut_calls(world, &servers).await;
    check::logs(world).await;
    leave(world, &servers).await;
}

async fn make_projects(world: &World, servers: &Servers) -> Vec<ProjectId> {
    let mut projects = Vec::new();
    while projects.len() < 3 {
        let server = servers.any().await;
        let made = clients::ask(world, &server, Operation::ProjectCreate, json!({ "name": "p" })).await;
        if let Asked::Answer(made) = made {
            projects.push(serde_json::from_value(made["id"].clone()).expect("an id"));
        }
    }
    projects
}

/// No more faults, and one server.
async fn calm_down(world: &World, servers: &Servers) {
    world.note("calm");
    world.weather.clear_up();
    while servers.overlaps()
        && let Some(server) = servers.oldest()
    {
        servers.kill(server);
    }
    if servers.count() == 0 {
        servers.start().await;
    }
}

async fn end_all(world: &World, servers: &Servers) {
    for session in world.disk.session_ids() {
        end(world, servers, &session).await;
    }
    let ended = check::eventually(async || {
        check::records(world).await.iter().all(|record| record.core.state.is_over())
    });
    if !ended.await {
        world.wrong("not all sessions ended");
    }
    if !check::eventually(async || world.sandboxes().is_empty()).await {
        world.wrong(&format!("sandboxes are left: {:?}", world.sandboxes().keys()));
    }
}

async fn end(world: &World, servers: &Servers, session: &SessionId) {
    let server = servers.any().await;
    let asked = clients::ask(world, &server, Operation::SessionEnd, json!({ "session_id": session })).await;
    if let Asked::Refused(refusal) = asked {
        world.wrong(&format!("{session} cannot be ended in calm weather: {refusal}"));
    }
    world.told.ended(session);
}

/// What was used is nobody's by now, for the very server on which it was: its workspaces can be deleted.
async fn give_back(world: &World, servers: &Servers) {
    let server = servers.any().await;
    for record in check::records(world).await {
        if !matches!(world.disk.workspace(record.workspace).await, Ok(Some(_))) {
            continue;
        }
        let params = json!({ "project_id": record.project, "workspace_id": record.workspace });
        let asked = clients::ask(world, &server, Operation::WorkspaceDelete, params).await;
        if let Asked::Refused(refusal) = asked {
            world.wrong(&format!(
                "the workspace of {}, which is over, cannot be deleted: {refusal}",
                record.id
            ));
        }
    }
}

/// A server books the calls that are cut off while it lives: none of them waits for the next start.
async fn cut_calls(world: &World, servers: &Servers) {
    let server = servers.any().await;
    let before = world.disk.session_ids();
    for project in world.disk.projects().await.unwrap_or_default() {
        for _ in 0..3 {
            clients::spawn(world, &server, project.id).await;
        }
    }
    for session in world.disk.session_ids().into_iter().filter(|session| !before.contains(session)) {
        tokio::time::sleep(world.chance.millis(0..=1500)).await;
        end(world, servers, &session).await;
    }
    let over = async || check::records(world).await.iter().all(|record| record.core.state.is_over());
    if !check::eventually(over).await {
        world.wrong("not all sessions ended in calm weather");
    }
    let open = async || world.disk.open_charges().await.unwrap_or_default();
    if !check::eventually(async || open().await.is_empty()).await {
        world.wrong(&format!("limits_hold: calls that were cut off are not booked: {:?}", open().await));
    }
}

/// What a server could not book, the next one books.
async fn close_books(world: &World, servers: &Servers) {
    if let Some(server) = servers.newest() {
        servers.stop(server, false).await;
    }
    servers.start().await;
    let open = async || world.disk.open_charges().await.unwrap_or_default();
    if !check::eventually(async || open().await.is_empty()).await {
        world.wrong(&format!("limits_hold: charges are left open: {:?}", open().await));
    }
}

/// Everything is deleted, and nothing is left of it.
async fn leave(world: &World, servers: &Servers) {
    let server = servers.any().await;
    for project in world.disk.projects().await.unwrap_or_default() {
        let params = json!({ "project_id": project.id });
        if let Asked::Refused(refusal) = clients::ask(world, &server, Operation::ProjectDelete, params).await
        {
            world.wrong(&format!("a project at rest cannot be deleted: {refusal}"));
        }
    }
    servers.stop(server, false).await;
    let left = world.folders().clone();
    if !left.is_empty() || !world.disk.session_ids().is_empty() {
        world.wrong(&format!("deleted things are left: {left:?} {:?}", world.disk.session_ids()));
    }
    if !world.net.open().is_empty() {
        world.wrong(&format!("gates are left: {:?}", world.net.open()));
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    if !check::eventually(async || tasks() == 0).await {
        world.wrong(&format!("{} tasks are left", tasks()));
    }
    world.note("over");
}
