//! The rest of a server's machine: the sandbox backend, the home's files, and tokens, of which there are none.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use async_trait::async_trait;
use ob_core::Epoch;
use ob_core::Home;
use ob_core::ProjectId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::Timestamp;
use ob_core::record::TokenRecord;
use ob_core::resource::Enforcement;
use ob_core::session::SessionState;
use ob_engine::ClonePlan;
use ob_engine::Cloned;
use ob_engine::Files;
use ob_engine::Found;
use ob_sandbox::Backend;
use ob_sandbox::SandboxEnd;
use ob_sandbox::SandboxError;
use ob_sandbox::SandboxSpec;
use ob_sandbox::Started;
use ob_store::Store as _;
use ob_store::StoreError;
use ob_store::tokens::SecretHash;
use ob_store::tokens::Tokens;

use crate::guest::Sandbox;
use crate::world::Dead;
use crate::world::Life;

/// Makes sandboxes that are tasks.
pub(crate) struct SimBackend(pub(crate) Arc<Life>);

/// The home's folders, by name only.
pub(crate) struct SimFiles(pub(crate) Arc<Life>);

/// No tokens: every client is the operator.
pub(crate) struct NoTokens;

// === impl SimBackend ===

impl SimBackend {
    /// Commit, then act: a sandbox is made for a session that is durably starting, and there is no other one.
    async fn check_start(&self, spec: &SandboxSpec) {
        let world = &self.0.world;
        let Some(session) = world.session_of(&spec.id).filter(|_| spec.home.is_some()) else { return };
        let Ok(Some(record)) = world.disk.session(&session).await else { return };
        let is_ours = world.disk.owner(&session).is_some_and(|owner| owner.0 == self.0.epoch());
        let expected = matches!(record.core.state, SessionState::Starting | SessionState::Ending);
        if is_ours && !expected {
            let state = record.core.state.as_str();
            world.wrong(&format!("a sandbox is made for {session}, which is durably {state}"));
        }
    }
}

#[async_trait]
impl Backend for SimBackend {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn check(&self) -> Result<(), Refusal> {
        self.0.pass().await.map_err(refusal)
    }

    async fn start(&self, spec: &SandboxSpec) -> Result<Started, SandboxError> {
        let world = &self.0.world;
        if self.0.is_ending(&spec.id) {
            world.wrong(&format!("{} is made while its predecessor is still being ended", spec.id));
        }
        let failed = |what: &str| SandboxError::Failed { id: spec.id.clone(), what: what.to_owned() };
        self.0.pause(world.chance.millis(1..=120)).await.map_err(|_| failed("dead"))?;
        if world.weather.is(&world.weather.no_sandboxes) {
            return Err(failed("the walls fell down"));
        }
        // As the real one does. Only a server that was frozen in the middle of a start comes here.
        if world.sandboxes().contains_key(&spec.id) {
            world.note(&format!("occupied {} {}", self.0.number, spec.id));
            let refusal = Refusal::conflict(format!("the sandbox `{}` runs already", spec.id));
            return Err(SandboxError::Refused(refusal.fix("end it first, or adopt it")));
        }
        self.check_start(spec).await;
        world.note(&format!("start {} {}", self.0.number, spec.id));
        drop(Sandbox::start(world, spec));
        self.0.pause(world.chance.millis(0..=30)).await.map_err(|_| failed("dead"))?;
        Ok(Started { enforcement: Enforcement::default() })
    }

    async fn adopt(&self, id: &str, _: &Path, epoch: Epoch) -> Result<Option<SandboxEnd>, SandboxError> {
        self.0
            .pass()
            .await
            .map_err(|_| SandboxError::Failed { id: id.to_owned(), what: "dead".to_owned() })?;
        let sandbox = self.0.world.sandboxes().get(id).cloned();
        if sandbox.as_ref().is_some_and(|sandbox| !sandbox.belongs_to(epoch)) {
            return Err(SandboxError::Owned { id: id.to_owned() });
        }
        let runs = sandbox.is_some();
        self.0.world.note(&format!("adopt {} {id} {runs}", self.0.number));
        Ok((!runs).then(|| SandboxEnd {
            reason: "nothing is known of it".to_owned(),
            at: Timestamp::default(),
            limit: None,
        }))
    }

    async fn enforcement(&self, _: &Path) -> Option<Enforcement> {
        Some(Enforcement::default())
    }

    async fn ended(&self, id: &str, _: &Path) -> SandboxEnd {
        let sandbox = self.0.world.sandboxes().get(id).cloned();
        let reason = match sandbox {
            Some(sandbox) => sandbox.ended().await,
            None => "it is gone".to_owned(),
        };
        if self.0.pass().await.is_err() {
            std::future::pending::<()>().await;
        }
        SandboxEnd { reason, at: Timestamp::default(), limit: None }
    }

    async fn end(&self, id: &str, _: &Path, epoch: Epoch) -> Result<(), SandboxError> {
        let failed = |_: Dead| SandboxError::Failed { id: id.to_owned(), what: "dead".to_owned() };
        let _ends = self.0.ends(id);
        self.0.pause(self.0.world.chance.millis(0..=40)).await.map_err(failed)?;
        let sandbox = self.0.world.sandboxes().get(id).cloned();
        if let Some(sandbox) = sandbox {
            if !sandbox.belongs_to(epoch) {
                self.0.world.note(&format!("late {} {id}", self.0.number));
                return Err(SandboxError::Owned { id: id.to_owned() });
            }
            self.0.world.note(&format!("end {} {id}", self.0.number));
            sandbox.end("ended by its server");
        }
        self.0.pause(self.0.world.chance.millis(0..=20)).await.map_err(failed)
    }
}

// === impl SimFiles ===

#[async_trait]
impl Files for SimFiles {
    async fn look(&self, home: &Home) -> Found {
        let mut found = Found::default();
        let folders = self.0.world.folders().clone();
        for folder in &folders {
            let Ok(inside) = folder.strip_prefix(home.projects()) else { continue };
            let parts: Vec<&str> = inside.iter().filter_map(|part| part.to_str()).collect();
            let Some(project) = parts.first().and_then(|part| ProjectId::from_str(part).ok()) else {
                continue;
            };
            found.projects.push(project);
            match parts[1..] {
                ["workspaces", id] => found.workspaces.extend(id.parse().map(|id| (project, id))),
                ["bases", id] => {
                    let id = id.trim_end_matches(".git");
                    found.workspaces.extend(id.parse().map(|id| (project, id)));
                }
                ["homes", id] => found.homes.extend(id.parse().map(|id| (project, id))),
                _ => {}
            }
        }
        found.projects.dedup();
        found.workspaces.sort_unstable();
        found.workspaces.dedup();
        for id in self.0.world.sandboxes().keys() {
            let runtime = home.runtime().join("s").join(id);
            let of = if SessionId::is_suffix(id) { &mut found.sandboxes } else { &mut found.patches };
            of.push((id.clone(), runtime));
        }
        found
    }

    async fn prepare(&self, plan: &ClonePlan) -> Result<Cloned, Refusal> {
        self.0.pause(self.0.world.chance.millis(0..=200)).await.map_err(refusal)?;
        let made = [Some(plan.base.clone()), plan.workspace.clone()].into_iter().flatten();
        self.0.world.folders().extend(made);
        Ok(Cloned { base_commit: "c0ffee".to_owned(), dirty: false })
    }

    async fn make_home(&self, path: &Path, _: Option<u32>) -> Result<(), Refusal> {
        self.0.pass().await.map_err(refusal)?;
        self.0.world.folders().insert(path.to_owned());
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), Refusal> {
        self.0.pause(self.0.world.chance.millis(0..=50)).await.map_err(refusal)?;
        self.0.world.note(&format!("remove {} {}", self.0.number, path.display()));
        self.0.world.folders().retain(|folder| !folder.starts_with(path));
        Ok(())
    }
}

// === impl NoTokens ===

#[async_trait]
impl Tokens for NoTokens {
    async fn create(&self, _: TokenRecord, _: SecretHash) -> Result<bool, StoreError> {
        Err(StoreError::Closed)
    }

    async fn find(&self, _: &SecretHash) -> Result<Option<TokenRecord>, StoreError> {
        Ok(None)
    }

    async fn list(&self) -> Result<Vec<TokenRecord>, StoreError> {
        Ok(Vec::new())
    }

    async fn get(&self, _: &str) -> Result<Option<TokenRecord>, StoreError> {
        Ok(None)
    }

    fn revision(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn revoke(&self, _: &str, _: Timestamp) -> Result<Option<TokenRecord>, StoreError> {
        Ok(None)
    }
}

fn refusal(_: Dead) -> Refusal {
    Refusal::unavailable("the server is dead").fix("start another one")
}
