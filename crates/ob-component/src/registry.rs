//! The registry: candidates by `(domain, key)`, who of them is chosen, holds and permits.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::Timestamp;
use tokio::sync::watch;

use crate::CandidateView;
use crate::DEFAULT_PRIORITY;
use crate::Domain;
use crate::Explanation;
use crate::Hold;
use crate::HoldKind;

/// The rule of [`Slot::chosen`], in words.
const RULE: &str = "the highest priority wins, and among equals the latest registered";

/// The components of a server. Cheap to clone: all clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Mutex<Shared>>,
}

/// Leave to use a component; it is counted until dropped, so a drain knows when the last user has gone.
pub struct Permit<T: ?Sized> {
    component: Arc<T>,
    provider: Arc<str>,
    /// Last: the component is let go before the permit is counted back, so a drained one has no user's reference.
    _counted: Counted,
}

#[derive(Default)]
struct Shared {
    slots: BTreeMap<Domain, BTreeMap<String, Slot>>,
    registered: u64,
}

/// One `(domain, key)`. Has at least one candidate.
struct Slot {
    candidates: Vec<Candidate>,
    hold: Option<(HoldKind, Hold)>,
    tally: watch::Sender<Tally>,
}

struct Candidate {
    provider: Arc<str>,
    priority: i32,
    registered: u64,
    /// An `Arc<T>` of the registered `T`.
    component: Box<dyn Any + Send + Sync>,
}

/// What a drain waits on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Permits that are out.
    out: u64,
    /// How often a hold was lifted. A drain that sees this change no longer waits for anything that ends.
    lifted: u64,
}

/// One permit in the tally.
struct Counted {
    tally: watch::Sender<Tally>,
}

// === impl Registry ===

impl Registry {
    /// Makes `component` a candidate called `provider` for `(domain, key)`, with [`DEFAULT_PRIORITY`]. `T` is a trait
    /// object. A candidate of the same name is replaced: new permits get the new one, old permits keep the old one.
    pub fn register<T: ?Sized + Send + Sync + 'static>(
        &self,
        domain: Domain,
        key: &str,
        provider: &str,
        component: Arc<T>,
    ) {
        self.register_with_priority(domain, key, provider, DEFAULT_PRIORITY, component);
    }

    /// Like [`Registry::register`], with a priority of its own.
    pub fn register_with_priority<T: ?Sized + Send + Sync + 'static>(
        &self,
        domain: Domain,
        key: &str,
        provider: &str,
        priority: i32,
        component: Arc<T>,
    ) {
        let replaced = {
            let mut shared = self.lock();
            let registered = shared.registered;
            shared.registered += 1;
            let slot =
                shared.slots.entry(domain).or_default().entry(key.to_owned()).or_insert_with(Slot::new);
            let candidate = Candidate {
                provider: Arc::from(provider),
                priority,
                registered,
                component: Box::new(component),
            };
            match slot.candidates.iter_mut().find(|known| &*known.provider == provider) {
                Some(known) => Some(std::mem::replace(known, candidate)),
                None => {
                    slot.candidates.push(candidate);
                    None
                }
            }
        };
        tracing::debug!(%domain, key, provider, priority, replaced = replaced.is_some(), "component registered");
        // Dropped here and not under the lock: the last owner of a component may run any code when it goes.
        drop(replaced);
    }

    /// Takes a candidate out of the choice. Permits for it stay good. True if it was there.
    ///
    /// The last candidate cannot be taken out, only replaced or held: a key that once worked shall explain itself.
    pub fn unregister(&self, domain: Domain, key: &str, provider: &str) -> Result<bool, Refusal> {
        let removed = {
            let mut shared = self.lock();
            let slot = shared.slot(domain, key)?;
            let Some(at) = slot.candidates.iter().position(|candidate| &*candidate.provider == provider)
            else {
                return Ok(false);
            };
            if slot.candidates.len() == 1 {
                return Err(Refusal::conflict(format!(
                    "`{provider}` is the last candidate for {domain} `{key}`"
                ))
                .fix("register another one first, or pause it"));
            }
            slot.candidates.swap_remove(at)
        };
        drop(removed);
        Ok(true)
    }

    /// Leave to use the component, unless it is missing, paused or draining. `now` decides whether a hold is over.
    pub fn permit<T: ?Sized + Send + Sync + 'static>(
        &self,
        domain: Domain,
        key: &str,
        now: Timestamp,
    ) -> Result<Permit<T>, Refusal> {
        let mut shared = self.lock();
        let slot = shared.slot(domain, key)?;
        if let Some((kind, hold)) = &slot.hold {
            if !hold.is_expired(now) {
                return Err(held(domain, key, *kind, hold));
            }
            slot.lift();
        }
        let Some(chosen) = slot.chosen() else {
            return Err(Refusal::internal(format!("{domain} `{key}` has no candidate")));
        };
        let Some(component) = chosen.component.downcast_ref::<Arc<T>>() else {
            return Err(Refusal::internal(format!(
                "{domain} `{key}` is registered by `{}` as another type than it is asked for",
                chosen.provider
            )));
        };
        // Counted under the lock (C1).
        slot.tally.send_modify(|tally| tally.out += 1);
        Ok(Permit {
            component: Arc::clone(component),
            provider: Arc::clone(&chosen.provider),
            _counted: Counted { tally: slot.tally.clone() },
        })
    }

    /// Refuses new permits; those that are out stay good. A hold that is there already is replaced.
    pub fn pause(&self, domain: Domain, key: &str, hold: Hold) -> Result<(), Refusal> {
        let mut shared = self.lock();
        let slot = shared.slot(domain, key)?;
        tracing::info!(%domain, key, actor = hold.actor, reason = hold.reason, "component paused");
        slot.hold = Some((HoldKind::Paused, hold));
        Ok(())
    }

    /// Gives permits again. Nothing happens if it was not held.
    pub fn resume(&self, domain: Domain, key: &str) -> Result<(), Refusal> {
        let mut shared = self.lock();
        let slot = shared.slot(domain, key)?;
        if slot.hold.is_some() {
            slot.lift();
            tracing::info!(%domain, key, "component resumed");
        }
        Ok(())
    }

    /// Refuses new permits and waits until those that are out have come back. The hold then stays until
    /// [`Registry::resume`] or its expiry.
    ///
    /// Cancel-safe: dropping the future gives up the waiting and keeps the hold; draining again goes on waiting.
    /// Refused as a conflict if the hold is lifted before the last permit came back.
    pub async fn drain(&self, domain: Domain, key: &str, hold: Hold) -> Result<(), Refusal> {
        let (mut watched, begun) = {
            let mut shared = self.lock();
            let slot = shared.slot(domain, key)?;
            tracing::info!(%domain, key, actor = hold.actor, reason = hold.reason, "component draining");
            slot.hold = Some((HoldKind::Draining, hold));
            let watched = slot.tally.subscribe();
            let begun = *watched.borrow();
            (watched, begun)
        };
        let seen = watched.wait_for(|tally| tally.out == 0 || tally.lifted != begun.lifted).await;
        match seen.map(|tally| *tally) {
            Ok(tally) if tally.lifted == begun.lifted => Ok(()),
            Ok(_) => Err(Refusal::conflict(format!(
                "the drain of {domain} `{key}` was lifted before its last permit came back"
            ))
            .fix("drain it again")),
            // A slot is never removed, so this is the registry itself going: nothing is left to wait for.
            Err(_) => Ok(()),
        }
    }

    /// What stands behind a `(domain, key)`, and why.
    pub fn explain(&self, domain: Domain, key: &str) -> Result<Explanation, Refusal> {
        self.lock().slot(domain, key).map(|slot| slot.explain(domain, key))
    }

    /// Everything that is registered, by domain and key.
    pub fn list(&self) -> Vec<Explanation> {
        let shared = self.lock();
        shared
            .slots
            .iter()
            .flat_map(|(domain, keys)| keys.iter().map(|(key, slot)| slot.explain(*domain, key)))
            .collect()
    }

    /// The lock is held for look-ups and never across foreign code, so a poisoned one still guards whole data.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

// === impl Shared ===

impl Shared {
    fn slot(&mut self, domain: Domain, key: &str) -> Result<&mut Slot, Refusal> {
        // Looked up twice, so that the refusal may read what is registered.
        if !self.slots.get(&domain).is_some_and(|keys| keys.contains_key(key)) {
            return Err(self.missing(domain, key));
        }
        self.slots
            .get_mut(&domain)
            .and_then(|keys| keys.get_mut(key))
            .ok_or_else(|| Refusal::internal("the registry changed under its lock"))
    }

    fn missing(&self, domain: Domain, key: &str) -> Refusal {
        let known: Vec<String> = self
            .slots
            .iter()
            .flat_map(|(domain, keys)| keys.iter().map(move |(key, slot)| (domain, key, slot)))
            .map(|(domain, key, slot)| {
                let providers: Vec<&str> = slot.candidates.iter().map(|known| &*known.provider).collect();
                format!("{domain} `{key}` ({})", providers.join(", "))
            })
            .collect();
        let fix = if known.is_empty() {
            "nothing is registered yet: the server is still starting".to_owned()
        } else {
            format!("registered: {}", known.join(", "))
        };
        Refusal::not_found(domain.as_str(), key).fix(fix)
    }
}

// === impl Slot ===

impl Slot {
    fn new() -> Self {
        Self { candidates: Vec::new(), hold: None, tally: watch::Sender::new(Tally::default()) }
    }

    fn chosen(&self) -> Option<&Candidate> {
        self.candidates.iter().max_by_key(|candidate| candidate.rank())
    }

    fn lift(&mut self) {
        self.hold = None;
        self.tally.send_modify(|tally| tally.lifted += 1);
    }

    fn explain(&self, domain: Domain, key: &str) -> Explanation {
        let mut ranked: Vec<&Candidate> = self.candidates.iter().collect();
        ranked.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank()));
        Explanation {
            domain,
            key: key.to_owned(),
            rule: RULE,
            candidates: ranked
                .into_iter()
                .enumerate()
                .map(|(place, candidate)| CandidateView {
                    provider: candidate.provider.to_string(),
                    priority: candidate.priority,
                    registered: candidate.registered,
                    chosen: place == 0,
                })
                .collect(),
            hold: self.hold.clone(),
            permits: self.tally.borrow().out,
        }
    }
}

// === impl Candidate ===

impl Candidate {
    /// Orders candidates; see [`RULE`].
    const fn rank(&self) -> (i32, u64) {
        (self.priority, self.registered)
    }
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.send_modify(|tally| tally.out -= 1);
    }
}

// === impl Permit ===

impl<T: ?Sized> Permit<T> {
    /// The name under which the component was registered.
    pub fn provider(&self) -> &str {
        &self.provider
    }
}

impl<T: ?Sized> Deref for Permit<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.component
    }
}

impl<T: ?Sized> fmt::Debug for Permit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("provider", &self.provider).finish_non_exhaustive()
    }
}

fn held(domain: Domain, key: &str, kind: HoldKind, hold: &Hold) -> Refusal {
    let until = match hold.expires_at {
        Some(end) => format!("until {end}"),
        None => "until it is resumed".to_owned(),
    };
    Refusal::new(
        RefusalCode::Unavailable,
        format!("{domain} `{key}` is {kind} by {} {until}: {}", hold.actor, hold.reason),
    )
    .fix(format!("wait, or ask {} to resume it", hold.actor))
}

#[cfg(test)]
mod tests;
