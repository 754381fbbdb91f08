//! Who uses what while an operation is under way, so that nothing is deleted from under anyone.
//!
//! A thing is either used by any number of operations or being deleted by one. Nobody waits: who comes second is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use ob_core::Refusal;
use uuid::Uuid;

/// The claims on projects and workspaces, by their ids.
#[derive(Clone, Default)]
pub(crate) struct Claims {
    held: Arc<Mutex<HashMap<Uuid, Claim>>>,
}

#[derive(Clone, Copy)]
enum Claim {
    /// So many use it.
    Used(usize),
    /// It is being deleted.
    Deleted,
}

/// A claim, given back when dropped.
#[must_use]
pub(crate) struct Held {
    claims: Claims,
    id: Uuid,
}

// === impl Claims ===

impl Claims {
    /// Uses a thing.
    ///
    /// # Errors
    /// `conflict` if it is being deleted.
    pub(crate) fn uses(&self, kind: &str, id: Uuid) -> Result<Held, Refusal> {
        let mut held = self.held.lock().expect("no one panics with it");
        match held.entry(id).or_insert(Claim::Used(0)) {
            Claim::Used(count) => *count += 1,
            Claim::Deleted => {
                return Err(
                    Refusal::conflict(format!("{kind} `{id}` is being deleted")).fix("use another one")
                );
            }
        }
        Ok(Held { claims: self.clone(), id })
    }

    /// How many things are used or being deleted.
    pub(crate) fn count(&self) -> usize {
        self.held.lock().expect("no one panics with it").len()
    }

    /// Deletes a thing.
    ///
    /// # Errors
    /// `conflict` if it is used or being deleted.
    pub(crate) fn deletes(&self, kind: &str, id: Uuid) -> Result<Held, Refusal> {
        self.alone(kind, id)
    }

    /// Has a thing alone.
    ///
    /// # Errors
    /// `conflict` if anyone else has it.
    pub(crate) fn alone(&self, kind: &str, id: Uuid) -> Result<Held, Refusal> {
        let mut held = self.held.lock().expect("no one panics with it");
        if held.contains_key(&id) {
            return Err(
                Refusal::conflict(format!("{kind} `{id}` is in use right now")).fix("try again in a moment")
            );
        }
        held.insert(id, Claim::Deleted);
        Ok(Held { claims: self.clone(), id })
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock().expect("no one panics with it");
        match held.get_mut(&self.id) {
            Some(Claim::Used(count)) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_not_deleted_and_what_is_deleted_is_not_used() {
        let (claims, id) = (Claims::default(), Uuid::from_u128(1));
        let (one, two) =
            (claims.uses("project", id).expect("free"), claims.uses("project", id).expect("shared"));
        assert!(claims.deletes("project", id).is_err());
        drop(one);
        assert!(claims.deletes("project", id).is_err(), "one user is left");
        drop(two);
        let deleting = claims.deletes("project", id).expect("nobody uses it");
        assert!(claims.uses("project", id).is_err());
        assert!(claims.deletes("project", id).is_err());
        drop(deleting);
        drop(claims.uses("project", id).expect("free again"));
        assert!(claims.held.lock().expect("not poisoned").is_empty(), "nothing is remembered");
    }
}
