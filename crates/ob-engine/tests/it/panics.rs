//! A fault of ours in one operation is that operation's: it is refused, and everything else goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use ob_core::Home;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::operation::Operation;
use ob_engine::ClonePlan;
use ob_engine::Cloned;
use ob_engine::Files;
use ob_engine::Found;
use ob_engine::HostFiles;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::project;
use super::world::refused;

/// Files of this machine, but the first removal is a fault.
struct Faulty {
    is_done: AtomicBool,
}

#[async_trait]
impl Files for Faulty {
    async fn look(&self, home: &Home) -> Found {
        HostFiles.look(home).await
    }

    async fn prepare(&self, plan: &ClonePlan) -> Result<Cloned, Refusal> {
        HostFiles.prepare(plan).await
    }

    async fn make_home(&self, path: &Path, owner: Option<u32>) -> Result<(), Refusal> {
        HostFiles.make_home(path, owner).await
    }

    async fn remove(&self, path: &Path) -> Result<(), Refusal> {
        assert!(self.is_done.swap(true, Ordering::Relaxed), "a fault, for this test");
        HostFiles.remove(path).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_panics_is_refused_and_what_it_held_is_free() {
    let mut world = World::new().await;
    world.files = Arc::new(Faulty { is_done: AtomicBool::new(false) });
    let engine = world.engine(Broken::new(true)).await;
    let (faulty, other) = (project(&engine, json!({})).await, project(&engine, json!({})).await);
    let refusal = refused(&engine, Operation::ProjectDelete, json!({ "project_id": faulty })).await;
    assert_eq!(refusal.code, RefusalCode::Internal, "{refusal}");
    assert!(!refusal.message.contains("for this test"), "the inside stays inside: {refusal}");
    // What was committed before the fault counts; the folder that stays is removed at the next start.
    let gone = refused(&engine, Operation::ProjectGet, json!({ "project_id": faulty })).await;
    assert_eq!(gone.code, RefusalCode::NotFound, "{gone}");
    ask(&engine, Operation::ProjectGet, json!({ "project_id": other })).await;
    ask(&engine, Operation::ProjectDelete, json!({ "project_id": other })).await;
    engine.shutdown(false).await;
}
