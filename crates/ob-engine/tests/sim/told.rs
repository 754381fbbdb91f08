//! What was told to whom: to clients by servers, and to agents by sessions. The checker holds the log against it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::MutexGuard;

use ob_core::Event;
use ob_core::ProjectId;
use ob_core::QuestionId;
use ob_core::SessionId;
use ob_core::record::TurnRecord;
use ob_core::turn::TurnState;
use ob_store::Store as _;
use tokio::time::Instant;

use crate::guest::Sandbox;
use crate::process::Process;
use crate::world::World;
use crate::world::hash;

/// See the module.
#[derive(Default)]
pub(crate) struct Told {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<SessionId, Session>,
    tasks: BTreeMap<u64, Task>,
    runs: BTreeMap<u64, Run>,
    /// The task that each conversation is about.
    conversations: BTreeMap<String, u64>,
    /// Which process got which task.
    given: BTreeSet<(String, String, u64)>,
    /// Events that clients saw.
    seen: BTreeMap<(SessionId, u64), u64>,
    deleted: BTreeSet<ProjectId>,
    /// Answers that were taken.
    answers: BTreeMap<(SessionId, QuestionId), String>,
}

/// A session that a client was told of.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) project: ProjectId,
    pub(crate) ended: bool,
}

/// What became of a message, as its sender knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// No answer came.
    Unknown,
    /// It was accepted.
    Accepted,
    /// It was refused.
    Refused,
}

/// A message, which is a task.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) session: Option<SessionId>,
    pub(crate) fate: Fate,
    /// A person was told that it is stopped.
    interrupted: Option<Instant>,
    pub(crate) runs: Vec<u64>,
}

/// One time that an agent worked on a task.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Pieces that it wrote, if it came to its end.
    pub(crate) finished: Option<u64>,
    /// Pieces that it wrote.
    pub(crate) written: u64,
}

/// The text of a task.
pub(crate) fn text_of(task: u64) -> String {
    format!("Do task t{task}. Then stop.")
}

/// The task that a text is of.
pub(crate) fn task_of(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("task t")?;
    rest.split_once('.')?.0.parse().ok()
}

// === impl Told ===

impl Told {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics with it")
    }

    // --- clients ---

    pub(crate) fn new_task(&self, world: &World, session: Option<&SessionId>) -> u64 {
        let number = world.number();
        let task =
            Task { session: session.cloned(), fate: Fate::Unknown, interrupted: None, runs: Vec::new() };
        self.state().tasks.insert(number, task);
        number
    }

    pub(crate) fn fate(&self, task: u64, fate: Fate, session: Option<&SessionId>) {
        if let Some(task) = self.state().tasks.get_mut(&task) {
            task.fate = fate;
            task.session = session.cloned().or(task.session.take());
        }
    }

    pub(crate) fn new_session(&self, id: &SessionId, project: ProjectId) {
        self.state().sessions.insert(id.clone(), Session { project, ended: false });
    }

    pub(crate) fn ended(&self, id: &SessionId) {
        if let Some(session) = self.state().sessions.get_mut(id) {
            session.ended = true;
        }
    }

    pub(crate) fn interrupted(&self, task: u64) {
        if let Some(task) = self.state().tasks.get_mut(&task) {
            task.interrupted.get_or_insert_with(Instant::now);
        }
    }

    pub(crate) fn deleted(&self, project: ProjectId) {
        self.state().deleted.insert(project);
    }

    /// A person was told that an answer is taken.
    pub(crate) fn answered(&self, session: &SessionId, question: QuestionId, answer: &str) {
        self.state().answers.insert((session.clone(), question), answer.to_owned());
    }

    /// The answer that somebody was told is taken.
    pub(crate) fn answer(&self, session: &SessionId, question: QuestionId) -> Option<String> {
        self.state().answers.get(&(session.clone(), question)).cloned()
    }

    /// Sessions that must be there.
    pub(crate) fn sessions(&self) -> BTreeMap<SessionId, Session> {
        let state = self.state();
        let mut sessions = state.sessions.clone();
        sessions.retain(|_, session| !state.deleted.contains(&session.project));
        sessions
    }

    pub(crate) fn tasks(&self) -> BTreeMap<u64, Task> {
        self.state().tasks.clone()
    }

    pub(crate) fn runs(&self) -> BTreeMap<u64, Run> {
        self.state().runs.clone()
    }

    /// A client saw an event. It is durable, and it is what others see under this number.
    pub(crate) fn saw(&self, world: &World, session: &SessionId, event: &Event) {
        let sum = hash(0, format!("{event:?}").as_bytes());
        let is_new = {
            let mut state = self.state();
            *state.seen.entry((session.clone(), event.index)).or_insert(sum) == sum
        };
        if !is_new {
            world.wrong(&format!("event {} of {session} is another one now", event.index));
        }
        let durable = world.disk.log(session);
        let position = usize::try_from(event.index).unwrap_or(usize::MAX);
        if !durable.is_empty() && durable.get(position) != Some(event) {
            world
                .wrong(&format!("commit_before_announce: event {} of {session} is not durable", event.index));
        }
    }

    /// Everything that clients saw of a session is still there.
    pub(crate) fn check_seen(&self, world: &World, session: &SessionId, log: &[Event]) {
        let state = self.state();
        let of_session = (session.clone(), 0)..=(session.clone(), u64::MAX);
        for ((_, index), sum) in state.seen.range(of_session) {
            let event = usize::try_from(*index).ok().and_then(|index| log.get(index));
            if event.is_none_or(|event| hash(0, format!("{event:?}").as_bytes()) != *sum) {
                world.wrong(&format!("event {index} of {session} was seen and is gone"));
            }
        }
    }

    // --- agents ---

    pub(crate) fn knows_conversation(&self, id: &str) -> bool {
        self.state().conversations.contains_key(id)
    }

    /// An agent was given a text. None if it is no task that the agent can know of.
    pub(crate) async fn begin_run(
        &self,
        world: &World,
        sandbox: &Sandbox,
        process: &Process,
        conversation: &str,
        text: &str,
    ) -> Option<u64> {
        let session = sandbox.session.as_ref()?;
        let task = task_of(text).or_else(|| self.state().conversations.get(conversation).copied());
        let Some(task) = task else {
            world.wrong(&format!("the agent of {session} was told to go on with a task that it never saw"));
            return None;
        };
        let run = world.number();
        world.note(&format!("run {run} of task {task} in {}", sandbox.id));
        if let Some(active) = active_task(world, session).await
            && active != task
        {
            world.wrong(&format!("the agent of {session} works on task {task} instead of {active}"));
        }
        if let Some(turn) = turn_of(world, session, task).await
            && turn.state == TurnState::Completed
        {
            world.wrong(&format!("turn {} of {session} was completed and given again", turn.number));
        }
        let mut state = self.state();
        state.conversations.insert(conversation.to_owned(), task);
        if !state.given.insert((sandbox.id.clone(), process.key(), task)) {
            world.wrong(&format!("{} of {session} got task {task} twice", process.name()));
        }
        let known = state.tasks.get_mut(&task)?;
        if known.interrupted.is_some_and(|at| at < process.born()) {
            world.wrong(&format!("task {task} of {session} was stopped by a person and given again"));
        }
        known.runs.push(run);
        state.runs.insert(run, Run { finished: None, written: 0 });
        Some(run)
    }

    pub(crate) fn wrote(&self, run: u64, piece: u64) {
        if let Some(run) = self.state().runs.get_mut(&run) {
            run.written = piece + 1;
        }
    }

    pub(crate) fn finish_run(&self, run: u64, pieces: u64) {
        if let Some(run) = self.state().runs.get_mut(&run) {
            run.finished = Some(pieces);
        }
    }
}

/// The task of the turn that a session works on, as the store has it.
pub(crate) async fn active_task(world: &World, session: &SessionId) -> Option<u64> {
    let record = world.disk.session(session).await.ok()??;
    let turn = world.disk.turn(session, record.core.active?).await.ok()??;
    task_of(&turn.prompt)
}

/// The turn of a task, as the store has it.
pub(crate) async fn turn_of(world: &World, session: &SessionId, task: u64) -> Option<TurnRecord> {
    let turns = world.disk.turns(session).await.ok()?;
    turns.into_iter().find(|turn| task_of(&turn.prompt) == Some(task))
}
