//! Writes the document of all metrics: `cargo run -p ob-telemetry --example metrics_page > docs/metrics.md`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(ob_telemetry::document().as_bytes())
}
