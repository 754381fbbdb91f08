//! The pure core of Oubliette: words as types, state machines, the operation table, the one authoriser,
//! the limits ledger and the invariants catalogue.
//!
//! **Architecture invariant:** this crate does no I/O, is never async, and reads neither clock nor randomness;
//! both come in as arguments. So everything here is tested by tables and properties in microseconds.

pub mod agent;
pub mod audit;
pub mod authorize;
pub mod cage;
pub mod caller;
pub mod check;
pub mod epoch;
pub mod event;
pub mod home;
pub mod id;
pub mod invariant;
pub mod launch;
pub mod ledger;
pub mod link;
pub mod model;
pub mod operation;
pub mod question;
pub mod record;
pub mod redact;
pub mod refusal;
pub mod resource;
pub mod session;
pub mod time;
pub mod turn;

pub use authorize::Principal;
pub use authorize::Scope;
pub use check::Check;
pub use check::CheckState;
pub use epoch::Epoch;
pub use event::Event;
pub use event::EventBody;
pub use event::EventKind;
pub use home::Home;
pub use id::ProjectId;
pub use id::QuestionId;
pub use id::SessionId;
pub use id::TokenId;
pub use id::TreeId;
pub use id::TurnNumber;
pub use id::WorkspaceId;
pub use ledger::MicroUsd;
pub use refusal::Refusal;
pub use refusal::RefusalCode;
pub use time::Timestamp;
