//! There and back keeps what is meant.
#[test]
fn placeholder() {}
