//! Logging, metrics: one struct for each internal event, with `emit()`.
