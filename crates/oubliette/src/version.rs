//! Which program this is.

/// The version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version and the commit that it was built from, as `--version` says it. `make` names the commit; another build
/// does not know it and says so.
pub(crate) const FULL: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OUBLIETTE_BUILT_FROM"), ")");
