//! The demonstration model: a script that repairs small faults, and says so. Not a language model.
//!
//! It keeps nothing between requests. Each time it gets the whole conversation, it plays its plan again from the start
//! against the results of the tools in it; where they end, the plan's next call is the answer:
//!
//! ```text
//! list -> how do tests run? -> run -> read the failing test -> search its functions -> read them
//!      -> edit one line -> run -> green: say what was wrong
//!              ^            |
//!              +-- undo <---+ red; after so many attempts undo everything and say that it failed
//! ```
//!
//! So every step follows from what the tools said: with another fault in the repository it takes other steps, and if no
//! small change of one line makes the tests pass, it fails honestly and leaves the files as they were.

mod failure;
mod history;
mod mutate;
mod plan;
mod report;
pub mod serve;
mod source;
#[cfg(test)]
mod tests;

pub use history::Call;
pub use history::Step;
pub use plan::next_step;

/// The name under which the model is asked for.
pub const MODEL: &str = "demo-repairer";
