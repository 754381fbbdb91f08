//! File descriptors: as many as this process may have, and how many of them connections may take.

use ob_server::Limits;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

/// What is kept for everything else: databases, logs, and some for each sandbox.
const RESERVED: u64 = 512;

/// There are so many in any case; with fewer descriptors nothing else works either.
const CONNECTIONS_MIN: usize = 64;

/// Raises the soft limit to the hard one, as it is meant to be by who does not use `select`, and says how many connections
/// each of the three listeners (two loopbacks and the control socket) may have.
pub(super) fn connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            current
        }
    };
    let most = Limits::default().connections;
    limit.map_or(most, share).clamp(CONNECTIONS_MIN, most)
}

/// What is left for one listener of so many descriptors.
fn share(limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(RESERVED) / 3).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_rest() {
        for (limit, most) in [(0, 0), (512, 0), (1024, 170), (20_000, 6496)] {
            assert_eq!(share(limit), most);
        }
        assert!((CONNECTIONS_MIN..=Limits::default().connections).contains(&connections()));
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
