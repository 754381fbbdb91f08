//! Bounds of single processes, which all inside inherit.
//!
//! Set before bubblewrap puts up the filters: these pretend to set the bound on core dumps, and do not.

use ob_core::launch::Bound;
use rustix::process::Resource;
use rustix::process::Rlimit;

/// Sets bounds of this process, which nobody without privileges raises again.
pub(super) fn set(bounds: &[(Bound, u64)]) -> Result<(), String> {
    for (bound, value) in bounds {
        let resource = match bound {
            Bound::Core => Resource::Core,
            Bound::Memlock => Resource::Memlock,
            Bound::Msgqueue => Resource::Msgqueue,
            Bound::Nice => Resource::Nice,
            Bound::Rtprio => Resource::Rtprio,
        };
        let hard = rustix::process::getrlimit(resource).maximum;
        let value = Some(hard.map_or(*value, |hard| hard.min(*value)));
        rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })
            .map_err(|error| format!("cannot bound {bound:?}: {error}"))?;
    }
    Ok(())
}
