//! What all backends of this machine share: the guest program, the launcher, control groups, owners of files.

mod cgroup;
mod claim;
mod image;
mod launched;
mod launcher;
mod ownership;

pub use self::cgroup::Hierarchy;
pub use self::claim::Turn;
pub use self::image::GuestImage;
pub use self::ownership::give_to;

pub(crate) use self::image::GuestProgram;
pub(crate) use self::launched::Launched;
pub(crate) use self::launched::Sources;
pub(crate) use self::launched::check_spec;
pub(crate) use self::launched::make_private;
pub(crate) use self::launched::watched;
pub(crate) use self::launcher::recorded_enforcement;
