//! `cargo xtask bench`: every figure with its method and its bar, printed and written to `target/bench/figures.json`.
//!
//! Figures come from programs that print one JSON line each (`crates/*/benches`), and from the real server. Nothing here
//! fails because a machine is slow: a bar that is missed is printed as such.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;

/// Starts of the server.
const STARTS: usize = 15;
/// A server is ready within this, or the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A figure as programs print it and as the file holds it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// What was measured.
    #[serde(skip_serializing, default)]
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// How it was measured.
    pub method: String,
}

/// Programs that measure; what [`server`] measures goes by that name.
const PROGRAMS: [&str; 8] = ["store", "gate", "cli", "sandbox", "life", "neighbours", "http", "mcp"];

/// Measures everything, or what these programs measure; figures of the others stay in the file.
pub fn run(root: &Path, only: &[&str]) -> anyhow::Result<()> {
    let known = |name: &str| name == "server" || PROGRAMS.contains(&name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        bail!("nothing measures `{unknown}`; there are {} and server", PROGRAMS.join(", "));
    }
    let is_wanted = |name: &str| only.is_empty() || only.contains(&name);
    let mut measured = Vec::new();
    for bench in PROGRAMS.into_iter().filter(|bench| is_wanted(bench)) {
        measured.extend(program(root, bench)?);
    }
    if is_wanted("server") {
        measured.extend(server(root)?);
    }
    let path = root.join("target/bench/figures.json");
    std::fs::create_dir_all(root.join("target/bench"))?;
    let before = if only.is_empty() { None } else { std::fs::read(&path).ok() };
    let mut all: BTreeMap<String, Figure> =
        before.map_or_else(|| Ok(BTreeMap::new()), |text| serde_json::from_slice(&text))?;
    let measured: BTreeMap<String, Figure> =
        measured.into_iter().map(|figure| (figure.name.clone(), figure)).collect();
    all.extend(measured.clone());
    std::fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;
    print(&measured)
}

/// What one program prints. All are built with the features of the whole workspace, so that one build serves them.
fn program(root: &Path, bench: &str) -> anyhow::Result<Vec<Figure>> {
    let output = Command::new("cargo")
        .args(["bench", "--quiet", "--locked", "--workspace", "--bench", bench, "--", "--json"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the bench `{bench}` ended with {}", output.status);
    }
    let lines = String::from_utf8(output.stdout)?;
    let figures: Result<Vec<Figure>, _> =
        lines.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str).collect();
    figures.with_context(|| format!("the bench `{bench}` printed something else"))
}

/// The release binary: how large it is, how fast an empty home is ready, what an idle server holds.
fn server(root: &Path) -> anyhow::Result<Vec<Figure>> {
    let binary = root.join("target/release/oubliette");
    let mut starts = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..STARTS {
        let home = std::env::temp_dir().join(format!("oubliette-bench-{}", std::process::id()));
        let port = free_port()?;
        let began = Instant::now();
        let mut child = Command::new(&binary)
            .arg("--dir")
            .arg(&home)
            .arg("serve")
            .env("OUBLIETTE_SERVER__ADDRESS", format!("127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("build it first: `make bench`")?;
        let ready = wait_until_ready(port, began);
        let memory = ready.as_ref().ok().map(|()| resident_kib(&child));
        let took = began.elapsed();
        stop(&mut child)?;
        std::fs::remove_dir_all(&home).ok();
        ready?;
        starts.push(took.as_secs_f64() * 1e3);
        resident.push(memory.context("it was ready")?? / 1024.0);
    }
    let size = std::fs::metadata(&binary)?.len();
    #[expect(clippy::cast_precision_loss, reason = "a binary has far fewer than 2^52 bytes")]
    let size = size as f64 / f64::from(1 << 20);
    let figure = |name: &str, value: f64, unit: &str, method: String| Figure {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        method,
    };
    Ok(vec![
        figure(
            "start_empty",
            median(&mut starts),
            "ms",
            format!(
                "from spawning `oubliette serve` on a home that does not exist to `/ready` 200, asked every \
                     0.5 ms; {STARTS} starts, median"
            ),
        ),
        figure(
            "idle_rss",
            median(&mut resident),
            "MiB",
            format!("VmRSS of the server once it is ready; {STARTS} starts, median"),
        ),
        figure(
            "binary_size",
            size,
            "MiB",
            "target/release/oubliette with the guest in it, stripped".to_owned(),
        ),
    ])
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn wait_until_ready(port: u16, began: Instant) -> anyhow::Result<()> {
    while began.elapsed() < PATIENCE {
        if is_ready(port).unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    bail!("the server was not ready within {PATIENCE:?}")
}

fn is_ready(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b" 200"))
}

fn resident_kib(child: &Child) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    line.split_whitespace().nth(1).context("no number")?.parse().context("not a number")
}

fn stop(child: &mut Child) -> anyhow::Result<()> {
    let pid = child.id().to_string();
    if !Command::new("kill").args(["-TERM", &pid]).status()?.success() {
        child.kill()?;
    }
    child.wait()?;
    Ok(())
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The bar of a figure, from those measured in the same run; the second value is true if less is better.
fn bar(name: &str, figures: &BTreeMap<String, Figure>) -> Option<(f64, bool)> {
    let value = |name: &str| figures.get(name).map(|figure| figure.value);
    match name {
        "sandbox_cold_namespace_p50" | "sandbox_cold_big_server_p50" => {
            Some((f64::max(15.0, 2.5 * value("bare_bwrap_p50")?), true))
        }
        "exec_namespace_p50" => Some((1.5, true)),
        "events_durable_per_s" => Some((100_000.0, false)),
        "events_durable_depth1_per_s" => Some((40_000.0, false)),
        "append_alone_p50" => Some((3.0 * value("fdatasync_p50")? + 1.0, true)),
        "append_to_subscriber_p99" => Some((3.0 * value("fdatasync_p99")? + 2.0, true)),
        "tree_overshoot" => Some((0.0, true)),
        "cli_start" => Some((10.0, true)),
        "cli_list" => Some((60.0, true)),
        "start_empty" => Some((50.0, true)),
        "idle_rss" | "binary_size" => Some((25.0, true)),
        "start_loaded" | "reattach_p99" => Some((1000.0, true)),
        "cage_added_p50" => Some((3.0, true)),
        "sandbox_idle_overhead" => Some((1.5, true)),
        "bomb_neighbour_exec_p99" | "bomb_neighbour_read_p99" => Some((2.0, true)),
        "idle_session_rss" => Some((16.0, true)),
        "rss_after_churn" => Some((45.0, true)),
        "gate_added_ttfb_p50" => Some((1.0 + value("gate_reservation_p50")?, true)),
        "gate_throughput_ratio" => Some((0.9, false)),
        "gate_streams" => Some((500.0, false)),
        "http_reads_per_s" => Some((15_000.0, false)),
        "http_read_p99" => Some((10.0, true)),
        "mcp_reads_per_s" => Some((10_000.0, false)),
        "mcp_writes_per_s" => Some((3_000.0, false)),
        "mcp_read_p99" | "mcp_write_p99" => Some((20.0, true)),
        "mcp_reads_vs_empty_server" => Some((60.0, false)),
        "authorise_us" => Some((5.0, true)),
        "sse_streams" => Some((2000.0, false)),
        "sse_stream_rss" => Some((40.0, true)),
        _ => None,
    }
}

fn print(figures: &BTreeMap<String, Figure>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (name, figure) in figures {
        let verdict = match bar(name, figures) {
            None => "recorded".to_owned(),
            Some((bar, less)) => {
                let met = if less { figure.value <= bar } else { figure.value >= bar };
                format!(
                    "{} {bar:.2}: {}",
                    if less { "at most" } else { "at least" },
                    if met { "met" } else { "MISSED" }
                )
            }
        };
        writeln!(
            out,
            "{name:30} {:12.3} {:4} {verdict}\n{:30} {}",
            figure.value, figure.unit, "", figure.method
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Figure {
        Figure { name: String::new(), value, unit: "ms".to_owned(), method: "by hand".to_owned() }
    }

    #[test]
    fn a_bar_follows_from_what_the_same_run_measured() {
        let figures = BTreeMap::from([
            ("bare_bwrap_p50".to_owned(), figure(10.0)),
            ("fdatasync_p50".to_owned(), figure(0.5)),
        ]);
        assert_eq!(bar("sandbox_cold_namespace_p50", &figures), Some((25.0, true)));
        assert_eq!(bar("append_alone_p50", &figures), Some((2.5, true)));
        assert_eq!(bar("append_to_subscriber_p99", &figures), None, "its flush was not measured");
        assert_eq!(bar("bare_bwrap_p50", &figures), None);
    }

    #[test]
    fn the_file_holds_value_unit_and_method_by_name() {
        let text = serde_json::to_value(BTreeMap::from([("x", figure(1.5))])).expect("json");
        assert_eq!(text, serde_json::json!({ "x": { "value": 1.5, "unit": "ms", "method": "by hand" } }));
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
