//! Permits, holds and drains, by table and under load.

use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const LATER: Timestamp = Timestamp::from_micros(2_000_000);

trait Greeter: Send + Sync {
    fn greet(&self) -> String;
}

struct Named(&'static str);

impl Greeter for Named {
    fn greet(&self) -> String {
        self.0.to_owned()
    }
}

/// Says when it is dropped.
struct Mortal {
    gone: Arc<AtomicBool>,
}

impl Greeter for Mortal {
    fn greet(&self) -> String {
        "mortal".to_owned()
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

fn greeter(name: &'static str) -> Arc<dyn Greeter> {
    Arc::new(Named(name))
}

fn registry_of(name: &'static str) -> Registry {
    let registry = Registry::default();
    registry.register(Domain::Adapter, "greeter", name, greeter(name));
    registry
}

fn permit(registry: &Registry, now: Timestamp) -> Result<Permit<dyn Greeter>, Refusal> {
    registry.permit::<dyn Greeter>(Domain::Adapter, "greeter", now)
}

fn hold() -> Hold {
    Hold::new("mara", "disk swap")
}

/// Polls once with a waker that does nothing.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn the_highest_priority_wins_and_then_the_latest() {
    let registry = registry_of("first");
    let chosen = |registry: &Registry| permit(registry, NOW).expect("open").greet();
    assert_eq!(chosen(&registry), "first");
    registry.register(Domain::Adapter, "greeter", "second", greeter("second"));
    assert_eq!(chosen(&registry), "second", "the latest of equals");
    registry.register_with_priority(Domain::Adapter, "greeter", "strong", 10, greeter("strong"));
    registry.register(Domain::Adapter, "greeter", "third", greeter("third"));
    assert_eq!(chosen(&registry), "strong", "priority before age");
    let explanation = registry.explain(Domain::Adapter, "greeter").expect("registered");
    let order: Vec<(&str, bool)> =
        explanation.candidates.iter().map(|c| (c.provider.as_str(), c.chosen)).collect();
    assert_eq!(order, [("strong", true), ("third", false), ("second", false), ("first", false)]);
    assert_eq!(registry.unregister(Domain::Adapter, "greeter", "strong"), Ok(true));
    assert_eq!(registry.unregister(Domain::Adapter, "greeter", "strong"), Ok(false));
    assert_eq!(chosen(&registry), "third");
}

#[test]
fn the_last_candidate_stays() {
    let registry = registry_of("only");
    let refusal = registry.unregister(Domain::Adapter, "greeter", "only").expect_err("the last one");
    assert_eq!(refusal.code, RefusalCode::Conflict);
    assert!(permit(&registry, NOW).is_ok());
}

#[test]
fn a_missing_component_is_refused_with_what_there_is() {
    let empty = permit(&Registry::default(), NOW).expect_err("nothing registered");
    assert_eq!(empty.code, RefusalCode::NotFound);
    let refusal = registry_of("plain")
        .permit::<dyn Greeter>(Domain::Service, "greeter", NOW)
        .expect_err("wrong domain");
    assert_eq!(refusal.to_string(), "service `greeter` not found; registered: adapter `greeter` (plain)");
}

#[test]
fn a_component_of_another_type_is_a_fault_of_ours_and_counts_nothing() {
    let registry = registry_of("plain");
    let refusal =
        registry.permit::<dyn Fn() + Send + Sync>(Domain::Adapter, "greeter", NOW).expect_err("another type");
    assert_eq!(refusal.code, RefusalCode::Internal);
    assert_eq!(registry.list()[0].permits, 0);
}

#[test]
fn a_held_component_says_who_why_and_until_when() {
    let registry = registry_of("plain");
    let out = permit(&registry, NOW).expect("open");
    registry.pause(Domain::Adapter, "greeter", hold().until(LATER)).expect("registered");
    let refusal = permit(&registry, NOW).expect_err("paused");
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert_eq!(
        refusal.to_string(),
        "adapter `greeter` is paused by mara until 1970-01-01T00:00:02.000000Z: disk swap; \
         wait, or ask mara to resume it"
    );
    assert_eq!(out.greet(), "plain", "permits that are out stay good");
    registry.resume(Domain::Adapter, "greeter").expect("registered");
    assert!(permit(&registry, NOW).is_ok());
}

#[test]
fn a_hold_runs_out_at_its_instant_and_not_before() {
    let registry = registry_of("plain");
    registry.pause(Domain::Adapter, "greeter", hold().until(LATER)).expect("registered");
    let before = Timestamp::from_micros(LATER.as_micros() - 1);
    assert!(permit(&registry, before).is_err());
    assert!(permit(&registry, LATER).is_ok());
    assert_eq!(registry.list()[0].hold, None, "and is forgotten");
    assert!(permit(&registry, before).is_ok(), "even if the clock goes back");
}

#[test]
fn every_verb_refuses_what_is_not_registered() {
    let registry = Registry::default();
    assert!(registry.pause(Domain::Task, "x", hold()).is_err());
    assert!(registry.resume(Domain::Task, "x").is_err());
    assert!(registry.explain(Domain::Task, "x").is_err());
    assert!(registry.unregister(Domain::Task, "x", "y").is_err());
    assert!(matches!(poll_once(pin!(registry.drain(Domain::Task, "x", hold()))), Poll::Ready(Err(_))));
}

#[test]
fn a_swapped_component_lives_until_its_last_permit() {
    let registry = Registry::default();
    let gone = Arc::new(AtomicBool::new(false));
    let old: Arc<dyn Greeter> = Arc::new(Mortal { gone: Arc::clone(&gone) });
    registry.register(Domain::Adapter, "greeter", "plain", old);
    let permit_of_old = permit(&registry, NOW).expect("open");
    registry.register(Domain::Adapter, "greeter", "plain", greeter("new"));
    assert_eq!(permit(&registry, NOW).expect("open").greet(), "new");
    assert_eq!(permit_of_old.greet(), "mortal");
    assert!(!gone.load(Ordering::SeqCst), "in use");
    drop(permit_of_old);
    assert!(gone.load(Ordering::SeqCst), "not in use any more");
}

#[test]
fn a_component_may_use_the_registry_while_it_is_dropped() {
    struct Nosy(Registry);
    impl Greeter for Nosy {
        fn greet(&self) -> String {
            String::new()
        }
    }
    impl Drop for Nosy {
        fn drop(&mut self) {
            assert_eq!(self.0.list().len(), 1);
        }
    }
    let registry = Registry::default();
    let nosy: Arc<dyn Greeter> = Arc::new(Nosy(registry.clone()));
    registry.register(Domain::Adapter, "greeter", "plain", nosy);
    registry.register(Domain::Adapter, "greeter", "plain", greeter("new"));
    assert_eq!(permit(&registry, NOW).expect("open").greet(), "new");
}

#[test]
fn a_drain_waits_exactly_for_the_last_permit() {
    let registry = registry_of("plain");
    let (first, second) = (permit(&registry, NOW).expect("open"), permit(&registry, NOW).expect("open"));
    let mut drain = pin!(registry.drain(Domain::Adapter, "greeter", hold()));
    assert!(poll_once(drain.as_mut()).is_pending());
    assert!(permit(&registry, NOW).expect_err("draining").message.contains("is draining by mara"));
    drop(first);
    assert!(poll_once(drain.as_mut()).is_pending(), "one is still out");
    drop(second);
    assert_eq!(poll_once(drain.as_mut()), Poll::Ready(Ok(())));
    assert!(permit(&registry, NOW).is_err(), "the hold stays after the drain");
}

#[test]
fn a_drain_of_the_unused_is_done_at_once() {
    let registry = registry_of("plain");
    assert_eq!(poll_once(pin!(registry.drain(Domain::Adapter, "greeter", hold()))), Poll::Ready(Ok(())));
}

#[test]
fn a_drain_that_is_given_up_keeps_its_hold_and_can_go_on() {
    let registry = registry_of("plain");
    let out = permit(&registry, NOW).expect("open");
    {
        let mut drain = pin!(registry.drain(Domain::Adapter, "greeter", hold()));
        assert!(poll_once(drain.as_mut()).is_pending());
    }
    assert!(permit(&registry, NOW).is_err());
    drop(out);
    assert_eq!(poll_once(pin!(registry.drain(Domain::Adapter, "greeter", hold()))), Poll::Ready(Ok(())));
}

#[test]
fn a_drain_whose_hold_is_lifted_says_so_and_does_not_hang() {
    for lift in [
        (|registry: &Registry| registry.resume(Domain::Adapter, "greeter").expect("registered"))
            as fn(&Registry),
        |registry| drop(permit(registry, LATER).expect("the hold ran out")),
    ] {
        let registry = registry_of("plain");
        let _out = permit(&registry, NOW).expect("open");
        let mut drain = pin!(registry.drain(Domain::Adapter, "greeter", hold().until(LATER)));
        assert!(poll_once(drain.as_mut()).is_pending());
        lift(&registry);
        let Poll::Ready(Err(refusal)) = poll_once(drain.as_mut()) else { panic!("the drain goes on") };
        assert_eq!(refusal.code, RefusalCode::Conflict);
    }
}

#[test]
fn another_hold_on_top_does_not_end_a_drain() {
    let registry = registry_of("plain");
    let out = permit(&registry, NOW).expect("open");
    let mut drain = pin!(registry.drain(Domain::Adapter, "greeter", hold()));
    assert!(poll_once(drain.as_mut()).is_pending());
    registry.pause(Domain::Adapter, "greeter", Hold::new("ada", "also")).expect("registered");
    assert!(poll_once(drain.as_mut()).is_pending());
    drop(out);
    assert_eq!(poll_once(drain.as_mut()), Poll::Ready(Ok(())));
}

/// C1 and C2 under load: users, swaps and drains from many threads; after each drain nobody is inside.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_drain_nobody_is_inside_whatever_goes_on() {
    const USERS: usize = 8;
    const DRAINS: usize = 200;

    struct Room {
        inside: AtomicU64,
    }

    let registry = Registry::default();
    let inside = |n| Arc::new(Room { inside: AtomicU64::new(n) });
    let room = inside(0);
    registry.register(Domain::Service, "room", "a", Arc::clone(&room));
    let stop = Arc::new(AtomicBool::new(false));
    let used = Arc::new(AtomicU64::new(0));
    let users: Vec<_> = (0..USERS)
        .map(|_| {
            let (registry, stop, used) = (registry.clone(), Arc::clone(&stop), Arc::clone(&used));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    if let Ok(room) = registry.permit::<Room>(Domain::Service, "room", NOW) {
                        room.inside.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        room.inside.fetch_sub(1, Ordering::SeqCst);
                        used.fetch_add(1, Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..DRAINS {
        registry.drain(Domain::Service, "room", hold()).await.expect("nobody else lifts");
        assert_eq!(room.inside.load(Ordering::SeqCst), 0);
        assert_eq!(registry.list()[0].permits, 0);
        registry.resume(Domain::Service, "room").expect("registered");
        registry.register(Domain::Service, "room", "a", Arc::clone(&room));
        let before = used.load(Ordering::SeqCst);
        while used.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for user in users {
        user.await.expect("no user panicked");
    }
    assert_eq!(registry.list()[0].permits, 0, "every permit came back");
}

#[test]
fn the_list_is_by_domain_and_key() {
    let registry = registry_of("plain");
    registry.register(Domain::Task, "b", "x", greeter("x"));
    registry.register(Domain::Task, "a", "x", greeter("x"));
    let names: Vec<String> = registry.list().iter().map(|e| format!("{}/{}", e.domain, e.key)).collect();
    assert_eq!(names, ["adapter/greeter", "task/a", "task/b"]);
}
