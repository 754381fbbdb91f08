//! The promises of every backend, for each of ours.

use std::sync::Arc;

use ob_sandbox::GuestImage;
use ob_sandbox::conformance::Ground;
use ob_sandbox::namespace::NamespaceBackend;
use ob_sandbox::namespace::NamespaceOptions;
use ob_sandbox::process::ProcessBackend;
use ob_sandbox::process::ProcessOptions;

use crate::world::World;
use crate::world::guest;

/// `None`, with the reason printed, if this machine or build cannot run sandboxes.
fn namespace() -> Option<Ground> {
    World::new()?;
    let image = GuestImage::File(guest()?);
    Some(Ground::new(move |programs| {
        Arc::new(NamespaceBackend::new(NamespaceOptions {
            guest: image.clone(),
            programs: programs.to_owned(),
            bwrap: None,
            first_process: None,
        }))
    }))
}

fn process() -> Option<Ground> {
    World::new()?;
    let image = GuestImage::File(guest()?);
    Some(Ground::new(move |programs| {
        Arc::new(ProcessBackend::new(ProcessOptions { guest: image.clone(), programs: programs.to_owned() }))
    }))
}

mod of_namespace {
    ob_sandbox::conformance_tests!(super::namespace());
}

mod of_process {
    ob_sandbox::conformance_tests!(super::process());
}
