//! Cleanup: what belongs to nobody goes when it was seen for long enough, and nothing else ever does.

use std::time::Duration;

use ob_config::CleanupSettings;
use ob_config::Settings;
use ob_core::operation::Operation;
use serde_json::json;

use super::world::Broken;
use super::world::World;
use super::world::ask;
use super::world::project;

fn retaining(retention: Duration) -> Settings {
    let cleanup = CleanupSettings { retention, ..CleanupSettings::default() };
    Settings { cleanup, ..Settings::default() }
}

#[tokio::test]
async fn what_belongs_to_nobody_goes_after_its_time_and_the_rest_stays() {
    let world = World::new().await;
    let engine = world.engine(Broken::unfit()).await;
    let ours = project(&engine, json!({})).await;
    let strangers = "00000000-0000-4000-8000-000000000001".parse().expect("an id");
    let lost = "00000000-0000-4000-8000-000000000002".parse().expect("an id");
    let home = &world.home;
    let (kept, gone, half) = (home.project(ours), home.project(strangers), home.workspace(ours, lost));
    let notes = home.projects().join("notes of a person");
    for folder in [&kept, &gone, &half, &notes] {
        std::fs::create_dir_all(folder.join("deep")).expect("a folder");
    }

    let cleaned = engine.clean().await;
    assert_eq!((cleaned.removed, cleaned.waiting), (0, 2), "somebody may be deleting it right now");
    assert!(gone.exists() && half.exists());
    assert!(cleaned.disk.is_some_and(|disk| (1..=100).contains(&disk.percent)), "{cleaned:?}");

    engine.apply(&retaining(Duration::ZERO));
    let cleaned = engine.clean().await;
    assert_eq!((cleaned.removed, cleaned.waiting), (2, 0));
    assert!(!gone.exists() && !half.exists());
    assert!(kept.join("deep").exists() && notes.join("deep").exists(), "it has a record; it has no id");
    let cleaned = engine.clean().await;
    assert_eq!((cleaned.removed, cleaned.waiting), (0, 0));

    ask(&engine, Operation::ProjectDelete, json!({ "project_id": ours })).await;
    assert!(!kept.exists());
    engine.shutdown(false).await;
}
