//! Threads for work that may take long and must not wait for the pool: the top level of scripts,
//! and stopping executions. Started when none is free, ended when idle for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::guard::guard;
use crate::python;

/// More jobs than this wait for one another.
const MOST: usize = 32;
const IDLE: Duration = Duration::from_secs(30);
const STACK: usize = 16 << 20;

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub(super) struct Threads {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    /// Threads, and those of them that wait for a job.
    started: Arc<AtomicUsize>,
    free: Arc<AtomicUsize>,
}

impl Threads {
    /// No thread yet.
    pub(super) fn new() -> Self {
        let (jobs, queue) = unbounded();
        Self {
            jobs,
            queue,
            started: Arc::default(),
            free: Arc::default(),
        }
    }

    /// Runs a job as soon as a thread has time. The error says why none was started for it: the
    /// job waits for another one.
    pub(super) fn run(&self, job: Job) -> std::io::Result<()> {
        let busy = self.free.load(Ordering::SeqCst) <= self.queue.len();
        // Cannot fail: `self` holds the other end.
        let _ = self.jobs.send(job);
        if busy && self.started.load(Ordering::SeqCst) < MOST {
            self.start()?;
        }
        Ok(())
    }

    fn start(&self) -> std::io::Result<()> {
        let (queue, started, free) = (self.queue.clone(), self.started.clone(), self.free.clone());
        started.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new()
            .name("geartrain-script".into())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            python::enter_thread(&mut || serve(&queue, &free));
            started.fetch_sub(1, Ordering::SeqCst);
        });
        if spawned.is_err() {
            self.started.fetch_sub(1, Ordering::SeqCst);
        }
        spawned.map(drop)
    }
}

fn serve(queue: &Receiver<Job>, free: &AtomicUsize) {
    loop {
        free.fetch_add(1, Ordering::SeqCst);
        let job = queue.recv_timeout(IDLE);
        free.fetch_sub(1, Ordering::SeqCst);
        let Ok(job) = job else { return };
        guard(job);
    }
}
