//! What goes wrong, and when: drawn from the seed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::guest::Sandbox;
use crate::servers::Servers;
use crate::world::World;

/// Bad weather, until it is time for calm.
pub(crate) async fn run(world: Arc<World>, servers: Arc<Servers>, length: Duration) {
    let (chance, until) = (&world.chance, Instant::now() + length);
    // Some seeds have many faults, others few: rare states need peace to come about.
    let most = *chance.pick(&[600, 2500, 8000]);
    let mut passing = JoinSet::new();
    while Instant::now() < until {
        tokio::time::sleep(chance.millis(20..=most)).await;
        match chance.below(22) {
            0..=2 => kill(&world, &servers).await,
            3 => stop(&world, &servers).await,
            4 => take_over(&world, &servers).await,
            5 => bad(&world, &mut passing, "full disk", |world| &world.weather.full_disk),
            6 => bad(&world, &mut passing, "slow disk", |world| &world.weather.slow_disk),
            7 => bad(&world, &mut passing, "bad disk", |world| &world.weather.bad_disk),
            8 => bad(&world, &mut passing, "no sandboxes", |world| &world.weather.no_sandboxes),
            9 => bad(&world, &mut passing, "bad provider", |world| &world.weather.bad_provider),
            10 => jump(&world),
            11..=12 => lose_sandbox(&world),
            13 => freeze(&world, &servers).await,
            14..=15 => world.net.cut_all(&world),
            _ => world.net.cut_one(&world),
        }
    }
    passing.join_all().await;
}

/// The machine's supervisor: starts the next server.
async fn restart(world: &World, servers: &Servers) {
    if servers.count() == 0 {
        tokio::time::sleep(world.chance.millis(0..=3000)).await;
        servers.start().await;
    }
}

async fn kill(world: &World, servers: &Servers) {
    if let Some(server) = servers.newest() {
        servers.kill(server);
    }
    restart(world, servers).await;
}

async fn stop(world: &World, servers: &Servers) {
    if let Some(server) = servers.newest() {
        servers.stop(server, world.chance.one_in(2)).await;
    }
    restart(world, servers).await;
}

/// The server is frozen, another one takes over, and the first one wakes up late.
async fn take_over(world: &World, servers: &Servers) {
    let Some(late) = servers.oldest() else { return };
    world.note(&format!("freeze {} and take over", late.life.number));
    late.life.freeze(world.chance.one_in(2));
    tokio::time::sleep(world.chance.millis(0..=2000)).await;
    servers.start().await;
    tokio::time::sleep(world.chance.millis(0..=20_000)).await;
    world.note(&format!("thaw {}", late.life.number));
    late.life.freeze(false);
    tokio::time::sleep(world.chance.millis(0..=10_000)).await;
    if world.chance.one_in(2) {
        servers.kill(late);
    } else {
        servers.stop(late, world.chance.one_in(2)).await;
    }
}

async fn freeze(world: &World, servers: &Servers) {
    let Some(server) = servers.newest() else { return };
    world.note(&format!("freeze {}", server.life.number));
    server.life.freeze(true);
    tokio::time::sleep(world.chance.millis(100..=15_000)).await;
    world.note(&format!("thaw {}", server.life.number));
    server.life.freeze(false);
}

/// Something is bad for a while.
fn bad(world: &Arc<World>, passing: &mut JoinSet<()>, name: &str, what: fn(&World) -> &AtomicBool) {
    let length = world.chance.millis(100..=12_000);
    world.note(&format!("{name} for {length:?}"));
    what(world).store(true, Ordering::Relaxed);
    let world = Arc::clone(world);
    passing.spawn(async move {
        tokio::time::sleep(length).await;
        what(&world).store(false, Ordering::Relaxed);
    });
}

/// The machine's clock is set, by up to a day in either direction.
fn jump(world: &World) {
    let seconds = i64::try_from(world.chance.below(2 * 86_400)).unwrap_or(0) - 86_400;
    world.note(&format!("jump {seconds}"));
    world.jump(seconds * 1_000_000);
}

fn lose_sandbox(world: &World) {
    let sandboxes: Vec<Arc<Sandbox>> = world.sandboxes().values().cloned().collect();
    if !sandboxes.is_empty() {
        world.chance.pick(&sandboxes).end("killed from outside");
    }
}
