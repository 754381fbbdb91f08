//! The documents are true: generated pages say what the program says, links lead somewhere, and commands run.
//!
//! `UPDATE_DOCS=1 cargo test -p oubliette --test documents` writes the generated pages anew.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod cli;
mod commands;
mod configuration;
mod deploy;
mod engine;
mod http;
mod links;
mod mcp;
mod runbooks;
mod truth;

use std::path::PathBuf;

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The text of a document.
fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// Compares a generated page with the one in the repository, or writes it if that was asked for.
fn is_current(document: &str, generated: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join(document), generated).unwrap();
        return;
    }
    let is = read(document);
    let difference = is.lines().zip(generated.lines()).position(|(is, should)| is != should);
    assert!(
        is == generated,
        "{document} is not what the program says, from line {} on; write it anew with \
         `UPDATE_DOCS=1 cargo test -p oubliette --test documents`",
        difference.unwrap_or(is.lines().count().min(generated.lines().count())) + 1
    );
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
