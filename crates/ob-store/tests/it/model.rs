//! Random commits, compared with a model that fits on a page.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use ob_core::MicroUsd;
use ob_core::ProjectId;
use ob_core::Timestamp;
use ob_core::TreeId;
use ob_core::TurnNumber;
use ob_core::WorkspaceId;
use ob_core::id::ChargeId;
use ob_core::ledger::Amount;
use ob_core::ledger::Ledger;
use ob_core::ledger::TreeLimits;
use ob_core::record::ProjectRecord;
use ob_core::record::SessionRecord;
use ob_core::record::WorkspaceRecord;
use ob_core::turn::TurnState;
use ob_store::Commit;
use ob_store::Epoch;
use ob_store::SharedStore;
use ob_store::StoreError;
use ob_store::Write;
use ob_store::conformance;
use proptest::prelude::*;
use uuid::Uuid;

use crate::Folder;
use crate::open;

/// Projects; each has one workspace and one tree of the same number.
const PROJECTS: usize = 2;
/// Sessions; number `n` is of project `n % PROJECTS`.
const SESSIONS: usize = 4;
/// Charges.
const CHARGES: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Append(usize, usize),
    Session(usize, u8),
    Turn(usize, u32),
    Driver(usize, u8),
    Project(usize),
    DeleteProject(usize),
    Workspace(usize),
    Tree(usize, u64),
    Reserve(usize, usize, u64),
    Settle(usize, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Op>, Option<u64>),
    Claim(usize, u64),
    Reopen,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelSession {
    epoch: Option<u64>,
    title: String,
    events: Vec<String>,
    turns: BTreeSet<u32>,
    driver: Option<u8>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    projects: BTreeSet<usize>,
    workspaces: BTreeSet<usize>,
    trees: BTreeMap<usize, Ledger>,
    sessions: BTreeMap<usize, ModelSession>,
    /// Session, amount, and whether it is open.
    charges: BTreeMap<usize, (usize, Amount, bool)>,
    appended: usize,
}

#[derive(Debug, PartialEq)]
enum No {
    Fenced,
    Missing,
    OverLimit,
}

// === impl Model ===

impl Model {
    fn commit(&mut self, ops: &[Op], fence: Option<u64>) -> Result<Vec<u64>, No> {
        let mut next = self.clone();
        let mut first = Vec::new();
        for op in ops {
            next.apply(op, fence, &mut first)?;
        }
        *self = next;
        Ok(first)
    }

    fn writable(&mut self, session: usize, fence: Option<u64>) -> Result<&mut ModelSession, No> {
        let found = self.sessions.get_mut(&session).ok_or(No::Missing)?;
        if found.epoch == fence { Ok(found) } else { Err(No::Fenced) }
    }

    fn apply(&mut self, op: &Op, fence: Option<u64>, first: &mut Vec<u64>) -> Result<(), No> {
        match *op {
            Op::Append(session, count) => {
                let appended = self.appended;
                let found = self.writable(session, fence)?;
                first.push(found.events.len() as u64);
                found.events.extend((0..count).map(|n| format!("{}", appended + n)));
                self.appended += count;
            }
            Op::Session(session, title) => match self.writable(session, fence) {
                Ok(found) => found.title = title.to_string(),
                Err(No::Missing) => {
                    let home = session % PROJECTS;
                    if !self.projects.contains(&home)
                        || !self.workspaces.contains(&home)
                        || !self.trees.contains_key(&home)
                    {
                        return Err(No::Missing);
                    }
                    let made =
                        ModelSession { epoch: fence, title: title.to_string(), ..ModelSession::default() };
                    self.sessions.insert(session, made);
                }
                Err(no) => return Err(no),
            },
            Op::Turn(session, number) => {
                self.writable(session, fence)?.turns.insert(number);
            }
            Op::Driver(session, state) => self.writable(session, fence)?.driver = Some(state),
            Op::Project(project) => {
                self.projects.insert(project);
            }
            Op::DeleteProject(project) => {
                if self.projects.remove(&project) {
                    self.workspaces.remove(&project);
                    // Its tree goes with its last session.
                    if self.sessions.keys().any(|session| session % PROJECTS == project) {
                        self.trees.remove(&project);
                    }
                    self.sessions.retain(|session, _| session % PROJECTS != project);
                    self.charges.retain(|_, (session, _, _)| *session % PROJECTS != project);
                }
            }
            Op::Workspace(project) => {
                if !self.projects.contains(&project) {
                    return Err(No::Missing);
                }
                self.workspaces.insert(project);
            }
            Op::Tree(tree, limit) => self.trees.entry(tree).or_default().limits = limits(limit),
            Op::Reserve(charge, session, tokens) => {
                self.writable(session, fence)?;
                let ledger = self.trees.get_mut(&(session % PROJECTS)).ok_or(No::Missing)?;
                if let Entry::Vacant(vacant) = self.charges.entry(charge) {
                    let amount = Amount::new(tokens, MicroUsd(tokens));
                    *ledger = ledger.reserve(amount, Timestamp::default()).map_err(|_| No::OverLimit)?;
                    vacant.insert((session, amount, true));
                }
            }
            Op::Settle(charge, tokens) => {
                if let Some((session, amount, is_open @ true)) = self.charges.get_mut(&charge) {
                    *is_open = false;
                    let ledger = self.trees.get_mut(&(*session % PROJECTS)).expect("a session's tree");
                    *ledger = ledger.settle(*amount, Amount::new(tokens, MicroUsd(0)));
                }
            }
        }
        Ok(())
    }
}

/// The names that the model's numbers have in the store.
struct Names {
    projects: Vec<ProjectRecord>,
    workspaces: Vec<WorkspaceRecord>,
    trees: Vec<TreeId>,
    sessions: Vec<SessionRecord>,
    charges: Vec<ChargeId>,
    appended: usize,
}

// === impl Names ===

impl Names {
    fn new() -> Self {
        let projects: Vec<_> = (0..PROJECTS).map(|_| conformance::project()).collect();
        let workspaces: Vec<_> = projects.iter().map(|project| conformance::workspace(project.id)).collect();
        let trees: Vec<_> = (0..PROJECTS).map(|_| conformance::tree()).collect();
        let session = |n: usize| conformance::session(&workspaces[n % PROJECTS], &trees[n % PROJECTS]);
        let sessions = (0..SESSIONS).map(session).collect();
        let charges = (0..CHARGES).map(|_| ChargeId::from_uuid(Uuid::now_v7())).collect();
        Self { projects, workspaces, trees, sessions, charges, appended: 0 }
    }

    /// `appended` counts on only if the commit is done, as in the model.
    fn writes(&self, ops: &[Op]) -> Vec<Write> {
        let mut appended = self.appended;
        let id = |session: usize| self.sessions[session].id.clone();
        ops.iter()
            .map(|op| match *op {
                Op::Append(session, count) => {
                    let events =
                        (0..count).map(|n| conformance::event(format!("{}", appended + n))).collect();
                    appended += count;
                    Write::Append { session: id(session), events }
                }
                Op::Session(session, title) => Write::PutSession(Box::new(SessionRecord {
                    title: title.to_string(),
                    ..self.sessions[session].clone()
                })),
                Op::Turn(session, number) => {
                    Write::PutTurn(conformance::turn(&id(session), number, TurnState::Queued))
                }
                Op::Driver(session, state) => Write::PutDriver { session: id(session), state: vec![state] },
                Op::Project(project) => Write::PutProject(self.projects[project].clone()),
                Op::DeleteProject(project) => Write::DeleteProject(self.projects[project].id),
                Op::Workspace(project) => Write::PutWorkspace(self.workspaces[project].clone()),
                Op::Tree(tree, limit) => {
                    Write::PutTree { tree: self.trees[tree].clone(), limits: limits(limit) }
                }
                Op::Reserve(charge, session, tokens) => Write::Reserve {
                    charge: self.charges[charge],
                    tree: self.trees[session % PROJECTS].clone(),
                    session: id(session),
                    amount: Amount::new(tokens, MicroUsd(tokens)),
                },
                Op::Settle(charge, tokens) => {
                    Write::Settle { charge: self.charges[charge], used: Amount::new(tokens, MicroUsd(0)) }
                }
            })
            .collect()
    }

    async fn compare(&self, store: &SharedStore, model: &Model) {
        let projects: BTreeSet<ProjectId> =
            store.projects().await.expect("read").into_iter().map(|project| project.id).collect();
        assert_eq!(projects, model.projects.iter().map(|project| self.projects[*project].id).collect());
        for n in 0..PROJECTS {
            let workspaces: Vec<WorkspaceId> = store
                .workspaces(self.projects[n].id)
                .await
                .expect("read")
                .into_iter()
                .map(|workspace| workspace.id)
                .collect();
            let expected: Vec<WorkspaceId> =
                model.workspaces.contains(&n).then_some(self.workspaces[n].id).into_iter().collect();
            assert_eq!(workspaces, expected);
            let ledger = store.ledger(&self.trees[n]).await.expect("read");
            // The model has no clock.
            let ledger = ledger.map(|ledger| Ledger { began_at: None, ..ledger });
            assert_eq!(ledger, model.trees.get(&n).copied());
        }
        for (n, names) in self.sessions.iter().enumerate() {
            let found = store.session(&names.id).await.expect("read");
            let expected = model.sessions.get(&n);
            assert_eq!(found.as_ref().map(|found| &found.title), expected.map(|expected| &expected.title));
            let Some(expected) = expected else {
                store.events(&names.id, 0, 1).await.expect_err("no such session");
                continue;
            };
            let events: Vec<String> = conformance::log(store, &names.id)
                .await
                .into_iter()
                .map(|event| event.body.text.expect("a text"))
                .collect();
            assert_eq!(events, expected.events);
            assert_eq!(*store.doorbell(&names.id).await.expect("doorbell").borrow(), events.len() as u64);
            let turns: Vec<TurnNumber> =
                store.turns(&names.id).await.expect("read").into_iter().map(|turn| turn.number).collect();
            assert_eq!(turns, expected.turns.iter().copied().map(TurnNumber).collect::<Vec<_>>());
            let driver = store.driver(&names.id).await.expect("read");
            assert_eq!(driver, expected.driver.map(|state| vec![state]));
        }
        let open: BTreeSet<ChargeId> =
            store.open_charges().await.expect("read").into_iter().map(|charge| charge.charge).collect();
        let expected =
            model.charges.iter().filter(|(_, (_, _, open))| *open).map(|(n, _)| self.charges[*n]).collect();
        assert_eq!(open, expected);
    }
}

fn limits(tokens: u64) -> TreeLimits {
    TreeLimits { max_tokens: Some(tokens), max_cost: None, ..TreeLimits::default() }
}

fn op() -> impl Strategy<Value = Op> {
    let (session, project, charge) = (0..SESSIONS, 0..PROJECTS, 0..CHARGES);
    prop_oneof![
        5 => (session.clone(), 0..4_usize).prop_map(|(s, n)| Op::Append(s, n)),
        5 => (session.clone(), any::<u8>()).prop_map(|(s, n)| Op::Session(s, n)),
        2 => (session.clone(), 1..4_u32).prop_map(|(s, n)| Op::Turn(s, n)),
        2 => (session.clone(), any::<u8>()).prop_map(|(s, n)| Op::Driver(s, n)),
        3 => project.clone().prop_map(Op::Project),
        1 => project.clone().prop_map(Op::DeleteProject),
        3 => project.clone().prop_map(Op::Workspace),
        3 => (project, 0..200_u64).prop_map(|(t, n)| Op::Tree(t, n)),
        4 => (charge.clone(), session, 0..60_u64).prop_map(|(c, s, n)| Op::Reserve(c, s, n)),
        3 => (charge, 0..60_u64).prop_map(|(c, n)| Op::Settle(c, n)),
    ]
}

/// Mostly without a fence, so that most commits have a chance.
fn fence() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![6 => Just(None), 1 => (1..4_u64).prop_map(Some)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (proptest::collection::vec(op(), 1..5), fence()).prop_map(|(ops, fence)| Step::Commit(ops, fence)),
        1 => (0..SESSIONS, 1..4_u64).prop_map(|(session, epoch)| Step::Claim(session, epoch)),
        1 => Just(Step::Reopen),
    ]
}

fn same(outcome: Result<Vec<u64>, StoreError>) -> Result<Vec<u64>, No> {
    outcome.map_err(|error| match error {
        StoreError::Fenced { .. } => No::Fenced,
        StoreError::Missing { .. } => No::Missing,
        StoreError::OverLimit(_) => No::OverLimit,
        other => panic!("{other}"),
    })
}

async fn run(steps: Vec<Step>) {
    let folder = Folder::new();
    let mut store = open(folder.path()).await;
    let (mut model, mut names) = (Model::default(), Names::new());
    // All that a session needs is there at first.
    let all: Vec<Op> =
        (0..PROJECTS).flat_map(|n| [Op::Project(n), Op::Workspace(n), Op::Tree(n, 100)]).collect();
    let steps = std::iter::once(Step::Commit(all, None)).chain(steps);
    for step in steps {
        match step {
            Step::Commit(ops, fence) => {
                let commit = Commit { writes: names.writes(&ops), fence: fence.map(Epoch) };
                let outcome = store.commit(commit).await.map(|committed| committed.first_index);
                assert_eq!(same(outcome), model.commit(&ops, fence), "{ops:?}");
                names.appended = model.appended;
            }
            Step::Claim(session, epoch) => {
                let outcome =
                    store.claim(&names.sessions[session].id, Epoch(epoch)).await.map(|()| Vec::new());
                let expected = match model.sessions.get_mut(&session) {
                    None => Err(No::Missing),
                    Some(found) if found.epoch.is_some_and(|owner| owner > epoch) => Err(No::Fenced),
                    Some(found) => {
                        found.epoch = Some(epoch);
                        Ok(Vec::new())
                    }
                };
                assert_eq!(same(outcome), expected);
            }
            Step::Reopen => {
                store.close().await.expect("close");
                store = open(folder.path()).await;
            }
        }
    }
    names.compare(&store, &model).await;
    store.close().await.expect("close");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_commits_do_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        runtime.block_on(conformance::in_time(run(steps)));
    }
}
