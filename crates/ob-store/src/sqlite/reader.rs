//! Readers: a few threads with a read-only connection each. In WAL mode they never wait for the writer.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;

use super::fault::Fault;
use super::file;
use crate::StoreError;

/// Reads that may wait; callers beyond wait before they queue, which takes no memory of ours.
const QUEUE: usize = 1024;

/// Threads at least: one long read must not stop all others.
const THREADS_MIN: usize = 2;
/// Threads at most: each has a page cache of about 2 MiB.
const THREADS_MAX: usize = 8;

/// A read, to be done with a connection or told that there is none.
type Job = Box<dyn FnOnce(Result<&Connection, Fault>) + Send>;

/// The threads that read.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_stopped: bool,
}

// === impl Readers ===

impl Readers {
    /// Starts the threads. Each opens its connection when it is first needed.
    pub(crate) fn start(database: &Path) -> Result<Self, Fault> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE)),
        });
        let count =
            thread::available_parallelism().map_or(THREADS_MIN, usize::from).clamp(THREADS_MIN, THREADS_MAX);
        let mut threads = Vec::with_capacity(count);
        for _ in 0..count {
            let (shared, database) = (Arc::clone(&shared), database.to_owned());
            threads.push(
                thread::Builder::new()
                    .name("ob-store-reader".into())
                    .spawn(move || shared.work(&database))?,
            );
        }
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Reads on one of the threads.
    pub(crate) async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let room = Arc::clone(&self.shared.room).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Not worth the work if the caller has gone away.
            if !answer.is_closed() {
                answer.send(connection.and_then(read)).ok();
            }
            drop(room);
        });
        {
            let mut queue = self.shared.lock();
            if queue.is_stopped {
                return Err(StoreError::Closed);
            }
            queue.jobs.push_back(job);
        }
        self.shared.filled.notify_one();
        match answered.await {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(StoreError::Engine { message: "a read panicked".into() }),
        }
    }

    /// Finishes what is queued and ends the threads. Blocks; later reads are refused.
    pub(crate) fn stop(&self) {
        self.shared.lock().is_stopped = true;
        self.shared.room.close();
        self.shared.filled.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a reader panicked");
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn work(&self, database: &Path) {
        let mut connection = None;
        while let Some(job) = self.next() {
            if connection.is_none() {
                match file::open_readable(database) {
                    Ok(opened) => connection = Some(opened),
                    Err(fault) => {
                        job(Err(fault));
                        continue;
                    }
                }
            }
            let Some(open) = &connection else { continue };
            if std::panic::catch_unwind(AssertUnwindSafe(|| job(Ok(open)))).is_err() {
                tracing::error!("a read panicked");
                connection = None;
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_stopped {
                return None;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
