//! The thread that pip is waited for on: one requirement at a time.

use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::engine::Enter;
use crate::redis::guard::guard;
use crate::redis::threads::Job;

/// The thread; it starts with the first job, and does all of them inside `enter`.
pub(super) struct Installer {
    enter: Enter,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl Installer {
    pub(super) fn new(enter: Enter) -> Self {
        let jobs = Mutex::default();
        Self { enter, jobs }
    }

    /// Runs a job when all jobs before it are done.
    pub(super) fn run(&self, job: Job) -> std::io::Result<()> {
        let mut sender = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &*sender {
            Some(sender) => sender,
            None => sender.insert(start(self.enter.clone())?),
        };
        // It ends only with the process.
        let _ = sender.send(job);
        Ok(())
    }
}

fn start(enter: Enter) -> std::io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || {
        for job in &jobs {
            guard(job);
        }
    };
    thread::Builder::new()
        .name("geartrain-install".into())
        .stack_size(16 << 20)
        .spawn(move || {
            let mut work = work;
            enter(&mut work);
        })?;
    Ok(sender)
}
