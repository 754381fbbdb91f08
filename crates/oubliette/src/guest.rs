//! The guest's program, embedded by the build script.

include!(concat!(env!("OUT_DIR"), "/guest.rs"));
