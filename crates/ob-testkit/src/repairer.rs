//! The demonstration model.
