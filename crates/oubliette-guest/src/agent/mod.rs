//! The built-in agent: an ACP server over stdio.

use std::process::ExitCode;

pub(crate) fn main() -> ExitCode {
    ExitCode::FAILURE
}
