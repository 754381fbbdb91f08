//! Tools for tests and for the demonstration. Nothing here ships inside the product.
//!
//! - [`MemoryStore`]: the [`ob_store::Store`] trait in memory, correct and with faults on demand;
//! - [`MemoryAudit`]: the audit likewise;
//! - [`ModelServer`]: an OpenAI-compatible server that answers by script and commits every fault a real one does;
//! - [`Coder`]: a script for that server that works with any agent, in any wire;
//! - [`repairer`]: the demonstration model, behind the program `oubliette-demo-model`;
//! - [`fixtures`]: repositories with a fault in them;
//! - [`bench`]: the real program on a home of its own, to be measured.

pub mod bench;
pub mod coder;
pub mod fixtures;
pub mod memory_audit;
pub mod memory_store;
pub mod model_server;
pub mod repairer;
pub mod wires;

pub use coder::Coder;
pub use memory_audit::MemoryAudit;
pub use memory_store::MemoryStore;
pub use model_server::Answer;
pub use model_server::ModelServer;
