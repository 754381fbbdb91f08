//! The first process of a sandbox: link, processes, forwarder.

use std::process::ExitCode;

pub(crate) fn main() -> ExitCode {
    ExitCode::FAILURE
}
