//! The thread pool and its workers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Error;

/// Stack of a worker: callbacks may recurse through C code.
const STACK: usize = 16 << 20;

/// Runs the loop of a thread, inside of whatever that thread keeps for life: a thread state of the
/// interpreter, a priority.
pub type Enter = Arc<dyn Fn(&mut (dyn FnMut() + Send)) + Send + Sync>;

/// Something a worker can do.
pub trait Task: Send + Sync {
    /// Does a part of it. A panic is caught and ends this part only.
    fn run(self: Arc<Self>);
}

/// Threads that take tasks in the order in which they come.
pub struct Pool {
    tasks: Sender<Arc<dyn Task>>,
}

impl Pool {
    /// Starts `threads` workers. Each runs its loop inside `enter`.
    pub fn start(name: &str, threads: usize, enter: &Enter) -> std::io::Result<Arc<Self>> {
        let (tasks, queue) = unbounded::<Arc<dyn Task>>();
        for number in 0..threads {
            let (queue, enter) = (queue.clone(), enter.clone());
            thread::Builder::new()
                .name(format!("{name}-{number}"))
                .stack_size(STACK)
                .spawn(move || enter(&mut || work(&queue)))?;
        }
        Ok(Arc::new(Self { tasks }))
    }

    /// Queues a task.
    pub fn submit(&self, task: Arc<dyn Task>) -> Result<(), Error> {
        self.tasks.send(task).map_err(|_| Error::PoolClosed)
    }
}

fn work(queue: &Receiver<Arc<dyn Task>>) {
    while let Ok(task) = queue.recv() {
        if catch_unwind(AssertUnwindSafe(|| task.run())).is_err() {
            log_panic();
        }
    }
}

/// The panic hook has printed where; the worker goes on.
fn log_panic() {
    eprintln!("geartrain: a task panicked; its worker goes on");
}
