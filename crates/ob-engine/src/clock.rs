//! The one place that reads the clock and draws random numbers; everything behind it gets them as arguments.

use std::sync::Arc;

use ob_core::Timestamp;
use uuid::Uuid;

/// Where time and randomness come from.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
    /// A new random UUID.
    fn uuid(&self) -> Uuid;
    /// Random bits, good for secrets.
    fn random(&self, bytes: &mut [u8]);
}

/// The machine's clock and its random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that everyone shares.
pub type SharedClock = Arc<dyn Clock>;

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }

    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn random(&self, bytes: &mut [u8]) {
        rand::fill(bytes);
    }
}
