//! What the clients do to a server, and everything that they see of it.
//!
//! Each task carries a tag, such as `#17`, and each command that the scripted model has the agent run writes a mark of
//! its own into a file of the workspace: so whatever is lost or done twice has a name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ob_testkit::Answer;
use ob_testkit::ModelServer;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;

use crate::client::Client;
use crate::client::Failure;
use crate::harness::PATIENCE;
use crate::points::Way;

/// Sessions that work at once.
const SESSIONS: usize = 3;
/// How often a client looks whether something has come.
const LOOK: Duration = Duration::from_millis(4);
/// More than a row of the log may hold, so that the text becomes a blob.
const LARGE: usize = 70_000;
/// The file that agents write their marks into.
pub(crate) const MARKS: &str = "marks.txt";

/// Whether something that was asked for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was answered: yes.
    Surely,
    /// The server died before it answered.
    Perhaps,
}

/// One home's clients: what they know.
pub(crate) struct Clients {
    pub(crate) client: Client,
    pub(crate) project: String,
    sessions: Mutex<Vec<Arc<Session>>>,
    /// Tags of tasks whose session was asked for and perhaps made.
    pub(crate) perhaps_spawned: Mutex<Vec<String>>,
    /// Tokens by name, and whether each is made, and perhaps revoked.
    pub(crate) tokens: Mutex<BTreeMap<String, (Done, Option<Done>)>>,
    /// Workspaces that were deleted.
    pub(crate) deleted: Mutex<BTreeMap<String, Done>>,
    /// Events seen by all clients.
    seen: AtomicU64,
    /// What the server refused last.
    refused: Mutex<Option<Value>>,
    /// The clients are to stop, or the server is dead.
    over: AtomicBool,
}

/// What is known of a session.
pub(crate) struct Session {
    pub(crate) id: String,
    known: Mutex<Known>,
    /// A client drives and another one follows it, until the server is dead.
    is_driven: AtomicBool,
}

/// What its clients saw of a session, and what they asked of it.
#[derive(Default)]
pub(crate) struct Known {
    /// Events, from number 0 on.
    pub(crate) events: Vec<Value>,
    /// Tasks by tag, and the turn that each surely became.
    pub(crate) tasks: BTreeMap<String, Option<u64>>,
    /// Whether it was ended by a client.
    pub(crate) ended: Option<Done>,
}

/// Tags and marks are unique in the whole process.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The task of so many steps, with its tag.
fn task(steps: usize, large: bool) -> (String, String) {
    let tag = format!("#{}", next());
    let padding = if large { "x".repeat(LARGE) } else { String::new() };
    (format!("{tag} work {steps} {padding}"), tag)
}

/// The tag in a task.
pub(crate) fn tag_of(text: &str) -> Option<String> {
    let tag = text.split_whitespace().next()?;
    tag.starts_with('#').then(|| tag.to_owned())
}

/// Makes the model do what a task says: so many commands, each with a mark of its own, then a last word.
pub(crate) fn script(model: &ModelServer) {
    model.respond(|request| {
        let messages = request.body["messages"].as_array().cloned().unwrap_or_default();
        let is_task = |message: &Value| message["role"] == "user" && message.to_string().contains(" work ");
        let Some(at) = messages.iter().rposition(is_task) else { return Answer::text("no task") };
        let text = messages[at].to_string();
        let steps = text
            .split(" work ")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok());
        let done = messages[at..].iter().filter(|message| message["role"] == "tool").count();
        if done >= steps.unwrap_or(0) {
            return Answer::text("All is done.");
        }
        let command = format!("echo mark-{}- | tee -a {MARKS}", next());
        Answer::message(Some("Next.".to_owned()), vec![("run".to_owned(), json!({ "command": command }))])
    });
}

// === impl Session ===

impl Session {
    fn new(id: String) -> Arc<Self> {
        Arc::new(Self { id, known: Mutex::default(), is_driven: AtomicBool::new(false) })
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

// === impl Known ===

impl Known {
    /// The state that the newest status event tells.
    pub(crate) fn state(&self) -> Option<&str> {
        self.events
            .iter()
            .rev()
            .find(|event| event["type"] == "status")
            .and_then(|event| event["text"].as_str())
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), Some("ended" | "failed"))
    }
}

// === impl Clients ===

impl Clients {
    /// Makes the home's project; none if the server dies over it.
    pub(crate) fn new(client: Client, source: &Path) -> Option<Self> {
        let project = match client.post("/projects", &json!({ "name": "thing", "source": source })) {
            Ok(made) => made["id"].as_str().unwrap().to_owned(),
            Err(Failure::Refused(refusal)) => panic!("no project is made: {refusal}"),
            Err(Failure::NotAsked | Failure::NotAnswered) => return None,
        };
        Some(Self {
            client,
            project,
            sessions: Mutex::default(),
            perhaps_spawned: Mutex::default(),
            tokens: Mutex::default(),
            deleted: Mutex::default(),
            seen: AtomicU64::new(0),
            refused: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    /// Every session that is known.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).clone()
    }

    /// How the sessions stand and what was refused last, for whoever asks why nothing went on.
    pub(crate) fn describe(&self) -> String {
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for session in self.sessions() {
            let known = session.known();
            *states.entry(known.state().unwrap_or("unknown").to_owned()).or_default() += 1;
        }
        format!("{} events seen, sessions {states:?}, last refusal {:?}", self.seen(), lock(&self.refused))
    }

    /// How many events all clients have seen.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Tells all clients to stop.
    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Works on a server that runs until it is dead or [`Clients::stop`] is called. Returns when every client is done.
    pub(crate) fn work(&self, way: Way, seed: u64) {
        self.over.store(false, Ordering::Relaxed);
        let mut rng = StdRng::seed_from_u64(seed);
        self.find_perhaps_spawned();
        for session in self.sessions() {
            session.is_driven.store(false, Ordering::Relaxed);
        }
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                let lane = rng.random();
                scope.spawn(move || self.lane(scope, way, StdRng::seed_from_u64(lane)));
            }
            let other = rng.random();
            scope.spawn(move || self.other(way, StdRng::seed_from_u64(other)));
        });
    }

    /// Drives one session after the other.
    fn lane<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>, way: Way, mut rng: StdRng) {
        while !self.is_over() {
            let Some(session) = self.take_session(way, &mut rng) else { continue };
            let followed = Arc::clone(&session);
            scope.spawn(move || self.follow(&followed));
            match way {
                Way::Deletions => self.wait(|| session.known().is_over()),
                _ => self.drive(&session, way, &mut rng),
            }
        }
    }

    /// A session that nobody drives, or a new one.
    fn take_session(&self, way: Way, rng: &mut StdRng) -> Option<Arc<Session>> {
        let may_be_old = match way {
            Way::Deletions => false,
            Way::Spawns => rng.random_bool(0.3),
            _ => true,
        };
        if may_be_old {
            let is_free = |session: &&Arc<Session>| {
                let known = session.known();
                let may_work = !known.is_over() && known.ended.is_none();
                may_work && !session.is_driven.swap(true, Ordering::Relaxed)
            };
            if let Some(session) = lock(&self.sessions).iter().find(is_free) {
                return Some(Arc::clone(session));
            }
        }
        self.spawn(rng.random_range(0..3), way == Way::LargeMessages, way == Way::Deletions)
    }

    fn spawn(&self, steps: usize, large: bool, end_when_idle: bool) -> Option<Arc<Session>> {
        let (text, tag) = task(steps, large);
        let asked = json!({ "project_id": self.project, "message": text, "end_when_idle": end_when_idle });
        match self.client.post("/sessions", &asked) {
            Ok(accepted) => {
                let session = Session::new(accepted["session_id"].as_str().unwrap().to_owned());
                session.known().tasks.insert(tag, accepted["turn"].as_u64());
                session.is_driven.store(true, Ordering::Relaxed);
                lock(&self.sessions).push(Arc::clone(&session));
                Some(session)
            }
            Err(failure) => {
                if self.lost(&failure) {
                    lock(&self.perhaps_spawned).push(tag);
                }
                None
            }
        }
    }

    fn drive(&self, session: &Session, way: Way, rng: &mut StdRng) {
        while !self.is_over() && !session.known().is_over() {
            let rounds = rng.random_range(1..3);
            let mut newest = -1;
            for _ in 0..rounds {
                let (text, tag) =
                    task(rng.random_range(0..4), way == Way::LargeMessages || rng.random_bool(0.03));
                session.known().tasks.insert(tag.clone(), None);
                match self
                    .client
                    .post(&format!("/sessions/{}/message", session.id), &json!({ "message": text }))
                {
                    Ok(accepted) => {
                        newest = accepted["last_index"].as_i64().unwrap();
                        session.known().tasks.insert(tag, accepted["turn"].as_u64());
                    }
                    Err(failure) => {
                        if !self.lost(&failure) {
                            session.known().tasks.remove(&tag);
                        }
                        return;
                    }
                }
            }
            if rng.random_bool(0.3) {
                let some = session.known().events.len() + rng.random_range(1..12);
                self.wait(|| session.known().events.len() >= some || is_at_rest(&session.known(), newest));
                let path = format!("/sessions/{}/interrupt", session.id);
                if let Err(failure) = self.client.post(&path, &json!({})) {
                    self.lost(&failure);
                }
            }
            self.wait(|| is_at_rest(&session.known(), newest));
            if rng.random_bool(if way == Way::Spawns { 0.5 } else { 0.06 }) {
                return self.end(session);
            }
        }
    }

    fn end(&self, session: &Session) {
        if self.is_over() {
            return;
        }
        session.known().ended = Some(Done::Perhaps);
        match self.client.post(&format!("/sessions/{}/end", session.id), &json!({})) {
            Ok(_) => session.known().ended = Some(Done::Surely),
            Err(failure) => {
                if !self.lost(&failure) {
                    session.known().ended = None;
                }
            }
        }
    }

    /// Keeps every event of a session that the server tells.
    fn follow(&self, session: &Session) {
        let cursor = i64::try_from(session.known().events.len()).unwrap() - 1;
        self.client.follow(&session.id, cursor, |event| {
            self.seen.fetch_add(1, Ordering::Relaxed);
            let mut known = session.known();
            assert_eq!(event["index"], known.events.len(), "{}: a stream has a gap", session.id);
            known.events.push(event);
            !self.is_over()
        });
    }

    /// What is done beside the sessions' own work.
    fn other(&self, way: Way, mut rng: StdRng) {
        while !self.is_over() {
            let choice = match way {
                Way::Tokens => 0,
                Way::Patches => 1,
                Way::Deletions => 2,
                _ => rng.random_range(0..4),
            };
            match choice {
                0 => self.token(&mut rng),
                1 => self.patch(&mut rng),
                2 => self.delete_workspace(),
                _ => self.wait_a_little(),
            }
        }
    }

    fn token(&self, rng: &mut StdRng) {
        let name = format!("token-{}", next());
        let scope = json!({ "name": name, "scope": "admin:ro" });
        lock(&self.tokens).insert(name.clone(), (Done::Perhaps, None));
        if let Err(failure) = self.client.post("/tokens", &scope) {
            if !self.lost(&failure) {
                lock(&self.tokens).remove(&name);
            }
            return;
        }
        lock(&self.tokens).insert(name.clone(), (Done::Surely, None));
        if rng.random_bool(0.5) {
            lock(&self.tokens).insert(name.clone(), (Done::Surely, Some(Done::Perhaps)));
            match self.client.post(&format!("/tokens/{name}/revoke"), &json!({})) {
                Ok(_) => drop(lock(&self.tokens).insert(name, (Done::Surely, Some(Done::Surely)))),
                Err(failure) => {
                    self.lost(&failure);
                }
            }
        }
    }

    fn patch(&self, rng: &mut StdRng) {
        let sessions = self.sessions();
        let Some(session) = sessions.get(rng.random_range(0..sessions.len().max(1))) else {
            return self.wait_a_little();
        };
        if let Err(failure) = self.client.get(&format!("/sessions/{}/diff", session.id)) {
            self.lost(&failure);
        }
    }

    /// Deletes the workspace of a session that is over.
    fn delete_workspace(&self) {
        let over = self
            .sessions()
            .into_iter()
            .find(|session| session.known().is_over() && !lock(&self.deleted).contains_key(&session.id));
        let Some(session) = over else { return self.wait_a_little() };
        let view = match self.client.get(&format!("/sessions/{}", session.id)) {
            Ok(view) => view,
            Err(failure) => {
                self.lost(&failure);
                return;
            }
        };
        lock(&self.deleted).insert(session.id.clone(), Done::Perhaps);
        let workspace = view["workspace_id"].as_str().unwrap();
        match self.client.delete(&format!("/projects/{}/workspaces/{workspace}", self.project)) {
            Ok(_) => drop(lock(&self.deleted).insert(session.id.clone(), Done::Surely)),
            Err(failure) => {
                self.lost(&failure);
            }
        }
    }

    /// Sessions that were asked for and not answered: those that are there are known from now on.
    pub(crate) fn find_perhaps_spawned(&self) {
        let tags = lock(&self.perhaps_spawned).clone();
        if tags.is_empty() {
            return;
        }
        let Ok(listed) = self.client.get(&format!("/sessions?project_id={}&limit=1000", self.project)) else {
            return;
        };
        for view in listed.as_array().unwrap() {
            let id = view["session_id"].as_str().unwrap();
            let Some(tag) = view["title"].as_str().and_then(tag_of).filter(|tag| tags.contains(tag)) else {
                continue;
            };
            if self.sessions().iter().any(|session| session.id == id) {
                continue;
            }
            let session = Session::new(id.to_owned());
            session.known().tasks.insert(tag, None);
            lock(&self.sessions).push(session);
        }
    }

    /// True if it was asked and not answered. Whatever is refused here may be refused: the server stops, or a session
    /// is over already.
    fn lost(&self, failure: &Failure) -> bool {
        match failure {
            Failure::NotAsked => {
                self.stop();
                false
            }
            Failure::NotAnswered => {
                self.stop();
                true
            }
            Failure::Refused(refusal) => {
                assert_ne!(refusal["code"], "internal", "{refusal}");
                *lock(&self.refused) = Some(refusal.clone());
                self.wait_a_little();
                false
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn wait(&self, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() && !self.is_over() {
            assert!(Instant::now() < deadline, "a session came to no rest within {PATIENCE:?}");
            std::thread::park_timeout(LOOK);
        }
    }

    fn wait_a_little(&self) {
        std::thread::park_timeout(5 * LOOK);
    }
}

/// True if the session has taken the task that came after event `newest`, and waits for another one.
fn is_at_rest(known: &Known, newest: i64) -> bool {
    let reached = i64::try_from(known.events.len()).unwrap() - 1;
    reached > newest + 1 && matches!(known.state(), Some("idle" | "asleep" | "ended" | "failed"))
}

/// What a mutex holds, also after a client failed: the first failure is the one to be told.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
