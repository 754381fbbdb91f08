//! Logs: one line for each event, redacted before it leaves, appended to a file that may be copied, truncated or moved
//! away while we run.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use ob_core::redact::Redactor;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::Registry;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::event::PanicCaught;
use crate::metrics::Metrics;

/// Libraries that say too much, or bodies that hold keys, at `info` and below. A filter that names one goes over this.
const QUIET: &str =
    "bollard=warn,h2=warn,hyper=warn,hyper_util=warn,reqwest=warn,rmcp=warn,rustls=warn,tower=warn";

/// Where and how to log. Has no `Debug`: the redactor knows keys.
pub struct LogOptions {
    /// JSON lines instead of text.
    pub json: bool,
    /// A level, or `target=level` pairs: `info`, `info,ob_gate=debug`.
    pub filter: String,
    /// Append to this file; its folder must exist. It is made with mode 0600.
    pub file: Option<PathBuf>,
    /// Write to the standard error too.
    pub stderr: bool,
    /// Goes over every line.
    pub redactor: Redactor,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the log file {path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The filter is none.
    #[error("`{filter}` is no log filter")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("this process has a log already")]
    Taken,
}

/// The handle of the running log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    sink: Arc<Sink>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Where lines go.
struct Sink {
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
    stderr: bool,
    redactor: RwLock<Redactor>,
    lost: AtomicU64,
}

/// The writer of one event: collects it, and when dropped lets it out in one piece.
struct Line<'a> {
    sink: &'a Sink,
    buffer: Vec<u8>,
}

/// Makes writers for the subscriber.
struct Lines(Arc<Sink>);

/// Starts the log of this process. Only once in a process.
pub fn init(options: LogOptions) -> Result<Log, LogError> {
    let (subscriber, log) = build(options)?;
    subscriber.try_init().map_err(|_| LogError::Taken)?;
    Ok(log)
}

/// Logs every panic with its backtrace, and counts it, instead of writing it to the standard error.
pub fn install_panic_hook(metrics: Metrics) {
    std::panic::set_hook(Box::new(move |info| report(info, &metrics)));
}

fn report(info: &PanicHookInfo<'_>, metrics: &Metrics) {
    let location = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let backtrace = std::backtrace::Backtrace::force_capture().to_string();
    let message = info.payload_as_str().unwrap_or("a value that is no text");
    PanicCaught { message, location: &location, backtrace: &backtrace }.emit(metrics);
}

/// The subscriber that [`init`] makes the process's own.
fn build(options: LogOptions) -> Result<(impl Subscriber + Send + Sync + 'static, Log), LogError> {
    let file = options.file.as_deref().map(open).transpose()?;
    let sink = Arc::new(Sink {
        path: options.file,
        file: Mutex::new(file),
        stderr: options.stderr,
        redactor: RwLock::new(options.redactor),
        lost: AtomicU64::new(0),
    });
    let (filter, handle) = reload::Layer::new(parse_filter(&options.filter)?);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines(Arc::clone(&sink)));
    let lines = if options.json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let subscriber = Registry::default().with(filter).with(lines);
    Ok((subscriber, Log { sink, filter: handle }))
}

fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    let wrong = |source| LogError::Filter { filter: text.to_owned(), source };
    // Checked alone first, so that the error is about what was given.
    drop(EnvFilter::builder().parse(text).map_err(wrong)?);
    let is_quiet =
        text.split(',').any(|part| part.eq_ignore_ascii_case("off") || part.eq_ignore_ascii_case("error"));
    // Later directives replace earlier ones of the same target.
    let all = if is_quiet { text.to_owned() } else { format!("{QUIET},{text}") };
    EnvFilter::builder().parse(all).map_err(wrong)
}

fn open(path: &Path) -> Result<File, LogError> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LogError::Open { path: path.to_owned(), source })
}

// === impl Log ===

impl Log {
    /// Opens the file anew, for whoever moved the old one away. If it cannot be opened the old one stays in use.
    pub fn reopen(&self) -> Result<(), LogError> {
        let Some(path) = &self.sink.path else { return Ok(()) };
        let new = open(path)?;
        let old = self.sink.file.lock().unwrap_or_else(PoisonError::into_inner).replace(new);
        drop(old);
        Ok(())
    }

    /// Logs by another filter from now on.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse_filter(filter)?;
        // Fails only if the subscriber is gone, and then nothing is logged by any filter.
        self.filter.reload(filter).or(Ok(()))
    }

    /// Redacts by other secrets from now on.
    pub fn set_redactor(&self, redactor: Redactor) {
        *self.sink.redactor.write().unwrap_or_else(PoisonError::into_inner) = redactor;
    }

    /// Lines that could not be written, as on a full disk. Logging goes on with the next one.
    pub fn lines_lost(&self) -> u64 {
        self.sink.lost.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.sink.path).finish_non_exhaustive()
    }
}

// === impl Sink ===

impl Sink {
    fn put(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let clean = self.redactor.read().unwrap_or_else(PoisonError::into_inner).redact(&text).into_owned();
        let mut is_lost = false;
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = file.as_mut() {
                is_lost |= file.write_all(clean.as_bytes()).is_err();
            }
        }
        if self.stderr {
            is_lost |= io::stderr().lock().write_all(clean.as_bytes()).is_err();
        }
        if is_lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Lines ===

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { sink: &self.0, buffer: Vec::new() }
    }
}

// === impl Line ===

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    /// Not in `write`: a secret must not be cut in two by how the formatter writes.
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            self.sink.put(&self.buffer);
        }
    }
}

#[cfg(test)]
mod tests;
